"""The Knative Pod Autoscaler, against the cases of Knative's own unit tests.

Numbers of `pkg/autoscaler/scaling/autoscaler_test.go` of knative/serving at 01f103e, whose tests run with a target of
so much, a utilisation of 75 %, a panic threshold of 200 %, and rates of 10 both ways.
"""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, PoolView, ScalingPolicy, build
from policies.scaling.knative_concurrency import KnativeConcurrency
from policies.testing import parametrize_with_checks
from tests.policies.makers import reset


def as_tested(target: float, **fields: Any) -> KnativeConcurrency:
    rates = {"max_scale_up_rate": 10.0, "max_scale_down_rate": 10.0} | fields
    return reset(
        KnativeConcurrency(target_concurrency=target / 0.75, target_utilization_percentage=75.0, **rates)
    )


def ready(count: int, **fields: Any) -> PoolView:
    return PoolView(
        ready=count,
        requested=count,
        **({"min_replicas": 0, "max_replicas": 5000, "interval_s": 1.0} | fields),
    )


@parametrize_with_checks(
    [
        KnativeConcurrency,
        lambda: KnativeConcurrency(
            target_concurrency=0.5, stable_window_s=6, panic_window_percentage=50, panic_threshold_percentage=110,
            max_scale_up_rate=1.1, max_scale_down_rate=1.1, target_burst_capacity=-1, activation_scale=3,
            scale_to_zero_grace_period_s=0, scale_down_delay_s=5, initial_scale=0,
        ),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("target", "stable", "panic", "pods", "parameters", "wanted"),
    [
        pytest.param(10, 0, 0, 1, {}, 0, id="NoDataAtZeroNoAutoscale"),
        pytest.param(181, 21, 26, 1, {}, 1, id="StableModeUnlimitedTBC"),
        pytest.param(10, 50, 49, 1, {}, 5, id="Autoscaler0TBC"),
        pytest.param(10, 50, 50, 1, {}, 5, id="StableModeNoChange"),
        pytest.param(10, 50, 50, 5, {}, 5, id="StableModeNoChangeAlreadyScaled"),
        pytest.param(
            1, 3, 3.1, 2, {"max_scale_up_rate": 1.1}, 3, id="StableModeIncreaseWithSmallScaleUpRate"
        ),
        pytest.param(
            10, 1, 1, 100, {"max_scale_down_rate": 1.1}, 90, id="StableModeDecreaseWithSmallScaleDownRate"
        ),
        pytest.param(10, 50, 100, 1, {}, 10, id="PanicModeDoublePodCount"),
        pytest.param(10, 100, 10, 1, {}, 10, id="StableModeIncreaseWithConcurrencyDefault"),
        pytest.param(10, 1000, 1001, 1, {}, 10, id="RateLimitScaleUp"),
        pytest.param(10, 1000, 1001, 10, {}, 100, id="RateLimitScaleUp, again"),
        pytest.param(10, 1, 1, 100, {}, 10, id="RateLimitScaleDown"),
        pytest.param(10, 1, 1, 10, {}, 1, id="RateLimitScaleDown, again"),
        pytest.param(10, 1000, 888, 0, {}, 10, id="UseOnePodAsMinimumIfEndpointsNotFound"),
        pytest.param(10, 1, 0, 1, {}, 1, id="StableModeNoTrafficScaleToZero"),
        pytest.param(10, 1, 0, 1, {"activation_scale": 2}, 2, id="ActivationScale"),
        pytest.param(10, 0, 0, 1, {"activation_scale": 2}, 0, id="ActivationScale, none"),
    ],
)
def test_it_wants_what_knative_wants(  # noqa: PLR0917  # a table's row
    target: float, stable: float, panic: float, pods: int, parameters: dict[str, Any], wanted: int
) -> None:
    assert as_tested(target, **parameters)._decide(ready(pods), stable, panic, 0.0) == wanted


@pytest.mark.parametrize(("stable", "wanted"), [(50, 50), (20, 30)])
def test_in_panic_the_larger_of_both_means_counts(stable: float, wanted: int) -> None:
    policy = as_tested(1)
    policy.panic_s, policy.panic_replicas = -5.0, 5
    assert policy._decide(ready(5), stable, 30, 0.0) == wanted


def sequence(policy: KnativeConcurrency, *steps: tuple[float, int, float, float]) -> list[int]:
    """(when, ready, stable, panic) -> what was asked for."""
    return [policy._decide(ready(count), stable, panic, now_s) for now_s, count, stable, panic in steps]


def test_panic_grows_with_the_surge() -> None:
    steps = [(0, 1, 6, 6), (0, 6, 36, 36), (1, 36, 216, 216), (1, 216, 1296, 1296), (2, 1296, 1296, 1296)]
    assert sequence(as_tested(1), *steps) == [6, 36, 216, 1296, 1296]


def test_panic_ends_after_the_stable_window_even_if_demand_grows_slowly() -> None:
    policy = as_tested(1)
    assert sequence(policy, (0, 10, 11, 25), (30, 40, 30, 41), (62, 55, 50, 56)) == [25, 41, 50]
    assert policy.panic_s is None


def test_panic_is_extended_while_the_surge_lasts() -> None:
    policy = as_tested(1)
    assert sequence(policy, (0, 10, 11, 25), (30, 40, 30, 80)) == [25, 80]
    assert policy.panic_s == 30


def test_in_panic_it_does_not_go_down() -> None:
    steps = [(0, 1, 100, 100), (0, 10, 100, 1000), (30, 10, 1, 1), (61, 10, 1, 1)]
    assert sequence(as_tested(10), *steps) == [10, 100, 100, 1]


def test_the_scale_down_delay_holds_the_largest_of_five_minutes() -> None:
    policy = as_tested(10, scale_down_delay_s=300.0, panic_threshold_percentage=1000.0)
    policy.begun = policy.initialized = True
    policy.scale_to_zero_grace_period_s = 0.0
    asked = []
    for now_s, concurrency in [
        (2, 40), (300, 0), (302, 0), (540, 40), (600, 30), (660, 0), (840, 0), (900, 0),
    ]:  # fmt: skip
        policy.stable = policy.panic = _Said(concurrency)
        asked.append(policy.desired(ready(1), float(now_s)).replicas)
    assert asked == [4, 4, 0, 4, 4, 4, 3, 0]


class _Said:
    """A mean that somebody said."""

    def __init__(self, value: float) -> None:
        self.value = value

    def add(self, value: float, span_s: float) -> float:
        return self.value


@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_begins_in_panic_with_more_than_one_replica(count: int) -> None:
    policy = reset(KnativeConcurrency())
    policy.desired(ready(count, interval_s=0.0), 0.0)
    assert (policy.panic_s is not None) == (count > 1)
    assert policy.panic_replicas == count


@pytest.mark.parametrize(
    ("burst", "pods", "panic", "excess"),
    [
        (100, 1, 50, math.floor(10 / 0.75 - 100 - 50)),
        (98, 55, 56, math.floor(55 * 10 / 0.75 - 98 - 56)),
        (0, 1, 49, 0),
        (-1, 1, 26, -1),
    ],
)
def test_excess_burst_capacity_is_in_the_reason(burst: float, pods: int, panic: float, excess: int) -> None:
    policy = as_tested(10, target_burst_capacity=float(burst))
    policy.begun = policy.initialized = True
    policy.stable = policy.panic = _Said(panic)
    assert policy.desired(ready(pods), 0.0).reason == f"excess burst capacity {excess:g}"


def test_defaults_are_those_of_the_config_map() -> None:
    """100 concurrent requests with 70 % utilisation, 60 s and 6 s: 100 requests in flight take two replicas."""
    policy = reset(KnativeConcurrency())
    policy.desired(ready(1, interval_s=0.0), 0.0)
    assert policy.desired(ready(1, in_flight_mean=100.0), 1.0).replicas == 2
    assert policy.panic_s == 1.0  # two are 200 % of one


def test_the_last_replica_stays_for_the_grace_period() -> None:
    policy = reset(KnativeConcurrency(stable_window_s=6.0, scale_to_zero_grace_period_s=30.0))
    asked = [policy.desired(ready(1), float(now_s)).replicas for now_s in range(1, 40)]
    assert asked.index(0) == 30


def test_from_none_it_goes_to_the_activation_scale_as_soon_as_somebody_waits() -> None:
    policy = reset(KnativeConcurrency(activation_scale=3, initial_scale=0))
    view = ready(0, queue_depth=1, in_flight=1)
    assert policy.desired(view, 1.0).replicas == 3


def test_at_first_it_asks_for_the_initial_scale() -> None:
    policy = reset(KnativeConcurrency(initial_scale=4, scale_to_zero_grace_period_s=0.0))
    asked = [policy.desired(ready(count), float(now_s)).replicas for now_s, count in enumerate([0, 1, 4, 4])]
    assert asked[:3] == [4, 4, 4]
    assert asked[3] < 4


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0.0, 500.0)), min_size=1, max_size=40),
    st.floats(1.1, 20.0),
    st.floats(1.1, 20.0),
)
def test_one_step_never_goes_beyond_its_rates(looks: list[tuple[int, float]], up: float, down: float) -> None:
    policy = reset(
        KnativeConcurrency(
            target_concurrency=10.0, max_scale_up_rate=up, max_scale_down_rate=down, initial_scale=0,
            scale_to_zero_grace_period_s=0.0,
        )
    )  # fmt: skip
    for now_s, (count, concurrency) in enumerate(looks):
        asked = policy.desired(ready(count, in_flight_mean=concurrency), float(now_s)).replicas
        in_panic = policy.panic_s is not None  # where what was asked for before stays
        assert asked <= math.ceil(up * max(1, count)) or in_panic
        assert asked >= math.floor(max(1, count) / down)


def test_bad_parameters_name_their_path() -> None:
    table = {"policy": "knative-concurrency", "max_scale_up_rate": 1.0}
    with pytest.raises(PolicyError, match=r"^\$\.scaling\.max_scale_up_rate: "):
        build(ScalingPolicy, table, "$.scaling")
