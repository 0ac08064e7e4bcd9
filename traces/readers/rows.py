"""Rows on their way from a file to a trace, and the account of those that will not do.

A reader puts columns in; every value is checked against the schema's bounds; a row breaks at most one rule
(the first one tried). In the end the first bad line is named in an error, or the bad rows are dropped and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.columns import violations
from traces.errors import ReadReport, TraceError
from traces.schema import Header, Scalar
from traces.trace import Trace

OnBad = Literal["raise", "drop"]


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

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def lines(self) -> np.ndarray:
        """The line of the file, from 1, on which each row stands."""
        return self._lines

    def unreadable(self, error: TraceError) -> None:
        """Count a line that could not even be taken apart into a row."""
        self._unreadable.append(error)

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

    def expanded(self, rows: Sequence[int]) -> Rows:
        """Rows of which several may come from one of these, by number: where a line holds many requests."""
        wider = Rows(self._file, self._lines[np.array(rows, dtype=int)])
        wider._unreadable = self._unreadable
        return wider

    def put_extra(self, columns: Mapping[str, Sequence[Scalar]]) -> None:
        """Add what the schema has no column for; absent values are left out."""
        texts: dict[tuple[Scalar, ...], str | None] = {}
        names = sorted(columns)
        cells = list(zip(*(columns[name] for name in names), strict=True))
        for values in set(cells):
            present = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            texts[values] = msgspec.json.encode(present, order="sorted").decode() if present else None
        self._columns["extra"] = pa.array([texts[values] for values in cells], pa.string())

    def trace(self, header: Header, format: str, on_bad: OnBad) -> Trace:
        """The trace of the good rows.

        Raises:
            TraceError: There is a bad row and `on_bad` is "raise": names the first, by line.
        """
        if on_bad == "raise":
            self._raise_first()
        good = self._broken < 0
        numbers = pa.array(np.arange(len(self))).cast(pa.string())
        table = pa.table({"id": numbers} | self._columns)
        dropped = Counter(f"{error.column or 'line'} {error.problem}" for error in self._unreadable)
        for rule, count in zip(*np.unique(self._broken[~good], return_counts=True), strict=True):
            dropped[f"{self._rules[rule].column} {self._rules[rule].problem}"] += int(count)
        trace = Trace(table.filter(pa.array(good)) if dropped else table, header)
        report = ReadReport(
            rows_in=len(self) + len(self._unreadable),
            rows_kept=len(trace),
            dropped=dict(sorted(dropped.items())),
            reordered=trace.report.reordered,
            format=format,
        )
        return Trace(trace.table, header, report)

    def _raise_first(self) -> None:
        errors = [*self._unreadable[:1]]
        if (self._broken >= 0).any():
            row = int(np.argmax(self._broken >= 0))
            rule = self._rules[self._broken[row]]
            shown = "" if rule.shown is None else f"{_quoted(rule.shown[row].as_py())} "
            line = int(self._lines[row])
            problem = shown + rule.problem
            errors.append(
                TraceError(problem, remedy=rule.remedy, file=self._file, line=line, column=rule.column)
            )
        if errors:
            raise min(errors, key=lambda error: error.line or 0)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
