"""The studies at a size that shows their shape: what holds in each of them, whatever the seconds are."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow.compute as pc
import pytest
from msgspec.structs import replace

from experiments.measured import Measured
from experiments.studies import (
    autoscalers,
    canary_gate,
    catalogue,
    chunked_prefill,
    continuous_batching,
    failover,
    fairness,
    framework_cases,
    framework_table,
    goodput_frontier,
    kv_pressure,
    mixed_devices,
    model_selection,
    online_and_batch,
    predictive_scaling,
    prefix_routing,
    published_effects,
    retry_storm,
    routing_oracle,
    routing_under_skew,
    scaling_brakes,
    slo_frontier,
    staleness,
    tail_at_scale,
    warm_pool_law,
)
from experiments.studies.failing import FailingEngine
from experiments.studies.jobs import run_all
from experiments.studies.result import StudyResult
from experiments.studies.routing_oracle import equal_load_cutoffs
from experiments.studies.scaling import Job, bursts
from experiments.studies.scaling import fleet as scaled
from experiments.studies.scoring import engine, most_per_s, texts, work_cost
from experiments.studies.stale_views import random_mean, stale_two_choices_mean
from experiments.studies.study import Options, Study
from experiments.studies.workloads import (
    arrivals,
    exponential_work,
    lognormal_work,
    open_loop,
    recorded,
    zipf_ranks,
    zipf_shares,
)
from fleet import AffineLatency, FleetSpec, simulate
from fleet.cli import main
from policies import FixedVariant, NoBatching, NoRetry
from tests.simulation.building import arrivals as requests_at
from tests.simulation.building import engine as emulated
from tests.simulation.building import fleet, play
from traces import TraceError, load_trace, poisson, save_trace

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
    "mixed_devices": mixed_devices.Plan(loads=(0.3, 0.9), requests=300, seeds=2),
    "model_selection": model_selection.Plan(loads=(0.3, 1.3), requests=300, seeds=2),
    "tail_at_scale": tail_at_scale.Plan(loads=(0.3, 0.8), replicas=5, requests=600, seeds=2),
    "retry_storm": retry_storm.Plan(replicas=2, after_s=20.0, seeds=2),
    "canary_gate": canary_gate.Plan(
        min_requests=(10, 40), seeds=1, bake_s=20.0, candidates=("5 % of requests", "50 %")
    ),
    "slo_frontier": slo_frontier.Plan(
        max_batch=(16,), window_s=(0.002,), up_at=(10,), spares=(0, 1), loads=(0.25, 0.5), seeds=2
    ),
    "published_effects": published_effects.Plan(seeds=2, policies=("Greedy", "NotFullFilter")),
    "warm_pool_law": warm_pool_law.Plan(climbs_s=(4.0, 8.0), cold_s=4.0, low=2, high=8, seeds=1),
    "failover": failover.Plan(
        losses=(0.0, 0.05), replicas=4, duration_s=90.0, seeds=1,
        candidates=("1 failure", failover.BASELINE, failover.DEEP, failover.NONE),
    ),
    "framework_table": framework_table.Plan(
        stretch=0.2, rate_step_per_s=40.0, capacity_s=1.0, pipeline_stretch=0.2, day_s=6.0, night_s=420.0,
        startup_stretch=1.0, chat_requests=20, surge_s=8.0, seeds=2,
    ),
    "autoscalers": autoscalers.Plan(
        seeds=1, web_s=300.0, on_off_s=3000.0, llm_s=90.0, hour_s=300.0, recorded=False
    ),
    "predictive_scaling": predictive_scaling.Plan(
        stretches=2, faster=144.0, clock_periods=2, hour_s=900.0, recorded=False,
        candidates=("predictive", "no forecast", "Kubernetes HPA"),
    ),
    "scaling_brakes": scaling_brakes.Plan(seeds=2, web_s=900.0, hour_s=900.0, recorded=False),
    "fairness": fairness.Plan(
        times=(1.0, 20.0), greedy_s=18.0, seeds=1,
        candidates=(fairness.BASELINE, fairness.COUNTER, fairness.WITHIN, fairness.REFUSED),
    ),
    "online_and_batch": online_and_batch.Plan(
        loads=(0.0, 0.6), day_s=60.0, seeds=1,
        candidates=(
            online_and_batch.SEPARATE, online_and_batch.SHARED, online_and_batch.PRIORITY, online_and_batch.FIRST,
            online_and_batch.TAKES,
        ),
    ),
    "routing_under_skew": routing_under_skew.Plan(
        exponents=(0.0, 1.4), replicas=10, keys=100, requests=200, llm_requests=20, seeds=2
    ),
    "staleness": staleness.Plan(ages=(0.0, 1.0, 10.0), replicas=20, requests=800, seeds=2),
    "routing_oracle": routing_oracle.Plan(
        cvs=(0.5, 5.0), loads=(0.5, 0.8), replicas=8, requests=400, seeds=2
    ),
}  # fmt: skip
STUDIES = {study.name: study for study in catalogue.studies()}


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
def test_a_verdict_is_given_only_where_the_interval_excludes_nothing(name, result):
    for figure in result(name).figures:
        if figure.candidate == result(name).baseline:
            assert figure.difference is None
        if figure.verdict in ("better", "worse"):
            assert figure.difference.excludes_nothing
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
        tiny("chunked_prefill").publish("small", HERE, tmp_path / folder)
    names = ["chunked_prefill.json", "chunked_prefill.svg", "chunked_prefill.html"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    kept = json.loads((tmp_path / "a" / names[0]).read_bytes())
    assert kept["baseline"] == chunked_prefill.WHOLE
    assert "whole prompts" in capsys.readouterr().out


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`fleet study`, of tiny studies."""
    monkeypatch.setattr(catalogue, "studies", lambda names=catalogue.NAMES: [tiny(name) for name in names])
    return main(["study", *arguments])


def test_a_trace_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    assert command(monkeypatch, "prefix_routing", "--trace", str(tmp_path / "absent.jsonl")) == 2
    assert "absent.jsonl" in capsys.readouterr().err.splitlines()[-1]


def test_without_a_name_the_command_says_which_studies_there_are(capsys, monkeypatch):
    assert command(monkeypatch) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in catalogue.NAMES)


def test_a_study_that_there_is_not_is_an_error_that_says_which_was_meant(capsys, monkeypatch):
    assert command(monkeypatch, "tail_at_scal") == 2
    assert "did you mean tail_at_scale?" in capsys.readouterr().err


def test_every_module_with_a_study_is_named():
    folder = Path(catalogue.__file__).parent
    modules = [
        path.stem for path in folder.glob("*.py") if "STUDY = Study" in path.read_text(encoding="utf-8")
    ]
    assert sorted(modules) == sorted(catalogue.NAMES)


def test_what_one_study_cannot_take_the_others_do_all_the_same(tmp_path, capsys, monkeypatch):
    few = tmp_path / "few.jsonl"
    save_trace(poisson(1.0, 60.0, 0, prompt_tokens=10, output_tokens=10), few)
    assert command(monkeypatch, "retry_storm", "tail_at_scale", "mixed_devices", "--trace", str(few)) == 2
    said = capsys.readouterr()
    assert "retry_storm" in said.err
    assert "tail_at_scale" in said.err
    assert "mixed_devices: " in said.out


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


def test_what_counts_money_is_cheapest_and_a_fast_device_that_is_idle_is_worth_its_price_in_time(result):
    found = result("mixed_devices")
    light, heavy = found.settings
    work = {name: found.mean(light, name, "work_cost_per_request") for name in found.candidates}
    assert min(work, key=work.__getitem__) == "cheapest meeting delay"
    assert max(work, key=work.__getitem__) == "shortest expected delay"
    mean_s = {name: found.mean(light, name, "e2e_s.mean") for name in found.candidates}
    assert mean_s["shortest expected delay"] < mean_s["least outstanding, L4 first"]
    # As many requests to each replica are more than an L4 can serve.
    assert found.mean(heavy, "round robin", "e2e_s.p99") > 2 * found.mean(heavy, "never queue", "e2e_s.p99")


def test_a_fleet_that_stays_as_it_is_costs_the_same_whoever_routes_until_it_lags_behind(result):
    found = result("mixed_devices")
    costs = [found.mean(0.3, name, "cost_per_request") for name in found.candidates]
    assert max(costs) < 1.02 * min(costs)


def test_quality_is_paid_for_and_a_cascade_pays_less_than_a_coin_would(result):
    found = result("model_selection")
    for load in found.settings:
        small, *cascades, large = (
            (found.mean(load, name, "work_cost_per_request"), found.mean(load, name, "quality_mean"))
            for name in ("all small", "cascade at 0.3", "cascade at 0.5", "cascade at 0.7", "all large")
        )
        costs = [cost for cost, _ in (small, *cascades, large)]
        qualities = [quality for _, quality in (small, *cascades, large)]
        assert costs == sorted(costs)
        assert qualities == sorted(qualities)
        for cost, quality in cascades:  # a coin that gives the same quality
            share = (quality - small[1]) / (large[1] - small[1])
            assert cost < small[0] + share * (large[0] - small[0])


def test_what_degrades_keeps_more_in_time_than_the_large_one_alone_and_answers_better_than_the_small_one(
    result,
):
    found = result("model_selection")
    overload = found.settings[-1]
    attained = {name: found.mean(overload, name, "slo_attainment") for name in found.candidates}
    quality = {name: found.mean(overload, name, "quality_mean") for name in found.candidates}
    assert attained["all large"] < attained["degrade under load"] <= attained["all small"]
    assert quality["all small"] < quality["degrade under load"] < quality["all large"]


def test_a_hedge_shortens_the_tail_where_there_is_room_and_a_tie_does_nothing_twice(result):
    found = result("tail_at_scale")
    for load in found.settings:
        for hedge in ("hedge after p95", "hedge after p95, loser stopped"):
            assert 0.0 < found.mean(load, hedge, "added") <= 0.1
            if load < 0.5:
                assert found.mean(load, hedge, "p999_s") < found.mean(load, "no hedge", "p999_s")
        for tied in ("tied", "random router, tied"):
            assert found.mean(load, tied, "wasted") == 0.0
        assert found.mean(load, "no hedge", "added") == 0.0
        blind = "random router, "
        assert found.mean(load, f"{blind}tied", "p99_s") < found.mean(load, f"{blind}no hedge", "p99_s")


def test_slow_replicas_are_a_function_of_the_seed_and_come_at_their_rate():
    drawn = tail_at_scale.slow_replicas(10, 2_000.0, 3)
    assert drawn == tail_at_scale.slow_replicas(10, 2_000.0, 3)
    assert drawn.faults != tail_at_scale.slow_replicas(10, 2_000.0, 4).faults
    assert len(drawn.faults) == pytest.approx(200, abs=45)  # three standard deviations
    assert {fault.replica for fault in drawn.faults} == {f"replica/{number}" for number in range(10)}


def test_retries_without_a_budget_keep_a_fleet_down_after_the_fault_and_a_budget_does_not(result):
    found = result("retry_storm")
    assert found.settings == [-45.0, -35.0, -25.0, -15.0, -5.0, 5.0, 15.0]
    last = found.settings[-1]
    storm, held = "10 attempts, no budget", "10 attempts, budget 0.2"
    for at in (-45.0, -35.0):
        assert found.mean(at, storm, "attempts") == pytest.approx(1.0, abs=0.01)
        assert found.mean(at, storm, "good") > 0.99
    assert found.mean(last, held, "good") > 0.95
    assert found.mean(last, storm, "good") < 0.5
    assert found.mean(last, storm, "attempts") > 3.0
    for at in found.settings:
        assert found.mean(at, held, "attempts") < 1.6
        assert found.mean(at, "no retry", "attempts") == 1.0


def test_a_canary_is_looked_at_by_the_size_of_a_look_and_decided_where_there_was_one(result):
    found = result("canary_gate")
    narrow, wide = found.candidates
    for least in found.settings:
        assert found.mean(least, wide, "caught, all fail") == 1.0
        for candidate in found.candidates:
            assert found.mean(least, candidate, "exposed, all fail") >= min(least, 10)
            assert 0.0 <= found.mean(least, candidate, "let_through") <= 1.0
    few, many = found.settings
    assert found.mean(few, narrow, "caught, all fail") == 1.0
    assert found.mean(few, wide, "exposed, all fail") < found.mean(many, wide, "exposed, all fail")
    # 5 % of 20 requests/s for 20 s are 20: too few for a look at 40.
    assert found.mean(many, narrow, "undecided") == 1.0
    assert found.mean(many, narrow, "let_through") == 0.0


def test_a_pool_of_a_fixed_size_is_short_by_what_the_law_says_less_what_rounding_up_gives(result):
    found = result("warm_pool_law")
    sized = (
        "no spares",
        "no spares, half the cold start",
        "spares to keep up",
        "three fewer",
        "three replicas lost",
    )
    for climb_s in found.settings:
        for name in sized:
            off = found.mean(climb_s, name, "short") - found.mean(climb_s, name, "predicted")
            assert (
                -1.6 <= off <= 0.6
            )  # a whole replica, and what is needed between two looks of the control loop
        assert found.mean(climb_s, "spares of the law", "predicted") == 0.0
        assert found.mean(climb_s, "spares of the law", "short") <= 0.5
    steep, gentle = found.settings
    assert found.mean(gentle, "no spares", "short") < found.mean(steep, "no spares", "short")


def test_spares_of_the_law_hide_a_ramp_and_more_of_them_add_nothing_but_cost(result):
    found = result("warm_pool_law")
    for climb_s in found.settings:
        late = {name: 1.0 - found.mean(climb_s, name, "attained") for name in found.candidates}
        assert late["spares of the law"] < 0.02
        assert late["no spares"] > 0.5
        twice = found.mean(climb_s, "twice as many", "gpu_s")
        assert late["twice as many"] == pytest.approx(late["spares of the law"], abs=0.01)
        assert twice > found.mean(climb_s, "spares of the law", "gpu_s")


def test_replicas_lost_on_the_way_are_as_many_spares_fewer_at_the_peak(result):
    found = result("warm_pool_law")
    for climb_s in found.settings:
        lost, fewer = (
            found.figure(climb_s, name, "short").by_seed for name in ("three replicas lost", "three fewer")
        )
        assert lost == fewer


def test_a_hang_is_known_within_its_kth_period_and_what_is_slow_by_deep_probes_alone(result):
    found = result("failover")
    period_s, timeout_s = failover.PERIOD_S, failover.TIMEOUT_S
    for name, failures in (("1 failure", 1), (failover.BASELINE, 3)):
        beyond_s = found.mean(0.0, name, "hang_s") - timeout_s
        assert (failures - 1) * period_s < beyond_s <= failures * period_s + 1e-6
    assert found.mean(0.0, failover.NONE, "hang_s") == failover.FOR_S
    for name in found.candidates:
        assert found.mean(0.0, name, "crash_s") == 0.0
        assert found.mean(0.0, name, "slow_known") == (1.0 if name == failover.DEEP else 0.0)


def test_false_alarms_need_lost_messages_and_fewer_come_of_more_failures_in_a_row(result):
    found = result("failover")
    for name in found.candidates:
        assert found.mean(0.0, name, "false_per_h") == 0.0
    once, thrice = (found.mean(0.05, name, "false_per_h") for name in ("1 failure", failover.BASELINE))
    assert thrice < 0.2 * once
    assert found.mean(0.05, failover.NONE, "false_per_h") == 0.0


def test_no_system_takes_more_than_its_largest_batch_allows_and_more_of_it_is_more(result):
    """Of 4 in a batch, 4 / 24 ms; of 5 after a wait, 5 / 37 ms; of one, 1 / 15 ms. None gives more than 1 / 3 ms."""
    found, at = result("framework_table"), framework_table.CLASSIFIER.at
    most = {name: found.mean(at, name, "capacity_per_s") for name in framework_cases.FIXED_FLEET}
    assert most["torchserve"] <= 1 / 0.015
    assert most["triton"] <= 4 / 0.024
    assert most["ray_serve"] <= 5 / 0.037
    assert max(most.values()) <= 1 / 0.003
    assert most["torchserve"] < most["triton"] < most["triton, batch 32"]


def test_who_scales_to_zero_holds_no_device_at_night_and_who_keeps_one_starts_none_for_two_requests(result):
    found, setting = result("framework_table"), framework_table.OVERNIGHT
    kept = found.mean(setting.at, "kserve over triton", "gpu_seconds")
    assert found.mean(setting.at, "kserve to zero", "gpu_seconds") < 0.9 * kept
    assert found.mean(setting.at, "kserve to zero", "starts") >= 1
    assert found.mean(setting.at, "kserve over triton", "starts") == 0
    assert found.mean(setting.at, "kserve to zero", "p99_s") > found.mean(setting.at, "triton", "p99_s")


def test_what_is_said_of_the_exercise_names_the_choice_of_the_text_and_whoever_is_first(result):
    found = result("framework_table")
    said = framework_table.finding(found)
    exercises = [one for one in framework_table.SETTINGS if one.texts]
    assert len(said) == 2 + len(exercises)
    for setting, sentence in zip(exercises, said[1:], strict=False):
        assert sentence.startswith(f"{setting.name}: {setting.texts} (")
        first = framework_table.ranked(found, setting)[0]
        assert f"{first} (" in sentence
        assert ("comes before" in sentence) == (
            framework_table.ranked(found, setting).index(setting.texts)
            < framework_table.ranked(found, setting).index(setting.second)
        )


def test_what_knows_the_trace_keeps_most_in_time_and_what_is_busy_with_one_request_asks_for_all_there_is(
    result,
):
    found = result("autoscalers")
    whole = found.settings[:-1]
    for at in whole:
        knows = found.mean(at, "schedule in hindsight", "attained")
        assert knows >= found.mean(at, "queue depth", "attained")
        assert found.mean(at, "fixed at the peak", "held") >= found.mean(at, "fixed at the mean", "held")
        assert found.mean(at, "fixed at the mean", "changes") <= 1.0 / 0.05
    held = {name: found.mean(autoscalers.TOKENS, name, "held") for name in autoscalers.LLM_SCALERS}
    assert max(held, key=held.__getitem__) == "Kubernetes HPA"
    with pytest.raises(KeyError):
        found.figure(1.0, "tokens per second", "held")


def test_a_front_has_nobody_that_another_beats_in_both_and_nobody_that_knew_the_trace(result):
    found = result("autoscalers")
    for at in found.settings:
        best = autoscalers.front(found, at)
        assert not set(best) & set(autoscalers.IN_HINDSIGHT)
        attained = [found.mean(at, name, "attained") for name in best]
        assert attained == sorted(attained)
        assert any(name in sentence for name in best for sentence in autoscalers.finding(found))


def test_a_forecast_is_ahead_of_what_comes_by_the_clock_and_without_a_season_there_is_none(result):
    found = result("predictive_scaling")
    clock = found.settings[-1]
    ahead = found.mean(clock, "predictive", "attained")
    assert ahead > found.mean(clock, predictive_scaling.BLIND, "attained")
    assert ahead > found.mean(clock, "Kubernetes HPA", "attained")
    trace = predictive_scaling.by_the_clock(1, 0)
    runs = [
        Job(trace=trace, spec=scaled(make(trace, predictive_scaling.CLOCK_S)), seed=0).run()
        for name, make in predictive_scaling.CANDIDATES.items()
        if name in ("predictive", predictive_scaling.BLIND)
    ]
    assert runs[0] == runs[1]


def test_without_a_brake_there_are_more_changes_and_fewer_devices(result):
    found = result("scaling_brakes")
    for at in found.settings:
        slower, faster = scaling_brakes.BASELINE, scaling_brakes.WITHOUT
        assert found.mean(at, faster, "held") <= found.mean(at, slower, "held")
        if "panic" not in found.named(at):
            assert found.mean(at, faster, "changes") > found.mean(at, slower, "changes")


def test_a_trace_that_is_given_takes_the_place_of_what_is_recorded():
    given = Options(trace="chat-small")
    plan = replace(TINY["autoscalers"], seeds=2)
    traces = autoscalers.traffic(plan, given)
    assert list(traces) == [1.0, autoscalers.TO_NONE, autoscalers.TOKENS]
    name, parts = traces[1.0]
    assert (name, len(parts)) == ("chat-small", 2)
    assert list(bursts(2, hour_s=60.0, web_s=60.0, given="chat-small")) == ["chat-small"]
    assert [of.name for of in predictive_scaling.traffic(TINY["predictive_scaling"], given).values()] == [
        "chat-small", "by the clock",
    ]  # fmt: skip


def test_a_greedy_tenant_starves_the_others_first_come_first_served_and_a_fair_queue_bounds_what_it_gets(
    result,
):
    found = result("fairness")
    one, greedy, two = found.settings
    for name in found.candidates:
        assert found.mean(one, name, "polite_good") > 0.95
    assert found.mean(greedy, fairness.BASELINE, "polite_good") < 0.5
    for name in (fairness.COUNTER, fairness.WITHIN):
        assert found.mean(greedy, name, "polite_good") > 0.9
        assert found.mean(greedy, fairness.BASELINE, "jain") < 0.9
        assert found.mean(greedy, name, "jain") > 0.98, "as max-min sharing says"
        served = found.mean(greedy, name, "served_per_s")
        assert served == pytest.approx(found.mean(greedy, fairness.BASELINE, "served_per_s"), rel=0.03)
        bound = fairness.gap_bound(fairness.BLOCKS * 16, fairness.BLOCKS * 16)
        assert found.mean(two, name, "gap_tokens") < min(
            bound, found.mean(two, fairness.BASELINE, "gap_tokens")
        )
    refused = found.mean(greedy, fairness.REFUSED, "served_per_s")
    assert refused < 0.9 * found.mean(greedy, fairness.BASELINE, "served_per_s")
    sentences = " ".join(fairness.finding(found))
    assert "whose bound of 64,000 is kept" in sentences


def test_what_is_shared_does_more_batch_work_and_the_bound_of_online_first_is_held_at_the_head(result):
    found = result("online_and_batch")
    without, most = found.settings
    for name in found.candidates:
        if name != online_and_batch.SEPARATE:
            assert found.mean(most, name, "batch_per_s") > found.mean(
                most, online_and_batch.SEPARATE, "batch_per_s"
            )
    queued = (online_and_batch.SHARED, online_and_batch.PRIORITY, online_and_batch.FIRST)
    for measure in found.measures:
        if measure.name in ("online_good", "online_ttft_p99_s"):
            assert len({found.mean(without, name, measure.name) for name in queued}) == 1
        values = {found.mean(most, name, measure.name) for name in queued[1:]}
        assert len(values) == 1, "two classes by priority are two classes by kind"
    assert found.mean(most, online_and_batch.FIRST, "beyond") == 0.0
    taken = found.mean(most, online_and_batch.TAKES, "online_ttft_p99_s")
    assert taken < found.mean(most, online_and_batch.SHARED, "online_ttft_p99_s")
    assert "no online requests went after more" in online_and_batch.finding(found)[-1]


# --- what they are made of ---------------------------------------------------------------------------------


def test_parts_of_a_recorded_trace_follow_one_another_and_start_at_zero():
    whole = open_loop(load_trace("chat-small"))
    parts = [recorded("chat-small", 40, seed) for seed in range(3)]
    ids = [name for part in parts for name in part.column("id").to_pylist()]
    assert ids == whole.column("id").to_pylist()[:120]
    assert all(part.table["arrived_s"][0].as_py() == 0.0 for part in parts)


def test_work_costs_the_service_seconds_of_all_attempts_at_the_price_of_their_pools():
    """An answer of the small one (1 s at 3.6 an hour), then of the large one (2 s at 36): 0.001 + 0.02."""
    pools = {
        "small": {"engine": emulated(1.0), "variant": "small", "cost_per_hour": 3.6, "quality": 0.0},
        "large": {"engine": emulated(2.0), "variant": "large", "cost_per_hour": 36.0, "quality": 1.0},
    }
    models = {"default": {"variants": {"policy": "cascade"}}}
    once = play(
        requests_at(0.0, 5.0),
        fleet(pools=pools, models={"default": {"variants": FixedVariant(variant="large")}}),
    )
    twice = play(requests_at(0.0, 5.0), fleet(pools=pools, models=models))

    assert work_cost(once) == pytest.approx(0.02)
    assert work_cost(twice) == pytest.approx(0.021)


def test_the_most_that_replicas_serve_is_one_request_a_pass():
    """512 tokens of 13.96e9 operations each at 0.6 of 312e12 a second, and 1 ms: 39.2 ms."""
    trace = requests_at(0.0, 1.0, prompt_tokens=512)

    assert most_per_s(trace, engine("llama-3.1-8b", "a100"), 3) == pytest.approx(3 / 0.0392, rel=1e-3)


def test_texts_of_a_recorded_trace_keep_times_and_lengths_alone(tmp_path):
    part = texts(40, 1, "chat-small")
    whole = load_trace("chat-small").column("prompt_tokens").to_pylist()
    assert set(part.table.column_names) == {"id", "arrived_s", "prompt_tokens"}
    assert part.column("prompt_tokens").to_pylist() == whole[40:80]
    path = tmp_path / "times.jsonl"
    save_trace(poisson(1.0, 30.0, 0), path)
    with pytest.raises(TraceError, match="has no prompt_tokens"):
        texts(10, 0, str(path))


def test_times_of_a_recorded_trace_come_at_the_rate_and_too_few_of_them_are_said_to_be():
    taken = arrivals(4.0, 10.0, 0, "chat-small")
    assert len(taken) == 40
    assert taken.rate_per_s == pytest.approx(4.0)
    assert "prompt_tokens" not in taken.table.column_names
    with pytest.raises(ValueError, match=r"'chat-small' has [0-9,]+ requests; this study takes 10,000,000"):
        arrivals(1e6, 10.0, 0, "chat-small")


def test_a_failing_engine_fails_its_share_and_the_same_requests_as_one_that_fails_more():
    failed = {}
    for share in (0.0, 0.2, 0.6, 1.0):
        engine = FailingEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0), failing=share)
        run = simulate(
            arrivals(5.0, 200.0, 1), FleetSpec(engine=engine, batching=NoBatching(), retry=NoRetry())
        )
        assert set(run.records["outcome"].to_pylist()) <= {"completed", "failed"}
        lost = pc.equal(run.records["outcome"], "failed")
        failed[share] = set(run.records["id"].filter(lost).to_pylist())
        assert len(failed[share]) / len(run.records) == pytest.approx(share, abs=0.05)
    assert failed[0.2] < failed[0.6] < failed[1.0]


def test_jobs_come_to_the_same_in_other_processes():
    jobs = {seed: tail_at_scale.Job(
        trace=arrivals(20.0, 5.0, seed), faults=tail_at_scale.slow_replicas(2, 5.0, seed),
        spec=tail_at_scale.spec_of("tied", 2), seed=seed,
    ) for seed in range(2)}  # fmt: skip
    assert run_all("runs", jobs, Options(workers=2)) == run_all("runs", jobs, HERE)


def test_a_setting_bears_a_load_only_with_all_below_it_and_the_cheapest_of_equals_is_best():
    def ran(p99_s: float, per_s: float, gpu_s: float) -> list[Measured]:
        values = {"e2e_s.p99": p99_s, "throughput_per_s": per_s, "gpu_seconds": gpu_s}
        return [Measured(candidate="it", seed=0, submitted=9, completed=9, values=values)]

    tried = {
        ("lucky", 1.0): ran(0.3, 10.0, 5.0), ("lucky", 2.0): ran(0.1, 20.0, 5.0),
        ("dear", 1.0): ran(0.1, 10.0, 9.0), ("dear", 2.0): ran(0.3, 20.0, 9.0),
        ("cheap", 1.0): ran(0.1, 10.0, 6.0), ("cheap", 2.0): ran(0.3, 20.0, 6.0),
    }  # fmt: skip
    assert slo_frontier.best_within(0.2, tried) == "cheap"
    assert slo_frontier.best_within(0.3, tried) == "lucky"
    assert slo_frontier.best_within(0.05, tried) is None


def test_a_pipeline_takes_what_its_stages_take_one_after_the_other_and_the_hops_between_processes():
    """Alone: 5 + 15 + 2 ms in one process; between two, 1 ms each way at each of three stages."""
    alone = requests_at(1.0, 2.0)
    took = {
        name: framework_cases.Pipeline(name=name, trace=alone, seed=0).run()
        for name in ("triton", "kserve over triton", "ray_serve as one deployment")
    }
    assert took["triton"]["p50_s"] == pytest.approx(0.022)
    assert took["kserve over triton"]["p50_s"] == pytest.approx(0.022 + 0.006)
    assert took["ray_serve as one deployment"]["p50_s"] == pytest.approx(
        0.022 + 0.010
    )  # its batch waits for company
    assert all(one["attainment"] == 1.0 and one["lost"] == 0.0 for one in took.values())


def test_the_capacity_of_a_fleet_is_the_highest_rate_at_which_it_keeps_the_objective():
    """One at a time, 15 ms each: 40 a second are kept, and 80 are more than it can do."""
    job = framework_cases.Capacity(
        name="torchserve", devices=1, rates_per_s=(20.0, 40.0, 80.0, 160.0), duration_s=20.0, seed=1
    )
    assert job.keeps(40.0)
    assert not job.keeps(80.0)
    assert job.run() == {"capacity_per_s": 40.0}


def test_bounded_loads_hold_their_bound_at_every_arrival_and_consistent_hashing_overloads_one_replica(result):
    found, plan = result("routing_under_skew"), TINY["routing_under_skew"]
    for exponent in found.settings:
        assert found.mean(exponent, "bounded loads", "fullest") <= 1.0
        assert found.mean(exponent, "consistent hash", "fullest") > 1.0
        assert found.mean(exponent, "consistent hash", "kept") == 1.0
    even, steep = found.settings
    busiest = found.mean(steep, "consistent hash", "busiest")
    # The most popular key's replica has that much at least, but for its requests' share of the work, which is chance.
    assert busiest > 0.75 * plan.replicas * zipf_shares(plan.keys, steep)[0]
    assert busiest > found.mean(even, "consistent hash", "busiest")
    assert found.mean(steep, "bounded loads", "kept") < found.mean(even, "bounded loads", "kept")
    for router in ("consistent hash", "session affinity", "prefix affinity", "preble"):
        assert found.mean(even, router, "llm hits") > found.mean(even, "random", "llm hits")


@pytest.mark.parametrize("name", routing_under_skew.BLIND)
def test_who_looks_at_no_key_does_the_same_whatever_is_popular(name):
    trace = arrivals(100.0, 1.0, 3)
    runs = [
        simulate(routing_under_skew.keyed(trace, 20, exponent, 3), routing_under_skew.spec_of(name, 10), seed=3)
        for exponent in (0.0, 1.4)
    ]  # fmt: skip
    assert runs[0].records["replica"].equals(runs[1].records["replica"])
    assert runs[0].records["e2e_s"].equals(runs[1].records["e2e_s"])


def test_popular_keys_get_the_share_that_zipf_gives_them():
    ranks = zipf_ranks(100_000, 100, 1.0, 5)
    shares = zipf_shares(100, 1.0)
    assert shares[0] == pytest.approx(1.0 / sum(1.0 / rank for rank in range(1, 101)))
    assert shares[1] == pytest.approx(shares[0] / 2.0)
    for rank in (0, 1, 9, 99):
        assert (ranks == rank).mean() == pytest.approx(shares[rank], abs=0.005)
    assert zipf_shares(4, 0.0).tolist() == [0.25] * 4
    assert ranks.max() < 100


def test_work_has_the_mean_and_the_spread_that_was_asked_for():
    for work, cv in ((lognormal_work(100_000, 0.5, 1), 0.5), (exponential_work(100_000, 1), 1.0)):
        assert work.mean() == pytest.approx(1.0, abs=0.02)
        assert work.std() == pytest.approx(cv, abs=0.03)


def test_old_news_make_a_herd_of_least_outstanding_and_nothing_of_who_does_not_read_them(result):
    found = result("staleness")
    fresh, _, oldest = found.settings
    for name in ("random", "join idle queue", "prequal", "prequal, load alone"):
        values = [found.figure(age, name, "mean_s").by_seed for age in found.settings]
        assert values[0] == values[1] == values[2]
    assert found.mean(fresh, "least outstanding", "mean_s") < found.mean(fresh, "random", "mean_s")
    assert found.mean(oldest, "least outstanding", "mean_s") > 2.0 * found.mean(oldest, "random", "mean_s")
    assert found.mean(oldest, "two choices", "mean_s") > found.mean(fresh, "two choices", "mean_s")
    for name in found.candidates:
        assert found.mean(fresh, name, "probes") == (3.0 if name.startswith("prequal") else 0.0)


@pytest.mark.parametrize("age", [0.0, 3.0])
def test_two_choices_on_an_old_board_are_near_the_limit_of_many_replicas(age):
    plan = staleness.Plan(ages=(age,), replicas=100, requests=9_000, seeds=1)
    job = staleness.Job(
        trace=staleness.traffic(plan, 0), spec=staleness.spec_of("two choices", 100, age), seed=0
    )
    mean = job.run()["mean_s"] / staleness.SERVICE_S
    expected = stale_two_choices_mean(staleness.LOAD, age) + 2.0 * staleness.DELAY_S / staleness.SERVICE_S
    assert mean == pytest.approx(expected, rel=0.08)
    assert mean < random_mean(staleness.LOAD)


def test_no_fleet_is_below_the_bound_and_alike_replicas_have_one_shortest_queue(result):
    found = result("routing_oracle")
    little, much = found.settings
    for cv in found.settings:
        for load in (0.5, 0.8):
            name = routing_oracle.over_bound(load)
            for candidate in found.candidates:
                assert all(value >= 1.0 for value in found.figure(cv, candidate, name).by_seed)
            assert found.mean(cv, "random", name) > found.mean(cv, "least work oracle", name)
        sed = found.figure(cv, "shortest expected delay", name)
        assert sed.by_seed == found.figure(cv, "least outstanding", name).by_seed
    name = routing_oracle.over_bound(0.8)
    assert found.mean(little, "size intervals", name) > found.mean(little, "least work oracle", name)
    assert found.mean(much, "one queue, shortest first", name) < found.mean(much, "one queue for all", name)


def test_size_intervals_have_the_same_work():
    (middle,) = equal_load_cutoffs(1.0, 2)
    assert middle == pytest.approx(2.0**0.5)  # e^(σ²/2), and σ² = ln 2
    work = lognormal_work(200_000, 0.5, 4)
    edges = [0.0, *equal_load_cutoffs(0.5, 4), float("inf")]
    for low, high in pairwise(edges):
        assert work[(work >= low) & (work < high)].sum() == pytest.approx(50_000, rel=0.02)


@pytest.mark.parametrize("name", ["routing_under_skew", "staleness", "routing_oracle"])
def test_a_finding_is_made_of_the_numbers(name, result):
    found = result(name)
    sentences = STUDIES[name].finding(found)
    assert 2 <= len(sentences) <= 5
    other = replace(found, figures=tuple(replace(one, mean=2.0 * one.mean) for one in found.figures))
    assert STUDIES[name].finding(other) != sentences
