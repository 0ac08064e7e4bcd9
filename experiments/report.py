"""`Report`: what a comparison found, as a table to read, rows to compute with, and files to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.findings import LEVEL, Findings
from experiments.measured import Measured, measure
from experiments.metrics import Metric, default_metrics, grouped_too
from experiments.page import page_of
from experiments.paired import Interval, Scale
from experiments.text import as_text
from experiments.words import cells, failed, in_short, left_undone, notes_of, title, verdict_in_short
from fleet import Run
from fleet.telemetry.documents import encoded

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


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
    ) -> None:
        """`errors` are of runs that failed, by candidate and seed: `runs` has the others of each candidate."""
        self.runs = {name: list(of_one) for name, of_one in runs.items() if of_one}
        chosen = metrics
        if chosen is None:
            chosen = default_metrics(run.summary for of_one in self.runs.values() for run in of_one)
        chosen = grouped_too(chosen, by)
        asked = chosen if primary is None else (*chosen, primary)
        lost = errors or {}
        measured = {}
        for name, of_one in runs.items():
            there = iter(of_one)
            measured[name] = [
                Measured(candidate=name, seed=seed, error=lost[name, seed])
                if (name, seed) in lost
                else measure(next(there), asked, name, seed)
                for seed in seeds
            ]
        super().__init__(
            measured,
            chosen,
            manifests={name: of_one[0].manifest for name, of_one in self.runs.items()},
            seeds=seeds,
            baseline=baseline,
            primary=primary,
            interval=interval,
            scale=scale,
            named=metrics is not None,
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

    # --- to keep -------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> Path:
        """Write report.html, records.parquet (all runs) and manifest.json; answers the directory."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.records(), target / "records.parquet", compression="zstd")
        manifest = msgspec.json.format(encoded(self.manifest()))
        (target / "manifest.json").write_bytes(manifest + b"\n")
        (target / "report.html").write_text(page_of(self, self.runs, self.manifest()), encoding="utf-8")
        return target

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
