"""What can be learnt from what comes back: published policies that hear of their decisions behave as published."""

import random
from collections import Counter, OrderedDict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.engines import AffineSteps
from policies import (
    BatchCompletion,
    ClipperAimd,
    Completion,
    Ending,
    Fifo,
    LatencyTarget,
    NoBatching,
    QueueingPolicy,
    ReplicaView,
    VirtualTokenCounter,
)
from tests.policies.makers import pool, request, reset
from tests.simulation.building import faults, trace_of
from tests.simulation.building_tokens import asks, llm
from traces import Fault, Trace, diurnal, poisson
from traces.schema import Slo

# --- Clipper ---------------------------------------------------------------------------------------------------


def batch(size: int, service_s: float | None, replica: str = "replica/0") -> BatchCompletion:
    requests = tuple(request(str(number)) for number in range(size))
    return BatchCompletion(replica=replica, requests=requests, service_s=service_s, elapsed_s=1.0)


class TestClipperAimd:
    def test_the_limit_grows_by_one_with_each_full_batch_within_the_objective(self) -> None:
        policy = reset(ClipperAimd(objective_s=1.0))
        limits = []
        for _ in range(5):
            policy.on_batch_completed(batch(policy.limit("replica/0"), 1.0), 0.0)
            limits.append(policy.limit("replica/0"))
        assert limits == [2, 3, 4, 5, 6]
        policy.on_batch_completed(batch(5, 0.1), 0.0)
        assert policy.limit("replica/0") == 6, "a batch that was not full says nothing"
        policy.on_batch_completed(batch(6, None), 0.0)
        assert policy.limit("replica/0") == 6, "nor does one that did not run"
        assert policy.limit("replica/1") == 1, "each replica has a limit of its own"

    def test_one_tenth_comes_off_once_for_batches_of_one_size(self) -> None:
        policy = reset(ClipperAimd(objective_s=1.0))
        policy.limits["replica/0"] = 20.0
        for _ in range(3):  # all sent before the first came back
            policy.on_batch_completed(batch(20, 1.1), 0.0)
        assert policy.limits == {"replica/0": 18.0}

    def test_it_never_goes_below_one_nor_above_its_own_maximum(self) -> None:
        policy = reset(ClipperAimd(objective_s=1.0, max_batch=3))
        policy.on_batch_completed(batch(1, 9.0), 0.0)
        assert policy.limit("replica/0") == 1
        for _ in range(9):
            policy.on_batch_completed(batch(policy.limit("replica/0"), 0.5), 0.0)
        assert policy.limit("replica/0") == 3

    def test_a_replica_that_is_gone_is_forgotten(self) -> None:
        policy = reset(ClipperAimd())
        policy.on_batch_completed(batch(1, 0.001), 0.0)
        policy.on_replicas([ReplicaView(id="replica/1")], 1.0)
        assert policy.limits == {}

    @pytest.mark.parametrize("binding", ["early", "late"])
    @pytest.mark.parametrize(("objective_s", "largest"), [(0.050, 20), (0.031, 10), (0.012, 1)])
    def test_it_finds_the_largest_batch_that_meets_the_objective(self, binding, objective_s, largest) -> None:
        # A batch of n takes 10 + 2 n ms, and there is always more to do.
        spec = FleetSpec(
            engine=EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.002)),
            replicas=2, binding=binding, batching=ClipperAimd(objective_s=objective_s), queue_capacity=200,
        )  # fmt: skip
        run = simulate(poisson(rate_per_s=1_200, duration_s=5, seed=1), spec)
        sizes = np.array(run.dispatches["size"].to_pylist())
        times = run.dispatches["time_s"].to_numpy()
        settled = sizes[(times > 2.0) & (times < 4.9)]
        assert settled.max() <= largest + 1, "it tries one more, and no more"
        assert settled.min() >= int(0.9 * largest)
        assert np.mean(settled <= largest) > (0.6 if largest > 1 else 0.45)

    def test_it_follows_a_device_that_becomes_slower_and_recovers(self) -> None:
        spec = FleetSpec(
            engine=EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.002)),
            batching=ClipperAimd(objective_s=0.050), queue_capacity=200,
        )  # fmt: skip
        slow = faults(Fault(at_s=3.0, kind="slow", factor=2.0, for_s=3.0))
        run = simulate(poisson(rate_per_s=600, duration_s=9, seed=1), spec, faults=slow)
        sizes = np.array(run.dispatches["size"].to_pylist())
        times = run.dispatches["time_s"].to_numpy()
        for since_s, until_s, largest in ((2.0, 3.0, 20), (5.0, 6.0, 7), (8.0, 9.0, 20)):
            during = sizes[(times > since_s) & (times < until_s)]
            assert int(0.8 * largest) <= during.min() <= during.max() <= largest + 1, since_s


# --- VTC -------------------------------------------------------------------------------------------------------


class Published:
    """The virtual token counter as its paper writes it down, and no more."""

    def __init__(self, prompt_weight: float, output_weight: float) -> None:
        self.weights = prompt_weight, output_weight
        self.counters: dict[str, float] = {}
        self.queue: list[tuple[str, str, int]] = []
        self.last_left = ""

    def tenants(self) -> list[str]:
        return list(OrderedDict.fromkeys(tenant for _, tenant, _ in self.queue))

    def arrives(self, id: str, tenant: str, prompt_tokens: int) -> None:
        waiting = self.tenants()
        if tenant not in waiting:
            floor = (
                min(self.counters[other] for other in waiting)
                if waiting
                else self.counters.get(self.last_left, 0.0)
            )
            self.counters[tenant] = max(self.counters.get(tenant, 0.0), floor)
        self.queue.append((id, tenant, prompt_tokens))

    def takes(self) -> str:
        least = min(self.counters[tenant] for tenant in self.tenants())
        tenant = next(tenant for _, tenant, _ in self.queue if self.counters[tenant] == least)
        chosen = next(item for item in self.queue if item[1] == tenant)
        self.queue.remove(chosen)
        if tenant not in self.tenants():
            self.last_left = tenant
        self.counters[tenant] += self.weights[0] * chosen[2]
        return chosen[0]

    def generates(self, tenant: str, tokens: int) -> None:
        self.counters[tenant] += self.weights[1] * tokens


EVENTS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "pop", "step", "end"]), st.integers(0, 3), st.integers(1, 40)),
    max_size=150,
)


def completion(asked, tokens: int, **fields) -> Completion:
    return Completion(request=asked, replica="replica/0", attempt=1, output_tokens=tokens, **fields)


class TestVirtualTokenCounter:
    @settings(max_examples=60)
    @given(EVENTS, st.sampled_from([(1.0, 2.0), (0.0, 1.0), (3.0, 0.5)]))
    def test_it_takes_the_requests_in_the_order_that_its_paper_gives(self, events, weights) -> None:
        policy = reset(VirtualTokenCounter(prompt_weight=weights[0], output_weight=weights[1]))
        published, running, number = Published(*weights), OrderedDict(), 0
        for what, tenant, size in events:
            if what == "push":
                asked = request(f"r{number}", tenant=f"t{tenant}", prompt_tokens=size)
                number += 1
                policy.push(asked, 0.0)
                published.arrives(asked.id, asked.tenant, size)
            elif what == "pop" and len(policy):
                taken = policy.pop(0.0)
                assert taken.id == published.takes()
                policy.on_dispatched(taken, "replica/0", 0.0)
                running[taken.id] = (taken, 0)
            elif what == "step":
                for id, (asked, tokens) in running.items():
                    running[id] = asked, tokens + 1
                    policy.on_tokens(asked, "replica/0", tokens + 1, 0.0)
                    published.generates(asked.tenant, 1)
            elif what == "end" and running:
                _, (asked, tokens) = running.popitem(last=size % 2 == 0)
                published.generates(asked.tenant, 2)  # of which nobody told: they come with the answer
                policy.on_completed(completion(asked, tokens + 2), 0.0)
        while len(policy):
            assert policy.pop(0.0).id == published.takes()

    def test_one_tenant_alone_is_first_in_first_out(self) -> None:
        policy, fifo = reset(VirtualTokenCounter()), reset(Fifo())
        for number in range(50):
            for queue in (policy, fifo):
                queue.push(request(f"r{number}", prompt_tokens=1 + number % 7), 0.0)
        assert [policy.pop(0.0).id for _ in range(50)] == [fifo.pop(0.0).id for _ in range(50)]

    def test_who_was_away_does_not_come_back_with_service_saved_up(self) -> None:
        policy = reset(VirtualTokenCounter(output_weight=0.0))
        policy.push(request("early", tenant="away", prompt_tokens=1), 0.0)
        policy.pop(0.0)
        for number in range(30):
            policy.push(request(f"a{number}", tenant="busy", prompt_tokens=10), 0.0)
        for _ in range(10):
            policy.pop(0.0)
        for number in range(20):
            policy.push(request(f"b{number}", tenant="away", prompt_tokens=10), 0.0)
        taken = Counter(policy.pop(0.0).tenant for _ in range(10))
        assert taken == {"busy": 5, "away": 5}

    def test_what_a_batching_policy_picks_by_name_is_charged_too(self) -> None:
        policy = reset(VirtualTokenCounter())
        picked = request("a", tenant="a", prompt_tokens=100)
        policy.push(picked, 0.0)
        policy.push(request("a2", tenant="a"), 0.0)
        policy.push(request("b", tenant="b"), 0.0)
        assert policy.remove("a")
        policy.on_dispatched(picked, "replica/0", 0.0)
        assert policy.pop(0.0).id == "b"

    def test_a_resumed_attempt_is_not_charged_for_what_it_resumes(self) -> None:
        policy = reset(VirtualTokenCounter(prompt_weight=0.0, output_weight=1.0))
        asked = request("a", tenant="a")
        policy.push(asked, 0.0)
        policy.on_dispatched(policy.pop(0.0), "replica/0", 0.0)
        policy.on_tokens(asked, "replica/0", 101, 0.0)
        policy.on_tokens(asked, "replica/0", 102, 0.0)
        policy.on_completed(completion(asked, 105, resumed_tokens=100), 0.0)
        assert policy.counters == {"a": 5.0}

    def test_tenants_that_are_made_up_do_not_pile_up(self) -> None:
        policy = reset(VirtualTokenCounter())
        for number in range(10_000):
            asked = request(f"r{number}", tenant=f"t{number}", prompt_tokens=5)
            policy.push(asked, 0.0)
            policy.on_dispatched(policy.pop(0.0), "replica/0", 0.0)
            policy.on_completed(completion(asked, 3), 0.0)
        assert len(policy.counters) <= 1_025
        assert not policy.served


SEQUENCES, MOST_PROMPT, MOST_OUTPUT = 4, 30, 12


def served(queueing: QueueingPolicy, trace: Trace) -> list[tuple[float, str, int, int]]:
    """When which tenant was given how many prompt and output tokens, on one replica with four sequences."""

    class Watched(type(queueing)):  # type: ignore[misc]  # the class of whichever policy it is
        def on_dispatched(self, request, replica, now_s):
            log.append((now_s, request.tenant, request.prompt_tokens, 0))
            super().on_dispatched(request, replica, now_s)

        def on_tokens(self, request, replica, output_tokens, now_s):
            log.append((now_s, request.tenant, 0, 1))
            super().on_tokens(request, replica, output_tokens, now_s)

    log: list[tuple[float, str, int, int]] = []
    spec = FleetSpec(
        engine=llm(AffineSteps(base_s=0.1)), queueing=Watched(**queueing.parameters()), binding="late",
        batching=NoBatching(), max_inflight_batches=SEQUENCES,
    )  # fmt: skip
    run = simulate(trace, spec)
    assert run.summary.completed == len(trace)
    return log


def widest_gap(log, weights: tuple[float, float], until_s: float) -> float:
    """The most that the service of two tenants differs over any stretch of time in which both have requests waiting."""
    gap = extremes = 0.0
    least = most = 0.0
    for now_s, tenant, prompt, output in log:
        if now_s > until_s:
            break
        gap += (weights[0] * prompt + weights[1] * output) * (1 if tenant == "a" else -1)
        least, most = min(least, gap), max(most, gap)
        extremes = max(extremes, gap - least, most - gap)
    return extremes


def backlogged(rng: random.Random, loud: int) -> Trace:
    """Both tenants have far more than can be served, one of them `loud` times as much, and longer or shorter ones."""
    entries = []
    for tenant, count in (("a", 40), ("b", 40 * loud)):
        prompt, output = rng.randint(1, MOST_PROMPT), rng.randint(1, MOST_OUTPUT)
        entries += [
            asks(f"{tenant}{number}", 0.0, rng.randint(1, prompt), rng.randint(1, output), tenant=tenant)
            for number in range(count)
        ]
    rng.shuffle(entries)
    return trace_of(*entries)


def ends_s(log) -> float:
    """Until when both tenants had requests waiting: the first of the last times that one was taken for each."""
    return min(max(now_s for now_s, who, prompt, _ in log if who == tenant and prompt) for tenant in "ab")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([(1.0, 2.0), (1.0, 1.0), (0.5, 4.0)]))
def test_the_service_of_two_backlogged_tenants_never_differs_by_more_than_the_bound(seed, loud, weights):
    trace = backlogged(random.Random(seed), loud)

    log = served(VirtualTokenCounter(prompt_weight=weights[0], output_weight=weights[1]), trace)

    bound = 2 * max(weights[0] * MOST_PROMPT, weights[1] * SEQUENCES * (MOST_PROMPT + MOST_OUTPUT))
    assert widest_gap(log, weights, ends_s(log)) <= bound


def test_first_in_first_out_gives_the_loud_tenant_what_it_asks_for():
    entries = [asks(f"a{n}", 0.0, 10, 10, tenant="a") for n in range(300)]
    entries += [asks(f"b{n}", 0.0, 10, 10, tenant="b") for n in range(60)]
    gaps = {}
    for policy in (Fifo(), VirtualTokenCounter()):
        log = served(policy, trace_of(*entries))
        gaps[policy.name()] = widest_gap(log, (1.0, 2.0), log[len(log) // 4][0])

    assert gaps["fifo"] > 2_000
    assert gaps["virtual-token-counter"] <= 2 * 2.0 * SEQUENCES * 20


# --- a latency target ------------------------------------------------------------------------------------------

TARGET_S = 0.5


@cache
def day() -> Trace:
    """A day of ten minutes: from 8 requests a second to 72, and back."""
    return diurnal(mean_per_s=40, amplitude=0.8, period_s=600, duration_s=600, seed=4)


def served_by(scaling, **changes):
    """A replica serves 12.5 requests a second at most, one at a time, and takes 5 s to start."""
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.08, jitter_cv=0.3), cold_start_s=5.0),
        replicas=2, min_replicas=1, max_replicas=12, binding="late", batching=NoBatching(), max_inflight_batches=1,
        scaling=scaling,
    ).replace(**changes)  # fmt: skip
    run = simulate(day(), spec)
    late = np.array([e2e_s is None or e2e_s > TARGET_S for e2e_s in run.records["e2e_s"].to_pylist()])
    return run, 1.0 - late.mean()


def test_what_expires_or_is_shed_before_a_replica_has_it_missed_the_target():
    policy = reset(LatencyTarget(target_s=1.0))
    for outcome, e2e_s in (
        ("completed", 1.0), ("completed", 1.1), ("expired", 0.5), ("shed", 0.0), ("failed", 0.1), ("cancelled", 9.0),
        ("rejected", 0.0),
    ):  # fmt: skip
        policy.on_request_ended(Ending(request=request(), outcome=outcome, attempts=0, e2e_s=e2e_s), 0.0)
    own = request(slo=Slo(e2e_s=5.0))
    policy.on_request_ended(Ending(request=own, outcome="completed", attempts=1, e2e_s=4.0), 0.0)
    assert (policy.met, policy.missed) == (2, 4)


def test_it_goes_from_none_to_some_and_back():
    policy = reset(LatencyTarget(down_stabilization_s=5.0, smoothing_s=0.1))
    empty = pool(0, min_replicas=0)
    assert policy.desired(empty, 0.0).replicas == 0
    assert policy.desired(pool(0, min_replicas=0, queue_depth=1), 1.0).replicas == 1, "what waits is seen"
    policy.on_request_ended(Ending(request=request(), outcome="completed", attempts=1, e2e_s=0.1), 1.0)
    assert policy.desired(pool(1, min_replicas=0, arrivals_per_s=2.0), 2.0).replicas == 1
    assert [policy.desired(pool(1, min_replicas=0), float(second)).replicas for second in (3, 30)] == [1, 0]


class Deaf(LatencyTarget):
    """Hears of nothing."""

    def on_request_ended(self, ending, now_s):
        pass


def test_a_latency_target_is_held_through_the_day_and_not_without_hearing_what_came_of_it():
    run, attainment = served_by(LatencyTarget(target_s=TARGET_S))
    _, deaf = served_by(Deaf(target_s=TARGET_S))

    assert attainment >= 0.95
    assert deaf < 0.5
    assert run.summary.replicas.max <= 9, "6 would be busy all the time at the peak"
    assert run.summary.gpu_seconds < 0.75 * 9 * 600, "it goes down at night"
