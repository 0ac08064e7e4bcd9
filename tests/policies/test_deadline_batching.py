"""Batching by deadlines: learned service times, early drop, Clockwork, deferred batches, and what is optimal."""

import itertools
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import (
    BatchCompletion,
    BatchingPolicy,
    Dispatch,
    Drop,
    EarliestDeadline,
    PolicyError,
    Wait,
    build,
)
from policies._conformance.inputs import FakeQueue
from policies.batching.clockwork_deadline import ClockworkDeadline
from policies.batching.lazy_drop import LazyDrop
from policies.batching.nexus_early_drop import NexusEarlyDrop
from policies.batching.service_times import ProfiledBatching, ServiceTimes
from policies.batching.symphony_deferred import SymphonyDeferred
from policies.testing import parametrize_with_checks
from tests.policies.makers import replicas, request, reset
from traces.schema import Request, Slo

IDLE = replicas(0)
PLANNERS = [NexusEarlyDrop, ClockworkDeadline, LazyDrop, SymphonyDeferred]


@parametrize_with_checks(
    [
        *PLANNERS,
        lambda: NexusEarlyDrop(max_batch=3, margin_s=0.05, measurements=1, memory_s=1.0),
        lambda: ClockworkDeadline(max_batch=1, margin_s=1.0, measurements=200, memory_s=1e4),
        lambda: SymphonyDeferred(max_batch=200, margin_s=0.01, measurements=2, memory_s=0.1),
    ]
)
def test_conformance(check: Any) -> None:
    check()


def queue(*requests: Request) -> FakeQueue:
    waiting = FakeQueue()
    for item in requests:
        waiting.push(item, item.arrived_s)
    return waiting


def due(name: str, deadline_s: float | None, arrived_s: float = 0.0) -> Request:
    return request(name, arrived_s=arrived_s, deadline_s=deadline_s)


def taught(
    policy: ProfiledBatching, base_s: float, per_item_s: float, sizes: tuple[int, ...] = (1, 2)
) -> Any:
    """A policy that saw batches take `base_s + per_item_s · size` at time 0."""
    reset(policy)
    for size in sizes:
        tell(policy, size, base_s + per_item_s * size)
    return policy


def tell(
    policy: ProfiledBatching, size: int, service_s: float | None, now_s: float = 0.0, **fields: Any
) -> None:
    requests = tuple(request(str(number)) for number in range(size))
    policy.on_batch_completed(
        BatchCompletion(
            replica=fields.pop("replica", "replica/0"),
            requests=requests,
            service_s=service_s,
            elapsed_s=1.0,
            **fields,
        ),
        now_s,
    )


# --- service times -----------------------------------------------------------------------------------------


def test_nothing_is_known_before_a_batch_ran() -> None:
    assert ServiceTimes(10, 60.0).of(1, 0.0) is None


def test_the_longest_of_the_last_measurements_counts() -> None:
    times = ServiceTimes(2, 60.0)
    for seconds in (5.0, 1.0, 2.0):
        times.add(4, seconds, 0.0)
    assert times.of(4, 0.0) == 2.0


def test_one_size_tells_of_smaller_ones_at_most_and_of_larger_ones_in_proportion() -> None:
    times = ServiceTimes(10, 60.0)
    times.add(4, 2.0, 0.0)
    assert [times.of(size, 0.0) for size in (1, 3, 4, 6, 8)] == [2.0, 2.0, 2.0, 3.0, 4.0]


@given(
    sizes=st.sets(st.integers(1, 64), min_size=1, max_size=6), asked=st.integers(1, 128),
    base_s=st.floats(0, 1), per_item_s=st.floats(1e-4, 1),
)  # fmt: skip
def test_on_an_affine_device_no_prediction_is_too_short(
    sizes: set[int], asked: int, base_s: float, per_item_s: float
) -> None:
    times = ServiceTimes(10, 60.0)
    for size in sorted(sizes, reverse=True):
        times.add(size, base_s + per_item_s * size, 0.0)
    predicted, true_s = times.of(asked, 0.0), base_s + per_item_s * asked
    assert predicted is not None
    assert predicted >= true_s * (1 - 1e-9)
    if min(sizes) <= asked and len(sizes) > 1:
        assert predicted == pytest.approx(true_s)


def test_a_size_that_was_not_measured_for_long_is_forgotten() -> None:
    times = ServiceTimes(10, 60.0)
    times.add(8, 100.0, 0.0)
    times.add(1, 1.0, 50.0)
    assert times.of(8, 50.0) == 100.0
    times.add(1, 1.0, 61.0)
    assert times.of(8, 61.0) == 8.0
    assert times.of(1, 122.0) is None


def test_each_replica_is_known_by_its_own_batches_and_a_new_one_by_those_of_all() -> None:
    policy = reset(ClockworkDeadline())
    policy.send([request("a")], "replica/0", 0.0)
    policy.send([request("b")], "replica/1", 0.0)
    tell(policy, 1, 1.0, replica="replica/0")
    tell(policy, 1, 3.0, replica="replica/1")
    assert [policy.service_s(name, 1, 0.0) for name in ("replica/0", "replica/1", "replica/2")] == [
        1.0,
        3.0,
        3.0,
    ]
    policy.on_replicas(replicas(0), 0.0)
    assert set(policy.known) == {"replica/0"}


def test_a_batch_at_the_door_waits_for_those_before_it() -> None:
    policy = taught(ClockworkDeadline(), 1.0, 1.0)
    assert policy.finish_s("replica/0", 1, 10.0) == 12.0
    policy.send([request("a"), request("b")], "replica/0", 10.0)
    assert policy.finish_s("replica/0", 1, 11.0) == 15.0
    policy.send([request("c")], "replica/0", 11.0)
    assert policy.finish_s("replica/0", 1, 11.0) == 17.0
    tell(policy, 2, 2.5, 12.5)  # through sooner than the 13.0 that was thought
    assert policy.finish_s("replica/0", 1, 12.5) == 16.5
    tell(policy, 1, None, 13.0, failure="engine-error")
    assert policy.finish_s("replica/0", 1, 13.0) == 15.0


@pytest.mark.parametrize("planner", PLANNERS)
def test_as_long_as_nothing_is_known_one_request_runs_alone(planner: type[ProfiledBatching]) -> None:
    policy: Any = reset(planner())
    answer = policy.next_batch(queue(due("a", 1.0), due("b", 1.0)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a",)


@pytest.mark.parametrize("planner", PLANNERS)
def test_without_deadlines_all_that_fits_runs_at_once(planner: type[ProfiledBatching]) -> None:
    policy = taught(planner(max_batch=4), 1.0, 1.0)
    answer = policy.next_batch(queue(*(due(name, None) for name in "abcdef")), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a", "b", "c", "d")


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_profile_that_allows_nothing_is_tried_again(planner: type[ProfiledBatching]) -> None:
    policy = taught(planner(memory_s=60.0), 100.0, 0.0)
    assert isinstance(policy.next_batch(queue(due("a", 1.0)), IDLE, 0.0), Drop)
    assert isinstance(policy.next_batch(queue(due("b", 1.0, arrived_s=61.0)), IDLE, 61.0), Dispatch)


@pytest.mark.parametrize("planner", PLANNERS)
def test_an_objective_is_a_deadline_too_and_the_margin_comes_off(planner: type[ProfiledBatching]) -> None:
    item = request("a", slo=Slo(e2e_s=3.0))
    assert isinstance(taught(planner(), 2.0, 1.0).next_batch(queue(item), IDLE, 0.0), Dispatch)
    assert isinstance(taught(planner(margin_s=0.5), 2.0, 1.0).next_batch(queue(item), IDLE, 0.0), Drop)


# --- Nexus -------------------------------------------------------------------------------------------------


def test_nexus_slides_its_window_to_the_first_request_that_can_wait_for_all_of_it() -> None:
    policy = taught(NexusEarlyDrop(max_batch=3), 1.0, 1.0)  # 4 s for three, 3 s for two, 2 s for one
    waiting = queue(due("a", 2.0), due("b", 3.5), due("c", 4.0), due("d", 4.5), due("e", 9.0), due("f", 9.0))
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("a", "b")
    waiting.take(2, answer.ids)
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("c", "d", "e")


def test_near_the_end_of_the_queue_the_window_is_shorter() -> None:
    policy = taught(NexusEarlyDrop(max_batch=3), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 1.0), due("b", 3.0), due("c", 3.0)), IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("a",)
    answer = policy.next_batch(queue(due("b", 3.0), due("c", 3.0)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("b", "c")


def test_what_nobody_can_save_is_dropped_to_the_last() -> None:
    policy = taught(NexusEarlyDrop(max_batch=3), 1.0, 1.0)
    answer = policy.next_batch(queue(*(due(name, 1.9) for name in "abcd")), IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("a", "b", "c", "d")


# --- Clockwork ---------------------------------------------------------------------------------------------


def test_clockwork_runs_the_largest_batch_of_which_all_are_in_time_most_urgent_first() -> None:
    policy = taught(ClockworkDeadline(), 1.0, 1.0)
    answer = policy.next_batch(queue(due("late", 9.0), due("first", 4.0), due("none", None)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("first", "late", "none")  # three of them take 4 s


def test_clockwork_gives_up_whoever_would_keep_the_batch_small() -> None:
    policy = taught(ClockworkDeadline(), 1.0, 1.0)
    waiting = queue(due("a", 2.5), due("b", 4.0), due("c", 4.0), due("d", 4.0), due("gone", 1.0))
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("gone", "a")
    waiting.take(2, answer.ids)
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("b", "c", "d")


def test_clockwork_keeps_whoever_is_in_time_where_no_larger_batch_could_be_filled() -> None:
    policy = taught(ClockworkDeadline(), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 2.0), due("b", 3.5)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a",)  # two take 3 s, and only one of them has so long


# --- lazy drop ---------------------------------------------------------------------------------------------


def test_lazy_drop_serves_the_first_with_as_many_as_it_has_time_for() -> None:
    policy = taught(LazyDrop(), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 3.5), due("b", 9.0), due("c", 9.0)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a", "b")


def test_lazy_drop_drops_what_is_late_even_alone_and_nothing_else() -> None:
    policy = taught(LazyDrop(), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 1.9), due("b", 1.0), due("c", 2.0), due("d", 1.0)), IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("a", "b")


# --- Symphony ----------------------------------------------------------------------------------------------


def test_symphony_waits_until_one_more_would_be_late_with_the_batch() -> None:
    policy = taught(SymphonyDeferred(max_batch=8), 1.0, 1.0)
    # Three would take 4 s: from 10 - 4 on no third one can join these two.
    waiting = queue(due("a", 10.0), due("b", 20.0))
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Wait)
    assert answer.until_s == pytest.approx(6.0)
    answer = policy.next_batch(waiting, IDLE, 6.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a", "b")


def test_symphony_runs_a_full_batch_and_one_that_cannot_grow_at_once() -> None:
    policy = taught(SymphonyDeferred(max_batch=2), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 90.0), due("b", 90.0), due("c", 90.0)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a", "b")
    policy = taught(SymphonyDeferred(max_batch=8), 1.0, 1.0)
    answer = policy.next_batch(queue(due("a", 3.5), due("b", 9.0), due("c", 9.0)), IDLE, 0.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("a", "b")


@given(seed=st.integers(0, 10_000), base_s=st.sampled_from([0.0, 0.5, 1.0]), load=st.sampled_from([0.3, 0.6]))
@settings(max_examples=60)
def test_what_symphony_sends_is_in_time_and_its_batches_are_no_smaller_than_without_waiting(
    seed: int, base_s: float, load: float
) -> None:
    rng = random.Random(seed)
    at_s, requests = 0.0, []
    for number in range(40):
        at_s += rng.expovariate(load)
        requests.append(due(str(number), 8.0, arrived_s=at_s))
    deferred, greedy = SymphonyDeferred(max_batch=8), LazyDrop(max_batch=8)
    runs = [served(taught(policy, base_s, 1.0 - base_s / 2), requests, base_s, 1.0 - base_s / 2)
            for policy in (deferred, greedy)]  # fmt: skip
    for run in runs:
        assert all(
            end_s <= requests[int(name)].arrived_s + 8.0 + 1e-6 for _, end_s, ids in run for name in ids
        )
    (waited, eager) = ([len(ids) for _, _, ids in run] for run in runs)
    assert sum(waited) / len(waited) >= sum(eager) / len(eager) - 1e-9 or sum(waited) < sum(eager)


# --- what is optimal ---------------------------------------------------------------------------------------


def served(
    policy: BatchingPolicy, requests: list[Request], base_s: float, per_item_s: float
) -> list[tuple[float, float, tuple[str, ...]]]:
    """Start, end and requests of each batch on one replica that takes `base_s + per_item_s · size`."""
    coming, waiting, now_s, runs = deque(requests), FakeQueue(), 0.0, []
    while coming or len(waiting):
        while coming and coming[0].arrived_s <= now_s:
            item = coming.popleft()
            waiting.push(item, item.arrived_s)
        if not len(waiting):
            now_s = coming[0].arrived_s
            continue
        answer = policy.next_batch(waiting, IDLE, now_s)
        if isinstance(answer, Drop):
            waiting.take(len(answer.ids), answer.ids)
        elif isinstance(answer, Wait):
            assert answer.until_s is not None
            now_s = min([answer.until_s, *(item.arrived_s for item in itertools.islice(coming, 1))])
        else:
            batch = waiting.take(answer.size, answer.ids)
            service_s = base_s + per_item_s * len(batch)
            runs.append((now_s, now_s + service_s, tuple(item.id for item in batch)))
            now_s += service_s
            policy.on_batch_completed(
                BatchCompletion(
                    replica="replica/0", requests=tuple(batch), service_s=service_s, elapsed_s=service_s
                ),
                now_s,
            )
    return runs


def can_be_met(requests: list[Request]) -> bool:
    """Some order of these, each taking 1 s, meets all deadlines: tried, one after the other."""
    for order in itertools.permutations(requests):
        end_s = 0.0
        for item in order:
            end_s = max(end_s, item.arrived_s) + 1.0
            if end_s > item.arrived_s + (item.deadline_s or 0.0):
                break
        else:
            return True
    return False


UNIT_JOBS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6)
"""Whole seconds of arrival, and from there to the deadline."""


def unit_jobs(jobs: list[tuple[int, int]]) -> list[Request]:
    return [
        due(str(number), float(deadline_s), arrived_s=float(at_s))
        for number, (at_s, deadline_s) in enumerate(sorted(jobs))
    ]


@given(jobs=UNIT_JOBS)
@settings(max_examples=200)
def test_earliest_deadline_first_misses_none_where_any_order_misses_none(jobs: list[tuple[int, int]]) -> None:
    requests = unit_jobs(jobs)
    order, coming, now_s, missed = reset(EarliestDeadline()), deque(requests), 0.0, 0
    while coming or len(order):
        if not len(order):
            now_s = max(now_s, coming[0].arrived_s)
        while coming and coming[0].arrived_s <= now_s:
            order.push(coming.popleft(), now_s)
        item = order.pop(now_s)
        now_s += 1.0
        missed += now_s > item.arrived_s + (item.deadline_s or 0.0)
    assert (missed == 0) == can_be_met(requests)


@given(jobs=UNIT_JOBS)
@settings(max_examples=200)
def test_clockwork_with_batches_of_one_drops_none_where_any_order_misses_none(
    jobs: list[tuple[int, int]],
) -> None:
    requests = unit_jobs(jobs)
    runs = served(taught(ClockworkDeadline(max_batch=1), 1.0, 0.0), requests, 1.0, 0.0)
    deadlines = {item.id: item.arrived_s + (item.deadline_s or 0.0) for item in requests}
    assert all(end_s <= deadlines[name] for _, end_s, ids in runs for name in ids)
    assert (len(runs) == len(requests)) == can_be_met(requests)


@pytest.mark.parametrize(
    ("policy", "parameters", "path"),
    [
        ("nexus-early-drop", {"max_batch": 0}, r"\$\.batching\.max_batch"),
        ("clockwork-deadline", {"measurements": 0}, r"\$\.batching\.measurements"),
        ("symphony-deferred", {"memory_s": 0.0}, r"\$\.batching\.memory_s"),
        ("symphony-deferred", {"margin_s": -0.1}, r"\$\.batching\.margin_s"),
    ],
)
def test_bad_parameters_are_named(policy: str, parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        build(BatchingPolicy, {"policy": policy, **parameters}, "$.batching")
