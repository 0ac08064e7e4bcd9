"""Whole steps of an engine as measured: the table that `fleet profile` writes of it and `ProfiledSteps` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from fleet.engines.latency.tables.measured import Measured

Tokens = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class StepPoint(Struct, frozen=True, forbid_unknown_fields=True):
    """How long one step took: a prompt's chunk, some sequences that decode, or both."""

    prefill_tokens: Tokens
    """0: no prefill in this step."""
    prefill_context_tokens: Tokens
    """Of the same prompt, computed before."""
    decodes: Tokens
    """Sequences that compute one token each."""
    decode_context_tokens: Tokens
    """Sum of their contexts."""
    seconds: Seconds
    """The median of its repeats."""


class StepProfile(Measured, frozen=True, kw_only=True):
    """A measured engine that serves token by token."""

    what = "a profile of an engine's steps"

    format: Literal["fleetlab-step-profile/1"] = "fleetlab-step-profile/1"
    points: Annotated[tuple[StepPoint, ...], Meta(min_length=1)]
