"""Steps in the order of priorities, and of what tenants were served."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleet import FleetSpec, simulate
from fleet.engines import AffineSteps
from policies import IterationPolicy, PolicyError, Step, VllmTokenBudget
from policies._conformance.replica import Script
from policies._conformance.token_laws import run_script
from policies.building import build
from policies.iteration.drafting import MANY_STEPS
from policies.iteration.fair_tokens import FairTokens
from policies.iteration.priority_preemptive import PriorityPreemptive
from policies.testing import parametrize_with_checks
from tests.policies.makers import reset
from tests.policies.test_iteration import Cache, plan
from tests.simulation.building import trace_of
from tests.simulation.building_tokens import asks, llm


@parametrize_with_checks(
    [
        PriorityPreemptive,
        lambda: PriorityPreemptive(max_sequences=2, max_step_tokens=50, reserve_full_prompt=False),
        lambda: PriorityPreemptive(max_sequences=1, displaces=True),
        FairTokens,
        lambda: FairTokens(max_sequences=3, max_step_tokens=70, prompt_weight=0.0, output_weight=9.0),
    ]
)
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "priority-preemptive", "max_sequences": 0}, r"\$\.iteration\.max_sequences"),
        ({"policy": "fair-tokens", "output_weight": -1.0}, r"\$\.iteration\.output_weight"),
        ({"policy": "fair-tokens", "max_step_tokens": 0}, r"\$\.iteration\.max_step_tokens"),
    ],
)
def test_what_is_out_of_bounds_is_named(table, path):
    with pytest.raises(PolicyError, match=path):
        build(IterationPolicy, table, "$.iteration")


def script_of_tenants(seed: int) -> Script:
    """The kit's, its requests of several tenants and priorities."""
    rng = random.Random(seed)
    script = Script.drawn(rng, small=True, count=16)
    for arrival in script.arrivals:
        arrival.request = replace(arrival.request, tenant=rng.choice("abc"), priority=rng.randrange(-1, 3))
    return script


@pytest.mark.parametrize(
    "make",
    [
        PriorityPreemptive,
        lambda: PriorityPreemptive(max_sequences=2, displaces=True),
        FairTokens,
        lambda: FairTokens(max_sequences=2, max_step_tokens=16),
    ],
)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_planning_step_by_step_gives_the_same_steps_as_repeating(make, seed):
    script = script_of_tenants(seed)
    spans, steps = run_script(make, script), run_script(make, script, stepwise=True)
    assert spans.log == steps.log
    assert spans.ended == steps.ended


# --- priorities ------------------------------------------------------------------------------------------------


class TestPriorityPreemptive:
    def test_the_most_urgent_are_admitted_first_and_equals_as_they_arrived(self):
        kv = Cache()
        waiting = [
            kv.waits(10, priority=0, arrived_s=1.0),
            kv.waits(10, priority=2, arrived_s=3.0),
            kv.waits(10, priority=2, arrived_s=2.0),
            kv.waits(10, priority=None, arrived_s=0.5),
            kv.waits(10, priority=-1, arrived_s=0.0),
        ]
        step = plan(PriorityPreemptive(max_sequences=4), waiting, [], kv)
        assert step == Step(prefill=((2, 10), (1, 10), (3, 10), (0, 10)))

    def test_the_most_urgent_without_room_keeps_the_others_out(self):
        kv = Cache(total_blocks=10)
        running = [kv.runs(55)]
        waiting = [kv.waits(10, priority=0), kv.waits(60, priority=1)]
        assert plan(PriorityPreemptive(), waiting, running, kv) == Step(decode=None, repeat=MANY_STEPS)

    def test_when_blocks_run_out_the_least_urgent_loses_its_place_wherever_it_stands(self):
        kv = Cache(total_blocks=6)
        running = [
            kv.runs(20, priority=1),
            kv.runs(20, priority=0, arrived_s=5.0),
            kv.runs(20, priority=0, arrived_s=4.0),
        ]
        waiting = [kv.waits(5, priority=9)]
        step = plan(PriorityPreemptive(), waiting, running, kv)
        assert step == Step(decode=(0, 2), preempt=(1,))

    def test_it_may_be_the_one_that_asks_for_a_block(self):
        kv = Cache(total_blocks=4)
        running = [kv.runs(20, priority=0), kv.runs(20, priority=1)]
        step = plan(PriorityPreemptive(), [], running, kv)
        assert step.preempt == (0,)

    def test_one_that_was_planned_already_gives_back_what_it_was_to_have(self):
        """The first takes the last block, and then loses it to the second, which is more urgent."""
        kv = Cache(total_blocks=5)
        running = [kv.runs(20, priority=0), kv.runs(20, priority=1)]
        step = plan(PriorityPreemptive(), [], running, kv)
        assert step == Step(decode=(1,), preempt=(0,))

    def test_nobody_is_passed_over_because_one_before_it_lost_its_place(self):
        kv = Cache(total_blocks=7)
        running = [kv.runs(20, priority=0), kv.runs(20, priority=2), kv.runs(20, priority=1)]
        assert plan(PriorityPreemptive(), [], running, kv) == Step(decode=(1, 2), preempt=(0,))

    def test_without_priorities_it_is_vllms_first_come_first_served(self):
        compared = 0
        for seed in range(40):
            script = Script.drawn(random.Random(seed), small=True, count=16)
            for arrival in script.arrivals:
                arrival.request = replace(arrival.request, priority=None)
            one = run_script(lambda: PriorityPreemptive(max_step_tokens=64), script)
            other = run_script(lambda: VllmTokenBudget(max_step_tokens=64), script)
            if not any(preempted for *_, preempted, _ in other.log):
                # Who lost its place waits first of all there, and here as it arrived.
                assert one.log == other.log
                compared += 1
        assert compared >= 5

    def test_one_that_waits_takes_a_place_only_where_it_displaces(self):
        kv = Cache()
        running, waiting = [kv.runs(20, priority=0)], [kv.waits(20, priority=1)]
        assert plan(PriorityPreemptive(max_sequences=1), waiting, running, kv).preempt == ()
        step = plan(PriorityPreemptive(max_sequences=1, displaces=True), waiting, running, kv)
        assert step == Step(prefill=((1, 20),), decode=None, preempt=(0,))


# --- tenants ---------------------------------------------------------------------------------------------------


class TestFairTokens:
    def test_the_tenant_that_was_served_least_goes_next(self):
        kv, policy = Cache(), reset(FairTokens(max_sequences=3))
        waiting = [kv.waits(50, tenant="a"), kv.waits(10, tenant="a"), kv.waits(20, tenant="b"),
                   kv.waits(20, tenant="b"), kv.waits(20, tenant="b")]  # fmt: skip
        step = policy.plan(waiting, [], kv, 0.0)
        assert step == Step(prefill=((0, 50), (2, 20), (3, 20)))
        assert policy.counters == {"a": 50.0, "b": 40.0}

    def test_output_is_charged_as_it_comes_once(self):
        kv, policy = Cache(), reset(FairTokens(max_sequences=1, prompt_weight=0.0, output_weight=2.0))
        first = kv.waits(10, tenant="a")
        policy.plan([first], [], kv, 0.0)
        kv.admit(first)
        kv.compute(first, 10)
        for tokens in (1, 2, 5):
            first.generated_tokens = tokens
            policy.plan([], [first], kv, 0.0)
            assert policy.counters["a"] == 2.0 * tokens

    def test_who_was_away_does_not_come_back_with_service_saved_up(self):
        kv, policy = Cache(), reset(FairTokens(max_sequences=1))
        policy.plan([kv.waits(90, tenant="busy"), kv.waits(10, tenant="busy")], [], kv, 0.0)
        policy.plan([kv.waits(10, tenant="busy"), kv.waits(10, tenant="away")], [kv.runs(10)], kv, 0.0)
        assert policy.counters["away"] == policy.counters["busy"] == 90.0

    def test_one_that_was_preempted_is_not_charged_for_its_prompt_again(self):
        kv, policy = Cache(), reset(FairTokens(max_sequences=1))
        preempted = kv.waits(40, tenant="a")
        for _ in range(2):
            assert policy.plan([preempted], [], Cache(), 0.0) == Step(prefill=((0, 40),))
        assert policy.counters == {"a": 40.0}

    def test_with_one_tenant_it_is_vllms_token_budget(self):
        for seed in range(30):
            script = Script.drawn(random.Random(seed), small=True, count=16)
            one = run_script(lambda: FairTokens(max_step_tokens=64), script)
            other = run_script(lambda: VllmTokenBudget(max_step_tokens=64), script)
            assert one.log == other.log

    def test_what_ended_is_forgotten(self):
        trace = trace_of(*(asks(f"r{n}", n * 0.3, 10, 5, tenant=f"t{n}") for n in range(60)))
        watched = []

        class Kept(FairTokens):
            def reset(self, rng):
                super().reset(rng)
                watched.append(self)

        simulate(trace, FleetSpec(engine=llm(AffineSteps(base_s=0.1)), iteration=Kept()))
        assert all(not policy.charged for policy in watched)


MOST_PROMPT, MOST_OUTPUT, BLOCKS = 30, 12, 40


def served(policy: type[IterationPolicy], trace) -> list[tuple[str, float]]:
    """Who was given what, at weights 1 and 2, in order, until one of the tenants had nothing waiting."""

    class WatchedSteps(policy):
        def plan(self, waiting, running, kv, now_s):
            step = super().plan(waiting, running, kv, now_s)
            tenants = {one.id: one.request.tenant for part in (waiting, running) for one in part}
            prompts = {one.id: one.prompt_tokens for one in waiting}
            if {one.request.tenant for one in waiting} == {"a", "b"}:
                log.extend((tenants[id], float(prompts[id])) for id, _ in step.prefill if id in prompts)
                log.extend((one.request.tenant, 2.0) for one in running if one.remaining_tokens == 1)
            return step

    log: list[tuple[str, float]] = []
    spec = FleetSpec(
        engine=llm(AffineSteps(base_s=0.1), blocks=BLOCKS), iteration=WatchedSteps(max_sequences=4)
    )
    assert simulate(trace, spec).summary.completed == len(trace)
    return log


def widest_gap(log: list[tuple[str, float]]) -> float:
    gap = least = most = widest = 0.0
    for tenant, cost in log:
        gap += cost if tenant == "a" else -cost
        least, most = min(least, gap), max(most, gap)
        widest = max(widest, gap - least, most - gap)
    return widest


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 4]))
def test_the_service_of_two_backlogged_tenants_never_differs_by_more_than_the_bound(seed, loud):
    """Theorem 4.4: twice the larger of the longest prompt and of the tokens that fit, weighed."""
    rng = random.Random(seed)
    entries = [
        asks(f"{tenant}{n}", 0.0, rng.randint(1, MOST_PROMPT), rng.randint(1, MOST_OUTPUT), tenant=tenant)
        for tenant, count in (("a", 30), ("b", 30 * loud))
        for n in range(count)
    ]
    rng.shuffle(entries)
    held = min(4 * BLOCKS, 4 * (MOST_PROMPT + MOST_OUTPUT))
    assert widest_gap(served(FairTokens, trace_of(*entries))) <= 2 * max(MOST_PROMPT, 2.0 * held)


def test_first_come_first_served_gives_the_loud_tenant_what_it_asks_for():
    entries = [asks(f"a{n}", 0.0, 10, 10, tenant="a") for n in range(200)]
    entries += [asks(f"b{n}", 0.0, 10, 10, tenant="b") for n in range(50)]
    assert widest_gap(served(VllmTokenBudget, trace_of(*entries))) > 2_000
    log = served(FairTokens, trace_of(*entries))
    assert widest_gap(log) <= 160
    given_tokens = Counter()
    for tenant, cost in log:
        given_tokens[tenant] += cost
    assert given_tokens["a"] == pytest.approx(given_tokens["b"], rel=0.1)
