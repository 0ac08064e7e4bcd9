"""Rows of a CSV file.

Arrow takes the lines apart and leaves every cell as text, so that a bad one can be quoted and its line named.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from traces.errors import TraceError
from traces.readers.rows import Rows
from traces.source import Source

A_COUNT = "expected a count of tokens such as 128"
SECONDS = "expected seconds such as 12.5"
AN_INSTANT = "expected a time such as 2023-11-16 18:15:46.6805900"


class CsvRows:
    """The columns of a CSV file by name, as text, with the parsers that a reader needs.

    A line with too few or too many cells is a bad row; a blank line is none.
    """

    def __init__(self, source: Source) -> None:
        self.names = source.csv_columns
        self._file = source.path
        table, malformed = _split(source, self.names)
        numbers = np.setdiff1d(
            np.arange(2, table.num_rows + len(malformed) + 2), [line for line, _ in malformed]
        )
        blank = np.ones(table.num_rows, dtype=bool)
        for name in self.names:
            blank &= pc.equal(table[name], "").to_numpy(zero_copy_only=False)
        table = table.filter(pa.array(~blank)).combine_chunks()
        self.rows = Rows(source.path, numbers[~blank])
        self._text = {name: pc.utf8_trim_whitespace(_one(table[name])) for name in self.names}
        for line, cells in malformed:
            problem = f"has {cells} cells" if cells else "cannot be taken apart"
            remedy = f"expected {len(self.names)}: {', '.join(self.names)}"
            self.rows.unreadable(TraceError(problem, remedy=remedy, file=source.path, line=line))

    def texts(self, column: str) -> pa.Array:
        """A column as text; an empty cell is null. Raises `TraceError` if the file has no such column."""
        if column not in self._text:
            remedy = f"there are {', '.join(self.names)}"
            raise TraceError("is missing", remedy=remedy, file=self._file, line=1, column=column)
        text = self._text[column]
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def numbers(self, column: str, *, expected: str, required: bool = True) -> pa.Array:
        """A column as float64. A cell that is no number, or is empty though `required`, makes its row bad."""
        text = self.texts(column)
        problem = "is not a number"
        return self._parsed(column, text, pa.float64(), problem=problem, expected=expected, required=required)

    def counts(self, column: str, *, expected: str = A_COUNT, required: bool = True) -> pa.Array:
        """A column as int64; ``128.0`` counts as 128."""
        numbers = self.numbers(column, expected=expected, required=required)
        whole = pc.and_(pc.equal(pc.round(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53))
        self.rows.reject(pc.invert(whole), column, "is not a whole number", expected, self._text[column])
        return pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64())

    def others(self, *known: str) -> dict[str, list[str | None]]:
        """All further columns, as text."""
        return {name: self.texts(name).to_pylist() for name in self.names if name not in known}

    def instants_ns(self, column: str) -> pa.Array:
        """A column of calendar times as ns since 1970, int64; a time without zone is UTC."""
        text = self.texts(column)
        zoned = pc.match_substring_regex(text, r"(Z|[+-]\d\d(:?\d\d)?)$")
        zoned = pc.and_(zoned, pc.match_substring(text, ":"))  # a bare date ends like a zone
        stamped = pc.if_else(zoned, text, pc.binary_join_element_wise(text, "Z", ""))
        wanted = pa.timestamp("ns", "UTC")
        times = self._parsed(
            column, stamped, wanted, problem="is not a time", expected=AN_INSTANT, required=True
        )
        return times.cast(pa.int64())

    def _parsed(
        self, column: str, text: pa.Array, wanted: pa.DataType, *, problem: str, expected: str, required: bool
    ) -> pa.Array:
        empty = pc.is_null(text)
        if required:
            self.rows.reject(empty, column, "is missing", expected)
        parsed = _cast(text, wanted)
        self.rows.reject(
            pc.and_(pc.is_null(parsed), pc.invert(empty)), column, problem, expected, self._text[column]
        )
        return parsed


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _split(source: Source, names: list[str]) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The table of texts, and `(line, cells)` of every line that has the wrong number of cells."""
    if len(set(names)) < len(names):
        raise TraceError(
            "two columns have one name", remedy="name each column once", file=source.path, line=1
        )
    malformed: list[tuple[int, int]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append((row.number, row.actual_columns))
        return "skip"

    data = source.data.lstrip()
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data if b"\n" in data else data + b"\n"),
            # One thread: only then does pyarrow number the lines that it skips.
            pyarrow.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1, block_size=1 << 24),
            pyarrow.csv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise TraceError(f"is not CSV: {error}", remedy="expected UTF-8 text", file=source.path) from None
    return table, malformed


def _cast(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`text` parsed; null where that fails. Arrow says only that some cell fails: halve until it is alone."""
    try:
        return text.cast(wanted)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, wanted)
        middle = len(text) // 2
        return pa.concat_arrays([_cast(text[:middle], wanted), _cast(text[middle:], wanted)])
