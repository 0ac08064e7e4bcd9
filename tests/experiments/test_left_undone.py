"""A candidate that did not do the work wins nothing by it, and whoever reads the report learns that first."""

import pytest

from experiments import compare, metric
from experiments.metrics import FIGURES, Metric
from fleet import FleetSpec
from traces import Trace


@pytest.fixture
def report(trace: Trace, base: FleetSpec):
    late = base.replace(deadline_s=1e-3)
    return compare(trace, {"works": base, "too late": late}, seeds=range(3), progress=False)


def test_nothing_that_it_cost_or_took_is_judged(report) -> None:
    row = report.row("gpu_seconds", "too late")

    assert row.verdict == "too little completed"
    assert row.p_adjusted is None


def test_what_counts_the_undone_is_judged(report) -> None:
    assert report.row("not_completed", "too late").verdict in {"worse", "exact"}


def test_it_is_said_before_the_table(report) -> None:
    text = " ".join(str(report).split())

    assert text.startswith("too late completed nothing of ")
    assert "gpu" not in report.in_short[0]


def test_it_is_said_whatever_was_measured(trace: Trace, base: FleetSpec) -> None:
    broken = base.replace(deadline_s=1e-3)
    own = Metric("price", "", lambda run: run.summary.gpu_seconds, better="lower")

    report = compare(trace, {"works": base, "late": broken}, seeds=range(2), metrics=[own], progress=False)

    assert report.row("price", "late").verdict == "too little completed"
    assert report.left_undone[0].startswith("late completed nothing of ")


def test_a_baseline_that_did_nothing_is_no_measure(trace: Trace, base: FleetSpec) -> None:
    report = compare(
        trace, {"late": base.replace(deadline_s=1e-3), "works": base}, seeds=range(2), progress=False
    )

    assert report.row("gpu_seconds", "works").verdict == "too little completed"


def test_one_that_sheds_some_is_compared_and_named(trace: Trace, base: FleetSpec) -> None:
    some = base.replace(replicas=2, queue_capacity=1)

    report = compare(trace, {"works": base, "sheds": some}, seeds=range(2), progress=False)

    share = report.completed_share("sheds")
    assert 0.5 < share < 0.9, "else the workload is not one for this test"
    assert f"({share:.1%})" in report.left_undone[0]
    assert report.row("gpu_seconds", "sheds").verdict in {"better", "exact"}


def test_who_completed_everything_is_not_mentioned(trace: Trace, specs) -> None:
    assert compare(trace, specs, seeds=[0], progress=False).left_undone == []


@pytest.mark.parametrize("name", [figure.name for figure in FIGURES if not figure.parts])
def test_a_figure_says_whether_it_counts_what_was_left_undone(name) -> None:
    of_all = {
        "output_tokens_per_s", "slo_attainment", "goodput_per_s", "throughput_per_s", "submitted", "completed",
        "not_completed", "rejected", "shed", "expired", "failed", "cancelled", "in_flight",
    }  # fmt: skip
    assert metric(name).of_all == (name in of_all)
