"""What a page is made of, as values, and the page itself.

The one thing to know: blocks hold plain text, whatever is in it. The templates escape all of it, and the figures, which
are SVG that matplotlib wrote, are the one thing that they take as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from experiments.plots.plot import Plot

if TYPE_CHECKING:
    from jinja2 import Environment


class Heading(Struct, frozen=True, tag=True):
    """Begins a section, or at level 3 a part of one."""

    text: str
    level: Literal[2, 3] = 2


class Text(Struct, frozen=True, tag=True):
    """A paragraph."""

    text: str
    style: Literal["plain", "note", "warning", "verdict"] = "plain"


class Bullets(Struct, frozen=True, tag=True):
    """Sentences that stand beside one another."""

    items: Sequence[str]


class Table(Struct, frozen=True, tag=True):
    """Cells of text."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    """Columns, from the left, that are text; those after them are numbers."""
    verdict: bool = False
    """The last column is a verdict, and a row whose first cell is not empty begins a group."""


class Facts(Struct, frozen=True, tag=True):
    """Names, and values to be copied."""

    rows: Sequence[tuple[str, str]]


class Figure(Struct, frozen=True, tag=True):
    """A plot with what there is to say of it."""

    svg: str
    caption: str


class Details(Struct, frozen=True, tag=True):
    """What is folded up until somebody asks for it."""

    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = "Heading | Text | Bullets | Table | Facts | Figure | Details"

NO_PLOTS = 'No plots: matplotlib is not installed (pip install "fleetlab[report]").'


def can_plot() -> bool:
    """Whether there is anything to draw with."""
    return find_spec("matplotlib") is not None


def figures(plots: Iterable[Plot]) -> list[Block]:
    """Plots as blocks, those that are to be looked up folded; none where nothing can plot."""
    if not can_plot():
        return []
    drawn = [(plot, Figure(plot.svg(), plot.caption)) for plot in plots]
    return [Details(f"Figure: {plot.name}", [one]) if plot.detail else one for plot, one in drawn]


def section(heading: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks under a heading; nothing where there are none."""
    return [Heading(heading), *blocks] if blocks else []


def page(heading: str, blocks: Sequence[Block]) -> str:
    """A whole document, with its title as the first heading."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return _environment().get_template("page.html").render(heading=heading, style=style, blocks=blocks)


def fragment(blocks: Sequence[Block]) -> str:
    """The blocks alone, for a notebook."""
    return _environment().get_template("fragment.html").render(blocks=blocks)


TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
