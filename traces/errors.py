"""What a reader tells its caller: a mistake in the input, or an account of the rows it took."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class TraceError(ValueError):
    """The input is not the trace that it should be.

    The message says where, what was wrong, and what would be right:
    ``conv.csv:17: column `ContextTokens`: "many" is not a number; expected a count of tokens such as 128``.

    Attributes:
        problem: What was wrong.
        remedy: What would be right; may be empty.
        file: The file, where the data came from one.
        line: Line of the file, from 1; for data without lines (Parquet, memory) the row, from 1.
        column: The column's name, as the file spells it.
        format: The name of the format that the file was read as, where it was being read.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | Path | None = None,
        line: int | None = None,
        column: str | None = None,
        format: str | None = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.file = None if file is None else str(file)
        self.line = line
        self.column = column
        self.format = format
        super().__init__(self._message())

    def _message(self) -> str:
        if self.file is None:
            place = "" if self.line is None else f"row {self.line}"
        else:
            place = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = [place] if place else []
        if self.column is not None:
            parts.append(f"column `{self.column}`")
        parts.append(f"{self.problem}; {self.remedy}" if self.remedy else self.problem)
        read_as = (
            "" if self.format is None else f" (read as {self.format}; format= or --format names another)"
        )
        return ": ".join(parts) + read_as

    def read_as(self, format: str) -> TraceError:
        """The same error, of a file that was read as this format."""
        return TraceError(
            self.problem,
            remedy=self.remedy,
            file=self.file,
            line=self.line,
            column=self.column,
            format=format,
        )


class ReadReport(Struct, frozen=True, kw_only=True):
    """What a file held and what became of it: ``rows_in == rows_kept + sum(dropped.values())``.

    A row is a request; a line that holds none, or that cannot be taken apart, counts as one.
    """

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = {}
    """Rows left out, by reason: bad or failed ones, where it was asked for, and sessions without a request."""
    reordered: int = 0
    """Rows that stood after one with a later arrival; they were sorted in, stably."""
    format: str = "memory"
    """The name of the format that was recognised, or asked for."""
    failed: int = 0
    """Rows that failed when they were recorded, those that were dropped for it included."""
    in_extra: dict[str, int] = {}
    """Fields that the schema has no column for and `extra` holds, each with how many rows have it."""
    not_kept: dict[str, int] = {}
    """Fields that the trace does not hold, each with how many rows had it."""
    odd: dict[str, int] = {}
    """What is odd about rows that were kept, each with how many of them are so."""
    time_unit: str | None = None
    """Unit in which arrivals were taken to be recorded; None where they are calendar times, or the file is our own."""
    block_tokens: int | None = None
    """Tokens that each prefix hash was taken to stand for; None where there are none, or rows say it themselves."""
