"""The page of a report: one HTML file with tables and plots that needs no network."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

from experiments import html, pools_page
from experiments.findings import Findings
from experiments.plots import Runs
from experiments.words import cells, failed, in_short, left_undone, notes_of, title

METHOD = """Every candidate was run on the same trace with the same seeds and the same faults, and compared seed by seed
with the baseline. One run is one observation. Latency counts from the intended arrival, and is of completed requests
only; read it beside “not completed”. Rows marked exact come from runs that chance does not touch: they hold for this
input, and carry no interval because repeating the same run is no replication."""


def page_of(found: Findings, runs: Runs, manifest: dict[str, Any]) -> str:  # Any: JSON values
    """The whole page of these runs; `manifest` is what the report depended on."""
    heading = escape(title(found))
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in in_short(found))
    parts = [
        f"<h1>{heading}</h1>",
        *(f'<p class="warning">{escape(sentence)}</p>' for sentence in (*failed(found), *left_undone(found))),
        *([f"<ul>{sentences}</ul>"] if sentences else []),
        _html_table(found),
        *(f'<p class="note">{escape(note)}</p>' for note in notes_of(found)),
        "<h2>Latency</h2>",
        *html.latency_plots(runs),
        *html.timelines(runs, found.seeds[0]),
        *pools_page.parts(runs, found.seeds[0]),
        "<h2>What the candidates differ in</h2>",
        html.differences({name: manifest.spec for name, manifest in found.manifests.items()}),
        "<h2>Method</h2>",
        f"<p>{METHOD}</p>",
        "<h2>To check it</h2>",
        _facts(manifest),
    ]
    return html.page(heading, parts)


def _html_table(found: Findings) -> str:
    lines = []
    last = None
    for row in found.shown:
        *numbers, judged = cells(row)
        begins = row.metric != last
        lines.append(
            f'<tr class="{"first" if begins else ""}"><td class="name">{escape(row.label) if begins else ""}</td>'
            f'<td class="name">{escape(row.candidate)}</td>'
            + "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
            + f'<td class="name {escape(judged)}">{escape(judged)}</td></tr>'
        )
        last = row.metric
    headings = ("mean", "difference to baseline", "95 % interval", "ratio")
    head = "<th>metric</th><th>candidate</th>" + "".join(
        f'<th class="number">{escape(h)}</th>' for h in headings
    )
    return f'<div class="scroll"><table><tr>{head}<th>verdict</th></tr>{"".join(lines)}</table></div>'


def _facts(manifest: dict[str, Any]) -> str:  # Any: JSON values
    rows = [
        ("seeds", ", ".join(str(seed) for seed in manifest["seeds"])),
        ("trace SHA-256", "\n".join(trace["sha256"] for trace in manifest["traces"])),
        ("faults", msgspec.json.encode(manifest["faults"]).decode()),
        ("runtime", manifest["runtime"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
    ]
    rows += [
        (f"digests of {name}", " ".join(digest[:16] for digest in digests))
        for name, digests in manifest["digests"].items()
    ]
    return html.facts(
        rows, "The whole specs are in manifest.json, the records of every request in records.parquet."
    )
