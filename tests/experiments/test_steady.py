"""Warm-up, cool-down and steady state, on queues whose number in flight is known."""

import numpy as np
import pyarrow as pa
import pytest

from experiments.steady import (
    Cut,
    common,
    cool_down,
    falls_behind,
    in_flight_found,
    steadiness,
    warm_up,
    warm_up_of,
    window,
)
from fleet import simulate
from policies import QueueLimit
from tests.simulation.building import arrivals, fleet
from traces import Header, Trace

QUIET = {"report_interval_s": 1e3, "probe_interval_s": 1e3, "control_interval_s": 1e3}


def every(gap_s: float, count: int, *, first: int = 0):
    """`first` requests at once, then one each `gap_s`, served in a second each."""
    return simulate(
        arrivals(*[0.0] * first, *(gap_s * (number + 1) for number in range(count))), fleet(**QUIET)
    )


def judged(run):
    return steadiness(run, common([[run]]), settles=warm_up_of([run]) is not None)


def test_what_each_request_finds_in_flight_is_counted():
    run = simulate(arrivals(0.0, 0.5, 0.6, 2.5), fleet(**QUIET))  # they end at 1, 2, 3 and 4

    assert in_flight_found(run).tolist() == [0.0, 1.0, 2.0, 1.0]


def test_warm_up_ends_where_the_transient_does():
    rng = np.random.default_rng(3)
    settled = rng.normal(10.0, 1.0, 2000)
    rising = np.concatenate([np.linspace(0.0, 10.0, 200), settled])

    assert 150 <= warm_up(rising) <= 300
    assert warm_up(np.full(500, 7.0)) == 0


@pytest.mark.parametrize("series", [np.arange(1000.0), np.zeros(9)])
def test_warm_up_has_no_end_in_a_series_that_only_rises_or_hardly_is_one(series):
    assert warm_up(series) is None


def test_the_drift_of_an_overloaded_fleet_is_the_share_that_it_does_not_get_done():
    run = every(0.8, 2000)

    found = judged(run)

    assert found.state == "growing"
    assert found.drift == pytest.approx(0.2, abs=0.01)
    assert warm_up_of([run]) is None


def test_an_overload_is_seen_in_few_requests_too():
    run = every(0.5, 500)  # a quarter of them is kept

    assert judged(run).state == "growing"
    assert judged(every(0.5, 300)).state == "unclear"
    assert falls_behind(every(0.5, 300), common([[run]]))
    assert not falls_behind(every(1.25, 300), Cut(warm_up=0, cool_down=0))


def test_a_fleet_that_keeps_up_is_steady():
    run = every(1.25, 2000)

    found = judged(run)

    assert found.state == "steady"
    assert found.drift == pytest.approx(0.0, abs=1e-9)


def test_a_fleet_that_works_off_a_backlog_is_falling():
    run = every(1.25, 2000, first=800)

    assert steadiness(run, Cut(warm_up=810, cool_down=0), settles=True).state == "falling"


def test_a_fleet_that_turns_away_what_is_too_much_is_steady():
    run = simulate(
        arrivals(*(0.5 * number for number in range(2000))),
        fleet(admission=QueueLimit(max_queue_depth=5), **QUIET),
    )

    assert run.summary.rejected > 900
    assert judged(run).state == "steady"


@pytest.mark.parametrize("count", [1, 30])
def test_of_a_short_run_nothing_is_claimed(count):
    run = every(1.25, count)

    assert judged(run).state == "unclear"


def test_the_last_requests_which_meet_a_draining_fleet_are_left_out():
    work = np.full(1000, 40.0)
    columns = {"arrived_s": np.arange(1000.0), "work": work}
    run = simulate(
        Trace(pa.table(columns), Header(source="t", provenance="synthetic")), fleet(replicas=50, **QUIET)
    )

    assert cool_down(run, 0) == 40


def test_the_cool_down_is_at_most_a_quarter():
    assert cool_down(every(0.5, 1000), 0) == 250


def test_candidates_are_judged_by_the_same_requests():
    quick, backlog, overloaded = every(1.25, 1000), every(1.25, 940, first=60), every(0.5, 1000)

    assert common([[quick]]) == Cut(warm_up=0, cool_down=1)
    assert common([[backlog]]).warm_up > 100
    assert common([[quick], [backlog]]) == common([[backlog]])
    assert common([[overloaded], [quick]]) == common([[quick]])
    assert common([[overloaded]]) == Cut(warm_up=500, cool_down=250)


def test_a_chance_crowd_at_the_beginning_of_one_run_of_several_is_no_warm_up():
    rng = np.random.default_rng(5)
    runs = [simulate(arrivals(*np.cumsum(rng.exponential(1.6, 1500))), fleet(**QUIET)) for _ in range(8)]

    alone = [warm_up_of([run]) for run in runs]

    assert warm_up_of(runs) < np.mean([1500 if one is None else one for one in alone])


def test_a_window_has_the_requests_that_are_kept_and_rates_of_the_load():
    run = every(1.25, 1000)

    part = window(run, Cut(warm_up=100, cool_down=400))

    assert part.records["id"].to_pylist() == run.records["id"].to_pylist()[100:600]
    assert part.summary.submitted == 500
    assert part.summary.throughput_per_s == pytest.approx(0.8, rel=0.01)
    assert part.summary.e2e_s.mean == pytest.approx(1.0)
