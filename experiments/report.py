"""`Report`: what a comparison found, as a table to read, rows to compute with, and files to keep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from experiments.findings import LEVEL, Findings
from experiments.measured import Measured, measure
from experiments.metrics import Metric, default_metrics, grouped_too
from experiments.pages.blocks import NO_PLOTS, can_plot
from experiments.pages.report import fragment_of, page_of
from experiments.paired import Interval, Scale
from experiments.plots.of_report import plots_of
from experiments.saved_metrics import SavedMetric, restored, saved_metric
from experiments.text import as_text
from experiments.words import cells, failed, in_short, left_undone, notes_of, title, verdict_in_short
from fleet import Run, load_run
from fleet.telemetry.documents import encoded
from traces.values import BadValue

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


class SavedCandidate(Struct, kw_only=True):
    """One candidate's figures, and the folders of its runs, within the report's."""

    name: str
    folders: list[str]
    measured: list[Measured]


class Saved(Struct, kw_only=True):
    """What a saved report is loaded from, beside its runs: candidates and metrics in their order."""

    metrics: list[SavedMetric]
    named: bool
    candidates: list[SavedCandidate]


class SavedManifest(Struct, kw_only=True):
    """What `load_report` reads of manifest.json."""

    baseline: str
    seeds: list[int]
    interval: Interval
    scale: Scale
    primary: str | None
    report: Saved


class Report(Findings):
    """Runs of several candidates over the same seeds, and what they show.

    `print(report)` is the table, `report.rows` its content, `report.runs[name]` the runs in the order of
    `report.seeds` (less those in `report.errors`, which failed), and `report.save(folder)` writes all of it.
    """

    def __init__(
        self,
        runs: Mapping[str, Sequence[Run]],
        *,
        seeds: Sequence[int],
        baseline: str,
        metrics: Sequence[Metric] | None = None,
        primary: Metric | None = None,
        by: Sequence[str] = (),
        interval: Interval = "t",
        scale: Scale = "difference",
        errors: Mapping[tuple[str, int], str] | None = None,
        measured: Mapping[str, Sequence[Measured]] | None = None,
        named: bool | None = None,
    ) -> None:
        """`errors` are of runs that failed, by candidate and seed: `runs` has the others of each candidate.

        `measured`: the figures of these runs, where they have been read before; then `metrics` are as they were read.
        """
        self.runs = {name: list(of_one) for name, of_one in runs.items() if of_one}
        chosen = metrics
        if chosen is None:
            chosen = default_metrics(run.summary for of_one in self.runs.values() for run in of_one)
        if primary is not None:
            chosen = (primary, *(one for one in chosen if one.key != primary.key))
        asked = grouped_too(chosen, by)
        if measured is None:
            measured = _measured(runs, asked, seeds, errors or {})
        super().__init__(
            measured,
            asked,
            manifests={name: of_one[0].manifest for name, of_one in self.runs.items()},
            seeds=seeds,
            baseline=baseline,
            primary=primary,
            interval=interval,
            scale=scale,
            named=metrics is not None if named is None else named,
        )

    @property
    def failed(self) -> list[str]:
        """A sentence for each candidate of which runs failed: to be read first of all."""
        return failed(self)

    @property
    def verdict_in_short(self) -> list[str]:
        """A sentence for each candidate with the verdict on the primary metric; none where no metric is primary."""
        return verdict_in_short(self)

    @property
    def in_short(self) -> list[str]:
        """For each candidate but the baseline: what it is better at and what it is worse at, in a sentence."""
        return in_short(self)

    @property
    def left_undone(self) -> list[str]:
        """A sentence for each candidate that completed much less than was asked of it: to be read first."""
        return left_undone(self)

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the table rightly."""
        return notes_of(self)

    # --- to read -------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The rich table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title(self), style="table.title"), title_justify="left", box=SIMPLE_HEAD)
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
        first = (Text(line, style="bold red") for line in (*self.failed, *self.left_undone))
        decided = (Text(line, style="bold") for line in self.verdict_in_short)
        return Group(*first, *decided, self.table(), *(Text(line) for line in lines))

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def _repr_html_(self) -> str:
        return fragment_of(self, self.runs)

    # --- to keep -------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> Path:
        """Write all of it, for `load_report`, and for whoever wants to look; answers the directory.

        report.html; records.parquet, the requests of all runs in one table; each run as `Run.save` writes it under
        runs/; and last manifest.json.
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        saved = Saved(
            metrics=[saved_metric(one) for one in self.asked],
            named=self.named,
            candidates=[self._save_runs(target, number, name) for number, name in enumerate(self.measured)],
        )
        pq.write_table(self.records(), target / "records.parquet", compression="zstd")
        manifest = self.manifest()
        (target / "report.html").write_text(page_of(self, self.runs, manifest), encoding="utf-8")
        text = msgspec.json.format(encoded({**manifest, "report": saved}))
        (target / "manifest.json").write_bytes(text + b"\n")
        return target

    def _save_runs(self, target: Path, number: int, name: str) -> SavedCandidate:
        folder = f"runs/{number:03d}-{_slug(name)}"
        folders = [f"{folder}/seed-{run.manifest.seed}" for run in self.runs.get(name, ())]
        for place, run in zip(folders, self.runs.get(name, ()), strict=True):
            run.save(target / place)
        return SavedCandidate(name=name, folders=folders, measured=self.measured[name])

    def figures(self, directory: str | Path) -> list[Path]:
        """Write each figure of the page as SVG and as PDF, with what it shows as CSV; answers the paths.

        Raises `ImportError` where there is no matplotlib (``pip install "fleetlab[report]"``).
        """
        if not can_plot():
            raise ImportError(NO_PLOTS)
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        return [path for plot in plots_of(self, self.runs).every() for path in plot.save(target)]

    def records(self) -> pa.Table:
        """The records of all runs, with the columns `candidate` and `seed` before theirs."""
        tables = []
        for name, runs in self.runs.items():
            for run in runs:
                seed = run.manifest.seed
                rows = len(run.records)
                table = run.records.add_column(0, "seed", pa.array([seed] * rows, pa.int64()))
                tables.append(table.add_column(0, "candidate", pa.array([name] * rows, pa.string())))
        return pa.concat_tables(tables, promote_options="permissive")

    def manifest(self) -> dict[str, Any]:  # Any: JSON values
        """Everything the report depended on, its rows, and the digest of every run."""
        first = next(iter(self.manifests.values()))
        runs = [run.manifest for of_one in self.runs.values() for run in of_one]
        return {
            "baseline": self.baseline,
            "seeds": self.seeds,
            "interval": self.interval,
            "scale": self.scale,
            "confidence": 1 - LEVEL,
            "primary": None if self.primary is None else self.primary.key,
            "candidates": {name: manifest.spec for name, manifest in self.manifests.items()},
            "components": {
                name: msgspec.to_builtins(manifest.components) for name, manifest in self.manifests.items()
            },
            "digests": {name: [run.digest for run in of_one] for name, of_one in self.runs.items()},
            "errors": [
                {"candidate": one.candidate, "seed": one.seed, "error": one.error} for one in self.errors
            ],
            "traces": _unique([manifest.trace for manifest in runs]),
            "faults": _unique([manifest.faults for manifest in runs]),
            "options": first.options,
            "runtime": first.runtime,
            "versions": first.versions,
            "rows": msgspec.to_builtins(self.rows),
        }


def _unique(values: Sequence[Any]) -> list[Any]:  # Any: JSON values
    seen: dict[bytes, Any] = {}
    for value in values:
        seen.setdefault(msgspec.json.encode(value, order="sorted"), value)
    return list(seen.values())


def load_report(directory: str | Path) -> Report:
    """Read back what `Report.save` wrote: runs, with all their tables, and what was found in them.

    Raises `ValueError` for a folder that is no report's, or whose files are not what they were.
    """
    source = Path(directory)
    try:
        found = msgspec.json.decode((source / "manifest.json").read_bytes(), type=SavedManifest)
    except msgspec.MsgspecError as error:
        raise BadValue("", f"{source / 'manifest.json'} is not of a saved report: {error}") from None
    candidates = found.report.candidates
    metrics = {one.key: one for one in map(restored, found.report.metrics)}
    return Report(
        {one.name: [load_run(source / folder) for folder in one.folders] for one in candidates},
        seeds=found.seeds,
        baseline=found.baseline,
        metrics=list(metrics.values()),
        primary=None if found.primary is None else metrics[found.primary],
        interval=found.interval,
        scale=found.scale,
        measured={one.name: one.measured for one in candidates},
        named=found.report.named,
    )


def _measured(
    runs: Mapping[str, Sequence[Run]],
    metrics: Sequence[Metric],
    seeds: Sequence[int],
    errors: Mapping[tuple[str, int], str],
) -> dict[str, list[Measured]]:
    """The figures of all runs, and those that failed in their places."""
    measured: dict[str, list[Measured]] = {}
    for name, of_one in runs.items():
        there = iter(of_one)
        measured[name] = [
            Measured(candidate=name, seed=seed, error=errors[name, seed])
            if (name, seed) in errors
            else measure(next(there), metrics, name, seed)
            for seed in seeds
        ]
    return measured


def _slug(name: str) -> str:
    """A name that any file system takes, for the eye: folders are told apart by their numbers."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:40] or "candidate"
