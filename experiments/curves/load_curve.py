"""`LoadCurve`: figures against load, as a table to read, rows to compute with, and files to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.curves.page import json_of, write
from experiments.curves.result import Curve
from experiments.curves.words import as_renderable, verdict_of
from experiments.text import as_text

if TYPE_CHECKING:
    from rich.console import Group


class LoadCurve(Curve, frozen=True, kw_only=True):
    """What candidates do at each of several loads: `print` shows it, `rows` has it, `save` keeps it."""

    @property
    def verdict(self) -> str:
        """What each candidate bears, or where each has its knee, in a sentence."""
        return verdict_of(self)

    def __rich__(self) -> Group:
        return as_renderable(self)

    def __str__(self) -> str:
        return as_text(as_renderable(self))

    def to_json(self) -> bytes:
        """All of it, the same bytes for the same curve; `msgspec.json.decode(..., type=LoadCurve)` reads it."""
        return json_of(self)

    def save(self, directory: str | Path) -> Path:
        """Write curve.html, curve.csv, curve.json, and the figure as SVG and PDF; answers the directory."""
        return write(self, Path(directory))
