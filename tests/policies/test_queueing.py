"""What goes first, in each queueing policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import EarliestDeadline, Fifo, Priority, QueueingPolicy, ShortestPrompt
from tests.policies.makers import request, reset
from traces.schema import Request

PRIORITIES = st.lists(st.none() | st.integers(-3, 3), max_size=40)


def popped(policy: QueueingPolicy, requests: list[Request], removed: tuple[str, ...] = ()) -> list[str]:
    reset(policy)
    for item in requests:
        policy.push(item, 0.0)
    for name in removed:
        assert policy.remove(name)
    return [policy.pop(0.0).id for _ in range(len(policy))]


def test_fifo_keeps_the_order_of_arrival_past_removals() -> None:
    assert popped(Fifo(), [request(name) for name in "abcde"], removed=("b", "d")) == ["a", "c", "e"]


@given(PRIORITIES)
def test_priority_pops_the_most_urgent_first_and_keeps_order_within(priorities: list[int | None]) -> None:
    requests = [request(str(number), priority=priority) for number, priority in enumerate(priorities)]
    expected = sorted(requests, key=lambda item: -(item.priority or 0))  # stable, so in order within
    assert popped(Priority(), requests) == [item.id for item in expected]


def test_shortest_prompt_falls_back_on_work_and_puts_the_unknown_last() -> None:
    requests = [
        request("unknown"),
        request("long", prompt_tokens=900),
        request("work", work=30.0),
        request("short", prompt_tokens=10),
    ]
    assert popped(ShortestPrompt(), requests) == ["short", "work", "long", "unknown"]


def test_earliest_deadline_counts_from_arrival() -> None:
    requests = [
        request("none", arrived_s=0.0),
        request("late", arrived_s=0.0, deadline_s=9.0),
        request("soon", arrived_s=5.0, deadline_s=1.0),
    ]
    assert popped(EarliestDeadline(), requests) == ["soon", "late", "none"]


@pytest.mark.parametrize("cls", [Fifo, Priority, ShortestPrompt, EarliestDeadline])
class TestEveryQueue:
    def test_what_is_not_there_cannot_be_removed(self, cls: type[QueueingPolicy]) -> None:
        policy = reset(cls())
        policy.push(request("a"), 0.0)
        assert [policy.remove("a"), policy.remove("a"), len(policy)] == [True, False, 0]

    def test_a_request_that_comes_back_takes_a_new_place(self, cls: type[QueueingPolicy]) -> None:
        policy = reset(cls())
        for name in ("a", "b"):
            policy.push(request(name), 0.0)
        policy.remove("a")
        policy.push(request("a"), 1.0)
        assert [policy.pop(1.0).id, policy.pop(1.0).id, len(policy)] == ["b", "a", 0]


def test_removed_requests_do_not_pile_up() -> None:
    policy = reset(Priority())
    policy.push(request("stays"), 0.0)
    for number in range(10_000):
        policy.push(request(str(number)), 0.0)
        policy.remove(str(number))
        assert len(policy.heap) <= 2 * len(policy) + 66
    assert policy.pop(0.0).id == "stays"
