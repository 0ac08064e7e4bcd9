"""Scaling by forecast, by the clock, and by the root of the load: against other code, tables and theory."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, QueueDepth, Scale, ScalingPolicy, build
from policies.scaling.erlang import beta_for, erlang_b, erlang_c, halfin_whitt, servers_for
from policies.scaling.predictive import Predictive
from policies.scaling.scheduled import Scheduled
from policies.scaling.service_rate import ServiceRate
from policies.scaling.square_root_staffing import SquareRootStaffing
from policies.testing import parametrize_with_checks
from tests.policies.makers import pool, reset

HOLT_WINTERS = json.loads((Path(__file__).parent / "recorded" / "holt_winters.json").read_text())
"""Numbers that statsmodels gave; `source` in the file names the function."""


@parametrize_with_checks(
    [
        Predictive,
        lambda: Predictive(
            season_s=2.0, bucket_s=0.5, horizon_s=3.0, headroom=2.0, rate_per_s=5.0, level_smoothing=1.0,
            trend_smoothing=1.0, season_smoothing=1.0, average_s=0.5, memory_s=1.0, down_stabilization_s=0.0,
        ),
        Scheduled,
        lambda: Scheduled(
            schedule=((0.5, 7), (1.5, 0)), period_s=2.0, starts_s=0.25, scaler=QueueDepth(up_at=1, down_at=0)
        ),
        SquareRootStaffing,
        lambda: SquareRootStaffing(
            wait_probability=0.01, law="erlang-c", service_s=0.05, average_s=0.5, memory_s=1.0,
            down_stabilization_s=0.0,
        ),
        lambda: SquareRootStaffing(beta=3.0),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


def forecaster(**fields: Any) -> Predictive:
    buckets = HOLT_WINTERS["buckets"]
    smoothing = {
        name: HOLT_WINTERS[name] for name in ("level_smoothing", "trend_smoothing", "season_smoothing")
    }
    return reset(Predictive(**({"season_s": 10.0 * buckets, "bucket_s": 10.0} | smoothing | fields)))


class TestPredictive:
    def test_it_forecasts_what_statsmodels_forecasts(self) -> None:
        policy = forecaster(horizon_s=0.0)
        buckets, said = HOLT_WINTERS["buckets"], []
        for rate_per_s in HOLT_WINTERS["rates_per_s"]:
            if policy.closed >= buckets:
                said.append(policy.expected_per_s())
            policy._count(rate_per_s, 10.0)
        assert said == pytest.approx(HOLT_WINTERS["one_step"], rel=1e-9)

    @pytest.mark.parametrize("steps", [1, 2, 5, 12])
    def test_of_the_horizon_the_largest_counts(self, steps: int) -> None:
        policy = forecaster(horizon_s=10.0 * (steps - 1))
        for rate_per_s in HOLT_WINTERS["rates_per_s"]:
            policy._count(rate_per_s, 10.0)
        assert policy.expected_per_s() == pytest.approx(max(HOLT_WINTERS["ahead"][:steps]), rel=1e-9)

    @pytest.mark.parametrize("interval_s", [0.7, 3.0, 10.0, 25.0])
    def test_looks_need_not_end_with_buckets(self, interval_s: float) -> None:
        policy, other = forecaster(), forecaster()
        for _n in range(round(400 / interval_s)):
            policy._count(7.0, interval_s)
            other._count(7.0, interval_s / 2)
            other._count(7.0, interval_s / 2)
        assert policy.closed == other.closed == math.floor(round(400 / interval_s) * interval_s / 10.0 + 1e-9)
        assert policy.level == pytest.approx(7.0)

    @staticmethod
    def day(policy: Predictive, days: int, rate_per_s: float = 10.0) -> dict[float, int]:
        """A day of 100 s, quiet for its first half, then nine times as many; what is asked for by time."""
        asked, ready = {}, 1
        for now_s in range(1, 100 * days + 1):
            arrivals = 9.0 if (now_s - 1) % 100 < 50 else 81.0
            view = pool(
                ready, arrivals_per_s=arrivals, completions_per_s=arrivals, max_replicas=50,
                busy_fraction=arrivals / (rate_per_s * ready), interval_s=1.0, in_flight=1,
            )  # fmt: skip
            ready = asked[now_s] = policy.desired(view, float(now_s)).replicas
        return asked

    def test_from_the_second_day_on_replicas_are_there_before_they_are_needed(self) -> None:
        policy = reset(
            Predictive(season_s=100.0, bucket_s=5.0, horizon_s=10.0, average_s=1.0, down_stabilization_s=0.0)
        )
        asked = self.day(policy, 3)
        assert asked[49] == math.ceil(9 * 1.2 / 10)  # the first day: nobody knows
        assert asked[51] == math.ceil(81 * 1.2 / 10)
        for day in (100, 200):
            assert asked[day + 39] < 10 <= asked[day + 41]
            assert asked[day + 60] >= 10

    def test_it_never_asks_for_less_than_what_comes_now_takes(self) -> None:
        policy = reset(Predictive(season_s=100.0, bucket_s=5.0, rate_per_s=10.0, average_s=1.0))
        self.day(policy, 2)
        view = pool(1, arrivals_per_s=200.0, interval_s=1.0, max_replicas=50, in_flight=9)
        assert policy.desired(view, 201.0).replicas == 24

    def test_while_the_rate_is_not_known_nothing_changes(self) -> None:
        policy = reset(Predictive())
        assert policy.desired(pool(3, arrivals_per_s=50.0, interval_s=1.0), 1.0).replicas == 3

    def test_a_quiet_interval_of_a_long_batch_is_no_rate_of_zero(self) -> None:
        rate, look = ServiceRate(memory_s=1e6), {"busy_fraction": 1.0, "interval_s": 1.0}
        assert rate.learn(pool(1, **look)) is None
        assert rate.learn(pool(1, completions_per_s=20.0, **look)) == pytest.approx(10.0)
        assert rate.learn(pool(1, **look)) == pytest.approx(20.0 / 3.0)
        assert rate.learn(pool(1, completions_per_s=9.0, interval_s=1.0)) == pytest.approx(20.0 / 3.0)


class TestScheduled:
    DAY = Scheduled(schedule=((21_600.0, 4), (32_400.0, 10), (72_000.0, 2)))

    @pytest.mark.parametrize(
        ("now_s", "asked"),
        [(0, 2), (21_599, 2), (21_600, 4), (32_400, 10), (71_999, 10), (72_000, 2), (86_400 + 40_000, 10)],
    )
    def test_an_entry_holds_until_the_next(self, now_s: float, asked: int) -> None:
        policy = reset(self.DAY.fresh())
        assert policy.desired(pool(1, max_replicas=20), float(now_s)).replicas == asked

    def test_a_run_may_begin_anywhere_in_the_period(self) -> None:
        policy = reset(Scheduled(schedule=self.DAY.schedule, starts_s=30_000.0))
        assert [policy.at(now_s) for now_s in (0.0, 2_399.0, 2_400.0)] == [4, 4, 10]

    def test_it_is_the_floor_of_the_policy_within(self) -> None:
        policy = reset(Scheduled(schedule=((0.0, 3),), scaler=QueueDepth(step=4)))
        assert policy.desired(pool(1), 0.0) == Scale(3, "schedule")
        assert policy.desired(pool(1, queue_depth=50), 1.0).replicas == 5

    def test_a_table_may_hold_the_policy_within(self) -> None:
        table = {"policy": "scheduled", "schedule": [[0, 2]], "scaler": {"policy": "queue-depth", "step": 2}}
        assert build(ScalingPolicy, table).scaler == QueueDepth(step=2)

    @pytest.mark.parametrize(
        ("schedule", "path"),
        [
            ([], r"schedule: name at least one"),
            ([[5, 1], [5, 2]], r"schedule\[1\]: 5 s does not come after 5 s"),
            ([[5, 1], [3, 2]], r"schedule\[1\]: 3 s does not come after 5 s"),
            ([[90_000, 1]], r"schedule\[0\]: 90000 s never comes"),
            ([[0, -1]], r"schedule\[0\]\[1\]"),
        ],
    )
    def test_a_schedule_that_contradicts_itself_is_refused(self, schedule: list[Any], path: str) -> None:
        with pytest.raises(PolicyError, match=rf"^\$\.scaling\.{path}"):
            build(ScalingPolicy, {"policy": "scheduled", "schedule": schedule}, "$.scaling")


class TestErlang:
    @pytest.mark.parametrize(
        ("servers", "rho", "b", "c"),
        [
            (1, 0.8, 0.444444, 0.8), (2, 0.8, 0.329897, 0.711111), (4, 0.8, 0.228145, 0.596432),
            (8, 0.8, 0.144394, 0.457645), (16, 0.8, 0.080647, 0.304884), (4, 0.9, 0.270685, 0.787753),
            (8, 0.9, 0.190313, 0.701533), (8, 0.95, 0.213131, 0.844169), (32, 0.95, 0.102589, 0.695710),
        ],
    )  # fmt: skip
    def test_exact_values(self, servers: int, rho: float, b: float, c: float) -> None:
        assert erlang_b(servers, servers * rho) == pytest.approx(b, abs=5e-7)
        assert erlang_c(servers, servers * rho) == pytest.approx(c, abs=5e-7)

    @given(st.floats(0.01, 200.0), st.floats(0.001, 0.999))
    def test_the_fewest_servers_for_a_probability(self, load: float, probability: float) -> None:
        servers = servers_for(load, probability, 10_000)
        assert erlang_c(servers, load) <= probability * (1 + 1e-9)
        assert erlang_c(servers - 1, load) > probability * (1 - 1e-9)

    def test_at_zero(self) -> None:
        assert servers_for(0.0, 0.1, 10) == 0
        assert erlang_c(0, 0.0) == 1.0
        assert erlang_c(3, 0.0) == 0.0
        assert erlang_c(3, 3.0) == 1.0

    def test_the_search_ends_at_the_most(self) -> None:
        assert servers_for(1e12, 0.1, 8) == 8

    @given(st.floats(0.001, 0.999))
    def test_beta_is_the_inverse(self, probability: float) -> None:
        assert halfin_whitt(beta_for(probability)) == pytest.approx(probability, rel=1e-9)

    @pytest.mark.parametrize(
        ("beta", "below", "density"),
        [(0.5, 0.69146, 0.35207), (1.0, 0.84134, 0.24197), (2.0, 0.97725, 0.05399)],
    )
    def test_the_limit_of_halfin_and_whitt(self, beta: float, below: float, density: float) -> None:
        """1 / (1 + beta · Phi(beta) / phi(beta)), of the tables of the normal law."""
        assert halfin_whitt(beta) == pytest.approx(1.0 / (1.0 + beta * below / density), rel=1e-4)

    @pytest.mark.parametrize("probability", [0.05, 0.2, 0.5])
    def test_erlang_c_tends_to_it(self, probability: float) -> None:
        beta = beta_for(probability)
        far, near = (
            erlang_c(round(load + beta * math.sqrt(load)), load) - probability for load in (25.0, 1e5)
        )
        assert abs(near) < 0.01
        assert abs(far) < 0.1


class TestSquareRootStaffing:
    @pytest.mark.parametrize(
        ("arrivals", "beta", "asked"), [(10.0, 1.0, 14), (100.0, 1.0, 110), (100.0, 0.0, 100)]
    )
    def test_it_asks_for_the_load_and_beta_times_its_root(
        self, arrivals: float, beta: float, asked: int
    ) -> None:
        policy = reset(SquareRootStaffing(beta=beta, service_s=1.0))
        view = pool(1, arrivals_per_s=arrivals, interval_s=1.0, max_replicas=1000)
        assert policy.desired(view, 1.0).replicas == asked

    @pytest.mark.parametrize("load", [2.0, 7.5, 40.0, 300.0])
    @pytest.mark.parametrize("law", ["square-root", "erlang-c"])
    def test_the_probability_of_waiting_is_the_target_at_every_scale(self, load: float, law: str) -> None:
        policy = reset(SquareRootStaffing(wait_probability=0.2, law=law, service_s=1.0))
        replicas = policy.staff(load, 10_000)
        if law == "erlang-c":
            assert erlang_c(replicas, load) <= 0.2 < erlang_c(replicas - 1, load)
        else:
            assert erlang_c(replicas, load) == pytest.approx(0.2, abs=0.07)

    def test_the_time_of_a_request_is_learnt(self) -> None:
        policy = reset(SquareRootStaffing(beta=0.0, average_s=1.0))
        look = {"arrivals_per_s": 30.0, "completions_per_s": 20.0, "busy_fraction": 0.5, "interval_s": 1.0}
        assert policy.desired(pool(4, **look), 1.0).replicas == 3  # 20 in 2 busy seconds: 10 a second

    def test_until_it_is_known_nothing_changes(self) -> None:
        policy = reset(SquareRootStaffing())
        assert policy.desired(pool(3, arrivals_per_s=1e6, interval_s=1.0), 1.0) == Scale(3)

    @pytest.mark.parametrize("law", ["square-root", "erlang-c"])
    def test_no_arrivals_take_no_replicas(self, law: str) -> None:
        policy = reset(SquareRootStaffing(law=law, service_s=1.0))
        assert policy.desired(pool(0, min_replicas=0, interval_s=1.0), 1.0) == Scale(0)

    def test_going_down_waits_for_the_window(self) -> None:
        policy = reset(SquareRootStaffing(beta=0.0, service_s=1.0, average_s=1.0, down_stabilization_s=10.0))
        asked = [
            policy.desired(pool(5, arrivals_per_s=rate, interval_s=1.0), now_s).replicas
            for now_s, rate in [(1.0, 5.0), (2.0, 2.0), (11.0, 2.0), (11.5, 2.0)]
        ]
        assert asked == [5, 5, 5, 2]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "predictive", "season_s": 100, "bucket_s": 30}, "bucket_s: a season"),
        ({"policy": "predictive", "season_s": 1e9, "bucket_s": 1}, "bucket_s: a season"),
        ({"policy": "predictive", "season_s": 10, "bucket_s": 10}, "bucket_s: a season"),
        ({"policy": "square-root-staffing", "beta": 1, "law": "erlang-c"}, "beta: erlang-c"),
        ({"policy": "square-root-staffing", "wait_probability": 1}, "wait_probability"),
    ],
)
def test_bad_parameters_name_their_path(table: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=rf"^\$\.scaling\.{path}"):
        build(ScalingPolicy, table, "$.scaling")
