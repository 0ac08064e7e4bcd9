"""What a comparison found: runs of several candidates over the same seeds, and each metric of each with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from experiments.lacks import Lack, lack
from experiments.metrics import Better, Metric, default_metrics
from experiments.paired import Difference, Interval, Verdict, holm, paired_difference, ratio, verdict
from fleet import Run

LEVEL = 0.05
LITTLE = 0.5
"""A candidate that completed less of what was submitted to it has no latency, and no price, to be compared by."""


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


class Findings:
    """`rows` is what there is to say of each metric and candidate; `runs[name]` are in the order of `seeds`."""

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
        named = metrics is not None
        if metrics is None:
            metrics = default_metrics(run.summary for of_one in self.runs.values() for run in of_one)
        of_all = {metric.name for metric in metrics if metric.of_all}
        rows = [row for metric in metrics for row in self._rows_of(metric)]
        self.rows: list[Row] = _judged(
            rows, lambda row: row.metric in of_all or self._comparable(row.candidate)
        )
        had = {row.metric for row in rows}
        self.lacks: list[Lack] = [
            missing
            for metric in metrics
            if named or metric.name in had
            for name, of_one in self.runs.items()
            if (missing := lack(metric, name, of_one)) is not None
        ]
        """What has no value. Of figures that were not named, only those that any run has."""

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

    def completed_enough(self, candidate: str) -> bool:
        """It did enough of its work for its latencies and its price to say anything."""
        share = self.completed_share(candidate)
        return share is None or share >= LITTLE

    def _comparable(self, candidate: str) -> bool:
        return self.completed_enough(candidate) and self.completed_enough(self.baseline)

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


def fingerprint(run: Run) -> str:
    """The run's digest with the seed's number left out: equal for runs that chance did not touch."""
    return Run(run.tables, run.summary, replace(run.manifest, seed=0)).digest


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
