"""What candidates differ in: the fields of their specs that are not all equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from experiments.pages.blocks import Block, Table, Text
from experiments.plots.style import FEW


def differences(specs: Mapping[str, Mapping[str, Any]]) -> list[Block]:  # Any: JSON values
    """A row for each field; of many candidates a column for each field, and a row for each candidate."""
    flat = {name: dict(flatten(spec)) for name, spec in specs.items()}
    paths = sorted({path for fields in flat.values() for path in fields})
    values = {path: [fields.get(path, "–") for fields in flat.values()] for path in paths}
    differ = {path: of_one for path, of_one in values.items() if len(set(of_one)) > 1}
    if not differ:
        return [Text("Nothing: their specs are equal.")]
    if len(specs) <= FEW:
        return [
            Table(("field", *specs), [(path, *of_one) for path, of_one in differ.items()], len(specs) + 1)
        ]
    rows = list(zip(specs, *differ.values(), strict=True))
    return [Table(("candidate", *differ), rows, len(differ) + 1)]


def flatten(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings as (dotted path, JSON text)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, msgspec.json.encode(value, order="sorted").decode()
