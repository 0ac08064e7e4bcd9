"""Target tracking, GPU utilisation and tokens per second: what their documents say, as laws."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Completion, PolicyError, Scale, ScalingPolicy, build
from policies.scaling.gpu_utilization import GpuUtilization
from policies.scaling.target_tracking import TargetTracking
from policies.scaling.tokens_per_second import TokensPerSecond
from policies.testing import parametrize_with_checks
from tests.policies.makers import completion, pool, request, reset


@parametrize_with_checks(
    [
        TargetTracking,
        lambda: TargetTracking(
            metric="gpu_utilization", target=0.2, scale_out_cooldown_s=0.0, scale_in_cooldown_s=0.0, period_s=0.5,
            out_periods=1, in_periods=1, in_below=1.0,
        ),
        lambda: TargetTracking(metric="in_flight", target=4.0, period_s=1.0, in_periods=2, disable_scale_in=True),
        GpuUtilization,
        lambda: GpuUtilization(target=0.05, look_back_s=0.0, adjust_s=0.0, step=1),
        TokensPerSecond,
        lambda: TokensPerSecond(
            target_tokens_per_s=3.0, count="total", average_s=0.5, tolerance=0.0, down_stabilization_s=0.0
        ),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


class TestTargetTracking:
    """70 invocations a minute and instance, 3 minutes above it, 15 well below it, cooldowns of 5 minutes."""

    @staticmethod
    def asked(policy: TargetTracking, looks: list[tuple[int, float]]) -> list[int]:
        """(ready, invocations a minute in all), a minute apart."""
        return [
            policy.desired(
                pool(ready, arrivals_per_s=invocations / 60.0, interval_s=60.0, max_replicas=50), 60.0 * n
            ).replicas
            for n, (ready, invocations) in enumerate(looks, start=1)
        ]

    def test_it_scales_out_after_three_minutes_above(self) -> None:
        assert self.asked(reset(TargetTracking()), [(2, 210.0)] * 4) == [2, 2, 3, 3]

    def test_a_minute_at_the_target_begins_the_count_anew(self) -> None:
        looks = [(2, 210.0)] * 2 + [(2, 140.0)] + [(2, 210.0)] * 3
        assert self.asked(reset(TargetTracking()), looks) == [2, 2, 2, 2, 2, 3]

    def test_in_the_cooldown_only_what_is_more_than_before_is_added(self) -> None:
        """The example of the step scaling guide: +2, then +3 in the cooldown, adds one."""
        looks = [(2, 280.0)] * 3 + [(4, 420.0), (4, 490.0)]
        assert self.asked(reset(TargetTracking()), looks) == [2, 2, 4, 4, 5]

    def test_after_the_cooldown_it_adds_all(self) -> None:
        policy = reset(TargetTracking(scale_out_cooldown_s=60.0))
        assert self.asked(policy, [(2, 280.0)] * 3 + [(4, 420.0)]) == [2, 2, 4, 6]

    def test_it_scales_in_after_fifteen_minutes_well_below_and_not_just_below(self) -> None:
        assert self.asked(reset(TargetTracking()), [(4, 140.0)] * 15) == [4] * 14 + [2]
        assert self.asked(reset(TargetTracking()), [(40, 0.95 * 2800.0)] * 20) == [40] * 20
        assert self.asked(reset(TargetTracking(in_below=1.0)), [(40, 0.95 * 2800.0)] * 15)[-1] == 38

    def test_scale_ins_are_a_cooldown_apart_and_a_scale_out_is_not(self) -> None:
        policy = reset(TargetTracking(in_periods=1, out_periods=1))
        looks = [(4, 140.0), (2, 70.0), (2, 350.0), (5, 70.0)]
        assert self.asked(policy, looks) == [2, 2, 5, 1]

    def test_scale_in_can_be_disabled(self) -> None:
        assert self.asked(reset(TargetTracking(disable_scale_in=True)), [(4, 1.0)] * 20) == [4] * 20

    def test_minutes_without_a_measure_count_for_neither(self) -> None:
        policy = reset(TargetTracking(metric="gpu_utilization", target=0.5))
        busy = [0.9, 0.9, None, 0.9]
        asked = [policy.desired(pool(2, gpu_utilization=u, interval_s=60.0), 0.0).replicas for u in busy]
        assert asked == [2, 2, 2, 4]

    def test_from_none_it_goes_to_one(self) -> None:
        policy = reset(TargetTracking())
        empty = {"min_replicas": 0, "interval_s": 1.0}
        assert policy.desired(pool(0, **empty), 0.0) == Scale(0)
        assert policy.desired(pool(0, queue_depth=5, in_flight=5, **empty), 1.0) == Scale(1)


class TestGpuUtilization:
    @pytest.mark.parametrize(
        ("ready", "utilization", "asked"), [(2, 1.0, 4), (3, 0.6, 3), (4, 0.3, 4), (3, 0.8, 4)]
    )
    def test_up_at_once_and_not_down(self, ready: int, utilization: float, asked: int) -> None:
        policy = reset(GpuUtilization())
        policy.desired(pool(ready, gpu_utilization=0.6, interval_s=15.0), 0.0)
        assert policy.desired(pool(ready, gpu_utilization=utilization, interval_s=15.0), 15.0) == Scale(asked)

    def test_the_largest_need_of_five_minutes_counts(self) -> None:
        policy = reset(GpuUtilization())
        busy = [(0.0, 1.0), (15.0, 0.3), (285.0, 0.1), (300.0, 0.1), (315.0, 0.1)]
        asked = [policy.desired(pool(3, gpu_utilization=u, interval_s=15.0), t).replicas for t, u in busy]
        assert asked == [5, 5, 5, 2, 1]

    def test_a_step_bounds_each_change(self) -> None:
        policy = reset(GpuUtilization(step=1, look_back_s=0.0))
        busy = [(0.0, 1.0), (15.0, 1.0), (30.0, 0.0)]
        asked = [policy.desired(pool(4, gpu_utilization=u, interval_s=15.0), t).replicas for t, u in busy]
        assert asked == [5, 6, 5]

    def test_where_no_device_reports_the_duty_cycle_of_the_engine_counts(self) -> None:
        view = pool(2, busy_fraction=1.0, interval_s=15.0)
        assert reset(GpuUtilization()).desired(view, 0.0) == Scale(4)

    def test_none_is_not_zero(self) -> None:
        policy = reset(GpuUtilization(look_back_s=0.0))
        assert [policy.desired(pool(4, interval_s=15.0), 15.0 * n).replicas for n in range(3)] == [4] * 3


class TestTokensPerSecond:
    @staticmethod
    def ended(output_tokens: int | None, **fields: Any) -> Completion:
        return completion(output_tokens=output_tokens, **fields)

    def test_it_holds_the_target(self) -> None:
        policy = reset(TokensPerSecond(target_tokens_per_s=100.0))
        for _ in range(5):
            policy.on_completed(self.ended(500), 0.0)
        assert policy.desired(pool(1, interval_s=10.0), 10.0) == Scale(3)

    def test_tokens_of_failed_attempts_count_and_resumed_ones_only_once(self) -> None:
        policy = reset(TokensPerSecond(target_tokens_per_s=100.0))
        policy.on_completed(self.ended(1500, failure="engine-error"), 0.0)
        policy.on_completed(self.ended(2500, resumed_tokens=1500), 0.0)
        assert policy.desired(pool(1, interval_s=10.0), 10.0) == Scale(3)

    def test_prompt_tokens_count_if_asked_and_if_prefilled(self) -> None:
        policy = reset(TokensPerSecond(target_tokens_per_s=100.0, count="total"))
        asked = request("r", prompt_tokens=1000)
        for ttft_s in (0.5, None):
            policy.on_completed(
                Completion(request=asked, replica="replica/0", attempt=1, output_tokens=500, ttft_s=ttft_s),
                0.0,
            )
        assert policy.desired(pool(1, interval_s=10.0), 10.0) == Scale(2)

    def test_without_tokens_nothing_changes(self) -> None:
        policy = reset(TokensPerSecond(down_stabilization_s=0.0))
        policy.on_completed(self.ended(None), 0.0)
        assert policy.desired(pool(5, interval_s=10.0), 10.0) == Scale(5)

    def test_nothing_is_taken_away_while_requests_wait(self) -> None:
        policy = reset(TokensPerSecond(target_tokens_per_s=100.0, down_stabilization_s=0.0))
        policy.on_completed(self.ended(1000), 0.0)
        assert policy.desired(pool(5, queue_depth=1, interval_s=10.0), 10.0) == Scale(5)
        assert policy.desired(pool(5, interval_s=10.0), 20.0) == Scale(1)

    @given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
    def test_every_token_counts_once(self, tokens: list[int]) -> None:
        policy = reset(TokensPerSecond(average_s=1e6))
        for number, count in enumerate(tokens):
            policy.on_completed(self.ended(count), float(number))
            policy.desired(pool(1, interval_s=1.0), float(number))
        assert policy.rate_per_s.add(0.0, 0.0) == pytest.approx(sum(tokens) / len(tokens))


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "target-tracking", "in_below": 1.5}, "in_below"),
        ({"policy": "target-tracking", "metric": "invocations"}, "metric"),
        ({"policy": "gpu-utilization", "target": 60}, "target"),
        ({"policy": "tokens-per-second", "count": "input"}, "count"),
    ],
)
def test_bad_parameters_name_their_path(table: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=rf"^\$\.scaling\.{path}"):
        build(ScalingPolicy, table, "$.scaling")
