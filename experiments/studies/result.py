"""The numbers of a study: every candidate at every setting, with what can be said of its difference to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from experiments.findings import LEVEL
from experiments.metrics import Better, Metric, metrics_of
from experiments.paired import (
    Difference,
    Scale,
    Verdict,
    holm,
    paired_difference,
    paired_ratio,
    verdict,
)
from experiments.report import Report
from experiments.text import plain_number

if TYPE_CHECKING:
    from rich.table import Table

SIGNS: dict[Verdict | None, str] = {"better": "▲", "worse": "▼", "no difference shown": "≈"}


class Measure(Struct, frozen=True, kw_only=True):
    """What was measured. A printed value is `scale` times the one in the figures."""

    name: str
    label: str
    better: Better
    scale: float = 1.0
    shown: bool = True
    """In the table; False: among the figures only."""

    @classmethod
    def of(cls, metric: Metric) -> Measure:
        """One figure of a run's summary."""
        return cls(name=metric.name, label=metric.label, better=metric.better, scale=metric.scale)


class Figure(Struct, frozen=True, kw_only=True):
    """One measure of one candidate at one setting."""

    at: float
    candidate: str
    measure: str
    mean: float
    by_seed: tuple[float | None, ...]
    difference: Difference | None = None
    """To the baseline at the same setting, over the seeds; None for the baseline."""
    p_adjusted: float | None = None
    verdict: Verdict | None = None


class Spot(Struct, frozen=True, kw_only=True):
    """What was tried on the way to the candidates: one place in a plane."""

    name: str
    at: float
    x: float
    y: float
    chosen: bool = False
    """On the front of what was tried."""


class StudyResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a study found. Verdicts are corrected over all figures of the study that are judged."""

    study: str
    setting: str
    """What `Figure.at` is, with its unit."""
    baseline: str
    seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    figures: tuple[Figure, ...]
    workload: str
    """Where the requests come from."""
    traces: dict[str, Any]  # Any: JSON values
    """Of each setting: header and hash of the traces."""
    specs: dict[str, Any]
    """Of each candidate, at the first setting."""
    spots: tuple[Spot, ...] = ()
    setting_names: dict[str, str] = {}
    """What the settings are called, where a number says little: by the number as ``f"{at:g}"`` writes it."""
    finding: tuple[str, ...] = ()
    """What came of it, in sentences."""

    def named(self, at: float) -> str:
        """A setting as tables print it."""
        return self.setting_names.get(f"{at:g}", plain_number(at))

    @property
    def settings(self) -> list[float]:
        """The values of the setting, in the order in which they were run."""
        return list(dict.fromkeys(figure.at for figure in self.figures))

    @property
    def candidates(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(figure.candidate for figure in self.figures))

    def figure(self, at: float, candidate: str, measure: str) -> Figure:
        """One figure. Raises `KeyError` when there is none."""
        for figure in self.figures:
            if (figure.at, figure.candidate, figure.measure) == (at, candidate, measure):
                return figure
        raise KeyError(f"no {measure!r} of {candidate!r} at {at!r}")

    def mean(self, at: float, candidate: str, measure: str) -> float:
        """Its mean over the seeds."""
        return self.figure(at, candidate, measure).mean

    def curve(self, candidate: str, measure: str) -> tuple[list[float], list[Figure]]:
        """Settings and figures of one candidate."""
        found = [one for one in self.figures if (one.candidate, one.measure) == (candidate, measure)]
        return [one.at for one in found], found

    def measure(self, name: str) -> Measure:
        """What was measured under this name."""
        return next(measure for measure in self.measures if measure.name == name)

    def table(self, title: str) -> Table:
        """For the eye: one section for each setting."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        judged = f"▲ better, ▼ worse than {self.baseline}, ≈ no difference shown"
        caption = f"{self.workload}; {len(self.seeds)} seeds; {judged} (paired, 95 %, corrected by Holm)"
        table = Table(
            title=title, title_justify="left", box=SIMPLE_HEAD, caption=caption, caption_justify="left"
        )
        headings, rows = self.cells()
        table.add_column(headings[0], justify="right")
        table.add_column(headings[1], no_wrap=True)
        for heading in headings[2:]:
            table.add_column(heading, justify="right")
        for row in rows:
            if row[0]:
                table.add_section()
            table.add_row(*row)
        return table

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows; a setting's name stands in the first of its rows alone."""
        shown = [measure for measure in self.measures if measure.shown]
        by_key = {(one.at, one.candidate, one.measure): one for one in self.figures}
        rows = []
        for at in self.settings:
            there = [name for name in self.candidates if any((at, name, of.name) in by_key for of in shown)]
            for index, candidate in enumerate(there):
                figures = [by_key.get((at, candidate, measure.name)) for measure in shown]
                cells = [_cell(one, of) for one, of in zip(figures, shown, strict=True)]
                rows.append(["" if index else self.named(at), candidate, *cells])
        return [self.setting, "", *(measure.label for measure in shown)], rows

    def to_json(self) -> bytes:
        """All of it, the same bytes for the same result."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted")) + b"\n"


def _cell(figure: Figure | None, measure: Measure) -> str:
    if figure is None:
        return "–"
    return f"{plain_number(figure.mean * measure.scale, digits=3)} {SIGNS.get(figure.verdict, ' ')}"


def measured(*names: str, described: Sequence[str] = ()) -> tuple[Metric, ...]:
    """Metrics to judge, then those to show only: the correction is for what was asked."""
    return (
        *metrics_of(names),
        *(replace(metric, better="neither") for metric in metrics_of(described)),
    )


def figures_of(reports: Mapping[float, Report], metrics: Sequence[Metric]) -> tuple[Figure, ...]:
    """The figures of comparisons at several settings, judged together."""
    figures = []
    for at, report in reports.items():
        for row in report.rows:
            by_seed = tuple(one.values.get(row.metric) for one in report.measured[row.candidate])
            figures.append(
                Figure(at=at, candidate=row.candidate, measure=row.metric, mean=row.mean, by_seed=by_seed,
                       difference=row.difference)
            )  # fmt: skip
    return judged(figures, {metric.name: metric.better for metric in metrics})


def paired_figures(
    at: float,
    measure: str,
    values: Mapping[str, Sequence[float]],
    baseline: str,
    *,
    scale: Scale = "difference",
) -> list[Figure]:
    """The figures of one measure at one setting, from its values by candidate and seed; not judged yet.

    On the scale of ratios all values must be above 0.
    """
    figures = []
    for candidate, of_one in values.items():
        differences = [one - other for one, other in zip(of_one, values[baseline], strict=True)]
        difference, distinct = None, len(set(differences))
        if candidate != baseline and scale == "ratio":
            difference = paired_ratio(of_one, values[baseline], distinct=distinct)
        elif candidate != baseline:
            difference = paired_difference(differences, distinct=distinct)
        figures.append(
            Figure(at=at, candidate=candidate, measure=measure, mean=sum(of_one) / len(of_one),
                   by_seed=tuple(of_one), difference=difference)
        )  # fmt: skip
    return figures


def judged(figures: Sequence[Figure], better: Mapping[str, Better]) -> tuple[Figure, ...]:
    """The same figures with verdicts, corrected over all of them that have a better way."""
    p_values = [None if one.difference is None else one.difference.p_value for one in figures]
    family = [
        index
        for index, p_value in enumerate(p_values)
        if p_value is not None and better[figures[index].measure] != "neither"
    ]
    corrected = dict(zip(family, holm([p_values[index] or 0.0 for index in family]), strict=True))
    return tuple(
        one
        if one.difference is None
        else replace(
            one,
            p_adjusted=corrected.get(index),
            verdict=verdict(one.difference, better[one.measure], corrected.get(index), level=LEVEL),
        )
        for index, one in enumerate(figures)
    )


def traced(report: Report) -> list[dict[str, Any]]:  # Any: JSON values
    """The traces that a comparison ran on, one for each seed."""
    return [run.manifest.trace for run in report.runs[report.baseline]]


def result_of(
    study: str,
    setting: str,
    reports: Mapping[float, Report],
    metrics: Sequence[Metric],
    *,
    workload: str,
) -> StudyResult:
    """The result of a study that is one comparison at each of its settings."""
    first = next(iter(reports.values()))
    return StudyResult(
        study=study,
        setting=setting,
        baseline=first.baseline,
        seeds=tuple(first.seeds),
        measures=tuple(Measure.of(metric) for metric in metrics),
        figures=figures_of(reports, metrics),
        workload=workload,
        traces={f"{at:g}": traced(report) for at, report in reports.items()},
        specs={name: runs[0].manifest.spec for name, runs in first.runs.items()},
    )
