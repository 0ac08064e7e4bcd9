"""A fleet's plain values as TOML that a person reads: tables for pools and models, inline ones within them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_SECTIONS = ("pools", "models")
_BARE = re.compile(r"[A-Za-z0-9_-]+")

Table = Mapping[str, Any]  # Any: JSON values, here and below


def toml_text(spec: Table) -> str:
    """What `FleetSpec.to_dict` says, as `fleet.load_spec` reads it. Nothing stands for null, which TOML has not."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in _said(spec) if name not in _SECTIONS]
    for section in _SECTIONS:
        for name, member in _said(spec.get(section) or {}):
            lines += ["", f"[{section}.{_key(name)}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in _said(member)]
    return "\n".join(lines) + "\n"


def _said(table: Table) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in table.items() if value is not None)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{_key(name)} = {_value(item)}' for name, item in _said(value))} }}"
            if value
            else "{}"
        )
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _text(value: str) -> str:
    """JSON's strings are TOML's basic strings, but for DEL."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
