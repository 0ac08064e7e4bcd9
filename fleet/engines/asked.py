"""How long an answer a request asks for at most: what clients say, and what admission may lower."""

from __future__ import annotations

from msgspec.structs import replace

from traces.schema import Request

_KEY = "max_output_tokens"
"""In `Request.extra`, where clients of language models put it."""


def most_output_tokens(request: Request) -> int | None:
    """The most output tokens that it asks for; None: it does not say."""
    asked = None if request.extra is None else request.extra.get(_KEY)
    return asked if isinstance(asked, int) and asked > 0 else None


def with_most_output_tokens(request: Request, most: int) -> Request:
    """The same request, which asks for `most` at most, or for fewer if it did before."""
    asked = most_output_tokens(request)
    return replace(
        request, extra={**(request.extra or {}), _KEY: most if asked is None else min(asked, most)}
    )
