"""How many spares: in proportion, for a ramp, and after the last work."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from policies import (
    Ending,
    FixedSize,
    NoBatching,
    NoWarmPool,
    PolicyError,
    PoolView,
    QueueDepth,
    Scale,
    ScalingPolicy,
    WarmPoolPolicy,
    build,
)
from policies.testing import parametrize_with_checks
from policies.warm_pool.fraction import Fraction
from policies.warm_pool.keep_alive_histogram import KeepAliveHistogram
from policies.warm_pool.scale_to_zero import ScaleToZero
from policies.warm_pool.surge_slope import SurgeSlope
from tests.policies.makers import pool, request, reset
from traces import Trace
from traces.schema import Request, TraceEntry


@parametrize_with_checks(
    [
        Fraction,
        lambda: Fraction(fraction=3.0, minimum=0),
        SurgeSlope,
        lambda: SurgeSlope(
            cold_start_s=600.0, mu_per_s=0.01, failures=5, window_s=0.1, deviations=0.0, most=40
        ),
        KeepAliveHistogram,
        lambda: KeepAliveHistogram(
            bin_s=0.01, bins=7, head=0.5, tail=0.5, margin=0.9, least_cv=0.0, keep_alive_s=1.0
        ),
        ScaleToZero,
        lambda: ScaleToZero(keep_alive_s=0.5),
    ]
)
def test_conformance(check: Any) -> None:
    check()


# --- Fraction ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ready", "spares"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 4)])
def test_a_fraction_is_rounded_up_and_never_below_the_minimum(ready: int, spares: int) -> None:
    assert Fraction().desired(pool(ready), 0.0).replicas == spares


def test_a_fraction_that_comes_out_even_is_not_one_more_for_a_rounding_error() -> None:
    assert 0.07 * 100 > 7.0
    assert Fraction(fraction=0.07).desired(pool(100), 0.0).replicas == 7


def test_a_fraction_of_nothing_with_no_minimum_is_nothing() -> None:
    assert Fraction(minimum=0).desired(pool(0), 0.0).replicas == 0


# --- SurgeSlope: the derivation ----------------------------------------------------------------------------

RAMPS = st.tuples(
    st.floats(0, 100),  # lambda_0
    st.floats(1, 1000),  # lambda_p - lambda_0
    st.floats(1, 100),  # W
    st.floats(0.5, 50),  # mu
    st.floats(0.1, 200),  # c
)


def shortfall(at_s: float, ramp: tuple[float, ...]) -> float:
    """Replicas that are short at `at_s`, where what serves is what was needed `cold_s` before: by its definition."""
    low, climb, ramp_s, mu, cold_s = ramp

    def rate(when_s: float) -> float:
        return low + climb * min(max(when_s / ramp_s, 0.0), 1.0)

    return (rate(at_s) - rate(at_s - cold_s)) / mu


@given(ramp=RAMPS)
def test_the_shortfall_at_the_peak_is_as_derived_and_it_is_the_largest(ramp: tuple[float, ...]) -> None:
    _, climb, ramp_s, mu, cold_s = ramp
    slope = climb / ramp_s
    at_peak = shortfall(ramp_s, ramp)
    assert at_peak == pytest.approx(slope * min(cold_s, ramp_s) / mu, rel=1e-6)
    assert at_peak == pytest.approx(climb / mu * min(1.0, cold_s / ramp_s), rel=1e-6)
    times_s = [ramp_s * number / 50 for number in range(150)]
    assert max(shortfall(at_s, ramp) for at_s in times_s) <= at_peak * (1 + 1e-6) + 1e-9


@given(ramp=RAMPS)
def test_the_requests_that_wait_at_the_peak_are_as_derived(ramp: tuple[float, ...]) -> None:
    low, climb, ramp_s, mu, cold_s = ramp
    cold_s = min(cold_s, ramp_s)
    steps = 4000
    summed = math.fsum(
        mu * shortfall((number + 0.5) * ramp_s / steps, (low, climb, ramp_s, mu, cold_s)) * ramp_s / steps
        for number in range(steps)
    )
    assert summed == pytest.approx(climb / ramp_s * cold_s * (ramp_s - cold_s / 2), rel=1e-3)


class FollowsDemand(ScalingPolicy):
    """As many replicas as the arrivals of an interval needed, all asked for at once, and none taken away."""

    mu_per_s: float = 2.0

    def reset(self, rng: random.Random) -> None:
        self.most = 0

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        self.most = max(self.most, pool.min_replicas, math.ceil(pool.arrivals_per_s / self.mu_per_s - 1e-9))
        return Scale(self.most)


def longest_wait_s(spares: int, *, cold_s: float, ramp_s: float) -> float:
    """On a ramp from 10 to 60 a second, evenly spaced, with replicas that serve 2 a second, one at a time."""
    low, climb, steady_s, interval_s = 10.0, 50.0, 20.0, 0.25
    times_s = [number / low for number in range(int(low * steady_s))]
    slope = climb / ramp_s
    times_s += [
        steady_s + (math.sqrt(low * low + 2.0 * slope * number) - low) / slope
        for number in range(int(low * ramp_s + climb * ramp_s / 2.0))
    ]
    trace = Trace.from_entries(
        [TraceEntry(request=Request(id=str(n), arrived_s=at_s)) for n, at_s in enumerate(times_s)]
    )
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.5), cold_start_s=cold_s),
        replicas=6, min_replicas=1, max_replicas=40, binding="late", batching=NoBatching(), max_inflight_batches=1,
        control_interval_s=interval_s, scaling=FollowsDemand(), warm_pool=FixedSize(size=spares),
    )  # fmt: skip
    run = simulate(trace, spec, seed=0)
    assert run.summary.completed == len(times_s)
    return run.summary.queue_s.max or 0.0


@pytest.mark.parametrize("ramp_s", [25.0, 50.0])
def test_as_many_spares_as_derived_hide_the_ramp_and_half_of_them_do_not(ramp_s: float) -> None:
    cold_s, slope, mu = 8.0, 50.0 / ramp_s, 2.0
    derived = math.ceil(slope * cold_s / mu)
    none, half, enough = (
        longest_wait_s(spares, cold_s=cold_s, ramp_s=ramp_s) for spares in (0, derived // 2, derived)
    )
    assert enough < 0.25
    assert 2.0 < half < none
    # Without any, all who have come too early are (lambda_p - lambda_0) · c; they are served at lambda_p.
    assert none == pytest.approx(50.0 * cold_s / 60.0, rel=0.05)


def ramp_of(
    policy: SurgeSlope, rates: list[float], ready: int = 10, interval_s: float = 1.0, **fields: Any
) -> int:
    """Spares after looks at these rates of arrival, one after the other."""
    spares = policy.desired(pool(ready), 0.0).replicas
    for number, rate in enumerate(rates, 1):
        view = pool(ready, interval_s=interval_s, arrivals_per_s=rate, **fields)
        spares = policy.desired(view, number * interval_s).replicas
    return spares


@given(slope=st.floats(1.0, 50.0), cold_s=st.floats(1, 100), mu=st.floats(1, 50), failures=st.integers(0, 3))
def test_on_a_straight_ramp_it_keeps_slope_times_cold_start_over_mu(
    slope: float, cold_s: float, mu: float, failures: int
) -> None:
    policy = reset(
        SurgeSlope(cold_start_s=cold_s, mu_per_s=mu, failures=failures, deviations=0.0, most=100_000)
    )
    spares = ramp_of(policy, [100.0 + slope * (number + 0.5) for number in range(20)])
    assert spares == pytest.approx(slope * cold_s / mu + failures, abs=1.001)
    assert spares >= slope * cold_s / mu + failures - 1e-6


@pytest.mark.parametrize("interval_s", [0.3, 1.0, 7.0])
def test_the_slope_does_not_depend_on_how_often_it_looks(interval_s: float) -> None:
    policy = reset(SurgeSlope(mu_per_s=1.0, deviations=0.0, window_s=20.0))
    ramp_of(
        policy, [100.0 + 3.0 * (number + 0.5) * interval_s for number in range(100)], interval_s=interval_s
    )
    assert policy.slope() == pytest.approx(3.0, rel=1e-6)


def test_a_slower_ramp_to_the_same_peak_needs_fewer_spares() -> None:
    spares = [
        ramp_of(
            reset(SurgeSlope(mu_per_s=10.0, deviations=0.0)),
            [100.0 + 400.0 / ramp_s * n for n in range(int(ramp_s))],
        )
        for ramp_s in (20.0, 40.0, 80.0)
    ]
    assert spares == [20, 10, 5]


def test_steady_and_falling_demand_need_only_what_failures_need() -> None:
    for rates in ([100.0] * 30, [100.0 - number for number in range(30)]):
        assert ramp_of(reset(SurgeSlope(mu_per_s=10.0, failures=2)), rates) == 2


def test_what_chance_explains_is_no_ramp() -> None:
    # 500 arrivals in five seconds, then 550: chance makes differences of 32, so this is less than two of those.
    rates = [100.0] * 5 + [110.0] * 5
    assert ramp_of(reset(SurgeSlope(mu_per_s=1.0)), rates) == 0
    assert ramp_of(reset(SurgeSlope(mu_per_s=1.0, deviations=1.0)), rates) == 20


def test_mu_is_learned_from_completions_over_engine_seconds() -> None:
    policy = reset(SurgeSlope(deviations=0.0))
    assert policy.mu() is None
    rates = [100.0 + 10.0 * number for number in range(20)]
    spares = ramp_of(policy, rates, busy_fraction=0.5, completions_per_s=50.0)
    assert policy.mu() == pytest.approx(10.0)  # 50 a second by 10 replicas that are busy half of the time
    assert spares == 10


def test_as_long_as_mu_is_not_known_spares_are_for_failures_alone() -> None:
    rates = [100.0 + 10.0 * number for number in range(20)]
    assert ramp_of(reset(SurgeSlope(failures=1)), rates, ready=0, busy_fraction=None) == 1
    assert ramp_of(reset(SurgeSlope(failures=1)), rates, busy_fraction=0.5, completions_per_s=0.0) == 1


def test_there_is_a_most() -> None:
    assert ramp_of(reset(SurgeSlope(mu_per_s=1e-9, most=7)), [float(n * n) for n in range(20)]) == 7


def test_its_memory_is_the_window() -> None:
    policy = reset(SurgeSlope())
    ramp_of(policy, [1.0] * 1000, busy_fraction=0.5, completions_per_s=1.0)
    assert len(policy.intervals) <= 11
    assert len(policy.work) <= 11


# --- KeepAliveHistogram ------------------------------------------------------------------------------------


def taught(*idle_s: float, **fields: Any) -> KeepAliveHistogram:
    policy = reset(KeepAliveHistogram(**fields))
    for seconds in idle_s:
        policy.learn(seconds)
    return policy


def test_before_it_has_learned_anything_it_keeps_for_the_whole_range() -> None:
    assert taught().window_s == (0.0, 4 * 3600.0)
    assert taught(keep_alive_s=600.0).window_s == (0.0, 600.0)


def test_the_window_is_from_the_head_to_the_tail_and_a_margin() -> None:
    # A hundred idle times, ten in each of the bins of minutes 10 to 19: the 5th is in the first, the 99th in the last.
    policy = taught(*(60.0 * minute + 30.0 for minute in range(10, 20) for _ in range(10)))
    assert policy.window_s == pytest.approx((0.9 * 600.0, 1.1 * 1200.0))


def test_a_head_in_the_first_bin_means_that_it_is_kept_from_the_start() -> None:
    assert taught(*[30.0] * 50, *[90.0] * 50).window_s == pytest.approx((0.0, 1.1 * 120.0))


def test_a_histogram_that_is_flat_tells_nothing() -> None:
    assert taught(*(60.0 * minute for minute in range(240))).window_s == (0.0, 14400.0)
    # A quarter of the bins alike and the others empty: the coefficient of variation is sqrt(3).
    assert taught(*(60.0 * minute for minute in range(60))).window_s == (0.0, 14400.0)
    # A sixth: sqrt(5), above 2.
    assert taught(*(60.0 * minute for minute in range(40))).window_s == pytest.approx(
        (0.9 * 60.0, 1.1 * 2400.0)
    )


def test_when_most_idle_times_are_out_of_range_it_tells_nothing() -> None:
    assert taught(300.0, 20_000.0, 20_000.0, keep_alive_s=600.0).window_s == (0.0, 600.0)
    assert taught(300.0, 300.0, 20_000.0).window_s == pytest.approx((0.9 * 300.0, 1.1 * 360.0))


@given(idle_s=st.lists(st.floats(0, 20_000), min_size=1, max_size=40))
def test_whatever_it_learns_the_window_ends_after_it_begins(idle_s: list[float]) -> None:
    from_s, to_s = taught(*idle_s).window_s
    assert 0.0 <= from_s < to_s <= 1.1 * 14400.0


def ended(e2e_s: float) -> Ending:
    return Ending(request=request(), outcome="completed", attempts=1, e2e_s=e2e_s)


def look(policy: WarmPoolPolicy, now_s: float, in_flight: int = 0) -> int:
    return policy.desired(pool(0, interval_s=1.0, in_flight=in_flight, min_replicas=0), now_s).replicas


@pytest.mark.parametrize("looks_s", [[6.0, 40.0], [6.0, 7.0, 20.0, 36.0], [6.0]])
def test_an_idle_time_is_from_the_last_end_to_the_next_arrival_however_often_it_looks(
    looks_s: list[float],
) -> None:
    policy = reset(KeepAliveHistogram(bin_s=1.0, bins=100))
    policy.on_request_ended(ended(1.0), 5.0)
    for at_s in looks_s:
        look(policy, at_s, in_flight=int(at_s > 35.5))
    policy.on_request_ended(ended(10.0), 45.5)  # it came at 35.5
    assert [place for place, count in enumerate(policy.counts) if count] == [30]
    policy.on_request_ended(ended(9.0), 46.0)  # and this one while it worked
    assert sum(policy.counts) == 1


def test_news_of_an_end_that_come_late_are_no_idle_time() -> None:
    policy = reset(KeepAliveHistogram(bin_s=1.0, bins=100))
    policy.on_request_ended(ended(1.0), 5.0)
    look(policy, 8.0)
    policy.on_request_ended(ended(4.0), 8.5)  # it came at 4.5, and had ended before the look
    assert sum(policy.counts) == 0
    policy.on_request_ended(ended(0.5), 20.0)
    assert [place for place, count in enumerate(policy.counts) if count] == [11]


@pytest.mark.parametrize("policy", [ScaleToZero(keep_alive_s=10.0), KeepAliveHistogram(keep_alive_s=10.0)])
def test_what_is_over_is_settled_and_what_is_not_is_not(policy: Any) -> None:
    reset(policy)
    answers = []
    for now_s, in_flight in ((0.0, 0), (1.0, 1), (3.0, 0), (11.9, 0), (12.1, 0), (13.0, 1)):
        if now_s == 3.0:
            policy.on_request_ended(ended(1.0), 2.0)
        answers.append((look(policy, now_s, in_flight), policy.settled()))
    assert answers == [(0, True), (0, False), (1, False), (1, False), (0, True), (0, False)]


# --- from zero and back ------------------------------------------------------------------------------------

COLD_S = 5.0


def visits(times_s: list[float], warm_pool: WarmPoolPolicy) -> Run:
    """A pool that goes to zero between requests that are far apart."""
    trace = Trace.from_entries(
        [TraceEntry(request=Request(id=str(n), arrived_s=at_s)) for n, at_s in enumerate(times_s)]
    )
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.01), cold_start_s=COLD_S),
        replicas=1, min_replicas=0, max_replicas=2, scaling=QueueDepth(look_back_s=1.0), warm_pool=warm_pool,
    )  # fmt: skip
    return simulate(trace, spec, seed=0)


def waits(run: Run) -> list[bool]:
    """Which requests waited for a cold start, in the order of their arrival."""
    return [seconds > COLD_S for seconds in run.records.sort_by("arrived_s")["e2e_s"].to_pylist()]


def test_without_spares_each_visit_pays_the_cold_start() -> None:
    run = visits([10.0, 110.0, 210.0], NoWarmPool())
    assert waits(run) == [True, True, True]
    assert run.summary.replicas.min == 0


def test_a_keep_alive_that_outlasts_the_pause_hides_the_cold_start_and_a_shorter_one_does_not() -> None:
    times_s = [10.0, 110.0, 210.0, 400.0]
    assert waits(visits(times_s, ScaleToZero(keep_alive_s=120.0))) == [True, False, False, True]
    assert waits(visits(times_s, ScaleToZero(keep_alive_s=60.0))) == [True, True, True, True]


@pytest.mark.parametrize("policy", [ScaleToZero(), KeepAliveHistogram()])
def test_beside_a_ready_replica_and_before_any_work_none_is_kept(policy: Any) -> None:
    reset(policy)
    assert policy.desired(pool(0, interval_s=1.0, min_replicas=0), 1.0).replicas == 0
    policy.on_request_ended(Ending(request=request(), outcome="completed", attempts=1, e2e_s=1.0), 1.5)
    assert policy.desired(pool(1, interval_s=1.0, min_replicas=0), 2.0).replicas == 0
    assert policy.desired(pool(0, interval_s=1.0, min_replicas=0), 3.0).replicas == 1
    assert policy.desired(pool(0, interval_s=1.0, min_replicas=0, in_flight=1), 4.0).replicas == 0


def test_after_the_keep_alive_nothing_is_held() -> None:
    short, long = (visits([10.0, 2000.0], ScaleToZero(keep_alive_s=seconds)) for seconds in (100.0, 1000.0))
    assert short.summary.gpu_seconds is not None
    assert long.summary.gpu_seconds is not None
    assert short.summary.gpu_seconds < 100.0 + 50.0
    assert long.summary.gpu_seconds - short.summary.gpu_seconds == pytest.approx(900.0, abs=5.0)


def test_a_histogram_loads_the_spare_before_the_visit_and_holds_it_for_a_part_of_the_pause() -> None:
    times_s = [10.0 + 300.0 * number for number in range(10)]
    run = visits(times_s, KeepAliveHistogram(keep_alive_s=0.0))
    assert waits(run) == [True, True] + [False] * 8
    fixed = visits(times_s, ScaleToZero(keep_alive_s=600.0))
    assert run.summary.gpu_seconds is not None
    assert fixed.summary.gpu_seconds is not None
    assert run.summary.gpu_seconds < 0.5 * fixed.summary.gpu_seconds


@pytest.mark.parametrize(
    ("policy", "parameters", "path"),
    [
        ("fraction", {"fraction": -0.1}, r"\$\.warm_pool\.fraction"),
        ("surge-slope", {"mu_per_s": 0.0}, r"\$\.warm_pool\.mu_per_s"),
        ("surge-slope", {"failures": -1}, r"\$\.warm_pool\.failures"),
        ("keep-alive-histogram", {"head": 0.9, "tail": 0.1}, r"\$\.warm_pool\.head"),
        ("keep-alive-histogram", {"bins": 1}, r"\$\.warm_pool\.bins"),
        ("scale-to-zero", {"keep_alive_s": -1.0}, r"\$\.warm_pool\.keep_alive_s"),
    ],
)
def test_bad_parameters_are_named(policy: str, parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        build(WarmPoolPolicy, {"policy": policy, **parameters}, "$.warm_pool")
