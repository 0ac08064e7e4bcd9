"""Rows on their way from a file to a trace, and the account of those that will not do.

A reader puts columns in; every value is checked against the schema's bounds; a row breaks at most one rule
(the first one tried). In the end the first bad line is named in an error, or the bad rows are dropped and
counted. The first arrival becomes time 0, and the header says what it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from traces.columns import violations
from traces.errors import ReadReport, TraceError
from traces.readers.options import PER_S, ReadOptions, TimeUnit
from traces.schema import Header, Scalar, Transform
from traces.trace import Trace

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


class _Rule(NamedTuple):
    column: str
    problem: str
    remedy: str
    shown: pa.Array | None


class Rows:
    """Columns read from one file.

    Args:
        file: For error messages.
        lines: The line of the file, from 1, on which each row stands.
    """

    def __init__(self, file: Path, lines: np.ndarray) -> None:
        self._file = file
        self._lines = lines
        self._columns: dict[str, pa.Array] = {}
        self._rules: list[_Rule] = []
        self._broken = np.full(len(lines), -1)  # index of the first rule that each row broke
        self._unreadable: list[TraceError] = []
        self._empty: Counter[str] = Counter()
        self._recorded: np.ndarray | None = None  # arrivals as recorded, to be shifted
        self._time_unit: TimeUnit | None = None
        self._calendar = False
        self._in_extra: dict[str, int] = {}
        self._not_kept: dict[str, int] = {}
        self._odd: dict[str, np.ndarray] = {}
        self.block_tokens: int | None = None
        """For the report."""

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def lines(self) -> np.ndarray:
        """The line of the file, from 1, on which each row stands."""
        return self._lines

    # --- what a reader puts in ---------------------------------------------------------------------------

    def put(
        self,
        name: str,
        values: pa.Array | np.ndarray | Sequence[Any],
        column: str = "",
        shown: pa.Array | None = None,
    ) -> None:
        """Add column `name` of the trace, which the file calls `column`. Rows out of bounds are bad."""
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=False)
        for rule, bad in violations(name, array):
            self.reject(bad, column or name, rule, shown=array if shown is None else shown)
        if name == "arrived_s":
            self.reject(pc.is_null(array), column or name, "is missing", "every row needs its arrival")
        self._columns[name] = array

    def put_arrivals(
        self,
        recorded: pa.Array | np.ndarray,
        unit: TimeUnit,
        column: str,
        *,
        calendar: bool = False,
        before_0: bool = False,
    ) -> None:
        """Add arrivals in `unit`, from any beginning (`calendar`: from 1970): the first one will be time 0.

        `before_0`: they may be below 0, as where the recording has the end of what came before it began.
        """
        array = recorded if isinstance(recorded, pa.Array) else pa.array(recorded, from_pandas=False)
        seconds = pc.divide(array.cast(pa.float64(), safe=False), PER_S[unit])
        self.put("arrived_s", pc.abs(seconds) if before_0 else seconds, column, shown=seconds)
        # Integers stay such until the first is taken off: a Unix time in ns is more than a float can hold.
        self._recorded = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        self._time_unit, self._calendar = unit, calendar

    def put_others(self, fields: Mapping[str, Sequence[Scalar]]) -> None:
        """Add the fields that the format does not speak of, by the names that the file gives them; absent is None.

        One that means what a column of the schema means, and has only values that fit there, becomes that column.
        """
        rest: dict[str, Sequence[Scalar]] = {}
        for name, cells in fields.items():
            present = sum(cell is not None for cell in cells)
            target = SAME.get(name.lower().replace(" ", "_"))
            fitting = None if target is None or target in self._columns else _fitting(target, cells)
            if target is not None and fitting is not None:
                self.put(target, fitting, name)
            elif present:
                rest[name] = cells
                self._in_extra[name] = present
        if rest:
            self._columns["extra"] = _extra(rest)

    def leave_out(self, field: str, rows: int) -> None:
        """Say that `rows` rows had this field and the trace does not hold it."""
        if rows:
            self._not_kept[field] = rows

    def remark(self, odd: pa.Array, what: str) -> None:
        """Say that the rows where `odd` (a mask; null counts as no) holds are odd, though kept."""
        self._odd[what] = np.asarray(pc.fill_null(odd, False).to_numpy(zero_copy_only=False), dtype=bool)

    def expanded(self, rows: Sequence[int]) -> Rows:
        """Rows of which several may come from one of these, by number: where a line holds many requests."""
        wider = Rows(self._file, self._lines[np.array(rows, dtype=int)])
        wider._unreadable = self._unreadable
        return wider

    # --- what is wrong with it ----------------------------------------------------------------------------

    def unreadable(self, error: TraceError) -> None:
        """Count a line that could not even be taken apart into a row."""
        self._unreadable.append(error)

    def without_request(self, reason: str) -> None:
        """Count a line that is in order and holds no request."""
        self._empty[reason] += 1

    def reject(
        self, bad: Any, column: str, problem: str, remedy: str = "", shown: pa.Array | None = None
    ) -> None:
        """Mark the rows where `bad` (a mask; null counts as no) holds; `shown` are the values to quote."""
        if isinstance(bad, pa.Array):
            bad = pc.fill_null(bad, False).to_numpy(zero_copy_only=False)
        fresh = np.asarray(bad, dtype=bool) & (self._broken < 0)
        if fresh.any():
            self._broken[fresh] = len(self._rules)
            self._rules.append(_Rule(column, problem, remedy, shown))

    def error(self, row: int, column: str, problem: str, remedy: str) -> TraceError:
        """That the file cannot be read for what stands in `row`."""
        line = int(self._lines[row])
        return TraceError(problem, remedy=remedy, file=self._file, line=line, column=column)

    # --- what comes of it ---------------------------------------------------------------------------------

    def trace(self, header: Header, format: str, options: ReadOptions) -> Trace:
        """The trace of the good rows.

        Raises:
            TraceError: There is a bad row and `options.on_bad` is "raise": names the first, by line.
        """
        if options.on_bad == "raise":
            self._raise_first()
        good = self._broken < 0
        dropped = Counter(f"{error.column or 'line'} {error.problem}" for error in self._unreadable)
        for rule, count in zip(*np.unique(self._broken[~good], return_counts=True), strict=True):
            dropped[f"{self._rules[rule].column} {self._rules[rule].problem}"] += int(count)
        bad = sum(dropped.values())
        failed = good & self._failed()
        if options.failed == "drop" and failed.any():
            dropped["failed when recorded"] = int(failed.sum())
            good &= ~failed
        header = self._told(header, options, bad, int(failed.sum()))
        dropped += self._empty
        table, offset_s = self._kept(good)
        trace = Trace(table, replace(header, offset_s=header.offset_s + offset_s))
        report = ReadReport(
            rows_in=len(self) + len(self._unreadable) + self._empty.total(),
            rows_kept=len(trace),
            dropped=dict(sorted(dropped.items())),
            reordered=trace.report.reordered,
            format=format,
            failed=int(failed.sum()),
            in_extra=dict(sorted(self._in_extra.items())),
            not_kept=dict(sorted(self._not_kept.items())),
            odd={what: count for what, mask in self._odd.items() if (count := int((mask & good).sum()))},
            time_unit=None if self._calendar else self._time_unit,
            block_tokens=self.block_tokens,
        )
        return Trace(trace.table, trace.header, report)

    def _failed(self) -> np.ndarray:
        if "observed_failed" not in self._columns:
            return np.zeros(len(self), dtype=bool)
        failed = pc.fill_null(self._columns["observed_failed"], False)
        return np.asarray(failed.to_numpy(zero_copy_only=False), dtype=bool)

    def _told(self, header: Header, options: ReadOptions, bad: int, failed: int) -> Header:
        """The header with what was told and what was left out for it; a part of a file is not that file."""
        told = options.told()
        if bad:
            told |= {"on_bad": options.on_bad, "bad_rows": bad}
        if failed and options.failed is not None:
            told |= {"failed": options.failed, "failed_rows": failed}
        if not told:
            return header
        partly = bad or (failed and options.failed == "drop")
        provenance = "derived" if partly and header.provenance == "recorded" else header.provenance
        return replace(
            header, provenance=provenance, transforms=(*header.transforms, Transform("read", told))
        )

    def _kept(self, good: np.ndarray) -> tuple[pa.Table, float]:
        """These rows, from time 0 on if they are to be shifted, and what was taken off their arrivals."""
        numbers = pa.array(np.arange(len(self))).cast(pa.string())
        columns = {"id": numbers} | self._columns
        offset_s = 0.0
        if self._recorded is not None and self._time_unit is not None and good.any():
            first = self._recorded[good].min()
            offset_s = float(first / PER_S[self._time_unit])
            columns["arrived_s"] = pa.array((self._recorded - first) / PER_S[self._time_unit])
        table = pa.table(columns)
        return table if good.all() else table.filter(pa.array(good)), offset_s

    def _raise_first(self) -> None:
        errors = [*self._unreadable[:1]]
        if (self._broken >= 0).any():
            row = int(np.argmax(self._broken >= 0))
            rule = self._rules[self._broken[row]]
            shown = "" if rule.shown is None else f"{_quoted(rule.shown[row].as_py())} "
            errors.append(self.error(row, rule.column, shown + rule.problem, rule.remedy))
        if errors:
            raise min(errors, key=lambda error: error.line or 0)


_WHOLE = re.compile(r"[+-]?\d{1,18}")


def _fitting(target: str, cells: Sequence[Scalar]) -> pa.Array | None:
    """The cells as column `target` holds them; None if one does not fit there, or all are absent."""
    present = [cell for cell in cells if cell is not None]
    if not present or any(isinstance(cell, bool | float) for cell in present):
        return None
    if target != "priority":
        return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
    if not all(_WHOLE.fullmatch(str(cell)) for cell in present):
        return None
    return pa.array([None if cell is None else int(cell) for cell in cells], pa.int64())


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


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
