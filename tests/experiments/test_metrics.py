"""The figures that studies compare: one table of them, and which are chosen for runs of which kind."""

import msgspec
import pytest
from msgspec.structs import asdict, replace

from experiments import DEFAULT_METRICS, TOKEN_METRICS, metric
from experiments.metrics import FIGURES, default_metrics, known_names, serves_tokens
from fleet import FleetSpec, Run, simulate
from fleet.telemetry.summary import Summary
from policies import Random
from tests.experiments.conftest import CHATS
from traces import Slo, Trace


@pytest.fixture(scope="module")
def whole(trace: Trace, base: FleetSpec) -> Summary:
    return simulate(trace, base.replace(routing=Random())).summary


@pytest.fixture(scope="module")
def tokens(llm: FleetSpec) -> Summary:
    return simulate(CHATS, llm).summary


@pytest.fixture(scope="module")
def judged_run(llm: FleetSpec) -> Run:
    return simulate(CHATS, llm.replace(slo=Slo(ttft_s=1.0)))


@pytest.fixture(scope="module")
def judged(judged_run: Run) -> Summary:
    return judged_run.summary


def test_every_field_of_a_summary_is_a_figure_and_each_figure_can_be_read(judged_run: Run) -> None:
    assert {*Summary.__struct_fields__} <= {figure.name for figure in FIGURES}
    assert {figure.name for figure in FIGURES if figure.read is None} <= {*Summary.__struct_fields__}
    judged = judged_run.summary
    flat = {name: msgspec.to_builtins(value) for name, value in asdict(judged).items()}
    for figure in FIGURES:
        for part in figure.parts or ("",):
            name = f"{figure.name}.{part}" if part else figure.name
            if figure.read is None:
                within = flat[figure.name]
                assert metric(name).read(judged_run) == (within[part] if part else within), name
            else:
                assert isinstance(metric(name).read(judged_run), float), name


@pytest.mark.parametrize("name", ["p99", "ttft_s", "ttft_s.p42", "replicas.p99", "e2e_s.p99.", "", "digest"])
def test_a_wrong_name_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="is no figure of a run; there are ttft_s, tpot_s,"):
        metric(name)
    assert all(figure.name in known_names() for figure in FIGURES)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("ttft_s.p99", "lower"), ("itl_max_s.p50", "lower"), ("preemptions", "lower"), ("gpu_seconds", "lower"),
        ("output_tokens_per_s", "higher"), ("cached_fraction", "higher"), ("goodput_per_s", "higher"),
        ("utilization", "neither"), ("cost_per_request", "lower"), ("cost_per_1k_tokens", "lower"),
        ("quality_mean", "higher"), ("wasted_fraction", "lower"), ("hedges", "neither"),
    ],
)  # fmt: skip
def test_which_way_is_better_belongs_to_the_metric(name: str, better: str) -> None:
    assert metric(name).better == better


def test_whole_requests_are_compared_by_their_latency_as_a_whole(whole: Summary) -> None:
    assert not serves_tokens(whole)
    assert default_metrics([whole]) == DEFAULT_METRICS
    assert not any(item.applies == "tokens" for item in DEFAULT_METRICS)


def test_runs_with_tokens_are_compared_by_them_and_by_goodput_only_where_there_are_objectives(
    whole: Summary, tokens: Summary, judged: Summary
) -> None:
    assert default_metrics([judged]) == default_metrics([whole, judged]) == TOKEN_METRICS
    names = [item.name for item in default_metrics([tokens])]
    assert [item.name for item in TOKEN_METRICS if item.name not in names] == [
        "slo_attainment",
        "goodput_per_s",
    ]


PRICED = {"cost": 2.0, "cost_per_request": 0.5}
"""Of whole requests: there are no tokens to divide by."""


@pytest.mark.parametrize(
    ("has", "names"),
    [
        ({}, []),
        (PRICED, ["cost_per_request"]),
        ({**PRICED, "cost_per_1k_tokens": 0.1}, ["cost_per_request", "cost_per_1k_tokens"]),
        ({"quality_mean": 0.0}, ["quality_mean"]),
        ({"hedges": 0, "retries": 0, "wasted_s": 0.0, "wasted_fraction": 0.0}, ["wasted_fraction"]),
    ],
)
def test_costs_quality_and_waste_are_compared_where_any_run_has_them(
    whole: Summary, tokens: Summary, has, names
) -> None:
    for summary in (whole, tokens):
        shown = [item.name for item in default_metrics([summary, replace(summary, **has)])]
        plain = [item.name for item in default_metrics([summary])]
        assert shown == plain + names
