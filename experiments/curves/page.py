"""A load curve as files: a page that needs no network, its rows as CSV, all as JSON, the figure as SVG and PDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from html import escape
from importlib.util import find_spec
from pathlib import Path

import msgspec

from experiments import html
from experiments.curves.result import Curve
from experiments.curves.words import failed, headings_of, notes_of, rows_of, title_of, verdict_of

CAPTION = (
    "Against offered load: the mean over the seeds, a bar for its 95 % interval, shaded what the seeds span. Hollow: "
    "no steady state, so the figure depends on the length of the run. Cross: of the few requests that completed. "
    "Diamond: the knee, where throughput over latency is highest."
)
METHOD = """The same requests come at each rate, at their recorded times stretched or shortened, whatever became of
those before them. Of each run the first requests are left out, until the number in flight has settled (MSER-5), and the
last ones, which met a fleet with nothing more to come; what is left is the same for all candidates of a rate and a
seed. A state is steady where the number in flight neither grows nor falls by more than 1 % of what comes, at 95 %
confidence. A rate is within an objective where the fleet does not fall behind, 99 % of the requests complete, and the
figure is on the right side of its bound."""
HEADINGS = (
    "candidate", "rate_per_s", "metric", "mean", "low", "high", "least", "most", "runs", "state", "unsteady_runs",
    "completed_share",
)  # fmt: skip


def write(curve: Curve, target: Path) -> Path:
    """Write all of them into `target`, which is made if need be."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "curve.json").write_bytes(json_of(curve))
    (target / "curve.csv").write_text(csv_of(curve), encoding="utf-8")
    svg = ""
    if find_spec("matplotlib") is not None:
        from experiments.curves.plot import figure_of
        from experiments.plots import svg_text

        figure = figure_of(curve)
        svg = svg_text(figure, "curve")
        (target / "curve.svg").write_text(svg, encoding="utf-8")
        figure.savefig(target / "curve.pdf", metadata={"CreationDate": None, "Creator": None})
    (target / "curve.html").write_text(page_of(curve, svg), encoding="utf-8")
    return target


def json_of(curve: Curve) -> bytes:
    """All of it, the same bytes for the same curve."""
    return msgspec.json.format(msgspec.json.encode(curve, order="sorted")) + b"\n"


def csv_of(curve: Curve) -> str:
    """The rows, in the figures' own units."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(HEADINGS)
    for row in curve.rows:
        band = row.band
        numbers = (
            [None] * 6 if band is None else [band.mean, band.low, band.high, band.least, band.most, band.runs]
        )
        writer.writerow(
            [
                row.candidate,
                row.rate_per_s,
                row.metric,
                *numbers,
                row.state,
                row.unsteady,
                row.completed_share,
            ]
        )
    return sink.getvalue()


def page_of(curve: Curve, svg: str) -> str:
    """The page: the verdict first."""
    heading = escape(verdict_of(curve))
    return html.page(heading, [f"<h1>{heading}</h1>", *_parts(curve, svg)])


def _parts(curve: Curve, svg: str) -> Iterator[str]:
    for line in failed(curve):
        yield f'<p class="warning">{escape(line)}</p>'
    yield f"<p>{escape(title_of(curve))}.</p>"
    yield html.figure(svg, CAPTION) if svg else html.NO_PLOTS
    yield "".join(f'<p class="note">{escape(note)}</p>' for note in notes_of(curve))
    yield "<h2>Figures</h2>"
    for name in curve.candidates:
        yield f"<h3>{escape(name)}</h3>"
        yield html.table(headings_of(curve), rows_of(curve, name), numbers_from=0)
    yield "<h2>What the candidates differ in</h2>"
    yield html.differences(curve.specs)
    yield f"<h2>Method</h2><p>{METHOD}</p>"
