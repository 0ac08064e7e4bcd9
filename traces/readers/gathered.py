"""The good rows of a file's parts, put together, and what can be told only of all of them.

The one thing to know: a part is done with when it is added. Its bad rows are named in an error or counted, and of the
rest only the columns stay, in Arrow's memory; so reading takes the table's room and that of one part, however long the
file. Two things take memory that grows with it: ids that a file gives itself are held against each other, and rows that
are out of order are sorted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from traces.columns import COLUMNS, REPEATED, absent, numbered, repeats
from traces.errors import ReadReport, TraceError
from traces.readers import blocks
from traces.readers.further import Further, ReadAgain
from traces.readers.options import PER_S, ReadOptions
from traces.readers.rows import Clock, Hashing, Lines, Mask, Rows, mask_of
from traces.schema import Header, Transform
from traces.source import Source
from traces.trace import Trace


def gather(source: Source, options: ReadOptions, parts_of: Callable[[Source], Iterator[Rows]]) -> Gathered:
    """All rows of a file that is read in parts, by a function that makes `Rows` of each of `Source.parts`.

    Raises:
        TraceError: There is a bad row and `options.on_bad` is "raise": names the first, by line.
    """
    apart: set[str] = set()
    while True:
        gathered = Gathered(source.path, options, apart)
        try:
            for rows in parts_of(source):
                gathered.add(rows)
        except ReadAgain:
            continue
        return gathered


class _Part(NamedTuple):
    """Good rows: their lines, the number of the first row there was, and columns."""

    lines: Lines
    first: int
    columns: dict[str, pa.Array]

    def where(self, kept: Mask) -> _Part:
        """Only these rows, with the numbers that they had."""
        columns = self.columns | {"id": self.ids()}
        mask = pa.array(kept)
        return self._replace(
            lines=np.asarray(self.lines)[kept],
            columns={name: values.filter(mask) for name, values in columns.items()},
        )

    def ids(self) -> pa.Array:
        """The ids that the file gives, or else the numbers of the rows in it."""
        given = self.columns.get("id")
        if given is not None and not given.null_count:
            return given
        numbers = numbered(self.first, self.first + len(self.lines))
        return numbers if given is None else pc.coalesce(given, numbers)


def _quoted(texts: pa.Array, row: int) -> str:
    return f'"{texts[row]}"'


class _Rule(NamedTuple):
    """A rule that tells only when all rows are there."""

    name: str
    """Of the column."""
    problem: str
    remedy: str
    shown: Callable[[int], str]
    """What stands in a row of the part."""


class Gathered:
    """Rows of a file, part after part.

    Args:
        file: For error messages.
        options: What to do with bad and failed rows, among others.
        apart: Further fields that have values which do not fit their column (`traces.readers.further`).
    """

    def __init__(self, file: Path, options: ReadOptions, apart: set[str] | None = None) -> None:
        self.file = file
        self._options = options
        self._further = Further(set() if apart is None else apart)
        self._parts: list[_Part] = []
        self._called: dict[str, str] = {}
        self._clock: Clock | None = None
        self._hashing: Hashing | None = None
        self._block_tokens: int | None = None
        self._seen = self._rows_in = self._bad = self._failed = 0
        self._dropped: Counter[str] = Counter()
        self._not_kept: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()

    def add(self, rows: Rows) -> None:
        """The rows of the next part. Raises `TraceError` for a bad one, unless those are dropped; and `ReadAgain`."""
        self._further.settle(rows)
        if self._options.on_bad == "raise" and (error := rows.first_error()) is not None:
            raise error
        kept = self._without_failed(rows)
        self._forget_numbers(rows)
        part = _Part(rows.numbers, self._seen, rows.columns)
        self._parts.append(part if kept is None else part.where(kept))
        self._account(rows, kept)
        self._called |= rows.called
        self._clock = rows.clock or self._clock
        self._hashing = rows.hashing or self._hashing

    def _forget_numbers(self, rows: Rows) -> None:
        """Leave out ids that are the numbers of the rows, as they would have been anyway: they need no comparing."""
        if "id" in rows.columns and rows.columns["id"].equals(numbered(self._seen, self._seen + len(rows))):
            del rows.columns["id"]

    def _without_failed(self, rows: Rows) -> Mask | None:
        """The good rows, without failed ones if those are to be dropped; None if that is all of them."""
        good = rows.good()
        if "observed_failed" not in rows.columns:
            return good
        failed = mask_of(rows.columns["observed_failed"])
        failed = failed if good is None else failed & good
        self._failed += int(failed.sum())
        if self._options.failed != "drop" or not failed.any():
            return good
        self._dropped["failed when recorded"] += int(failed.sum())
        return ~failed if good is None else good & ~failed

    def _account(self, rows: Rows, kept: Mask | None) -> None:
        dropped = rows.dropped()
        self._bad += dropped.total()
        self._dropped += dropped + rows.empty
        self._seen += len(rows)
        self._rows_in += len(rows) + len(rows.unread) + rows.empty.total()
        self._not_kept += rows.not_kept
        for what, odd in rows.odd.items():
            self._odd[what] += int((odd if kept is None else odd & kept).sum())

    # --- what concerns all parts --------------------------------------------------------------------------

    def each(self, *names: str) -> Iterator[tuple[pa.Array, ...]]:
        """These columns of each part, arrivals as they are recorded; nulls where it has none."""
        for part in self._parts:
            rows = len(part.lines)
            yield tuple(part.columns[name] if name in part.columns else absent(name, rows) for name in names)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the good rows, arrivals as they are recorded; nulls where a part has none."""
        kind = next((p.columns[name].type for p in self._parts if name in p.columns), COLUMNS[name].type)
        chunks = [part.columns.get(name, pa.nulls(len(part.lines), kind)) for part in self._parts]
        return pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)

    def _reject(self, number: int, bad: Mask, rule: _Rule) -> None:
        """Do with the `bad` rows of a part what is to be done with bad rows."""
        if not bad.any():
            return
        part, column = self._parts[number], self._called[rule.name]
        if self._options.on_bad == "raise":
            row = int(np.argmax(bad))
            problem, line = f"{rule.shown(row)} {rule.problem}", int(part.lines[row])
            raise TraceError(problem, remedy=rule.remedy, file=self.file, line=line, column=column)
        self._dropped[f"{column} {rule.problem}"] += int(bad.sum())
        self._bad += int(bad.sum())
        self._parts[number] = part.where(~bad)

    def _check_ids(self) -> None:
        """Two rows with one id, where the file gives ids itself."""
        if not any("id" in part.columns for part in self._parts):
            return
        ids = pa.chunked_array([part.ids() for part in self._parts], pa.string())
        repeated, row = repeats(ids), 0
        for number, chunk in enumerate(ids.chunks):
            rule = _Rule("id", REPEATED, "", partial(_quoted, chunk))
            self._reject(number, repeated[row : row + len(chunk)], rule)
            row += len(chunk)

    def _settle_blocks(self) -> None:
        """Find how many tokens a block has; rows that contradict it are bad."""
        if self._hashing is None:
            return
        common = blocks.Common(self._hashing.usual)
        for part in self._parts:
            common.add(self._sizes(part), part.lines)
        size = self._options.block_tokens or common.decided(self.file, self._called["blocks"])
        for number, part in enumerate(self._parts):
            sizes = self._sizes(part)
            part.columns["block_tokens"] = pa.array(np.full(len(part.lines), size), mask=sizes.counts < 0)
            rule = _Rule("blocks", f"are not blocks of {size} tokens", common.fitting(), sizes.told)
            self._reject(number, ~sizes.fit(size), rule)
        self._block_tokens = size if common.hashed else None

    def _sizes(self, part: _Part) -> blocks.Sizes:
        assert self._hashing is not None  # asked for only where there are hashes
        lengths = part.columns.get("prompt_tokens", absent("prompt_tokens", len(part.lines)))
        return blocks.sizes(lengths, part.columns["blocks"], partial=self._hashing.partial)

    # --- what comes of it ---------------------------------------------------------------------------------

    def trace(self, header: Header, format: str) -> Trace:
        """The trace of the good rows. Raises `TraceError` for what is bad only beside other parts, if that is asked."""
        self._settle_blocks()
        self._check_ids()
        table, offset_s = self._table()
        header = replace(self._told(header), offset_s=header.offset_s + offset_s)
        trace = Trace(table, header)
        return trace.reported(self._report(format, len(trace), trace.report.reordered))

    def _table(self) -> tuple[pa.Table, float]:
        """The rows, from time 0 on if they are to be shifted, and what was taken off their arrivals."""
        offset_s = self._shift() if self._clock is not None else 0.0
        names = dict.fromkeys(name for part in self._parts for name in part.columns)
        if "id" in names:
            self._parts = [part._replace(columns=part.columns | {"id": part.ids()}) for part in self._parts]
        columns = {name: self.column(name) for name in names}
        self._parts.clear()
        return pa.table(columns), offset_s

    def _shift(self) -> float:
        """Make the first arrival time 0; what it was, in seconds."""
        per_s = PER_S[self._clock.unit] if self._clock else 1.0
        recorded = [part.columns["arrived_s"].to_numpy() for part in self._parts if len(part.lines)]
        first = min((values.min() for values in recorded), default=0)
        for part in self._parts:
            part.columns["arrived_s"] = pa.array((part.columns["arrived_s"].to_numpy() - first) / per_s)
        return float(first / per_s)

    def _told(self, header: Header) -> Header:
        """The header with what was told and what was left out for it; a part of a file is not that file."""
        options, told = self._options, self._options.told()
        if self._bad:
            told |= {"on_bad": options.on_bad, "bad_rows": self._bad}
        if self._failed and options.failed is not None:
            told |= {"failed": options.failed, "failed_rows": self._failed}
        if not told:
            return header
        partly = self._bad or (self._failed and options.failed == "drop")
        provenance = "derived" if partly and header.provenance == "recorded" else header.provenance
        transforms = (*header.transforms, Transform("read", told))
        return replace(header, provenance=provenance, transforms=transforms)

    def _report(self, format: str, rows: int, reordered: int) -> ReadReport:
        return ReadReport(
            rows_in=self._rows_in,
            rows_kept=rows,
            dropped=dict(sorted(self._dropped.items())),
            reordered=reordered,
            format=format,
            failed=self._failed,
            in_extra=dict(sorted(self._further.in_extra.items())),
            not_kept=dict(sorted(self._not_kept.items())),
            odd={what: count for what, count in self._odd.items() if count},
            time_unit=None if self._clock is None or self._clock.calendar else self._clock.unit,
            block_tokens=self._block_tokens,
        )
