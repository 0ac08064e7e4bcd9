"""How good answers are: drawn from a pool's quality where an engine emulates, else as the engine's judge says."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fleet.actors.quality import Quality
from fleet.engines import EmulatedEngine
from policies import Pinned, Serve
from policies.base import RolloutPolicy
from policies.decisions import Shadow
from tests.simulation.building import arrivals, column, engine, faults, fleet, play, simulation
from tests.simulation.building_tokens import asks, llm, serving, trace_of
from traces import Fault, poisson

OLD_AND_NEW = {
    name: {"engine": engine(0.1), "model": "m", "version": version, "quality": quality}
    for name, version, quality in (("old", "1", 0.2), ("new", "2", 0.9))
}
REQUESTS = [f"r{number}" for number in range(20_000)]


# --- the law ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.05, 0.3, 0.5, 0.71, 0.9])
def test_qualities_are_u_to_the_power_of_one_minus_q_over_q_whose_mean_is_q(mean):
    drawn = [Quality(mean, seed=3).of(request) for request in REQUESTS]
    exponent = (1.0 - mean) / mean
    variance = 1.0 / (1.0 + 2.0 * exponent) - mean**2

    assert sum(drawn) / len(drawn) == pytest.approx(mean, abs=4.0 * (variance / len(drawn)) ** 0.5)
    # Its distribution function is x ** (1 / exponent).
    assert stats.kstest(drawn, lambda x: x ** (1.0 / exponent)).pvalue > 0.001


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_ends_are_certain(mean):
    assert {Quality(mean, seed=0).of(request) for request in REQUESTS[:100]} == {mean}


@given(mean=st.floats(0.0, 1.0), seed=st.integers(-(2**70), 2**70), request=st.text(max_size=30))
def test_a_quality_is_from_0_to_1_whatever_is_drawn(mean, seed, request):
    assert 0.0 <= Quality(mean, seed).of(request) <= 1.0


@given(
    low=st.floats(0.01, 0.99),
    high=st.floats(0.01, 0.99),
    request=st.text(max_size=9),
    seed=st.integers(0, 99),
)
def test_a_better_variant_answers_every_request_at_least_as_well(low, high, request, seed):
    """Common random numbers: what is hard for one is hard for every other."""
    low, high = sorted((low, high))

    assert Quality(low, seed).of(request) <= Quality(high, seed).of(request)


def test_another_seed_is_another_draw_and_the_same_seed_the_same_in_every_process():
    here = [Quality(0.7, seed=seed).of("r1") for seed in range(20)]
    assert len(set(here)) == 20

    script = (
        "from fleet.actors.quality import Quality; print([Quality(0.7, seed=s).of('r1') for s in range(20)])"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert there.stdout.strip() == str(here)


# --- in a fleet ------------------------------------------------------------------------------------------------


def test_every_answer_has_the_quality_that_its_request_drew_whoever_gave_it():
    run = play(arrivals(*[0.1 * n for n in range(20)]), fleet(0.01, replicas=3, quality=0.6), seed=5)

    assert column(run, "quality") == {f"r{n}": Quality(0.6, seed=5).of(f"r{n}") for n in range(20)}


def test_where_nobody_says_there_is_none():
    run = play(arrivals(0.0, 1.0), fleet(0.1))

    assert "quality" not in run.records.column_names


def test_a_retry_after_a_crash_is_as_good_as_the_first_attempt_would_have_been():
    trace, spec = arrivals(0.0, 0.1), fleet(1.0, replicas=2, quality=0.6)
    calm = play(trace, spec)
    struck = play(trace, spec, faults=faults(Fault(at_s=0.5, kind="crash", replica="replica/0")))

    assert column(struck, "attempts") != column(calm, "attempts")
    assert column(struck, "quality") == column(calm, "quality")


def test_what_does_not_complete_has_none():
    run = play(arrivals(0.0, 0.0, deadline_s=1.5), fleet(1.0, quality=0.6))

    assert column(run, "outcome") == {"r0": "completed", "r1": "expired"}
    assert column(run, "quality")["r1"] is None


def test_token_by_token_each_answer_has_its_own():
    spec = serving(quality=0.4)
    run = play(trace_of(*(asks(f"r{n}", 0.1 * n) for n in range(5))), spec, seed=2)

    assert column(run, "quality") == {f"r{n}": Quality(0.4, seed=2).of(f"r{n}") for n in range(5)}


def test_pools_have_qualities_of_their_own_and_policies_hear_of_them():
    heard = {}

    class Hears(RolloutPolicy):
        def choose(self, request, versions, now_s):
            return Serve(versions[int(request.id[1:]) % 2].version)

        def on_completed(self, completion, now_s):
            heard[completion.request.id] = (completion.version, completion.quality)

        def on_request_ended(self, ending, now_s):
            assert heard[ending.request.id] == (ending.version, ending.quality)

    run = play(
        arrivals(*range(10), model="m"), fleet(pools=OLD_AND_NEW, models={"m": {"rollout": Hears()}}), seed=1
    )

    means = {"1": 0.2, "2": 0.9}
    assert len(heard) == 10
    for id, (version, quality) in heard.items():
        assert quality == Quality(means[version], seed=1).of(id) == column(run, "quality")[id]


def test_a_shadow_draws_as_the_primary_of_its_version_would():
    heard = {}

    class Shadows(RolloutPolicy):
        def choose(self, request, versions, now_s):
            return Shadow("1", "2")

        def on_completed(self, completion, now_s):
            heard[completion.role, completion.request.id] = completion.quality

    trace = arrivals(*range(6), model="m")
    shadowed = play(trace, fleet(pools=OLD_AND_NEW, models={"m": {"rollout": Shadows()}}))
    served = play(trace, fleet(pools=OLD_AND_NEW, models={"m": {"rollout": Pinned(version="2")}}))

    for id in [f"r{n}" for n in range(5)]:  # with the last reply the run ends, and its shadow with it
        assert heard["primary", id] == column(shadowed, "quality")[id]
        assert heard["shadow", id] == column(served, "quality")[id]


# --- judges ----------------------------------------------------------------------------------------------------


class Judged(EmulatedEngine):
    """Even requests are good, odd ones nobody can say of."""

    def judge(self, work, result):
        return None if int(work.request.id[1:]) % 2 else 0.75


class Unsure(EmulatedEngine):
    def judge(self, work, result):
        return None


class TooSure(EmulatedEngine):
    def judge(self, work, result):
        return 1.5


class Broken(EmulatedEngine):
    def judge(self, work, result):
        raise KeyError("rubric")


def judged(cls, **changes):
    batch = {"batching": {"policy": "greedy"}, "quality": 0.1, **changes}
    return play(
        arrivals(0.0, 0.1, 0.1, 0.1),
        fleet(engine=cls(latency=engine(0.5).latency), retry={"policy": "no-retry"}, **batch),
    )


def test_an_engine_that_judges_is_believed_before_any_draw_answer_by_answer():
    assert column(judged(Judged), "quality") == {"r0": 0.75, "r1": None, "r2": 0.75, "r3": None}
    assert "quality" not in judged(Unsure).records.column_names


@pytest.mark.parametrize(("cls", "complaint"), [
    (TooSure, "too-sure judged its answer 1.5; a quality is from 0 to 1"),
    (Broken, "broken could not judge its answer: KeyError: 'rubric'"),
])  # fmt: skip
def test_a_judge_that_fails_is_a_fault_of_its_engine_and_is_named(cls, complaint):
    run = judged(cls)

    assert set(column(run, "outcome").values()) == {"failed"}
    assert set(column(run, "detail").values()) == {f"engine-error: {complaint}"}


def test_a_deep_probe_is_not_judged():
    broken = Broken(latency=engine(0.01).latency)
    made = simulation(arrivals(5.0), fleet(engine=broken, deep_probe_interval_s=0.2))
    made.runtime.run(until_s=4.0)

    assert [view.trust for view in made.head.router.views()] == ["healthy"]


class JudgedLlm(type(llm())):
    def judge(self, work, result):
        return 0.25


def test_token_by_token_an_engine_may_judge_too():
    run = play(trace_of(asks("r0"), asks("r1")), serving(engine=llm(cls=JudgedLlm)))

    assert column(run, "quality") == {"r0": 0.25, "r1": 0.25}


def test_quality_changes_nothing_else():
    trace = poisson(rate_per_s=20, duration_s=10, seed=0)
    plain, rated = (play(trace, fleet(0.03, replicas=2, quality=quality)) for quality in (None, 0.5))

    for name in ("ended_s", "replica", "attempts", "batch_size"):
        assert column(plain, name) == column(rated, name)
