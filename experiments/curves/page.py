"""A load curve as files: a page that needs no network, its rows as CSV, all as JSON, the figure as SVG and PDF."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec

from experiments.curves.plot import figure_of
from experiments.curves.result import Curve
from experiments.curves.words import failed, headings_of, notes_of, rows_of, title_of, verdict_of
from experiments.pages.blocks import NO_PLOTS, Block, Figure, Heading, Table, Text, can_plot, page, section
from experiments.pages.specs import differences
from experiments.plots.plot import pdf_bytes, svg_text

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
    if can_plot():
        figure = figure_of(curve)
        svg = svg_text(figure, "curve")
        (target / "curve.svg").write_text(svg, encoding="utf-8")
        (target / "curve.pdf").write_bytes(pdf_bytes(figure))
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
    figures: list[Block] = [
        block
        for name in curve.candidates
        for block in (Heading(name, 3), Table(headings_of(curve), rows_of(curve, name), names=0))
    ]
    blocks: list[Block] = [
        *(Text(line, "warning") for line in failed(curve)),
        Text(f"{title_of(curve)}."),
        Figure(svg, CAPTION) if svg else Text(NO_PLOTS, "note"),
        *(Text(note, "note") for note in notes_of(curve)),
        *section("Figures", figures),
        *section("What the candidates differ in", differences(curve.specs)),
        *section("Method", [Text(METHOD)]),
    ]
    return page(verdict_of(curve), blocks)
