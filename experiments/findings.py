"""What a comparison found: each metric of each candidate over the same seeds, held against the baseline, judged.

The one thing to know: all of it is of what runs came to (`Measured`), not of the runs: it takes no memory to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from experiments.lacks import Lack, lack
from experiments.measured import Measured, expanded
from experiments.metrics import Better, Metric
from experiments.paired import (
    Difference,
    Interval,
    Scale,
    Verdict,
    holm,
    paired_difference,
    paired_ratio,
    ratio,
    verdict,
)
from fleet.telemetry.run import Manifest

LEVEL = 0.05
LITTLE = 0.5
"""A candidate that completed less of what was submitted to it has no latency, and no price, to be compared by."""
ROUNDING = 1e-12
"""Values that differ by less, relatively, are the same one, summed in another order."""
Family = Literal["primary", "secondary", "all"]
"""Verdicts of one family are corrected among themselves. Where no metric was named beforehand as the one that decides,
all are one family."""


class Row(Struct, frozen=True, kw_only=True):
    """One metric of one candidate. Values are in the metric's own unit (latencies: seconds)."""

    metric: str
    """Its key: ``e2e_s.p99``, or ``e2e_s.p99@tenant=a`` of a group."""
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
    """To the baseline: of the means, or the geometric mean of the ratios where that is the scale."""
    p_adjusted: float | None
    verdict: Verdict | None
    family: Family = "all"


class Findings:
    """`rows` is what there is to say of each metric and candidate; `measured[name]` are in the order of `seeds`."""

    def __init__(
        self,
        measured: Mapping[str, Sequence[Measured]],
        metrics: Sequence[Metric],
        *,
        manifests: Mapping[str, Manifest],
        seeds: Sequence[int],
        baseline: str,
        primary: Metric | None = None,
        interval: Interval = "t",
        scale: Scale = "difference",
        named: bool = True,
    ) -> None:
        """Judge them.

        `manifests`: of one run of each candidate that any was made of. `named`: the metrics were asked for, so that
        one which no run has is told of.
        """
        self.manifests = dict(manifests)
        self.measured = {name: list(of_one) for name, of_one in measured.items()}
        self.seeds = list(seeds)
        self.baseline = baseline
        self.primary = primary
        self.named = named
        self.interval: Interval = interval
        self.scale: Scale = scale
        self.asked: list[Metric] = list(metrics)
        if primary is not None:
            self.asked = [primary, *(one for one in metrics if one.key != primary.key)]
        ran = [one for of_one in self.measured.values() for one in of_one]
        self.metrics: list[Metric] = [one for metric in self.asked for one in expanded(metric, ran)]
        """Each group's of a grouped one; the primary ones first."""
        first = set() if primary is None else {one.key for one in expanded(primary, ran)}
        rest: Family = "all" if primary is None else "secondary"
        rows = [
            row
            for metric in self.metrics
            for row in self._rows_of(metric, "primary" if metric.key in first else rest)
        ]
        of_all = {metric.key for metric in self.metrics if metric.of_all}
        rows = [row if row.metric in of_all or self._comparable(row) else _unjudged(row) for row in rows]
        self.rows: list[Row] = [row for family in _families(rows) for row in _judged(family)]
        had = {row.metric for row in rows}
        self.lacks: list[Lack] = [
            missing
            for metric in self.metrics
            if named or metric.key in had
            for name, of_one in self.measured.items()
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
    def errors(self) -> list[Measured]:
        """The runs that failed, each with its `error`."""
        return [one for of_one in self.measured.values() for one in of_one if one.error is not None]

    @property
    def deterministic(self) -> list[str]:
        """Candidates whose runs are all the same run, whatever the seed."""
        if len(self.seeds) < 2:
            return []
        there = {name: [one for one in of_one if one.error is None] for name, of_one in self.measured.items()}
        return [
            name
            for name, of_one in there.items()
            if len(of_one) > 1 and len({one.fingerprint for one in of_one}) == 1
        ]

    @property
    def specs(self) -> dict[str, dict[str, Any]]:  # Any: JSON values
        """What each candidate was, in their order."""
        return {name: self.manifests[name].spec for name in self.measured if name in self.manifests}

    @property
    def resampled(self) -> bool:
        """True when seeds brought traces of their own."""
        return len({one.trace_sha256 for one in self.measured[self.baseline] if one.error is None}) > 1

    def completed_share(self, candidate: str) -> float | None:
        """Of all requests submitted in its runs, the fraction that completed; None where there were none."""
        submitted = sum(one.submitted for one in self.measured[candidate])
        return sum(one.completed for one in self.measured[candidate]) / submitted if submitted else None

    def completed_enough(self, candidate: str) -> bool:
        """It did enough of its work for its latencies and its price to say anything."""
        share = self.completed_share(candidate)
        return share is None or share >= LITTLE

    def _comparable(self, row: Row) -> bool:
        return self.completed_enough(row.candidate) and self.completed_enough(self.baseline)

    def _rows_of(self, metric: Metric, family: Family) -> list[Row]:
        values = {name: [one.values.get(metric.key) for one in runs] for name, runs in self.measured.items()}
        base = values[self.baseline]
        rows = []
        for name, of_one in values.items():
            present = [value for value in of_one if value is not None]
            if not present:
                continue
            difference = None if name == self.baseline else self._difference(name, of_one, base)
            mean = sum(present) / len(present)
            rows.append(
                Row(
                    metric=metric.key,
                    label=metric.label,
                    scale=metric.scale,
                    better=metric.better,
                    candidate=name,
                    mean=mean,
                    largest=max(map(abs, present)),
                    runs=len(present),
                    distinct_runs=len({one.fingerprint for one in self.measured[name] if one.error is None}),
                    difference=difference,
                    ratio=_ratio(difference, mean, base),
                    p_adjusted=None,
                    verdict=None if name == self.baseline else "not judged",
                    family=family,
                )
            )
        return rows

    def _difference(
        self, name: str, values: Sequence[float | None], base: Sequence[float | None]
    ) -> Difference | None:
        """Of the pairs that have both; None where none has."""
        prints = zip(self.measured[name], self.measured[self.baseline], strict=True)
        pairs = [
            (
                other if math.isclose(one, other, rel_tol=ROUNDING) else one,
                other,
                (mine.fingerprint, its.fingerprint),
            )
            for one, other, (mine, its) in zip(values, base, prints, strict=True)
            if one is not None and other is not None
        ]
        if not pairs:
            return None
        ones, others, which = zip(*pairs, strict=True)
        distinct = len(set(which))
        if self.scale == "ratio" and min(*ones, *others) > 0.0:
            return paired_ratio(ones, others, distinct=distinct, interval=self.interval, confidence=1 - LEVEL)
        deltas = [one - other for one, other in zip(ones, others, strict=True)]
        return paired_difference(deltas, distinct=distinct, interval=self.interval, confidence=1 - LEVEL)


def _ratio(difference: Difference | None, mean: float, base: Sequence[float | None]) -> float | None:
    if difference is None:
        return None
    present = [value for value in base if value is not None]
    return difference.mean if difference.scale == "ratio" else ratio(mean, sum(present) / len(present))


def _unjudged(row: Row) -> Row:
    if row.difference is None or row.better == "neither":
        return row
    return replace(row, verdict="too little completed")


def _families(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows family by family, in their order."""
    found: dict[Family, list[Row]] = {}
    for row in rows:
        found.setdefault(row.family, []).append(row)
    return list(found.values())


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Verdicts, corrected over every comparison among `rows` that is judged."""
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
