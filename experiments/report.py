"""`Report`: what a comparison found, as a table to read, rows to compute with, and files to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from msgspec.structs import replace

from experiments import html
from experiments.metrics import Better, Metric, default_metrics
from experiments.paired import Difference, Interval, Verdict, holm, paired_difference, ratio, verdict
from experiments.text import as_text, decimals, plain_number, signed_number
from fleet import Run

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

LEVEL = 0.05
LITTLE = 0.5
"""A candidate that completed less of what was submitted to it has no latency, and no price, to be compared by."""
WORTH_SAYING = 0.9
"""Of what completed less than this, it is said before anything else."""


class Row(Struct, frozen=True, kw_only=True):
    """One metric of one candidate. Values are in the metric's own unit (latencies: seconds)."""

    metric: str
    label: str
    scale: float
    better: Better
    candidate: str
    mean: float
    """Over the runs."""
    largest: float
    """Of the runs, apart from its sign."""
    runs: int
    distinct_runs: int
    difference: Difference | None
    """To the baseline; None for the baseline itself."""
    ratio: float | None
    """Of the means, to the baseline."""
    p_adjusted: float | None
    verdict: Verdict | None


class Report:
    """Runs of several candidates over the same seeds, and what they show.

    `print(report)` is the table, `report.rows` its content, `report.runs[name]` the runs in the order of
    `report.seeds`, and `report.save(folder)` writes all of it.
    """

    def __init__(
        self,
        runs: Mapping[str, Sequence[Run]],
        *,
        seeds: Sequence[int],
        baseline: str,
        metrics: Sequence[Metric] | None = None,
        interval: Interval = "t",
    ) -> None:
        self.runs = {name: list(of_one) for name, of_one in runs.items()}
        self.seeds = list(seeds)
        self.baseline = baseline
        self.interval: Interval = interval
        self.fingerprints = {name: [fingerprint(run) for run in of_one] for name, of_one in self.runs.items()}
        """Of each run: its digest apart from the seed's number. Two equal ones are the same run."""
        if metrics is None:
            metrics = default_metrics(run.summary for of_one in self.runs.values() for run in of_one)
        of_all = {metric.name for metric in metrics if metric.of_all}
        rows = [row for metric in metrics for row in self._rows_of(metric)]
        self.rows: list[Row] = _judged(
            rows, lambda row: row.metric in of_all or self._comparable(row.candidate)
        )

    def row(self, metric: str, candidate: str) -> Row:
        """The row of one metric and candidate. Raises `KeyError` when there is none."""
        for row in self.rows:
            if (row.metric, row.candidate) == (metric, candidate):
                return row
        raise KeyError(f"no row for metric {metric!r} and candidate {candidate!r}")

    @property
    def shown(self) -> list[Row]:
        """The rows of the table: a figure that is 0 in every run is named in a note instead."""
        left_out = self.zeros
        return [row for row in self.rows if row.label not in left_out]

    @property
    def zeros(self) -> list[str]:
        """Labels of the figures that are 0 in every run."""
        labels = dict.fromkeys(row.label for row in self.rows)
        return [label for label in labels if not any(row.largest for row in self.rows if row.label == label)]

    @property
    def deterministic(self) -> list[str]:
        """Candidates whose runs are all the same run, whatever the seed."""
        if len(self.seeds) < 2:
            return []
        return [name for name, prints in self.fingerprints.items() if len(set(prints)) == 1]

    @property
    def resampled(self) -> bool:
        """True when seeds brought traces of their own."""
        return len({run.manifest.trace["sha256"] for run in self.runs[self.baseline]}) > 1

    def completed_share(self, candidate: str) -> float | None:
        """Of all requests submitted in its runs, the fraction that completed; None where there were none."""
        submitted = sum(run.summary.submitted for run in self.runs[candidate])
        return sum(run.summary.completed for run in self.runs[candidate]) / submitted if submitted else None

    def _comparable(self, candidate: str) -> bool:
        shares = (self.completed_share(candidate), self.completed_share(self.baseline))
        return all(share is None or share >= LITTLE for share in shares)

    @property
    def in_short(self) -> list[str]:
        """For each candidate but the baseline: what it is better at and what it is worse at, in a sentence."""
        return [_sentence(self, name) for name in self.runs if name != self.baseline and len(self.seeds) > 1]

    @property
    def left_undone(self) -> list[str]:
        """A sentence for each candidate that completed much less than was asked of it: to be read first."""
        return _left_undone(self)

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the table rightly."""
        return _notes(self)

    def _rows_of(self, metric: Metric) -> list[Row]:
        values = {name: [metric.read(run.summary) for run in runs] for name, runs in self.runs.items()}
        base = values[self.baseline]
        rows = []
        for name, of_one in values.items():
            present = [value for value in of_one if value is not None]
            if not present:
                continue
            pairs = [
                (one - other, prints)
                for one, other, prints in zip(
                    of_one,
                    base,
                    zip(self.fingerprints[name], self.fingerprints[self.baseline], strict=True),
                    strict=True,
                )
                if one is not None and other is not None
            ]
            difference = None
            if name != self.baseline and pairs:
                distinct = len({prints for _, prints in pairs})
                difference = paired_difference(
                    [delta for delta, _ in pairs],
                    distinct=distinct,
                    interval=self.interval,
                    confidence=1 - LEVEL,
                )
            mean = sum(present) / len(present)
            base_present = [value for value in base if value is not None]
            rows.append(
                Row(
                    metric=metric.name,
                    label=metric.label,
                    scale=metric.scale,
                    better=metric.better,
                    candidate=name,
                    mean=mean,
                    largest=max(map(abs, present)),
                    runs=len(present),
                    distinct_runs=len(set(self.fingerprints[name])),
                    difference=difference,
                    ratio=ratio(mean, sum(base_present) / len(base_present)) if difference else None,
                    p_adjusted=None,
                    verdict=None if name == self.baseline else "not judged",
                )
            )
        return rows

    # --- to read -------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The rich table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title(self), title_justify="left", box=SIMPLE_HEAD)
        table.add_column("metric")
        for heading in ("mean", "difference", "95 % interval", "ratio"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        last = None
        for row in self.shown:
            if row.metric != last:
                if last is not None:
                    table.add_section()
                table.add_row(Text(row.label, style="bold"))
            table.add_row(Text(f"  {row.candidate}"), *cells(row))
            last = row.metric
        return table

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        lines = [*self.in_short, *(f"· {note}" for note in self.notes)]
        first = (Text(line, style="bold red") for line in self.left_undone)
        return Group(*first, self.table(), *(Text(line) for line in lines))

    def __str__(self) -> str:
        return as_text(self.__rich__())

    # --- to keep -------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> Path:
        """Write report.html, records.parquet (all runs) and manifest.json; answers the directory."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.records(), target / "records.parquet", compression="zstd")
        manifest = msgspec.json.format(msgspec.json.encode(self.manifest(), order="sorted"))
        (target / "manifest.json").write_bytes(manifest + b"\n")
        (target / "report.html").write_text(_page(self), encoding="utf-8")
        return target

    def records(self) -> pa.Table:
        """The records of all runs, with the columns `candidate` and `seed` before theirs."""
        tables = []
        for name, runs in self.runs.items():
            for seed, run in zip(self.seeds, runs, strict=True):
                rows = len(run.records)
                table = run.records.add_column(0, "seed", pa.array([seed] * rows, pa.int64()))
                tables.append(table.add_column(0, "candidate", pa.array([name] * rows, pa.string())))
        return pa.concat_tables(tables, promote_options="permissive")

    def manifest(self) -> dict[str, Any]:  # Any: JSON values
        """Everything the report depended on, its rows, and the digest of every run."""
        first = self.runs[self.baseline][0].manifest
        return {
            "baseline": self.baseline,
            "seeds": self.seeds,
            "interval": self.interval,
            "confidence": 1 - LEVEL,
            "candidates": {name: runs[0].manifest.spec for name, runs in self.runs.items()},
            "components": {
                name: msgspec.to_builtins(runs[0].manifest.components) for name, runs in self.runs.items()
            },
            "digests": {name: [run.digest for run in runs] for name, runs in self.runs.items()},
            "traces": _unique([run.manifest.trace for run in self.runs[self.baseline]]),
            "faults": _unique([run.manifest.faults for run in self.runs[self.baseline]]),
            "options": first.options,
            "runtime": first.runtime,
            "versions": first.versions,
            "rows": msgspec.to_builtins(self.rows),
        }


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Mean, difference, interval, ratio and verdict of a row as text."""
    mean = plain_number(row.mean * row.scale)
    difference = row.difference
    if difference is None:
        return mean, "", "", "", "baseline" if row.verdict is None else "baseline has none"
    shown = difference.mean * row.scale
    # Three digits of the difference, but none far beyond those of the mean: they would be noise.
    places = min(decimals(shown, 3), decimals(row.mean * row.scale, 4) + 1)
    interval = ""
    if difference.low is not None and difference.high is not None:
        low, high = difference.low * row.scale, difference.high * row.scale
        interval = f"[{signed_number(low, places=places)}, {signed_number(high, places=places)}]"
    judged: str = row.verdict or "–"
    if row.verdict == "exact":
        judged = "exact (deterministic)" if difference.deterministic else "same in every run"
        if not difference.deterministic and difference.mean:
            judged = "always by that much"
    elif row.verdict == "not judged":
        judged = f"n={difference.pairs}, no interval" if difference.low is None else "–"
    delta = signed_number(shown, places=places if interval else None)
    return mean, delta, interval, f"{row.ratio:.3f}" if row.ratio is not None else "", judged


def fingerprint(run: Run) -> str:
    """The run's digest with the seed's number left out: equal for runs that chance did not touch."""
    tables = {
        name: getattr(run, name) for name in ("records", "series", "decisions", "dispatches", "replicas")
    }
    return Run(tables, run.summary, replace(run.manifest, seed=0)).digest


def _judged(rows: list[Row], comparable: Callable[[Row], bool]) -> list[Row]:
    """Verdicts, corrected over every comparison of the report that is judged."""
    rows = [
        replace(row, verdict="too little completed")
        if row.difference is not None and row.better != "neither" and not comparable(row)
        else row
        for row in rows
    ]
    family = [
        index
        for index, row in enumerate(rows)
        if row.difference is not None
        and row.difference.p_value is not None
        and row.better != "neither"
        and row.verdict != "too little completed"
    ]
    raw = [
        difference.p_value or 0.0 for index in family if (difference := rows[index].difference) is not None
    ]
    adjusted = dict(zip(family, holm(raw), strict=True))
    return [
        row
        if row.difference is None or row.verdict == "too little completed"
        else replace(
            row,
            p_adjusted=adjusted.get(index),
            verdict=verdict(row.difference, row.better, adjusted.get(index), level=LEVEL),
        )
        for index, row in enumerate(rows)
    ]


def title(report: Report) -> str:
    """What was compared, in a line."""
    first = report.runs[report.baseline][0].manifest
    source = first.trace["header"]["source"]
    what = f"trace {source} ({first.trace['requests']:,} requests, {first.trace['sha256'][:8]})"
    if report.resampled:
        what = f"{len(report.seeds)} traces like {source} (one a seed)"
    seeds = f"{len(report.seeds)} seed{'s' if len(report.seeds) != 1 else ''}"
    return f"{len(report.runs)} candidates on {what}, {seeds}, {first.runtime}; baseline: {report.baseline}"


def _left_undone(report: Report) -> list[str]:
    """A sentence for each candidate that left much undone: whatever else is said of it is said of the rest."""
    said = []
    for name, runs in report.runs.items():
        share = report.completed_share(name)
        if share is None or share >= WORTH_SAYING:
            continue
        done, submitted = (
            sum(getattr(run.summary, field) for run in runs) for field in ("completed", "submitted")
        )
        what = "nothing" if not done else f"{done:,}"
        rest = "its latencies and its price are of the few that did and are not judged"
        if share >= LITTLE:
            rest = "its latencies are of those only, and what it left undone cost it little"
        elif not done:
            rest = "it has no latencies, and its price bought nothing"
        said.append(f"{name} completed {what} of {submitted:,} requests ({share:.1%}): {rest}.")
    return said


def _sentence(report: Report, candidate: str) -> str:
    """What one candidate is: "memory against random: better in e2e p99 (×0.812); worse in gpu seconds (×1.020)"."""
    found: dict[str, list[str]] = {"better": [], "worse": []}
    for row in report.rows:
        if row.candidate != candidate or row.difference is None or not row.difference.mean:
            continue
        if row.ratio is not None and f"{row.ratio:.3f}" == "1.000":
            continue  # as good as equal, whatever the test says; the table has it
        judged = row.verdict
        if judged == "exact" and row.better != "neither":
            judged = "better" if (row.difference.mean < 0) == (row.better == "lower") else "worse"
        if judged in found:
            name = row.label.partition(" (")[0]
            found[judged].append(f"{name} (×{row.ratio:.3f})" if row.ratio is not None else name)
    said = "; ".join(f"{judged} in {', '.join(names)}" for judged, names in found.items() if names)
    return f"{candidate} against {report.baseline}: {said or 'no difference shown'}."


def _notes(report: Report) -> list[str]:
    notes = []
    if report.zeros:
        notes.append(f"0 in every run: {', '.join(label.partition(' (')[0] for label in report.zeros)}.")
    if report.deterministic:
        notes.append(
            f"1 distinct run out of {len(report.seeds)}, because the seed changes nothing in them: "
            f"{', '.join(report.deterministic)}."
        )
    if any(row.difference is not None and row.difference.deterministic for row in report.rows):
        jitter = ", or an engine with jitter," if _can_jitter(report) else ""
        notes.append(
            "A deterministic difference holds for this trace and says nothing of others. A trace for each seed"
            f"{jitter} gives an interval: one synthesized with the seed, or another stretch of a recorded one "
            "(lambda seed: trace.slice(60 * seed, 60 * (seed + 1)); fleet compare: --stretch-s 60)."
        )
    if len(report.seeds) == 1:
        notes.append("One seed: differences without intervals, and no verdicts. Give more seeds.")
    if any(row.p_adjusted is not None for row in report.rows):
        if len(report.runs[report.baseline]) > 1 and not report.resampled:
            notes.append(
                "One trace for all seeds: the intervals are about chance within this trace, not about other traffic. "
                "Pass a function seed -> Trace to resample the arrivals."
            )
        method = "Student's t" if report.interval == "t" else "BCa bootstrap"
        notes.append(
            f"Intervals: {method} over paired differences, a run being one observation. Verdicts: the interval "
            f"excludes zero and the test holds at {LEVEL:g} after Holm's correction over all verdicts here."
        )
        unsure = [
            row
            for row in report.rows
            if row.verdict == "no difference shown"
            and row.difference is not None
            and row.difference.excludes_zero
        ]
        if unsure:
            named = ", ".join(f"{row.label} of {row.candidate}" for row in unsure)
            notes.append(f"Zero is outside the interval, but not after the correction: {named}.")
    return notes


def _can_jitter(report: Report) -> bool:
    """Whether any engine of the report has a parameter that makes it noisy; not all have one."""
    engines = (runs[0].manifest.spec.get("engine", {}) for runs in report.runs.values())
    return any(_names_jitter(engine) for engine in engines)


def _names_jitter(value: object) -> bool:
    return isinstance(value, dict) and any(
        "jitter" in key or _names_jitter(item) for key, item in value.items()
    )


def _unique(values: Sequence[Any]) -> list[Any]:  # Any: JSON values
    seen: dict[bytes, Any] = {}
    for value in values:
        seen.setdefault(msgspec.json.encode(value, order="sorted"), value)
    return list(seen.values())


# --- the page ----------------------------------------------------------------------------------------------

METHOD = """Every candidate was run on the same trace with the same seeds and the same faults, and compared seed by seed
with the baseline. One run is one observation. Latency counts from the intended arrival, and is of completed requests
only; read it beside “not completed”. Rows marked exact come from runs that chance does not touch: they hold for this
input, and carry no interval because repeating the same run is no replication."""


def _page(report: Report) -> str:
    heading = escape(title(report))
    in_short = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.in_short)
    parts = [
        f"<h1>{heading}</h1>",
        *(f'<p class="warning">{escape(sentence)}</p>' for sentence in report.left_undone),
        *([f"<ul>{in_short}</ul>"] if in_short else []),
        _html_table(report),
        *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        "<h2>Latency</h2>",
        *html.latency_plots(report.runs),
        *html.timelines(report.runs, report.seeds[0]),
        "<h2>What the candidates differ in</h2>",
        html.differences({name: runs[0].manifest.spec for name, runs in report.runs.items()}),
        "<h2>Method</h2>",
        f"<p>{METHOD}</p>",
        "<h2>To check it</h2>",
        _facts(report.manifest()),
    ]
    return html.page(heading, parts)


def _html_table(report: Report) -> str:
    lines = []
    last = None
    for row in report.shown:
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
