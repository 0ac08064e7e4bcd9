"""When each batching policy runs a batch, and how large."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Dispatch, Greedy, NoBatching, Wait, Window
from policies._conformance.inputs import FakeQueue
from tests.policies.makers import replicas, request

IDLE = replicas(0)


def queue(*queued_s: float) -> FakeQueue:
    waiting = FakeQueue()
    for number, queued in enumerate(queued_s):
        waiting.push(request(str(number)), queued)
    return waiting


def test_no_batching_runs_one_at_a_time() -> None:
    assert NoBatching().next_batch(queue(0.0, 0.0, 0.0), IDLE, 0.0) == Dispatch(1)


@given(waiting=st.integers(1, 50), max_batch=st.integers(1, 50))
def test_greedy_takes_all_that_fits(waiting: int, max_batch: int) -> None:
    answer = Greedy(max_batch=max_batch).next_batch(queue(*[0.0] * waiting), IDLE, 0.0)
    assert answer == Dispatch(min(waiting, max_batch))


@pytest.mark.parametrize(
    ("queued_s", "now_s", "answer"),
    [
        ([5.0], 5.0, Wait(5.25)),
        ([5.0, 5.125], 5.125, Wait(5.25)),
        ([5.0, 5.125], 5.25, Dispatch(2)),
        ([5.0, 5.125], 7.0, Dispatch(2)),
        ([5.0, 5.0, 5.0], 5.0, Dispatch(3)),
        ([5.0] * 7, 5.0, Dispatch(3)),
    ],
)
def test_a_window_closes_when_full_or_when_the_oldest_has_waited(
    queued_s: list[float], now_s: float, answer: object
) -> None:
    assert Window(max_batch=3, window_s=0.25).next_batch(queue(*queued_s), IDLE, now_s) == answer


@given(queued_s=st.floats(0, 1e5), window_s=st.floats(1e-6, 10), asked_s=st.floats(0, 1))
def test_a_window_has_closed_when_the_time_it_named_has_come(
    queued_s: float, window_s: float, asked_s: float
) -> None:
    policy, now_s = Window(window_s=window_s), queued_s + asked_s * window_s
    answer = policy.next_batch(queue(queued_s), IDLE, now_s)
    if isinstance(answer, Wait):
        assert answer.until_s is not None
        slept_s = answer.until_s - now_s  # what a timer is set to; its sum with now may round below `until_s`
        assert policy.next_batch(queue(queued_s), IDLE, now_s + slept_s) == Dispatch(1)


def test_a_window_of_zero_never_waits() -> None:
    assert Window(window_s=0.0).next_batch(queue(3.0), IDLE, 3.0) == Dispatch(1)
