"""The page of a report: the verdict, what it rests on as figures and table, how to check it and make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from experiments.findings import Findings, Row
from experiments.pages.blocks import (
    NO_PLOTS,
    Block,
    Bullets,
    Details,
    Facts,
    Table,
    Text,
    can_plot,
    figures,
    fragment,
    page,
    section,
)
from experiments.pages.pools import pool_blocks
from experiments.pages.specs import differences
from experiments.plots.of_report import Plots, plots_of
from experiments.plots.plot import Runs
from experiments.plots.style import FEW
from experiments.words import (
    cells,
    failed,
    in_short,
    left_undone,
    notes_of,
    title,
    verdict_at_once,
    verdict_in_short,
)

METHOD = """Every candidate was run on the same trace with the same seeds and the same faults, and compared seed by seed
with the baseline. One run is one observation. Latency counts from the intended arrival, and is of completed requests
only; read it beside “not completed”. Rows marked exact come from runs that chance does not touch: they hold for this
input, and carry no interval because repeating the same run is no replication."""
AGAIN = """Each run is in its folder under runs/, with the spec, the trace's hash and the source of each component:
“fleet again FOLDER” makes it anew and says whether the bytes agree. The whole specs are in manifest.json, the records
of every request in records.parquet."""
HEADINGS = ("metric", "candidate", "mean", "difference to baseline", "95 % interval", "ratio", "verdict")


def page_of(found: Findings, runs: Runs, manifest: Mapping[str, Any]) -> str:  # Any: JSON values
    """The whole page of these runs; `manifest` is what the report depended on."""
    plots = plots_of(found, runs)
    blocks: list[Block] = [
        *_first(found),
        *figures(plots.differences[:1]),
        *_table(found),
        *figures(plots.differences[1:]),
        *_sections(found, plots),
        *pool_blocks(runs, plots.rollouts),
        *section("What the candidates differ in", differences(found.specs)),
        *section("Method", [Text(METHOD)]),
        *section("To check it, and to make it again", [Facts(_facts(manifest)), Text(AGAIN, "note")]),
    ]
    return page(title(found), blocks)


def fragment_of(found: Findings, runs: Runs) -> str:
    """What a notebook shows of a report: the verdict, the figure of it, the table."""
    plots = plots_of(found, runs)
    return fragment(
        [
            Text(title(found)),
            *_first(found),
            *figures(plots.differences[:1]),
            _cells(found.shown),
            *_notes(found),
        ]
    )


def _first(found: Findings) -> list[Block]:
    """What is to be read before anything else: failures, what was left undone, the verdict."""
    warnings = [Text(sentence, "warning") for sentence in (*failed(found), *left_undone(found))]
    verdicts, rest = verdict_in_short(found), in_short(found)
    return [
        *warnings,
        Text(verdict_at_once(found), "verdict"),
        *(_bullets("Each verdict", verdicts) if len(verdicts) > 1 else ()),
        *_bullets("Each candidate in a sentence", rest),
    ]


def _bullets(summary: str, sentences: Sequence[str]) -> list[Block]:
    """Sentences, folded where there are more than one reads."""
    if not sentences:
        return []
    return [Details(summary, [Bullets(sentences)]) if len(sentences) > FEW else Bullets(sentences)]


def _table(found: Findings) -> list[Block]:
    """All figures; of many candidates those that are not primary folded up."""
    first = [row for row in found.shown if row.family == "primary"]
    rest = [row for row in found.shown if row.family != "primary"]
    if len(found.measured) <= FEW or not first or not rest:
        return [_cells(found.shown), *_notes(found)]
    return [_cells(first), Details("Table of the other figures", [_cells(rest)]), *_notes(found)]


def _cells(rows: Sequence[Row]) -> Table:
    texts = []
    last = None
    for row in rows:
        texts.append((row.label if row.metric != last else "", row.candidate, *cells(row)))
        last = row.metric
    return Table(HEADINGS, texts, names=2, verdict=True)


def _notes(found: Findings) -> list[Block]:
    return [Text(note, "note") for note in notes_of(found)]


def _sections(found: Findings, plots: Plots) -> list[Block]:
    """The figures, each under its heading; one note where nothing can plot."""
    if not can_plot():
        return section("Latency", [Text(NO_PLOTS, "note")])
    return [
        *section("Latency", figures(plots.latency)),
        *section("Latency against load", figures(plots.load)),
        *section("By class", figures(plots.classes)),
        *section("Over time", figures(plots.time)),
        *section("Load of each replica", figures(plots.replicas)),
    ]


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:  # Any: JSON values
    return [
        ("seeds", ", ".join(str(seed) for seed in manifest["seeds"])),
        ("trace SHA-256", "\n".join(trace["sha256"] for trace in manifest["traces"])),
        ("faults", msgspec.json.encode(manifest["faults"], order="sorted").decode()),
        ("runtime", manifest["runtime"]),
        ("versions", ", ".join(f"{name} {of}" for name, of in sorted(manifest["versions"].items()))),
        *(
            (f"digests of {name}", " ".join(digest[:16] for digest in digests))
            for name, digests in manifest["digests"].items()
        ),
    ]
