"""NVIDIA Triton's dynamic batcher, rule by rule, and Ray Serve's batches."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import BatchingPolicy, Dispatch, Drop, PolicyError, Wait, build
from policies._conformance.inputs import FakeQueue
from policies.batching.ray_serve_batch import RayServeBatch
from policies.batching.triton_dynamic import TritonDynamic
from policies.testing import parametrize_with_checks
from tests.policies.makers import replicas, request
from traces import Trace
from traces.schema import Request, TraceEntry

IDLE = replicas(0)


class TimedQueue(FakeQueue):
    """It says of each request when it was queued."""

    def queued_s(self, request_id: str) -> float:
        return next(at_s for at_s, item in self.waiting if item.id == request_id)


def queue(*queued_s: float, **fields: Any) -> TimedQueue:
    """Requests "0", "1", ... queued at these times."""
    waiting = TimedQueue()
    for number, at_s in enumerate(queued_s):
        waiting.push(request(str(number), arrived_s=at_s, **fields), at_s)
    return waiting


def queue_of(*items: tuple[float, Request]) -> TimedQueue:
    waiting = TimedQueue()
    for at_s, item in items:
        waiting.push(item, at_s)
    return waiting


@parametrize_with_checks(
    [
        TritonDynamic,
        lambda: TritonDynamic(max_batch=32, preferred_batch_size=(4, 8, 32), max_queue_delay_s=0.5),
        lambda: TritonDynamic(
            max_batch=3, max_queue_delay_s=0.01, priority_levels=4, default_priority_level=2,
            timeout_action="delay", default_timeout_s=0.05, allow_timeout_override=True,
        ),
        lambda: TritonDynamic(max_batch=8, default_timeout_s=0.2, max_queue_size=20, max_queue_delay_s=0.1),
        RayServeBatch,
        lambda: RayServeBatch(max_batch=2, batch_wait_timeout_s=0.0),
        lambda: RayServeBatch(max_batch=1000, batch_wait_timeout_s=5.0),
        lambda: RayServeBatch(max_ongoing_requests=5),
    ]
)  # fmt: skip
def test_conformance(check: Any) -> None:
    check()


# --- Triton: sizes and the delay ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "answer"),
    [
        (1, Dispatch(1)),
        (3, Dispatch(3)),
        (4, Dispatch(4)),
        (7, Dispatch(4)),
        (8, Dispatch(8)),
        (20, Dispatch(8)),
    ],
)
def test_triton_runs_the_largest_preferred_size_and_without_one_what_there_is(
    waiting: int, answer: Dispatch
) -> None:
    policy = TritonDynamic(max_batch=16, preferred_batch_size=(4, 8))
    assert policy.next_batch(queue(*[0.0] * waiting), IDLE, 0.0) == answer


@pytest.mark.parametrize(
    ("waiting", "now_s", "answer"),
    [
        (3, 0.0, Wait(0.25)),
        (3, 0.125, Wait(0.25)),
        (3, 0.25, Dispatch(3)),
        (5, 0.0, Dispatch(4)),
        # The delay has passed: all of them run, although 4 is a preferred size.
        (5, 0.25, Dispatch(5)),
        (40, 0.25, Dispatch(16)),
    ],
)
def test_triton_waits_for_a_preferred_size_until_the_delay_has_passed(
    waiting: int, now_s: float, answer: object
) -> None:
    policy = TritonDynamic(max_batch=16, preferred_batch_size=(4, 8), max_queue_delay_s=0.25)
    assert policy.next_batch(queue(*[0.0] * waiting), IDLE, now_s) == answer


@given(waiting=st.integers(1, 40), max_batch=st.integers(1, 20))
def test_triton_by_default_does_as_its_documentation_says_as_large_as_possible_at_once(
    waiting: int, max_batch: int
) -> None:
    answer = TritonDynamic(max_batch=max_batch).next_batch(queue(*[0.0] * waiting), IDLE, 0.0)
    assert answer == Dispatch(min(waiting, max_batch))


@given(
    waiting=st.integers(1, 30),
    preferred=st.sets(st.integers(1, 16), max_size=4),
    delay_s=st.sampled_from([0.0, 0.25]),
    age_s=st.sampled_from([0.0, 0.125, 0.25, 1.0]),
    levels=st.sampled_from([0, 1]),
)
def test_triton_with_one_level_chooses_as_it_does_without_any(
    waiting: int, preferred: set[int], delay_s: float, age_s: float, levels: int
) -> None:
    plain = TritonDynamic(
        max_batch=16, preferred_batch_size=tuple(sorted(preferred)), max_queue_delay_s=delay_s
    )
    by_name = TritonDynamic(
        max_batch=16, preferred_batch_size=tuple(sorted(preferred)), max_queue_delay_s=delay_s,
        priority_levels=levels, default_priority_level=levels, max_queue_size=1000,
    )  # fmt: skip
    one, other = (policy.next_batch(queue(*[0.0] * waiting), IDLE, age_s) for policy in (plain, by_name))
    if isinstance(one, Dispatch):
        assert isinstance(other, Dispatch)
        assert other.size == one.size
        assert other.ids == tuple(str(number) for number in range(one.size))
    else:
        assert other == one


# --- Triton: levels and queue policies ---------------------------------------------------------------------


def levels(*priorities: int | None, **parameters: Any) -> object:
    """The answer to requests "0", "1", ... of these priorities."""
    policy = TritonDynamic(max_batch=3, priority_levels=3, default_priority_level=2, **parameters)
    waiting = queue_of(*((0.0, request(str(n), priority=priority)) for n, priority in enumerate(priorities)))
    return policy.next_batch(waiting, IDLE, 0.0)


def test_triton_serves_level_1_first_and_each_level_in_the_order_of_arrival() -> None:
    answer = levels(None, -1, 1, 0, 1)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("2", "4", "0")


def test_priorities_beyond_the_levels_are_those_of_the_outermost_level() -> None:
    answer = levels(-9, -1, 9, 1)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("2", "3", "0")


def test_triton_waits_for_the_oldest_of_those_that_would_run_not_of_all() -> None:
    policy = TritonDynamic(max_batch=2, priority_levels=2, default_priority_level=2, max_queue_delay_s=1.0,
                           preferred_batch_size=())  # fmt: skip
    waiting = queue_of((0.0, request("old")), (5.0, request("urgent", priority=1)))
    answer = policy.next_batch(waiting, IDLE, 5.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("urgent", "old")
    bigger = TritonDynamic(max_batch=3, priority_levels=2, default_priority_level=2, max_queue_delay_s=1.0)
    waiting = queue_of((5.0, request("a", priority=1)), (5.5, request("b", priority=1)))
    assert bigger.next_batch(waiting, IDLE, 5.5) == Wait(6.0)


def test_triton_rejects_what_waited_for_too_long() -> None:
    policy = TritonDynamic(max_batch=4, default_timeout_s=1.0)
    waiting = queue(0.0, 0.5, 2.0)
    answer = policy.next_batch(waiting, IDLE, 2.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("0", "1")
    waiting.take(2, answer.ids)
    assert policy.next_batch(waiting, IDLE, 2.0) == Dispatch(1, ids=("2",))


def test_triton_delays_what_waited_for_too_long_behind_the_others_of_its_level() -> None:
    policy = TritonDynamic(
        max_batch=9,
        default_timeout_s=1.0,
        timeout_action="delay",
        priority_levels=2,
        default_priority_level=1,
    )
    waiting = queue_of(
        (0.0, request("late")),
        (0.0, request("low", priority=-1)),
        (5.0, request("new")),
        (0.5, request("later")),
    )
    answer = policy.next_batch(waiting, IDLE, 5.0)
    assert isinstance(answer, Dispatch)
    assert answer.ids == ("new", "late", "later", "low")


def test_triton_wakes_up_for_the_next_time_out() -> None:
    policy = TritonDynamic(max_batch=4, max_queue_delay_s=2.0, default_timeout_s=0.5)
    assert policy.next_batch(queue(0.0, 0.25), IDLE, 0.25) == Wait(0.5)


@pytest.mark.parametrize(("override", "dropped"), [(False, False), (True, True)])
def test_a_deadline_shortens_the_time_out_only_where_that_is_allowed(override: bool, dropped: bool) -> None:
    policy = TritonDynamic(default_timeout_s=10.0, allow_timeout_override=override)
    waiting = queue_of((0.0, request("r", deadline_s=1.0)))
    assert isinstance(policy.next_batch(waiting, IDLE, 2.0), Drop) is dropped


def test_a_deadline_makes_no_time_out_where_there_is_none() -> None:
    policy = TritonDynamic(allow_timeout_override=True, max_queue_size=5)
    answer = policy.next_batch(queue_of((0.0, request("r", deadline_s=1.0))), IDLE, 2.0)
    assert answer == Dispatch(1, ids=("r",))


def test_triton_drops_the_newest_of_a_level_that_is_full() -> None:
    policy = TritonDynamic(max_batch=2, max_queue_size=2, priority_levels=2, default_priority_level=2)
    waiting = queue_of(
        (0.0, request("a")), (0.0, request("b")), (0.0, request("urgent", priority=1)), (0.0, request("c"))
    )
    answer = policy.next_batch(waiting, IDLE, 0.0)
    assert isinstance(answer, Drop)
    assert answer.ids == ("c",)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"max_batch": 8, "preferred_batch_size": (4, 9)}, r"\$\.batching\.preferred_batch_size\[1\]"),
        ({"default_priority_level": 1}, r"\$\.batching\.default_priority_level"),
        ({"priority_levels": 3, "default_priority_level": 4}, r"\$\.batching\.default_priority_level"),
        ({"priority_levels": 3}, r"\$\.batching\.default_priority_level"),
        ({"timeout_action": "wait"}, r"\$\.batching\.timeout_action"),
        ({"max_queue_delay_s": -1.0}, r"\$\.batching\.max_queue_delay_s"),
    ],
)
def test_bad_parameters_of_triton_are_named(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        build(BatchingPolicy, {"policy": "triton-dynamic", **parameters}, "$.batching")


# --- Ray Serve ---------------------------------------------------------------------------------------------


def run_of(size: int) -> Dispatch:
    return Dispatch(size, ids=tuple(str(number) for number in range(size)))


def test_ray_runs_a_full_batch_at_once() -> None:
    assert RayServeBatch().next_batch(queue(*[0.0] * 12), IDLE, 0.0) == run_of(10)


def test_ray_waits_from_the_first_request_of_the_batch() -> None:
    policy = RayServeBatch(batch_wait_timeout_s=0.25)
    assert policy.next_batch(queue(1.0), IDLE, 1.0) == Wait(1.25)
    assert policy.next_batch(queue(1.0, 1.125), IDLE, 1.125) == Wait(1.25)
    assert policy.next_batch(queue(1.0, 1.125), IDLE, 1.25) == run_of(2)


def test_a_batch_of_ray_that_has_closed_grows_no_more_though_it_waits() -> None:
    policy = RayServeBatch(batch_wait_timeout_s=0.25)
    assert policy.next_batch(queue(1.0, 1.125, 1.5, 1.625), IDLE, 9.0) == run_of(2)


def test_ray_waits_for_a_batch_that_can_never_be_full_and_runs_what_a_replica_may_have() -> None:
    policy = RayServeBatch(batch_wait_timeout_s=0.25, max_ongoing_requests=5)
    assert policy.next_batch(queue(*[1.0] * 12), IDLE, 1.0) == Wait(1.25)
    assert policy.next_batch(queue(*[1.0] * 12), IDLE, 1.25) == run_of(5)
    full = RayServeBatch(max_batch=5, batch_wait_timeout_s=0.25, max_ongoing_requests=5)
    assert full.next_batch(queue(*[1.0] * 12), IDLE, 1.0) == run_of(5)


def test_ray_with_no_time_out_never_waits() -> None:
    assert RayServeBatch(batch_wait_timeout_s=0.0).next_batch(queue(3.0), IDLE, 3.0) == run_of(1)


def test_it_gathers_the_batches_that_ray_gathers() -> None:
    # Recorded with `_BatchQueue` of Ray 2.60: batches of 4 at most, time-out 5, one at a time, each takes 7.
    arrivals_s = [
        1.5, 10.5, 19.5, 20.5, 22.5, 31.5, 34.5, 43.5, 43.5, 52.5, 52.5, 55.5, 56.5, 66.5, 67.5, 68.5, 70.5, 80.5,
        89.5, 92.5, 95.5, 96.5, 97.5, 98.5,
    ]  # fmt: skip
    recorded = [
        (7, [0]), (16, [1]), (25, [2, 3, 4]), (37, [5, 6]), (49, [7, 8]), (57, [9, 10, 11, 12]),
        (71, [13, 14, 15, 16]), (86, [17]), (95, [18, 19]), (102, [20, 21, 22, 23]),
    ]  # fmt: skip
    trace = Trace.from_entries(
        [TraceEntry(request=Request(id=f"{n:02}", arrived_s=at_s)) for n, at_s in enumerate(arrivals_s)]
    )
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=7.0, per_item_s=0.0)), max_inflight_batches=1,
        batching=RayServeBatch(max_batch=4, batch_wait_timeout_s=5.0),
    )  # fmt: skip
    batches: dict[float, list[int]] = {}
    for record in simulate(trace, spec, seed=0).records.sort_by("id").to_pylist():
        batches.setdefault(record["ended_s"] - 7.0, []).append(int(record["id"]))
    # They were timed in whole units of a real clock, which is a little late.
    assert [(math.ceil(begun_s - 0.01), names) for begun_s, names in batches.items()] == recorded


def test_bad_parameters_of_ray_are_named() -> None:
    with pytest.raises(PolicyError, match=r"\$\.batching\.max_batch"):
        build(BatchingPolicy, {"policy": "ray-serve-batch", "max_batch": 0}, "$.batching")
