"""The autoscaler of Ray Serve, against what Ray's own code answers to the same inputs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, PoolView, Scale, ScalingPolicy, build
from policies.scaling.target_ongoing_requests import TargetOngoingRequests
from policies.testing import parametrize_with_checks
from tests.policies.makers import reset

RECORDED = json.loads((Path(__file__).parent / "recorded" / "ray_serve_autoscaling.json").read_text())
"""Numbers that Ray 2.51.1 gave; `source` in the file names the functions."""
TICK_S = RECORDED["control_loop_interval_s"]


def look(ready: int, ongoing: float, interval_s: float = TICK_S, **fields: Any) -> PoolView:
    bounds = {"min_replicas": 0, "max_replicas": 50} | fields
    return PoolView(
        ready=ready, requested=max(ready, 1), in_flight=math.ceil(ongoing), in_flight_mean=ongoing,
        interval_s=interval_s, **bounds,
    )  # fmt: skip


@parametrize_with_checks(
    [
        TargetOngoingRequests,
        lambda: TargetOngoingRequests(
            target_ongoing_requests=0.5, look_back_period_s=0.1, upscale_delay_s=0, downscale_delay_s=0,
            downscale_to_zero_delay_s=1, upscaling_factor=3.0, downscaling_factor=0.1,
        ),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


@pytest.mark.parametrize("case", RECORDED["desired"])
def test_it_wants_what_ray_wants(case: dict[str, Any]) -> None:
    policy = TargetOngoingRequests(upscale_delay_s=0.0, downscale_delay_s=0.0, **case["parameters"])
    policy = reset(policy)
    bounds = {name: case[name] for name in ("min_replicas", "max_replicas")}
    view = look(case["ready"], case["ongoing"], **bounds)
    assert policy._wanted(view, case["ongoing"]) == case["desired"]


@pytest.mark.parametrize("run", RECORDED["runs"])
def test_it_decides_what_ray_decides_look_by_look(run: dict[str, Any]) -> None:
    policy = reset(TargetOngoingRequests(look_back_period_s=TICK_S, **run["parameters"]))
    bounds = {name: run[name] for name in ("min_replicas", "max_replicas")}
    policy.asked = run["start"]
    asked = [
        policy.desired(look(ready, ongoing, **bounds), number * TICK_S).replicas
        for number, (ready, ongoing, _) in enumerate(run["looks"])
    ]
    assert asked == [decided for *_, decided in run["looks"]]


@pytest.mark.parametrize("case", RECORDED["means"])
@pytest.mark.parametrize("interval_s", [0.25, 1.0, 7.0])
def test_its_mean_is_the_time_weighted_one_of_ray(case: dict[str, Any], interval_s: float) -> None:
    policy = reset(TargetOngoingRequests(look_back_period_s=1000.0))
    start_s, end_s = case["merged"][0][0], case["now_s"]
    mean, begins_s = 0.0, start_s
    while begins_s < end_s - 1e-12:
        ends_s = min(begins_s + interval_s, end_s)
        mean = policy.ongoing.add(_mean(case["merged"], begins_s, ends_s), ends_s - begins_s)
        begins_s = ends_s
    assert mean == pytest.approx(case["mean"], rel=1e-9)


def _mean(steps: list[list[float]], begins_s: float, ends_s: float) -> float:
    """Of a step function, as a pool's view has it: the integral over the interval."""
    ends = [*(at_s for at_s, _ in steps[1:]), math.inf]
    spans = [
        (value, min(end_s, ends_s) - max(at_s, begins_s))
        for (at_s, value), end_s in zip(steps, ends, strict=True)
    ]
    return math.fsum(value * span_s for value, span_s in spans if span_s > 0.0) / (ends_s - begins_s)


def test_the_delay_is_counted_in_looks() -> None:
    policy = reset(TargetOngoingRequests(upscale_delay_s=3.0))
    policy.asked = 1
    asked = [policy.desired(look(1, 8.0, interval_s=1.0), float(now_s)).replicas for now_s in range(1, 6)]
    assert asked == [1, 1, 1, 4, 4]


def test_one_look_the_other_way_begins_the_count_anew() -> None:
    policy = reset(TargetOngoingRequests(upscale_delay_s=2.0, look_back_period_s=1.0))
    policy.asked = 2
    ongoing = [8.0, 8.0, 4.0, 8.0, 8.0, 8.0]
    asked = [policy.desired(look(2, value, interval_s=1.0), 0.0).replicas for value in ongoing]
    assert asked == [2, 2, 2, 2, 2, 4]


def test_it_goes_to_none_from_one_only() -> None:
    policy = reset(TargetOngoingRequests(downscale_delay_s=0.0))
    policy.asked = 5
    asked = [policy.desired(look(count, 0.0), 0.0).replicas for count in (5, 1, 0)]
    assert asked == [1, 0, 0]


def test_from_none_it_goes_at_once() -> None:
    policy = reset(TargetOngoingRequests(upscaling_factor=2.5))
    policy.asked = 0
    view = PoolView(ready=0, min_replicas=0, max_replicas=9, in_flight=1, queue_depth=1, interval_s=1.0)
    assert policy.desired(view, 1.0) == Scale(3)


def test_none_is_needed_for_nothing() -> None:
    policy = reset(TargetOngoingRequests())
    policy.asked = 0
    assert policy.desired(PoolView(ready=0, min_replicas=0, interval_s=1.0), 1.0) == Scale(0)


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=20), st.floats(0.1, 100.0))
def test_a_long_constant_load_gets_the_replicas_that_hold_the_target(
    before: list[float], target: float
) -> None:
    policy = reset(
        TargetOngoingRequests(
            target_ongoing_requests=target, look_back_period_s=5.0, upscale_delay_s=0.0, downscale_delay_s=0.0
        )
    )
    ready = 1
    for ongoing in [*before, *[90.0] * 8]:
        ready = policy.desired(look(ready, ongoing, interval_s=1.0, min_replicas=1), 0.0).replicas
    assert ready == max(1, min(50, math.ceil(90.0 / target - 1e-9)))


def test_bad_parameters_name_their_path() -> None:
    table = {"policy": "target-ongoing-requests", "upscaling_factor": 0}
    with pytest.raises(PolicyError, match=r"^\$\.scaling\.upscaling_factor: "):
        build(ScalingPolicy, table, "$.scaling")
