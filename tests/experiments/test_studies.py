"""The studies at a size that shows their shape: what holds in each of them, whatever the seconds are."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from experiments.studies import (
    chunked_prefill,
    continuous_batching,
    goodput_frontier,
    kv_pressure,
    prefix_routing,
)
from experiments.studies.goodput_frontier import highest_rate
from experiments.studies.result import StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import at_rate, chat, conversations, open_loop, recorded
from traces import load_trace

HERE = Options()
TINY = {
    "continuous_batching": continuous_batching.Plan(rates_per_s=(2.0, 6.0), requests=60, seeds=2),
    "chunked_prefill": chunked_prefill.Plan(
        budgets_tokens=(128, 2048), rates_per_s=(0.7,), requests=40, seeds=2
    ),
    "prefix_routing": prefix_routing.Plan(caches=(0.02, 0.08, 1.0), replicas=3, requests=120, seeds=2),
    "kv_pressure": kv_pressure.Plan(blocks=(2200, 5000, 20_000), rate_per_s=5.0, requests=70, seeds=2),
    "goodput_frontier": goodput_frontier.Plan(
        replicas=(1, 2), requests_per_replica=40, seeds=2, tolerance=0.5,
        candidates=(
            goodput_frontier.BASELINE, "static batch, least tokens", "vllm token budget, random",
            "vllm token budget, prefix affinity",
        ),
    ),
}  # fmt: skip
STUDIES = {
    module.STUDY.name: module.STUDY
    for module in (continuous_batching, chunked_prefill, prefix_routing, kv_pressure, goodput_frontier)
}


def tiny(name: str) -> Study:
    return replace(STUDIES[name], plans={"small": TINY[name], "full": TINY[name]})


@pytest.fixture(scope="module")
def result() -> Callable[[str], StudyResult]:
    kept: dict[str, StudyResult] = {}

    def of(name: str) -> StudyResult:
        if name not in kept:
            # The bundled trace, so that the same runs wherever public traces are.
            options = Options(trace="chat-small") if name == "prefix_routing" else HERE
            kept[name] = STUDIES[name].run(TINY[name], options)
        return kept[name]

    return of


# --- every study -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_has_a_value_of_each_seed_and_its_mean(name, result):
    found = result(name)
    for figure in found.figures:
        assert len(figure.by_seed) == len(found.seeds)
        known = [value for value in figure.by_seed if value is not None]
        assert figure.mean == pytest.approx(sum(known) / len(known))


@pytest.mark.parametrize("name", STUDIES)
def test_a_verdict_is_given_only_where_the_interval_excludes_zero(name, result):
    for figure in result(name).figures:
        if figure.candidate == result(name).baseline:
            assert figure.difference is None
        if figure.verdict in ("better", "worse"):
            assert figure.difference.excludes_zero
            assert figure.p_adjusted <= 0.05


@pytest.mark.parametrize("name", STUDIES)
def test_a_plot_names_its_candidates_and_is_small_enough_to_keep(name, result):
    svg = STUDIES[name].draw(result(name))
    assert svg.startswith("<svg")
    assert len(svg) < 60_000
    if name == "chunked_prefill":  # whose candidates are points of a line
        names = ["whole prompts", "128", "2048"]
    elif name == "goodput_frontier":
        names = [*goodput_frontier.BY_ITERATION.values(), *goodput_frontier.BY_ROUTING.values()]
        names = [one for one in names if any(one in candidate for candidate in result(name).candidates)]
    else:
        names = result(name).candidates
    for one in names:
        assert f">{one}</text>" in svg


def test_a_study_keeps_its_numbers_and_plot_and_gives_the_same_bytes_again(tmp_path, capsys):
    for folder in ("a", "b"):
        tiny("chunked_prefill").main(["--out", str(tmp_path / folder), "--workers", "1"])
    names = ["chunked_prefill.json", "chunked_prefill.svg"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    kept = json.loads((tmp_path / "a" / names[0]).read_bytes())
    assert kept["baseline"] == chunked_prefill.WHOLE
    assert "whole prompts" in capsys.readouterr().out


def test_a_trace_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tiny("prefix_routing").main(["--trace", str(tmp_path / "absent.jsonl"), "--workers", "1"])
    assert "absent.jsonl" in capsys.readouterr().err.splitlines()[-1]


# --- what each of them shows -------------------------------------------------------------------------------


def test_batches_that_change_at_every_step_reach_at_least_the_goodput_of_a_static_one(result):
    found = result("continuous_batching")
    for rate in found.settings:
        static = found.mean(rate, "static batch", "goodput_per_s")
        for policy in ("orca", "vllm token budget", "sarathi"):
            assert found.mean(rate, policy, "goodput_per_s") >= static
        assert found.mean(rate, "sarathi", "itl_max_s.p99") < found.mean(rate, "orca", "itl_max_s.p99")


def test_a_larger_budget_gives_first_tokens_sooner_and_longer_gaps(result):
    found = result("chunked_prefill")
    (rate,) = found.settings
    small, large = "128 tokens", "2048 tokens"
    assert found.mean(rate, large, "ttft_s.p50") < found.mean(rate, small, "ttft_s.p50")
    assert found.mean(rate, large, "itl_max_s.p99") > found.mean(rate, small, "itl_max_s.p99")


def test_larger_caches_hold_more_and_routers_that_follow_prefixes_find_more(result):
    found = result("prefix_routing")
    for policy in found.candidates:
        hits = [found.mean(size, policy, "cached_fraction") for size in found.settings]
        assert hits == sorted(hits)
    largest = found.settings[-1]
    for policy in ("session affinity", "prefix affinity"):
        blind = found.mean(largest, "random", "cached_fraction")
        assert found.mean(largest, policy, "cached_fraction") > blind


def test_a_large_cache_needs_no_preemption_and_the_way_of_it_makes_no_difference(result):
    found = result("kv_pressure")
    smallest, largest = found.settings[0], found.settings[-1]
    for candidate in found.candidates:
        assert found.mean(largest, candidate, "preemptions") == 0
        shared = found.mean(largest, candidate, "cached_fraction")
        assert (shared == 0.0) == candidate.endswith("no sharing")
    assert found.mean(smallest, "recompute, lru", "preemptions") > 0
    hits = [found.mean(size, "recompute, lru", "cached_fraction") for size in found.settings]
    assert hits == sorted(hits)
    for way in ("lru", "no sharing"):
        for measure in ("goodput_per_s", "ttft_s.p99"):
            recompute = found.figure(largest, f"recompute, {way}", measure)
            assert recompute.by_seed == found.figure(largest, f"swap, {way}", measure).by_seed


def test_a_static_batch_has_the_lower_frontier_and_one_replica_leaves_a_router_no_choice(result):
    found = result("goodput_frontier")
    for replicas in found.settings:
        rates = found.mean(replicas, goodput_frontier.BASELINE, goodput_frontier.MEASURE.name)
        static = found.mean(replicas, "static batch, least tokens", goodput_frontier.MEASURE.name)
        assert static < rates
    with pytest.raises(KeyError):
        found.figure(1.0, "vllm token budget, random", goodput_frontier.MEASURE.name)


# --- what they are made of ---------------------------------------------------------------------------------


@given(limit=st.floats(0.2, 400.0), tolerance=st.floats(0.01, 0.5))
def test_bisection_finds_the_highest_rate_that_attains(limit, tolerance):
    asked = []

    def attains(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = highest_rate(attains, 8.0, tolerance)
    assert found in asked
    assert found <= limit < found * (1.0 + tolerance) * (1.0 + 1e-9)


def test_bisection_gives_up_on_what_no_rate_attains_and_on_what_every_rate_does():
    assert highest_rate(lambda rate: False, 8.0, 0.1) == 0.0
    assert 8.0 < highest_rate(lambda rate: True, 8.0, 0.1) < 2000.0


@pytest.mark.parametrize("make", [chat, conversations])
def test_a_rate_changes_the_clock_and_nothing_else(make):
    trace = make(50, 3)
    assert len(trace) == 50
    faster = at_rate(trace, 7.0)
    assert faster.rate_per_s == pytest.approx(7.0)
    for column in ("id", "prompt_tokens", "output_tokens", "blocks"):
        assert faster.column(column).to_pylist() == trace.column(column).to_pylist()


def test_parts_of_a_recorded_trace_follow_one_another_and_start_at_zero():
    whole = open_loop(load_trace("chat-small"))
    parts = [recorded("chat-small", 40, seed) for seed in range(3)]
    ids = [name for part in parts for name in part.column("id").to_pylist()]
    assert ids == whole.column("id").to_pylist()[:120]
    assert all(part.table["arrived_s"][0].as_py() == 0.0 for part in parts)
