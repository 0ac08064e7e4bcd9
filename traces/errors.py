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
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | Path | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.file = None if file is None else str(file)
        self.line = line
        self.column = column
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
        return ": ".join(parts)


class ReadReport(Struct, frozen=True, kw_only=True):
    """How many rows a file had and what became of them: ``rows_in == rows_kept + sum(dropped.values())``."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = {}
    """Rows left out, by reason. Empty unless bad rows were asked to be dropped."""
    reordered: int = 0
    """Rows that stood after one with a later arrival; they were sorted in, stably."""
    format: str = "memory"
    """The name of the format that was recognised."""
