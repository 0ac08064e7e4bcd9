"""Rows on their way from a file, or from a part of one, to a trace.

A reader puts columns in; every value is checked against the schema's bounds; a row breaks at most one rule (the first
one tried). The one thing to know: nothing is decided here. What becomes of bad rows, where time 0 is and all else that
concerns several parts is settled where they are put together (`traces.readers.gathered`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traces.columns import violations
from traces.errors import TraceError
from traces.readers.options import PER_S, TimeUnit
from traces.schema import Scalar

Lines = range | np.ndarray
"""The line of the file, from 1, on which each row stands; mostly one after the other."""
Mask = npt.NDArray[np.bool_]


class Clock(NamedTuple):
    """How arrivals are recorded: in which unit, and whether since 1970."""

    unit: TimeUnit
    calendar: bool


class Hashing(NamedTuple):
    """What a format says of its prefix hashes: the usual size of a block, and whether one that is not full has one."""

    usual: int
    partial: bool


class _Rule(NamedTuple):
    column: str
    problem: str
    remedy: str
    shown: pa.Array | None


class Rows:
    """Columns read from one file, or from some lines of it.

    Args:
        file: For error messages.
        lines: The line of the file, from 1, on which each row stands.
    """

    def __init__(self, file: Path, lines: Lines) -> None:
        self.file = file
        self.numbers = lines
        self.columns: dict[str, pa.Array] = {}
        self.called: dict[str, str] = {}
        """What the file calls each column."""
        self.clock: Clock | None = None
        """Set where `arrived_s` is still as recorded, to be shifted."""
        self.hashing: Hashing | None = None
        """Set where the size of a block is still to be found."""
        self.further: Mapping[str, Sequence[Scalar]] = {}
        """Fields that the format does not speak of."""
        self.not_kept: Counter[str] = Counter()
        self.odd: dict[str, Mask] = {}
        self.empty: Counter[str] = Counter()
        self.unread: list[TraceError] = []
        self._rules: list[_Rule] = []
        self._broken: npt.NDArray[np.int64] | None = (
            None  # index of the first rule that each row broke, or -1
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def lines(self) -> np.ndarray:
        """The line of the file, from 1, on which each row stands."""
        return np.asarray(self.numbers)

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
        self.columns[name] = array
        self.called[name] = column or name

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
        self.columns["arrived_s"] = array
        self.clock = Clock(unit, calendar)

    def put_others(self, fields: Mapping[str, Sequence[Scalar]]) -> None:
        """Add the fields that the format does not speak of, by the names that the file gives them; absent is None.

        One that means what a column of the schema means, and has only values that fit there, becomes that column.
        """
        self.further = fields

    def leave_out(self, field: str, rows: int) -> None:
        """Say that `rows` rows had this field and the trace does not hold it."""
        if rows:
            self.not_kept[field] += rows

    def remark(self, odd: pa.Array, what: str) -> None:
        """Say that the rows where `odd` (a mask; null counts as no) holds are odd, though kept."""
        self.odd[what] = mask_of(odd)

    def expanded(self, rows: Sequence[int]) -> Rows:
        """Rows of which several may come from one of these, by number: where a line holds many requests."""
        wider = Rows(self.file, self.lines[np.array(rows, dtype=int)])
        wider.unread = self.unread
        return wider

    # --- what is wrong with it ----------------------------------------------------------------------------

    def unreadable(self, error: TraceError) -> None:
        """Count a line that could not even be taken apart into a row."""
        self.unread.append(error)

    def without_request(self, reason: str) -> None:
        """Count a line that is in order and holds no request."""
        self.empty[reason] += 1

    def reject(
        self, bad: Any, column: str, problem: str, remedy: str = "", shown: pa.Array | None = None
    ) -> None:
        """Mark the rows where `bad` (a mask; null counts as no) holds; `shown` are the values to quote."""
        fresh = mask_of(bad)
        if self._broken is not None:
            fresh = fresh & (self._broken < 0)
        if fresh.any():
            if self._broken is None:
                self._broken = np.full(len(self), -1)
            self._broken[fresh] = len(self._rules)
            self._rules.append(_Rule(column, problem, remedy, shown))

    def error(self, row: int, column: str, problem: str, remedy: str) -> TraceError:
        """That the file cannot be read for what stands in `row`."""
        line = int(self.numbers[row])
        return TraceError(problem, remedy=remedy, file=self.file, line=line, column=column)

    # --- the account --------------------------------------------------------------------------------------

    def good(self) -> Mask | None:
        """The rows that broke no rule; None if that is all of them."""
        return None if self._broken is None else self._broken < 0

    def dropped(self) -> Counter[str]:
        """How many rows are bad, by reason; lines that could not be taken apart are rows too."""
        reasons = Counter(f"{error.column or 'line'} {error.problem}" for error in self.unread)
        if self._broken is not None:
            for rule, count in zip(*np.unique(self._broken, return_counts=True), strict=True):
                if rule >= 0:
                    reasons[f"{self._rules[rule].column} {self._rules[rule].problem}"] += int(count)
        return reasons

    def first_error(self) -> TraceError | None:
        """What is wrong with the first bad row, by line; None if none is bad."""
        errors = [*self.unread[:1]]
        if self._broken is not None:
            row = int(np.argmax(self._broken >= 0))
            rule = self._rules[self._broken[row]]
            shown = "" if rule.shown is None else f"{_quoted(rule.shown[row].as_py())} "
            errors.append(self.error(row, rule.column, shown + rule.problem, rule.remedy))
        return min(errors, key=lambda error: error.line or 0, default=None)


def mask_of(bits: Any) -> Mask:
    """A mask of numpy or Arrow, null counting as no, as numpy's."""
    if isinstance(bits, pa.Array | pa.ChunkedArray):
        bits = pc.fill_null(bits, False).to_numpy(zero_copy_only=False)
    return np.asarray(bits, dtype=bool)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
