"""Adaptive LIFO, ageing, shortest predicted job, online before batch: who goes first, and who never waits for ever."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Completion, PolicyError, Priority, QueueingPolicy
from policies.building import build
from policies.queueing.adaptive_lifo import AdaptiveLifo
from policies.queueing.online_first import OnlineFirst
from policies.queueing.priority_ageing import PriorityAgeing
from policies.queueing.shortest_job_first import ShortestJobFirst
from policies.testing import parametrize_with_checks
from tests.policies.makers import request, reset


@parametrize_with_checks(
    [
        AdaptiveLifo,
        lambda: AdaptiveLifo(interval_s=0.0, target_s=0.5),
        PriorityAgeing,
        lambda: PriorityAgeing(level_s=0.001),
        lambda: PriorityAgeing(level_s=1e6),
        ShortestJobFirst,
        lambda: ShortestJobFirst(job="service_s", prior=0.0),
        OnlineFirst,
        lambda: OnlineFirst(batch_share=0.5, max_batch_wait_s=0.01),
    ]
)
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "adaptive-lifo", "interval_s": -1.0}, r"\$\.queueing\.interval_s"),
        ({"policy": "adaptive-lifo", "target_s": 0.0}, r"\$\.queueing\.target_s"),
        ({"policy": "priority-ageing", "level_s": -0.1}, r"\$\.queueing\.level_s"),
        ({"policy": "shortest-job-first", "job": "work"}, r"\$\.queueing\.job"),
        ({"policy": "shortest-job-first", "prior": -1.0}, r"\$\.queueing\.prior"),
        ({"policy": "online-first", "batch_share": 0.6}, r"\$\.queueing\.batch_share"),
        ({"policy": "online-first", "max_batch_wait_s": 0.0}, r"\$\.queueing\.max_batch_wait_s"),
    ],
)
def test_what_is_out_of_bounds_is_named(table, path):
    with pytest.raises(PolicyError, match=path):
        build(QueueingPolicy, table, "$.queueing")


def popped(policy: QueueingPolicy, now_s: float, count: int | None = None) -> list[str]:
    return [policy.pop(now_s).id for _ in range(len(policy) if count is None else count)]


def pushed(policy: QueueingPolicy, names: str, now_s: float = 0.0, **fields) -> None:
    for name in names:
        policy.push(request(name, arrived_s=now_s, **fields), now_s)


# --- adaptive LIFO ---------------------------------------------------------------------------------------------


class TestAdaptiveLifo:
    def test_it_is_first_in_first_out_until_it_was_not_empty_for_an_interval(self):
        policy = reset(AdaptiveLifo(interval_s=0.125))
        pushed(policy, "abcdef", now_s=5.0)
        assert popped(policy, 5.0625, 2) == ["a", "b"]
        assert popped(policy, 5.125, 1) == ["c"]  # an interval, and not longer
        assert popped(policy, 5.1875, 3) == ["f", "e", "d"]

    def test_a_moment_in_which_it_is_empty_ends_the_congestion(self):
        policy = reset(AdaptiveLifo(interval_s=0.1))
        pushed(policy, "ab")
        assert popped(policy, 0.5) == ["b", "a"]
        pushed(policy, "cd", now_s=0.5)
        assert popped(policy, 0.55) == ["c", "d"]

    def test_what_is_removed_empties_it_too(self):
        policy = reset(AdaptiveLifo(interval_s=0.1))
        pushed(policy, "a")
        assert policy.remove("a")
        pushed(policy, "bc", now_s=9.0)
        assert popped(policy, 9.05) == ["b", "c"]

    def test_without_a_target_nobody_is_given_up(self):
        policy = reset(AdaptiveLifo())
        pushed(policy, "abc")
        assert list(policy.drops(1e6)) == []

    def test_with_a_target_what_came_during_congestion_is_given_up_after_it_and_what_came_before_after_an_interval(
        self,
    ):
        policy = reset(AdaptiveLifo(interval_s=0.1, target_s=0.005))
        pushed(policy, "a", now_s=0.0)
        pushed(policy, "b", now_s=0.09)  # given up after 0.19
        pushed(policy, "c", now_s=0.12)  # congested: given up after 0.125
        assert list(policy.drops(0.1)) == []
        assert list(policy.drops(0.13)) == ["a", "c"]
        for name in "ac":
            assert policy.remove(name)
        assert list(policy.drops(0.19)) == []
        assert list(policy.drops(0.2)) == ["b"]

    def test_what_left_is_not_given_up_and_does_not_pile_up(self):
        policy = reset(AdaptiveLifo(interval_s=0.0, target_s=1.0))
        pushed(policy, "z")
        for number in range(5_000):
            policy.push(request(str(number)), number * 1e-3)
            policy.pop(number * 1e-3)
            assert len(policy.limits) <= 66 + 2
        assert len(policy.drops(100.0)) == 1

    @given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
    def test_nobody_who_is_taken_after_drops_waited_longer_than_an_interval(self, gaps):
        policy, now_s, queued = reset(AdaptiveLifo(interval_s=0.5, target_s=0.2)), 0.0, {}
        for number, gap_s in enumerate(gaps):
            now_s += gap_s
            queued[str(number)] = now_s
            policy.push(request(str(number)), now_s)
            if number % 3 == 0:
                for name in policy.drops(now_s):
                    assert policy.remove(name)
                if len(policy):
                    assert now_s - queued[policy.pop(now_s).id] <= 0.5 + 1e-9


# --- ageing ----------------------------------------------------------------------------------------------------


class TestPriorityAgeing:
    def test_a_level_is_worth_its_seconds(self):
        policy = reset(PriorityAgeing(level_s=10.0))
        pushed(policy, "a", now_s=0.0, priority=0)
        pushed(policy, "b", now_s=9.0, priority=1)
        pushed(policy, "c", now_s=11.0, priority=1)
        pushed(policy, "d", now_s=29.0, priority=3)
        pushed(policy, "e", now_s=0.0, priority=None)
        assert popped(policy, 30.0) == ["b", "d", "a", "e", "c"]

    @given(
        st.lists(st.tuples(st.none() | st.integers(-3, 3), st.floats(0.0, 5.0)), min_size=1, max_size=40),
        st.floats(0.0, 20.0),
    )
    def test_nobody_is_overtaken_by_those_that_come_later_than_their_levels_are_worth(self, items, level_s):
        """The starvation bound: the wait of each is that of a queue in order, and the worth of the levels above."""
        policy, now_s, asked = reset(PriorityAgeing(level_s=level_s)), 0.0, []
        for number, (priority, gap_s) in enumerate(items):
            now_s += gap_s
            asked.append(request(str(number), arrived_s=now_s, priority=priority))
            policy.push(asked[-1], now_s)
        order = [policy.pop(now_s) for _ in asked]
        for place, late in enumerate(order):
            for early in order[:place]:
                levels = (early.priority or 0) - (late.priority or 0)
                assert early.arrived_s <= late.arrived_s + level_s * levels + 1e-9

    def test_with_levels_worth_nothing_it_is_first_come_first_served_and_with_all_the_world_static(self):
        rng = random.Random(1)
        asked = [request(str(n), arrived_s=n * 0.1, priority=rng.randrange(4)) for n in range(60)]
        orders = {}
        for policy in (PriorityAgeing(level_s=0.0), PriorityAgeing(level_s=1e9), Priority()):
            reset(policy)
            for item in asked:
                policy.push(item, item.arrived_s)
            orders[repr(policy)] = popped(policy, 6.0)
        fifo, static, priority = orders.values()
        assert fifo == [item.id for item in asked]
        assert static == priority


# --- shortest predicted job ------------------------------------------------------------------------------------


def told(policy: ShortestJobFirst, tokens: int | None, failure=None, service_s=None, **fields) -> None:
    ended = Completion(
        request=request(**fields), replica="replica/0", attempt=1, output_tokens=tokens, failure=failure,
        service_s=service_s,
    )  # fmt: skip
    policy.on_completed(ended, 0.0)


class TestShortestJobFirst:
    def test_what_is_most_alike_predicts(self):
        policy = reset(ShortestJobFirst(prior=100.0))
        assert policy.key(request(prompt_tokens=20), 0.0) == 100.0
        told(policy, 40, tenant="a", model="m", prompt_tokens=20)
        told(policy, 60, tenant="a", model="m", prompt_tokens=31)
        told(policy, 10, tenant="b", model="m", prompt_tokens=20)
        told(policy, 500, tenant="b", model="n", prompt_tokens=3000)
        alike = {"tenant": "a", "model": "m", "prompt_tokens": 16}
        assert policy.key(request(**alike), 0.0) == 50.0
        assert policy.key(request(**alike | {"tenant": "c"}), 0.0) == pytest.approx(
            110 / 3
        )  # model and length
        assert policy.key(request(**alike | {"model": "x"}), 0.0) == pytest.approx(110 / 3)  # length
        assert policy.key(request(model="n", prompt_tokens=1), 0.0) == 500.0  # model
        assert policy.key(request(model="x", prompt_tokens=1), 0.0) == pytest.approx(610 / 4)  # all

    def test_the_shortest_goes_first_and_equals_in_order(self):
        policy = reset(ShortestJobFirst())
        told(policy, 400, tenant="long")
        told(policy, 3, tenant="short")
        for name, tenant in (("a", "long"), ("b", "short"), ("c", "long"), ("d", "short")):
            policy.push(request(name, tenant=tenant), 0.0)
        assert popped(policy, 0.0) == ["b", "d", "a", "c"]

    def test_what_failed_teaches_nothing(self):
        policy = reset(ShortestJobFirst(prior=7.0))
        told(policy, 2, failure="engine-error")
        told(policy, None)
        assert policy.key(request(), 0.0) == 7.0

    def test_it_learns_seconds_where_answers_are_whole(self):
        policy = reset(ShortestJobFirst(job="service_s", prior=7.0))
        told(policy, None, service_s=0.25, tenant="a")
        assert policy.key(request(tenant="a"), 0.0) == 0.25


# --- online before batch ---------------------------------------------------------------------------------------


class TestOnlineFirst:
    def test_batch_work_fills_the_gaps(self):
        policy = reset(OnlineFirst())
        pushed(policy, "ab", kind="batch")
        pushed(policy, "cd")
        assert popped(policy, 1e6) == ["c", "d", "a", "b"]

    def test_a_share_of_what_is_taken_is_batch_work(self):
        policy = reset(OnlineFirst(batch_share=0.2))
        for number in range(200):
            policy.push(request(f"o{number}"), 0.0)
            policy.push(request(f"b{number}", kind="batch"), 0.0)
        first = popped(policy, 0.0, 100)
        assert sum(name.startswith("b") for name in first) == pytest.approx(20, abs=1)
        assert [name for name in first if name.startswith("b")] == [f"b{n}" for n in range(20)][: len(first)]

    def test_overdue_batch_work_takes_turns_with_online_work(self):
        policy = reset(OnlineFirst(max_batch_wait_s=10.0))
        pushed(policy, "abc", kind="batch")
        pushed(policy, "xyz")
        assert popped(policy, 9.9, 1) == ["x"]
        assert popped(policy, 10.0) == ["a", "y", "b", "z", "c"]

    @given(
        st.lists(st.tuples(st.sampled_from(["online", "batch", "pop"]), st.floats(0.0, 3.0)), max_size=120),
        st.floats(0.0, 0.5),
        st.none() | st.floats(0.1, 4.0),
    )
    def test_an_online_request_goes_after_at_most_one_batch_request_more_than_online_ones(
        self, events, share, wait_s
    ):
        policy = reset(OnlineFirst(batch_share=share, max_batch_wait_s=wait_s))
        now_s, number, overtaken = 0.0, 0, {}
        for what, gap_s in events:
            now_s += gap_s
            if what == "pop":
                if len(policy):
                    taken = policy.pop(now_s)
                    if taken.kind == "batch":
                        overtaken = {name: (batch + 1, ahead) for name, (batch, ahead) in overtaken.items()}
                    else:
                        batch, ahead = overtaken.pop(taken.id)
                        assert batch <= ahead + 1
            else:
                number += 1
                policy.push(request(str(number), kind=what), now_s)
                if what == "online":
                    overtaken[str(number)] = 0, len(overtaken)

    @given(st.lists(st.booleans(), max_size=60))
    def test_each_kind_keeps_its_order(self, kinds):
        policy = reset(OnlineFirst(batch_share=0.3, max_batch_wait_s=1.0))
        for number, batch in enumerate(kinds):
            policy.push(request(str(number), kind="batch" if batch else "online"), 0.0)
        order = [int(name) for name in popped(policy, 5.0)]
        for kind in (True, False):
            mine = [number for number in order if kinds[number] is kind]
            assert mine == sorted(mine)
