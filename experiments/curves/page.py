"""A load curve as files: a page that needs no network, its rows as CSV, all as JSON, the figure as SVG and PDF."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import csv

from experiments.bands import Band
from experiments.curves.result import Curve
from experiments.curves.words import failed, headings_of, notes_of, rows_of, title_of, verdict_of
from experiments.pages.blocks import NO_PLOTS, Block, Heading, Table, Text, can_plot, figures, page, section
from experiments.pages.specs import differences
from experiments.plots.plot import Plot
from traces.files import replacing, write_whole

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
SCHEMA = pa.schema([
    ("candidate", pa.string()), ("rate_per_s", pa.float64()), ("metric", pa.string()), ("mean", pa.float64()),
    ("low", pa.float64()), ("high", pa.float64()), ("least", pa.float64()), ("most", pa.float64()),
    ("runs", pa.int64()), ("state", pa.string()), ("runs_in_state", pa.int64()), ("completed_share", pa.float64()),
])  # fmt: skip


def write(curve: Curve, target: Path) -> Path:
    """Write all of them into `target`, which is made if need be."""
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / "curve.json", json_of(curve))
    if can_plot():
        plot_of(curve).save(target)
    else:
        with replacing(target / "curve.csv") as file:
            csv.write_csv(table_of(curve), file)
    write_whole(target / "curve.html", page_of(curve).encode())
    return target


def json_of(curve: Curve) -> bytes:
    """All of it, the same bytes for the same curve."""
    return msgspec.json.format(msgspec.json.encode(curve, order="sorted")) + b"\n"


def table_of(curve: Curve) -> pa.Table:
    """The rows, in the figures' own units."""
    rows = [
        (
            row.candidate,
            row.rate_per_s,
            row.metric,
            *_numbers(row.band),
            row.state,
            row.in_state,
            row.completed_share,
        )
        for row in curve.rows
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.table([pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def _numbers(band: Band | None) -> tuple[float | None, ...]:
    """What there is to say of a figure over the seeds: nothing where it has no value."""
    return (None,) * 6 if band is None else (band.mean, band.low, band.high, band.least, band.most, band.runs)


def plot_of(curve: Curve) -> Plot:
    """The figure, with its rows."""
    from experiments.curves.plot import figure_of

    return Plot("curve", CAPTION, table_of(curve), lambda _: figure_of(curve))


def page_of(curve: Curve) -> str:
    """The page: the verdict first."""
    tables: list[Block] = []
    for name in curve.candidates:
        tables += [Heading(name, 3), Table(headings_of(curve), rows_of(curve, name), names=0)]
    drawn = figures([plot_of(curve)]) if can_plot() else [Text(NO_PLOTS, "note")]
    return page(
        verdict_of(curve),
        [
            *(Text(line, "warning") for line in failed(curve)),
            Text(f"{title_of(curve)}."),
            *drawn,
            *(Text(note, "note") for note in notes_of(curve)),
            *section("Figures", tables),
            *section("What the candidates differ in", differences(curve.specs)),
            *section("Method", [Text(METHOD)]),
        ],
    )
