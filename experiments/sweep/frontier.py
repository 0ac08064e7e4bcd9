"""Which candidates of a comparison are worth choosing from."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.measured import measure
from experiments.report import Report
from experiments.sweep.judging import Judging, constraints_of, objectives_of
from experiments.sweep.pareto import Pareto, pareto


def frontier(report: Report, *objectives: str, where: Sequence[str] = ()) -> Pareto:
    """The candidates of a report that no other is at least as good as in every objective, and better in one.

    ``frontier(report, "gpu_seconds", "e2e_s.p99:min", where=["slo_attainment>=0.99"])``; the figures need not be among
    those that the report shows. `Sweep.pareto` is the same of a sweep.
    """
    known = {item.key: item for item in report.metrics}
    best, bounds = objectives_of(objectives, known), constraints_of(where, known)
    judging: list[Judging] = [*best, *bounds]
    figures = [one.metric for one in judging]
    measured = {
        name: [measure(run, figures, name, run.manifest.seed) for run in runs]
        for name, runs in report.runs.items()
    }
    for failed in report.errors:
        measured[failed.candidate].append(failed)
    return pareto(measured, best, bounds)
