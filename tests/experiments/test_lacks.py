"""Figures without a value: a comparison and a frontier name them, whose they are, and why."""

import pytest

from experiments import Metric, Report, compare, frontier
from fleet import FleetSpec
from tests.experiments.conftest import CHATS
from traces import Request, Trace, TraceEntry, poisson

HOPELESS = Trace.from_entries(
    TraceEntry(Request(f"r{number}", 0.01 * number, deadline_s=1e-4), None) for number in range(50)
)
"""Nothing of it completes."""


def some(seed: int) -> Trace:
    """Of every three seeds, the last brings nothing that completes."""
    return HOPELESS if seed % 3 == 2 else poisson(rate_per_s=100.0, duration_s=3.0, seed=seed)


def compared(trace, candidates: dict[str, FleetSpec], *metrics: str | Metric, seeds=(0, 1)) -> Report:
    return compare(trace, candidates, metrics=metrics or None, seeds=seeds, progress=False)


# --- compare ---------------------------------------------------------------------------------------------------


def test_a_metric_that_nobody_has_is_no_tie(trace, base):
    report = compared(trace, {"a": base, "b": base.replace(replicas=2)}, "cost_per_request")

    assert report.in_short == ["b against a: no figure has a value in both."]
    assert report.notes[0] == "No value of cost per request for a, b: no `cost_per_hour`."
    assert report.notes[0] in str(report)


@pytest.mark.parametrize("priced", ["a", "b"])
def test_a_metric_that_one_of_two_has_is_said_of_the_other(trace, base, priced):
    specs = {name: base.replace(cost_per_hour=1.0 if name == priced else None) for name in "ab"}

    report = compared(trace, specs, "cost_per_request")

    [other] = set("ab") - {priced}
    assert report.notes[0] == f"No value of cost per request for {other}: no `cost_per_hour`."
    assert report.in_short == ["b against a: no figure has a value in both."]
    assert report.notes[0] in compared(trace, specs).notes, "nor where it was not named"


def test_the_pools_without_a_price_are_named(trace, base):
    pools = {"large": {"model": "a", "cost_per_hour": 1.0}, "small": {}, "third": {"model": "c"}}
    report = compared(trace, {"a": FleetSpec(engine=base.engine, pools=pools), "b": base}, "cost")

    assert report.notes[:2] == [
        "No value of cost for a: no `cost_per_hour` of small, third.",
        "No value of cost for b: no `cost_per_hour`.",
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ttft_s.p50", None),
        ("output_tokens_per_s", ": it is not served token by token"),
        ("slo_attainment", ": no request has an objective"),
        ("quality_mean", ": no answer has a quality"),
        ("hedges", ": it has one pool, in which a request has one attempt at a time"),
        ("cost_per_1k_tokens", ": no output tokens"),
    ],
)
def test_why_it_has_none(trace, base, name, why):
    report = compared(trace, {"a": base.replace(cost_per_hour=1.0)}, name)

    assert [note.partition(" for a")[2] for note in report.notes if "No value" in note] == (
        [] if why is None else [f"{why}."]
    )


def test_where_nothing_completed_that_is_why(base):
    report = compared(
        HOPELESS, {"a": base.replace(cost_per_hour=1.0)}, "e2e_s.p99", "cost_per_request", "cost"
    )

    assert report.notes[:2] == [
        "No value of e2e p99 for a: nothing completed.",
        "No value of cost per request for a: nothing completed.",
    ]


def test_a_figure_of_ones_own_has_no_reason_given(trace, base):
    own = Metric("luck", "", lambda run: None, better="higher")

    assert compared(trace, {"a": base}, own).notes[0] == "No value of luck for a."


def test_seeds_without_a_value_are_counted(base):
    report = compared(some, {"a": base, "b": base.replace(replicas=3)}, seeds=range(6))

    assert (
        "No value of e2e p99 for a, b in 2 of 6 seeds, which count in no mean: nothing completed."
        in report.notes
    )


def test_figures_that_were_not_named_and_nobody_has_are_not_missed(trace, specs, llm):
    assert not any("No value" in note for note in compared(trace, specs).notes)
    assert not any("No value" in note for note in compared(CHATS, {"a": llm}, seeds=[0]).notes)


# --- frontier --------------------------------------------------------------------------------------------------


def test_who_completed_too_little_is_not_worth_choosing(trace, base):
    report = compared(trace, {"works": base, "late": base.replace(replicas=1, deadline_s=1e-3)})

    found = frontier(report, "gpu_seconds")

    assert report.row("gpu_seconds", "late").verdict == "too little completed"
    assert found.front == ["works"]
    assert found.left_out == {"late": "it completed 0.0% of its requests"}
    assert "· late is not judged: it completed 0.0% of its requests." in str(found)
    assert frontier(report, "not_completed", "throughput_per_s").left_out == {}, "that counts the undone"


def test_a_baseline_that_did_nothing_leaves_the_others_to_choose_from(trace, base):
    report = compared(trace, {"late": base.replace(deadline_s=1e-3), "works": base})

    assert frontier(report, "gpu_seconds").front == ["works"]


def test_who_has_no_value_is_left_out_with_the_reason(trace, base):
    report = compared(trace, {"free": base, "priced": base.replace(cost_per_hour=1.0)})

    found = frontier(report, "cost_per_request", "e2e_s.p99")

    assert found.front == ["priced"]
    assert found.left_out == {"free": "no value of cost per request (no `cost_per_hour`)"}


def test_a_frontier_counts_the_seeds_without_a_value(base):
    report = compared(some, {"a": base}, seeds=range(3))

    found = frontier(report, "e2e_s.p99")

    assert found.front == ["a"]
    assert [(one.candidate, one.runs, one.of) for one in found.lacks] == [("a", 1, 3)]
    assert str(found).splitlines()[-1] == (
        "· No value of e2e p99 for a in 1 of 3 seeds, which count in no mean: nothing completed."
    )


def test_a_frontier_of_nobody_says_so(base):
    found = frontier(compared(HOPELESS, {"a": base}), "e2e_s.p99")

    assert found.front == []
    assert "No candidate can be judged." in str(found)
