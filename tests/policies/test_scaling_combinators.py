"""Scaling policies made of others: the most of several, held to windows, limited in rate."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Fixed, PolicyError, PoolView, QueueDepth, Scale, ScalingPolicy, TargetUtilization, build
from policies.base import is_settled
from policies.scaling.max_of import MaxOf
from policies.scaling.rate_limited import RateLimited
from policies.scaling.stabilized import Stabilized
from policies.testing import parametrize_with_checks
from tests.policies.makers import pool, reset


class SaysOneAfterAnother(ScalingPolicy):
    """Asks for the numbers of a list, and then for the last of them."""

    numbers: tuple[int, ...] = (1,)

    def reset(self, rng):
        self.looks = 0

    def desired(self, pool, now_s):
        self.looks += 1
        return Scale(self.numbers[min(self.looks, len(self.numbers)) - 1])


@parametrize_with_checks(
    [
        MaxOf,
        lambda: MaxOf(scalers=[Fixed(replicas=2)]),
        lambda: MaxOf(scalers=[Fixed(), MaxOf(scalers=[QueueDepth(), TargetUtilization(average_s=0.0)])]),
        Stabilized,
        lambda: Stabilized(scaler=QueueDepth(up_at=1, down_at=0, step=3), up_s=0.0, down_s=0.0),
        lambda: Stabilized(scaler=Fixed(replicas=5), up_s=2.0, down_s=1.0),
        RateLimited,
        lambda: RateLimited(
            scaler=Fixed(replicas=8), up_limits=(("pods", 1, 2.0), ("percent", 1, 0.5)), up_select="min",
            down_select="disabled",
        ),
        lambda: Stabilized(scaler=RateLimited(scaler=MaxOf(scalers=[Fixed(), QueueDepth()])), down_s=1.0),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


def asked(policy: ScalingPolicy, looks: int, interval_s: float = 1.0, **fields: Any) -> list[int]:
    """What it asks for look by look, in a pool that does what it is told."""
    policy, ready, said = reset(policy), fields.pop("ready", 1), []
    for number in range(looks):
        view = pool(ready, **({"interval_s": interval_s, "max_replicas": 100, "min_replicas": 0} | fields))
        ready = policy.desired(view, number * interval_s).replicas
        said.append(ready)
    return said


class TestMaxOf:
    def test_the_most_wins_and_is_named(self) -> None:
        policy = reset(MaxOf(scalers=[Fixed(replicas=2), Fixed(replicas=5), QueueDepth()]))
        assert policy.desired(pool(3), 0.0) == Scale(5, "fixed")

    def test_of_equal_ones_the_first_is_named(self) -> None:
        policy = reset(MaxOf(scalers=[SaysOneAfterAnother(numbers=(4,)), Fixed(replicas=4)]))
        assert policy.desired(pool(1), 0.0).reason == "says-one-after-another"

    def test_its_parts_are_reset_and_hear(self) -> None:
        policy = MaxOf(
            scalers=[
                SaysOneAfterAnother(
                    numbers=(
                        3,
                        1,
                    )
                )
            ]
        )
        assert asked(policy, 2) == asked(policy, 2) == [3, 1]

    def test_it_is_settled_when_all_are(self) -> None:
        assert is_settled(reset(MaxOf(scalers=[Fixed(replicas=1)])), "desired")
        assert not is_settled(reset(MaxOf(scalers=[Fixed(replicas=1), QueueDepth()])), "desired")


class TestStabilized:
    def test_a_dip_shorter_than_the_window_changes_nothing(self) -> None:
        policy = Stabilized(
            scaler=SaysOneAfterAnother(
                numbers=(
                    5,
                    5,
                    1,
                    1,
                    5,
                    1,
                )
            ),
            up_s=0.0,
            down_s=3.0,
        )
        assert asked(policy, 9, ready=5) == [5, 5, 5, 5, 5, 5, 5, 1, 1]

    def test_a_peak_shorter_than_the_window_changes_nothing(self) -> None:
        policy = Stabilized(
            scaler=SaysOneAfterAnother(
                numbers=(
                    2,
                    9,
                    9,
                    2,
                    7,
                )
            ),
            up_s=3.0,
            down_s=0.0,
        )
        assert asked(policy, 9, ready=2) == [2, 2, 2, 2, 2, 2, 7, 7, 7]

    def test_from_none_it_goes_up_at_once(self) -> None:
        policy = Stabilized(
            scaler=SaysOneAfterAnother(
                numbers=(
                    0,
                    0,
                    2,
                )
            )
        )
        assert asked(policy, 3, ready=0) == [0, 0, 2]

    def test_it_rests_when_its_windows_have_seen_nothing_else(self) -> None:
        policy = reset(Stabilized(scaler=Fixed(replicas=3), up_s=2.0, down_s=4.0))
        rests = []
        for now_s in range(7):
            policy.desired(pool(3 if now_s else 5), float(now_s))
            rests.append(is_settled(policy, "desired"))
        assert rests == [False] * 4 + [True] * 3

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=50), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
    def test_it_stays_between_what_its_windows_saw(
        self, numbers: list[int], up_s: float, down_s: float
    ) -> None:
        said = asked(
            Stabilized(scaler=SaysOneAfterAnother(numbers=tuple(numbers)), up_s=up_s, down_s=down_s),
            len(numbers),
        )
        assert all(min([1, *numbers]) <= count <= max([1, *numbers]) for count in said)

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=50))
    def test_it_changes_no_more_often_than_what_it_holds(self, numbers: list[int]) -> None:
        def changes(counts: list[int]) -> int:
            return sum(before != after for before, after in zip([1, *counts], counts, strict=False))

        held = asked(
            Stabilized(scaler=SaysOneAfterAnother(numbers=tuple(numbers)), up_s=3.0, down_s=5.0), len(numbers)
        )
        assert changes(held) <= changes(numbers)


class TestRateLimited:
    def test_at_most_so_many_in_the_period(self) -> None:
        policy = RateLimited(scaler=Fixed(replicas=10), up_limits=(("pods", 2, 3.0),))
        assert asked(policy, 9, ready=1) == [3, 3, 3, 5, 5, 5, 7, 7, 7]

    def test_down_by_per_cent_of_what_there_was(self) -> None:
        policy = RateLimited(scaler=Fixed(replicas=0), down_limits=(("percent", 50, 1.0),))
        assert asked(policy, 6, ready=16) == [8, 4, 2, 1, 0, 0]

    def test_from_none_one_is_always_allowed(self) -> None:
        policy = RateLimited(scaler=Fixed(replicas=9), up_limits=(("percent", 100, 1.0),))
        assert asked(policy, 5, ready=0, queue_depth=1) == [1, 2, 4, 8, 9]

    def test_a_direction_can_be_disabled(self) -> None:
        assert asked(RateLimited(scaler=Fixed(replicas=1), down_select="disabled"), 3, ready=4) == [4, 4, 4]
        assert asked(RateLimited(scaler=Fixed(replicas=9), up_select="disabled"), 3, ready=4) == [4, 4, 4]

    def test_the_bounds_of_the_pool_hold_all_the_same(self) -> None:
        policy = RateLimited(scaler=Fixed(replicas=1), down_select="disabled")
        assert asked(policy, 2, ready=9, max_replicas=5) == [5, 5]

    @given(st.lists(st.integers(0, 60), min_size=1, max_size=50), st.integers(1, 6), st.integers(1, 6))
    def test_no_period_sees_more_than_its_limits(self, numbers: list[int], up: int, down: int) -> None:
        policy = RateLimited(
            scaler=SaysOneAfterAnother(numbers=tuple(numbers)),
            up_limits=(("pods", up, 1.0),),
            down_limits=(("pods", down, 1.0),),
        )
        counts = [10, *asked(policy, len(numbers), ready=10)]
        steps = [after - before for before, after in itertools.pairwise(counts)]
        assert all(-down <= step <= up for step in steps)


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "max-of", "scalers": []}, "scalers: name at least one"),
        ({"policy": "max-of", "scalers": [{"policy": "fixed", "replicas": -1}]}, r"scalers\[0\]\.replicas"),
        ({"policy": "stabilized", "scaler": {"policy": "stabilized"}}, "scaler: stabilized within stabilized"),
        (
            {"policy": "stabilized", "scaler": {"policy": "max-of", "scalers": [{"policy": "stabilized"}]}},
            "scaler: stabilized within stabilized",
        ),
        ({"policy": "rate-limited", "up_select": "disabled", "down_select": "disabled"}, "up_select: both"),
        ({"policy": "rate-limited", "down_limits": []}, "down_limits: name at least one"),
        ({"policy": "rate-limited", "up_limits": [["pods", 0, 15]]}, r"up_limits"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_names_its_path(table: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=rf"^\$\.scaling\.{path}"):
        build(ScalingPolicy, table, "$.scaling")


def test_an_empty_pool_asks_nothing_of_any() -> None:
    view = PoolView(min_replicas=0, max_replicas=9)
    for cls in (MaxOf, Stabilized, RateLimited):
        assert reset(cls()).desired(view, 0.0).replicas == 0
