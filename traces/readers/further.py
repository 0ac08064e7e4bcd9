"""Fields that a format does not speak of: to the column that means the same, or to `extra`, for a whole file alike.

The one thing to know: a file is read in parts, and a value that does not fit its column may come late. Then the file is
read again, with that field in `extra` from the beginning (`ReadAgain`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import pyarrow as pa

from traces.readers.rows import Rows
from traces.schema import Scalar

SAME = {
    "session_id": "session",
    "session": "session",
    "model": "model",
    "adapter": "adapter",
    "tenant": "tenant",
    "user": "user",
    "user_id": "user",
    "priority": "priority",
}
"""Fields that other tools add to a format, and the column that means the same. All others go to `extra`."""
_WHOLE = re.compile(r"[+-]?\d{1,18}")


class ReadAgain(Exception):  # noqa: N818  # no error: the file is read once more
    """Something came that the beginning of the file did not show, and that changes how the beginning is read."""

    def __init__(self, field: str) -> None:
        self.field = field
        super().__init__(field)


class Further:
    """Where each further field of one file goes.

    Args:
        apart: Fields known to hold a value that does not fit their column; more are added as they are found.
    """

    def __init__(self, apart: set[str]) -> None:
        self._apart = apart
        self._field_of: dict[str, str] = {}  # by column, the field that it comes from
        self.in_extra: Counter[str] = Counter()

    def settle(self, rows: Rows) -> None:
        """Make columns of `rows.further`. Raises `ReadAgain`."""
        rest: dict[str, Sequence[Scalar]] = {}
        for name, cells in rows.further.items():
            present = [cell for cell in cells if cell is not None]
            if present and not self._put(rows, name, cells, present):
                rest[name] = cells
                self.in_extra[name] += len(present)
        if rest:
            rows.columns["extra"] = _extra(rest)

    def _put(self, rows: Rows, name: str, cells: Sequence[Scalar], present: Sequence[Scalar]) -> bool:
        """Whether the field became a column."""
        target = SAME.get(name.lower().replace(" ", "_"))
        if target is None or name in self._apart or target in rows.columns:
            return False
        claimed = self._field_of.get(target)
        if claimed not in (None, name):  # another field of this file is that column
            return False
        if not _fits(target, present):
            self._apart.add(name)
            if claimed:
                raise ReadAgain(name)
            return False
        self._field_of[target] = name
        rows.put(target, _column(target, cells), name)
        return True


def _fits(target: str, present: Sequence[Scalar]) -> bool:
    if any(isinstance(cell, bool | float) for cell in present):
        return False
    return target != "priority" or all(_WHOLE.fullmatch(str(cell)) for cell in present)


def _column(target: str, cells: Sequence[Scalar]) -> pa.Array:
    make, kind = (int, pa.int64()) if target == "priority" else (str, pa.string())
    return pa.array([None if cell is None else make(cell) for cell in cells], kind)


def _extra(fields: Mapping[str, Sequence[Scalar]]) -> pa.Array:
    """For each row a JSON object, keys sorted, of the fields that are present; null where none is."""
    texts: dict[tuple[object, ...], str | None] = {}
    names = sorted(fields)
    column: list[str | None] = []
    for values in zip(*(fields[name] for name in names), strict=True):
        key = (values, *map(type, values))  # 1, 1.0 and True are equal, and not the same
        if key not in texts:
            present = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            texts[key] = msgspec.json.encode(present, order="sorted").decode() if present else None
        column.append(texts[key])
    return pa.array(column, pa.string())
