"""The Horizontal Pod Autoscaler and KEDA: worked examples of their documents, and cases of their unit tests."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, PoolView, ReplicaView, Scale, ScalingPolicy, build
from policies.scaling.behaviour import RateLimit, Stabilizer
from policies.scaling.horizontal_pod_autoscaler import HorizontalPodAutoscaler
from policies.scaling.keda_queue_length import KedaQueueLength
from policies.testing import parametrize_with_checks
from tests.policies.makers import pool, reset


@parametrize_with_checks(
    [
        HorizontalPodAutoscaler,
        lambda: HorizontalPodAutoscaler(
            metrics={"gpu_utilization": 0.2, "in_flight": 1.5, "queue_depth": 0.5, "kv_utilization": 0.9},
            tolerance=0.0, sync_period_s=0.0, up_stabilization_s=3.0, down_stabilization_s=0.0,
            up_limits=(("pods", 1, 1.0),), up_select="min", down_limits=(("percent", 10, 60.0),),
        ),
        lambda: HorizontalPodAutoscaler(metrics={"arrivals_per_s": 3.0}, down_select="disabled"),
        KedaQueueLength,
        lambda: KedaQueueLength(
            metric="gpu_utilization", threshold=0.1, activation_threshold=0.5, polling_interval_s=0.0,
            cooldown_period_s=0.0, hpa_sync_period_s=0.0, tolerance=0.0, down_stabilization_s=0.0,
            fallback_replicas=6, fallback_failure_threshold=1,
        ),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


def at_once(target: float, **fields: Any) -> HorizontalPodAutoscaler:
    """Without windows and limits."""
    free = {"sync_period_s": 0.0, "down_stabilization_s": 0.0, "up_limits": (("percent", 100_000, 15.0),)}
    return reset(HorizontalPodAutoscaler(**({"metrics": {"gpu_utilization": target}} | free | fields)))


class TestAlgorithm:
    """Algorithm details."""

    @pytest.mark.parametrize(
        ("ready", "utilization", "target", "asked"),
        [
            (2, 0.2, 0.1, 4),  # 200 m against 100 m: twice as many
            (4, 0.05, 0.1, 2),  # 50 m: half
            (4, 0.109, 0.1, 4),  # within the tolerance of 0.1
            (4, 0.091, 0.1, 4),
            (3, 0.5, 0.3, 5),  # replica_calculator_test.go, TestReplicaCalcScaleUp
            (5, 0.28, 0.5, 3),  # TestReplicaCalcScaleDown
        ],
    )
    def test_replicas_are_in_proportion(
        self, ready: int, utilization: float, target: float, asked: int
    ) -> None:
        view = pool(ready, gpu_utilization=utilization, interval_s=1.0, min_replicas=1, max_replicas=100)
        assert at_once(target).desired(view, 0.0) == Scale(asked)

    @pytest.mark.parametrize(
        ("ready", "starting", "utilization", "target", "asked"),
        [
            (2, 1, 0.6, 0.3, 4),  # ScaleUpUnreadyLessScale: 50 % and 70 % of two, the third counts as 0
            (1, 2, 0.4, 0.4, 3),  # ScaleUpUnreadyNoScale
            (2, 2, 0.2, 0.5, 1),  # on the way down those that are not ready are left out: ceil(2 · 0.2 / 0.5)
        ],
    )
    def test_replicas_that_are_not_ready_damp_the_way_up(
        self, ready: int, starting: int, utilization: float, target: float, asked: int
    ) -> None:
        view = pool(ready, starting=starting, gpu_utilization=utilization, interval_s=1.0)
        assert at_once(target).desired(view, 0.0) == Scale(asked)

    @pytest.mark.parametrize(
        ("utilization", "asked"),
        [
            (1.0, 2),  # MissingMetricsNoChangeEq: 100 % of one, against 100 %
            (1.9, 2),  # MissingMetricsNoChangeGt: the other one counts as 0, which turns 1.9 into 0.95
            (0.6, 2),  # MissingMetricsNoChangeLt: the other one counts as 100 %
        ],
    )
    def test_missing_metrics_change_nothing_where_they_might_say_otherwise(
        self, utilization: float, asked: int
    ) -> None:
        views = (ReplicaView(id="a", gpu_utilization=utilization), ReplicaView(id="b"))
        view = pool(2, gpu_utilization=utilization, replicas=views, interval_s=1.0)
        assert at_once(1.0).desired(view, 0.0) == Scale(asked)

    def test_what_turns_the_direction_round_changes_nothing(self) -> None:
        """2 · 1.2 of 4, where two are not ready, is below the target, though those that are ready are above."""
        assert at_once(0.5)._of_replicas(1.2, 1, pool(2, starting=2), silent=0) == 1

    def test_a_missing_metric_counts_as_the_target_on_the_way_down(self) -> None:
        views = (*(ReplicaView(id=f"{n}", gpu_utilization=0.1) for n in range(4)), ReplicaView(id="b"))
        view = pool(5, gpu_utilization=0.1, replicas=views, interval_s=1.0)
        assert at_once(0.5).desired(view, 0.0) == Scale(2)  # (4 · 0.2 + 1) / 5 of 5

    def test_of_several_metrics_the_largest_counts(self) -> None:
        policy = at_once(0.5, metrics={"gpu_utilization": 0.5, "queue_depth": 10.0, "in_flight": 20.0})
        view = pool(2, gpu_utilization=0.5, queue_depth_mean=51.0, in_flight_mean=70.0, interval_s=1.0)
        assert policy.desired(view, 0.0) == Scale(6)

    def test_a_metric_that_is_not_known_keeps_it_from_going_down_but_not_up(self) -> None:
        policy = at_once(0.5, metrics={"gpu_utilization": 0.5, "queue_depth": 10.0})
        assert policy.desired(pool(4, queue_depth_mean=10.0, interval_s=1.0), 0.0) == Scale(4)
        assert policy.desired(pool(4, queue_depth_mean=60.0, interval_s=1.0), 1.0) == Scale(6)

    def test_without_replicas_it_begins_when_somebody_waits(self) -> None:
        policy = at_once(0.5)
        empty = {"min_replicas": 0, "interval_s": 1.0}
        assert policy.desired(pool(0, **empty), 0.0) == Scale(0)
        assert policy.desired(pool(0, queue_depth=9, in_flight=9, **empty), 1.0) == Scale(1)

    def test_it_decides_every_sync_period_by_the_mean_of_it(self) -> None:
        policy = at_once(0.5, sync_period_s=3.0)
        busy = [0.5, 1.0, 1.0, 1.0, 0.0]
        asked = [
            policy.desired(pool(2, gpu_utilization=value, interval_s=float(now_s > 0), max_replicas=9), now_s)
            for now_s, value in enumerate(busy)
        ]
        assert [scale.replicas for scale in asked] == [2, 2, 2, 4, 4]


class TestBehaviour:
    """Configurable scaling behavior."""

    def test_80_replicas_go_down_by_a_tenth_and_from_40_on_by_four(self) -> None:
        """The example of the documentation: policies of 4 pods and of 10 per cent, each within a minute."""
        limit = RateLimit((("pods", 4, 60.0), ("percent", 10, 60.0)), "max")
        counts, now_s = [80], 0.0
        while counts[-1] > 10:
            counts.append(max(10, limit.lowest(counts[-1], now_s)))
            limit.changed(counts[-2] - counts[-1], now_s)
            now_s += 60.0
        assert counts[:3] == [80, 72, 64]
        assert [before - after for before, after in itertools.pairwise(counts) if before <= 40][:-1] == [
            4
        ] * 7

    def test_the_default_adds_four_or_doubles_every_15_s(self) -> None:
        policy = reset(HorizontalPodAutoscaler(metrics={"queue_depth": 1.0}))
        view = {"queue_depth_mean": 1e3, "max_replicas": 100, "interval_s": 15.0}
        asked, ready = [], 1
        for step in range(6):
            ready = policy.desired(pool(ready, **view), 15.0 * step).replicas
            asked.append(ready)
        assert asked == [5, 10, 20, 40, 80, 100]

    def test_900_per_cent_is_tenfold(self) -> None:
        """KEP-853, "scale up as fast as possible": 1 -> 10 -> 100 -> 1000."""
        limit, counts = RateLimit((("percent", 900, 60.0),), "max"), [1]
        for minute in range(3):
            counts.append(limit.highest(counts[-1], 60.0 * minute))
            limit.changed(counts[-1] - counts[-2], 60.0 * minute)
        assert counts == [1, 10, 100, 1000]

    @pytest.mark.parametrize(("select", "most"), [("max", 20), ("min", 14), ("disabled", 10)])
    def test_select_policy(self, select: str, most: int) -> None:
        assert RateLimit((("percent", 100, 15.0), ("pods", 4, 15.0)), select).highest(10, 0.0) == most

    def test_per_cent_are_rounded_in_favour_of_the_change(self) -> None:
        limit = RateLimit((("percent", 10, 60.0),), "max")
        assert (limit.highest(3, 0.0), limit.lowest(3, 0.0)) == (4, 2)

    def test_what_was_added_in_the_period_counts(self) -> None:
        limit = RateLimit((("pods", 4, 60.0),), "max")
        limit.changed(3, 0.0)
        assert limit.highest(13, 30.0) == 14
        assert limit.highest(13, 60.0) == 17

    def test_down_goes_the_largest_of_five_minutes(self) -> None:
        policy = reset(HorizontalPodAutoscaler(metrics={"queue_depth": 1.0}))
        depths = {0: 8.0, 15: 2.0, 285: 4.0, 300: 2.0, 585: 2.0}
        asked = {
            at_s: policy.desired(pool(8, queue_depth_mean=depth, interval_s=15.0, max_replicas=9), at_s).replicas
            for at_s, depth in depths.items()
        }  # fmt: skip
        assert asked == {0: 8, 15: 8, 285: 8, 300: 4, 585: 2}

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.floats(0.0, 20.0), st.floats(0.0, 20.0))
    def test_the_windows_hold_the_extremes(self, wanted: list[int], up_s: float, down_s: float) -> None:
        stabilizer, current = Stabilizer(up_s, down_s), 10
        for now_s, value in enumerate(wanted):
            up = [w for at_s, w in enumerate(wanted[: now_s + 1]) if at_s > now_s - up_s or at_s == now_s]
            down = [w for at_s, w in enumerate(wanted[: now_s + 1]) if at_s > now_s - down_s or at_s == now_s]
            expected = min(max(current, min(up)), max(down))
            current = stabilizer.held(current, value, float(now_s))
            assert current == expected

    @given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(1, 5))
    def test_no_period_sees_more_than_its_limit(self, wanted: list[int], most: int) -> None:
        limit, counts = RateLimit((("pods", most, 4.0),), "max"), [5]
        for now_s, value in enumerate(wanted):
            after = min(max(value, counts[-1]), limit.highest(counts[-1], float(now_s)))
            limit.changed(after - counts[-1], float(now_s))
            counts.append(after)
        assert all(later - before <= most for before, later in zip(counts, counts[4:], strict=False))


class TestKeda:
    """Activation between none and one, the HPA from one up."""

    def test_it_activates_at_a_poll_above_the_threshold(self) -> None:
        policy = reset(KedaQueueLength(activation_threshold=3.0))
        asked = {}
        for now_s, depth in [(0, 0), (1, 9), (29, 9), (30, 3), (60, 4)]:
            view = pool(0, depth, min_replicas=0, queue_depth_mean=float(depth), interval_s=1.0)
            asked[now_s] = policy.desired(view, float(now_s)).replicas
        assert asked == {0: 0, 1: 0, 29: 0, 30: 0, 60: 1}

    def test_after_the_cooldown_there_is_none(self) -> None:
        policy = reset(KedaQueueLength())
        depths = [(0, 4)] + [(30 * n, 0) for n in range(1, 12)]
        asked = [
            policy.desired(pool(1, depth, min_replicas=0, interval_s=30.0), float(at_s)).replicas
            for at_s, depth in depths
        ]
        assert asked == [1] * 10 + [0, 0]

    def test_a_pool_that_wants_one_keeps_one(self) -> None:
        policy = reset(KedaQueueLength(cooldown_period_s=0.0, polling_interval_s=0.0))
        assert policy.desired(pool(1, interval_s=1.0), 5.0) == Scale(1)

    def test_each_replica_is_for_the_threshold(self) -> None:
        policy = reset(KedaQueueLength())
        view = pool(3, 20, queue_depth_mean=20.0, interval_s=15.0)
        assert policy.desired(view, 0.0) == Scale(4)

    def test_the_fallback_comes_after_three_polls_without_a_metric(self) -> None:
        policy = reset(KedaQueueLength(metric="gpu_utilization", fallback_replicas=6))
        asked = [policy.desired(pool(2, interval_s=30.0), 30.0 * poll).replicas for poll in range(4)]
        assert asked == [2, 2, 6, 6]

    def test_without_a_fallback_nothing_changes(self) -> None:
        policy = reset(KedaQueueLength(metric="gpu_utilization"))
        assert [policy.desired(pool(2, interval_s=30.0), 30.0 * n).replicas for n in range(5)] == [2] * 5

    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 200)), max_size=40),
        st.integers(0, 2),
    )
    def test_it_is_always_within_the_pool(self, looks: list[tuple[int, int, int]], least: int) -> None:
        policy = reset(KedaQueueLength())
        for number, (ready, starting, depth) in enumerate(looks):
            view: PoolView = pool(
                ready, depth, starting, min_replicas=least, max_replicas=6, queue_depth_mean=float(depth),
                interval_s=20.0,
            )  # fmt: skip
            assert least <= policy.desired(view, 20.0 * number).replicas <= 6


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "horizontal-pod-autoscaler", "metrics": {}}, "metrics"),
        ({"policy": "horizontal-pod-autoscaler", "metrics": {"in_flight": 0}}, "metrics"),
        ({"policy": "horizontal-pod-autoscaler", "metrics": {"inflight": 1}}, "metrics"),
        ({"policy": "horizontal-pod-autoscaler", "up_limits": []}, "up_limits"),
        ({"policy": "horizontal-pod-autoscaler", "down_limits": [["pods", 0, 15]]}, "down_limits"),
        ({"policy": "keda-queue-length", "threshold": 0}, "threshold"),
    ],
)
def test_bad_parameters_name_their_path(table: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=rf"^\$\.scaling\.{path}"):
        build(ScalingPolicy, table, "$.scaling")
