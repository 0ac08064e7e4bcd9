"""JSON in which the order of keys says nothing, but for the one table whose order does: a fleet's pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_IN_ORDER = "pools"
"""Versions and variants come in the order in which their pools were declared, and policies may go by it."""


def encoded(document: Any) -> bytes:  # Any: what msgspec has JSON for
    """JSON with sorted keys, and pools as they were declared: equal for what is the same, and read back as it was."""
    return msgspec.json.encode(_sorted(msgspec.to_builtins(document), ""))


def _sorted(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        items = value.items() if name == _IN_ORDER else sorted(value.items())
        return {key: _sorted(item, key) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_sorted(item, "") for item in value]
    return value
