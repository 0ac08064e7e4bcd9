"""How many replicas each scaling policy asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Fixed,
    PolicyError,
    QueueDepth,
    ReplicaView,
    Scale,
    ScalingPolicy,
    TargetKvUtilization,
    TargetUtilization,
    build,
)
from policies.views import TokenSignals
from tests.policies.makers import pool, reset


class TestFixed:
    def test_it_asks_for_its_number(self) -> None:
        assert reset(Fixed(replicas=3)).desired(pool(ready=1), 0.0) == Scale(3)

    def test_without_one_it_keeps_what_there_was(self) -> None:
        policy = reset(Fixed())
        assert policy.desired(pool(ready=2, starting=1), 0.0) == Scale(3)
        assert policy.desired(pool(ready=1), 1.0) == Scale(3)

    def test_before_the_first_report_it_asks_for_the_least(self) -> None:
        policy = reset(Fixed())
        assert policy.desired(pool(ready=0, min_replicas=2), 0.0) == Scale(2)
        assert policy.desired(pool(ready=4), 1.0) == Scale(4)


class TestQueueDepth:
    """One replica up above 10 waiting for each, one down below 3: the reference scenario."""

    def test_it_follows_a_surge_up_and_down(self) -> None:
        policy = reset(QueueDepth(up_at=10, down_at=3, step=1, keep=2))
        steps = [  # ready, starting, waiting -> asked for
            (2, 0, 0, 2),  # idle, and not above the two that it keeps
            (2, 0, 20, 2),  # 10 each is not above 10
            (2, 0, 21, 3),
            (2, 1, 60, 3),  # one is starting: no second
            (3, 0, 31, 4),
            (4, 0, 20, 4),  # between the thresholds
            (4, 0, 12, 4),  # 3 each is not below 3
            (4, 0, 11, 3),
            (3, 0, 0, 2),
            (2, 0, 0, 2),
        ]
        asked = [
            policy.desired(pool(ready, waiting, starting), 0.1 * step).replicas
            for step, (ready, starting, waiting, _) in enumerate(steps)
        ]
        assert asked == [expected for *_, expected in steps]

    def test_a_lost_replica_is_asked_for_again(self) -> None:
        policy = reset(QueueDepth())
        assert policy.desired(pool(3, queue_depth=15), 0.0) == Scale(3)
        assert policy.desired(pool(2, queue_depth=15), 1.0) == Scale(3)

    def test_it_removes_none_while_the_others_are_not_ready(self) -> None:
        policy = reset(QueueDepth(keep=2))
        assert policy.desired(pool(2, starting=1), 0.0) == Scale(3)

    def test_it_stays_within_the_pool(self) -> None:
        policy = reset(QueueDepth(step=5))
        assert policy.desired(pool(2, queue_depth=1000, max_replicas=4), 0.0) == Scale(4)
        assert policy.desired(pool(4, queue_depth=0, min_replicas=3), 1.0) == Scale(3)

    def test_with_no_replica_ready_it_counts_as_one(self) -> None:
        policy = reset(QueueDepth())
        assert policy.desired(pool(0, queue_depth=11, min_replicas=0), 0.0) == Scale(1)

    def test_cooldowns_count_from_the_last_change(self) -> None:
        policy = reset(QueueDepth(up_cooldown_s=1.0, down_cooldown_s=3.0))
        asked = [
            policy.desired(pool(2, 99), 0.0),
            policy.desired(pool(3, 99), 0.9),
            policy.desired(pool(3, 99), 1.0),
            policy.desired(pool(4, 0), 3.9),
            policy.desired(pool(4, 0), 4.0),
        ]
        assert [answer.replicas for answer in asked] == [3, 3, 4, 4, 3]

    def test_thresholds_the_wrong_way_round_are_refused(self) -> None:
        table = {"policy": "queue-depth", "up_at": 2, "down_at": 3}
        with pytest.raises(PolicyError, match=r"^\$\.scaling: down_at \(3\) must not be above up_at \(2\)$"):
            build(ScalingPolicy, table, "$.scaling")

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 200)), max_size=30),
        st.integers(1, 4),
    )
    def test_it_is_always_within_the_pool(self, views: list[tuple[int, int, int]], step: int) -> None:
        policy = reset(QueueDepth(step=step))
        for number, (ready, starting, waiting) in enumerate(views):
            view = pool(ready, waiting, starting, min_replicas=1, max_replicas=6)
            assert 1 <= policy.desired(view, float(number)).replicas <= 6


class TestTargetUtilization:
    """The worked examples and rules of the Kubernetes documentation."""

    NOW = TargetUtilization(target=0.5, down_stabilization_s=0.0)

    @pytest.mark.parametrize(
        ("ready", "busy", "asked"),
        [
            (2, 1.0, 4),  # twice the target: twice the replicas
            (4, 0.25, 2),  # half the target: half of them
            (4, 0.54, 4),  # within the tolerance of 0.1
            (4, 0.46, 4),
            (4, 0.56, 5),
            (3, 0.0, 1),  # the pool's least
            (8, 1.0, 8),  # the pool's most
        ],
    )
    def test_replicas_are_in_proportion_to_utilisation(self, ready: int, busy: float, asked: int) -> None:
        assert reset(self.NOW.fresh()).desired(pool(ready, busy_fraction=busy), 0.0) == Scale(asked)

    def test_a_rounding_error_is_no_replica(self) -> None:
        policy = reset(TargetUtilization(target=0.6))
        assert policy.desired(pool(3, busy_fraction=0.8), 0.0) == Scale(4)  # 3 · 0.8 / 0.6 > 4 in floats

    def test_the_gpu_counter_goes_before_the_busy_fraction(self) -> None:
        policy = reset(self.NOW.fresh())
        assert policy.desired(pool(2, gpu_utilization=1.0, busy_fraction=0.5), 0.0) == Scale(4)

    @pytest.mark.parametrize(("ready", "busy"), [(3, None), (0, 1.0)])
    def test_without_a_signal_nothing_changes(self, ready: int, busy: float | None) -> None:
        view = pool(ready, starting=3 - ready, busy_fraction=busy)
        assert reset(self.NOW.fresh()).desired(view, 0.0) == Scale(3)

    def test_on_the_way_down_the_largest_of_the_window_counts(self) -> None:
        policy = reset(TargetUtilization(target=0.5, down_stabilization_s=10.0))
        busy = [(0.0, 0.5), (4.0, 0.25), (9.0, 0.125), (10.0, 0.125), (14.0, 0.125), (14.5, 0.125)]
        asked = [policy.desired(pool(8, busy_fraction=value), now_s).replicas for now_s, value in busy]
        assert asked == [8, 8, 8, 8, 4, 2]

    def test_on_the_way_up_the_smallest_of_the_window_counts(self) -> None:
        policy = reset(TargetUtilization(target=0.5, up_stabilization_s=10.0))
        busy = [(0.0, 0.5), (4.0, 1.0), (9.0, 1.0), (10.5, 1.0)]
        asked = [policy.desired(pool(2, busy_fraction=value), now_s).replicas for now_s, value in busy]
        assert asked == [2, 2, 2, 4]


def test_scaling_to_the_cache_counts_what_waits_for_it() -> None:
    """Two replicas, one full with as much again waiting, one half full: 2.5 caches are wanted, 4 replicas at 0.7."""
    full = TokenSignals(
        waiting=3, running=5, waiting_tokens=1600, used_blocks=100, total_blocks=100, block_tokens=16
    )
    half = TokenSignals(running=2, used_blocks=50, total_blocks=100, block_tokens=16)
    views = tuple(ReplicaView(id=f"replica/{n}", tokens=signals) for n, signals in enumerate((full, half)))

    policy = reset(TargetKvUtilization(target=0.7))

    assert policy.desired(pool(2, busy_fraction=1.0, replicas=views), 0.0).replicas == 4


def test_scaling_to_the_cache_waits_for_the_first_report() -> None:
    assert reset(TargetKvUtilization()).desired(pool(2, busy_fraction=1.0), 0.0).replicas == 2
