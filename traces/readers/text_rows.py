"""Rows whose cells are texts, and the parsers that make columns of them, so that a bad cell can be quoted."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.readers.rows import Rows

A_COUNT = "expected a count of tokens such as 128"
SECONDS = "expected seconds such as 12.5"
AN_INSTANT = "expected a time such as 2023-11-16 18:15:46.6805900"
_MOST = 2**53
"""Whole numbers below it are the same as floats."""


class TextRows:
    """Columns of texts by name, and the rows to put them in once they are parsed. An empty cell is null.

    Args:
        rows: Where a cell that will not do makes its row bad.
        text: Each column as an array of strings.
    """

    def __init__(self, rows: Rows, text: Mapping[str, pa.Array]) -> None:
        self.rows = rows
        self._text = text
        self._tidy: dict[str, pa.Array] = {}

    @property
    def names(self) -> list[str]:
        """Of the columns, in the order of the file."""
        return list(self._text)

    def texts(self, column: str) -> pa.Array:
        """A column as text without space around it. Raises `TraceError` if the file has no such column."""
        if column not in self._text:
            remedy = f"there are {', '.join(self.names)}"
            raise TraceError("is missing", remedy=remedy, file=self.rows.file, line=1, column=column)
        if column not in self._tidy:
            trimmed = pc.utf8_trim_whitespace(self._text[column])
            empty = pc.equal(pc.binary_length(trimmed), 0)
            absent = pc.any(empty).as_py()
            self._tidy[column] = (
                pc.if_else(empty, pa.scalar(None, pa.string()), trimmed) if absent else trimmed
            )
        return self._tidy[column]

    def numbers(self, column: str, *, expected: str, required: bool = True) -> pa.Array:
        """A column as float64. A cell that is no number, or is empty though `required`, makes its row bad."""
        text = self.texts(column)
        return self._parsed(column, text, pa.float64(), "is not a number", expected, required=required)

    def counts(self, column: str, *, expected: str = A_COUNT, required: bool = True) -> pa.Array:
        """A column as int64; ``128.0`` counts as 128."""
        plain = _whole(self.texts(column))
        if plain is not None and not (required and plain.null_count):
            return plain
        numbers = self.numbers(column, expected=expected, required=required)
        whole = pc.and_(pc.equal(pc.round(numbers), numbers), pc.less(pc.abs(numbers), float(_MOST)))
        self.rows.reject(pc.invert(whole), column, "is not a whole number", expected, self.texts(column))
        return pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64())

    def exact(self, column: str, *, expected: str) -> pa.Array:
        """A column as int64 where all of it is whole, else as float64: a Unix time in ns is more than that can hold."""
        text = self.texts(column)
        try:
            return text.cast(pa.int64())
        except pa.ArrowInvalid:
            return self.numbers(column, expected=expected, required=False)

    def flags(self, column: str) -> pa.Array:
        """A column of ``true`` and ``false``, or 1 and 0."""
        text, expected = self.texts(column), "expected true or false"
        return self._parsed(column, text, pa.bool_(), "is neither", expected, required=False)

    def others(self, *known: str) -> dict[str, list[str | None]]:
        """All further columns, as text."""
        return {name: self.texts(name).to_pylist() for name in self.names if name not in known}

    def instants_ns(self, column: str) -> pa.Array:
        """A column of calendar times as ns since 1970, int64; a time without zone is UTC."""
        text = self.texts(column)
        try:
            parsed = text.cast(pa.timestamp("ns"))  # none has a zone: the quick way
        except pa.ArrowInvalid:
            text, wanted = _zoned(text), pa.timestamp("ns", "UTC")
            parsed = self._parsed(column, text, wanted, "is not a time", AN_INSTANT, required=False)
        self.rows.reject(pc.is_null(self.texts(column)), column, "is missing", AN_INSTANT)
        return parsed.cast(pa.int64())

    def _parsed(
        self, column: str, text: pa.Array, wanted: pa.DataType, problem: str, expected: str, *, required: bool
    ) -> pa.Array:
        empty = pc.is_null(text)
        if required:
            self.rows.reject(empty, column, "is missing", expected)
        parsed = cast(text, wanted)
        bad = pc.and_(pc.is_null(parsed), pc.invert(empty))
        self.rows.reject(bad, column, problem, expected, self.texts(column))
        return parsed


def _whole(text: pa.Array) -> pa.Array | None:
    """The texts as whole numbers, if all are, written with digits alone."""
    try:
        numbers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    extremes = pc.min_max(numbers).as_py()
    return numbers if (extremes["min"] or 0) > -_MOST and (extremes["max"] or 0) < _MOST else None


def _zoned(text: pa.Array) -> pa.Array:
    """Calendar times, those without a zone in UTC."""
    timed = pc.match_substring(text, ":")  # a bare date ends like a zone
    zoned = pc.and_(timed, pc.match_substring_regex(text, r"(Z|[+-]\d\d(:?\d\d)?)$"))
    missing = pc.if_else(timed, "Z", " 00:00:00Z")
    return pc.if_else(zoned, text, pc.binary_join_element_wise(text, missing, ""))


def cast(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`text` parsed; null where that fails. Arrow says only that some cell fails: halve until it is alone."""
    try:
        return text.cast(wanted)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, wanted)
        middle = len(text) // 2
        return pa.concat_arrays([cast(text[:middle], wanted), cast(text[middle:], wanted)])
