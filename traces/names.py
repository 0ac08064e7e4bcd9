"""Names that recorded data and a fleet have in common: of pools, and of models."""

from __future__ import annotations

import re

from traces.values import BadValue

POOL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""A pattern. It has no slash, which parts a pool and the number of one of its places."""
NAME = r"[^@\s]{1,200}"
"""Of a model, and of what else is named; no ``@``, which stands between a model and its version."""
RULES = {
    "pool": (POOL, "letters, digits, `.`, `_` and `-`, a letter or a digit first, 63 at most"),
    "model": (NAME, "1 to 200 characters, no space and no `@`, which parts model and version"),
}
"""What can name each, and in words."""


def check_name(called: str, name: str) -> None:
    """Raise `BadValue` unless `name` can name a `called`: a pool, or a model."""
    pattern, rule = RULES[called]
    if re.fullmatch(pattern, name) is None:
        raise BadValue(called, f"{name!r} cannot name a {called}: {rule}")
