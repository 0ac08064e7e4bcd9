"""A plot as a value: what it shows as a table, and how that is drawn. A page and files are both made of it.

The one thing to know: `draw` draws `data` and nothing else, so the CSV beside a figure is the figure.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa
from pyarrow import csv

from fleet import Run
from traces.files import replacing, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

Runs: TypeAlias = Mapping[str, Sequence[Run]]
"""The runs of each candidate."""


class Plot(NamedTuple):
    """One figure of a report."""

    name: str
    """Of its files, without what they end in."""
    caption: str
    data: pa.Table
    draw: Callable[[pa.Table], Figure]
    detail: bool = False
    """To be looked up rather than read: a page folds it up."""

    def figure(self) -> Figure:
        """Drawn, with every text taken as it is: what is between two `$` is no formula."""
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            return literal(self.draw(self.data))

    def svg(self) -> str:
        """As SVG to put into a page."""
        return svg_text(self.figure(), self.name)

    def save(self, directory: Path) -> list[Path]:
        """Write NAME.svg, NAME.pdf and NAME.csv; the same bytes each time."""
        figure = self.figure()
        svg, pdf, table = (directory / f"{self.name}.{kind}" for kind in ("svg", "pdf", "csv"))
        write_whole(svg, (XML + svg_text(figure, self.name)).encode())
        write_whole(pdf, pdf_bytes(figure))
        with replacing(table) as file:
            csv.write_csv(self.data, file)
        return [svg, pdf, table]


XML = '<?xml version="1.0" encoding="utf-8"?>\n'


def there(plots: Iterable[Plot | None]) -> list[Plot]:
    """Those that have something to show."""
    return [plot for plot in plots if plot is not None]


def figure_of(plot: Plot | None, lacks: str) -> Figure:
    """The figure, for who asked for this one. Raises `ValueError` with what is lacking where there is none."""
    if plot is None:
        raise ValueError(f"there is nothing to plot: {lacks}")
    return plot.figure()


def literal(figure: Figure) -> Figure:
    """The figure, with the texts that it has by now taken as they are."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def svg_text(figure: Figure, name: str) -> str:
    """The figure as SVG: real text, nothing to fetch, the same bytes each time."""
    sink = io.StringIO()
    # Several SVGs share a page and so one name space of ids: the salt keeps them apart.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _writing({"svg.hashsalt": name, "svg.fonttype": "none"}):
        literal(figure).savefig(sink, format="svg", metadata=nothing)
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]


def pdf_bytes(figure: Figure) -> bytes:
    """The figure as PDF with TrueType fonts, which publishers ask for, the same bytes each time."""
    sink = io.BytesIO()
    with _writing({"pdf.fonttype": 42}):
        literal(figure).savefig(
            sink, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer"))
        )
    return sink.getvalue()


@contextmanager
def _writing(settings: Any) -> Iterator[None]:  # Any: matplotlib's
    """Matplotlib's settings for a file. A name may have letters that its font lacks: in a page the browser has them."""
    from matplotlib import rc_context

    settings |= {"text.parse_math": False, "font.family": "sans-serif"}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
