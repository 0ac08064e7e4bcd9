"""Rows of a CSV file, or of a part of one.

Arrow takes the lines apart and leaves every cell as text, so that a bad one can be quoted and its line named.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from traces.errors import TraceError
from traces.readers.rows import Lines, Rows
from traces.readers.text_rows import A_COUNT, AN_INSTANT, SECONDS, TextRows
from traces.source import Source

__all__ = ["AN_INSTANT", "A_COUNT", "SECONDS", "CsvRows"]


class CsvRows(TextRows):
    """The columns of a CSV file by name, as text, with the parsers that a reader needs.

    A row is a line. One with too few or too many cells is bad; a blank one is none.
    """

    def __init__(self, source: Source) -> None:
        names = source.csv_columns
        split = _split(source, names)
        blank = _blank(split.table)
        table, lines = split.table, split.lines()
        if blank.any():
            table, lines = table.filter(pa.array(~blank)), np.asarray(lines)[~blank]
        super().__init__(
            Rows(source.path, lines), {name: _one(column) for name, column in zip(names, table, strict=True)}
        )
        for line, cells in split.malformed:
            problem = f"has {cells} cells" if cells else "cannot be taken apart"
            remedy = f"expected {len(names)}: {', '.join(names)}"
            self.rows.unreadable(TraceError(problem, remedy=remedy, file=source.path, line=line))


class _Split(NamedTuple):
    """A table of texts, the line of its first row, and `(line, cells)` of every line with the wrong number of cells."""

    table: pa.Table
    first: int
    malformed: list[tuple[int, int]]

    def lines(self) -> Lines:
        """The line of each row."""
        numbers = range(self.first, self.first + self.table.num_rows + len(self.malformed))
        if not self.malformed:
            return numbers
        return np.setdiff1d(np.arange(numbers.start, numbers.stop), [line for line, _ in self.malformed])


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _blank(table: pa.Table) -> np.ndarray:
    blank = np.ones(table.num_rows, dtype=bool)
    for column in table:
        if not blank.any():
            break
        blank &= pc.equal(pc.binary_length(column), 0).to_numpy()
    return blank


def _split(source: Source, names: list[str]) -> _Split:
    """Take the lines apart; the first one of a file, but not of a later part, is the header."""
    if len(set(names)) < len(names):
        raise TraceError(
            "two columns have one name", remedy="name each column once", file=source.path, line=1
        )
    data, line, header = source.data, source.line, int(source.line == 1)
    if header:
        data = data.lstrip()
        line += source.data.count(b"\n", 0, len(source.data) - len(data))
    malformed: list[tuple[int, int]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append((line + row.number - 1, row.actual_columns))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data if b"\n" in data else data + b"\n"),
            # One thread: only then does pyarrow number the lines that it skips.
            pyarrow.csv.ReadOptions(
                use_threads=False, column_names=names, skip_rows=header, block_size=1 << 24
            ),
            pyarrow.csv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise TraceError(f"is not CSV: {error}", remedy="expected UTF-8 text", file=source.path) from None
    return _Split(table, line + header, malformed)
