"""What the studies of scaling are made of: traffic, schedules, bounds, measures, against values worked out by hand."""

import math

import numpy as np
import pytest

from experiments.studies import predictive_scaling, scaling
from experiments.studies.scaling import (
    Job,
    azure_hour,
    azure_part,
    bridged,
    fleet,
    late_from_none,
    measures_of,
    per_minute,
    predictive,
    replicas_for,
    schedule_of,
    web,
)
from fleet import simulate
from policies import Fixed
from policies.scaling.scheduled import Scheduled
from tests.simulation.building import arrivals as requests_at
from traces import RateSeries


def at_minutes(*counts: int):
    """So many requests in each minute, evenly spaced."""
    times = [
        60.0 * minute + 60.0 * place / count for minute, count in enumerate(counts) for place in range(count)
    ]
    return requests_at(*times)


def test_replicas_are_busy_for_seven_tenths_of_the_time():
    """1/s of 6 s is 6 busy, 8.57 replicas."""
    assert replicas_for(1.0) == 9
    assert replicas_for(0.7 / 6.0) == 1
    assert replicas_for(100.0) == scaling.MOST


def test_who_finds_none_is_late_for_a_cold_start_and_a_service_less_the_objective():
    """40 + 6 - 20 s of phases of 300 s on average: 1 - exp(-26/300)."""
    assert late_from_none(300.0) == pytest.approx(0.0830, abs=5e-5)
    assert late_from_none(26.0) == pytest.approx(1.0 - math.exp(-1.0))


def test_a_phase_that_finds_none_ready_is_late_for_no_less_than_that():
    """The only replica goes before the phase; then there is one for each request at once, but for the cold start."""
    on_s, trace = 300.0, requests_at(*(200.0 + 0.5 * place for place in range(600)))
    scaler = Scheduled(schedule=((0.0, 0), (200.0, 30)), period_s=1000.0)
    late = 1.0 - Job(trace=trace, spec=fleet(scaler, to_none=True), seed=0).run()["attained"]
    least = (scaling.COLD_START_S + scaling.SERVICE_S - scaling.OBJECTIVE_S) / on_s
    assert least - 0.01 < late < least + scaling.LOOK_S / on_s + 0.03


def test_a_schedule_in_hindsight_is_the_erlang_c_answer_of_this_minute_or_the_next():
    """10 a minute of 6 s are one Erlang: C(2, 1) = 1/3 and C(3, 1) = 1/11, so three replicas keep 0.2."""
    assert schedule_of(at_minutes(10, 10)) == ((0.0, 3), (60.0, 3))
    assert schedule_of(at_minutes(10, 10, 64))[:2] == ((0.0, 3), (60.0, schedule_of(at_minutes(64))[0][1]))


def test_a_schedule_in_hindsight_keeps_erlangs_table():
    """M/M/c at load 12.8: C(16) = 0.3049 is too often to wait, so it takes more; 8 a minute make 0.8."""
    ((_, replicas),) = schedule_of(at_minutes(128))
    assert replicas > 16
    ((_, fewest),) = schedule_of(at_minutes(8))
    assert fewest == 3  # C(2, 0.8) = 0.2286, C(3, 0.8) = 0.0520


def test_minutes_are_counted_up_to_the_last_request():
    assert per_minute(requests_at(0.0, 59.9, 60.0, 200.0)).tolist() == [2.0, 1.0, 0.0, 1.0]


def test_a_gap_is_bridged_by_a_straight_line_between_its_sides():
    series = RateSeries(np.array([2.0, 2.0, np.nan, np.nan, np.nan, 8.0, 8.0]), 60.0)
    assert bridged(series).per_s.tolist() == [2.0, 2.0, 2.0, 5.0, 8.0, 8.0, 8.0]
    assert bridged(RateSeries(np.array([np.nan, 3.0]), 1.0)).per_s.tolist() == [3.0, 3.0]


def test_traffic_has_the_rate_that_it_is_to_have_and_as_much_time_as_is_left_of_it():
    for drawn, span_s in (
        (azure_hour(0, recorded=False), 3600.0),
        (azure_part(1, 8, recorded=False), 3600.0),
        (web(0.0, 172_800.0, 0, faster=48.0, recorded=False), 3600.0),
    ):
        assert drawn.duration_s == pytest.approx(span_s, rel=0.02)
        assert len(drawn) / span_s == pytest.approx(scaling.RATE_PER_S, rel=0.25)
    steps = web(0.0, 172_800.0, 0, faster=48.0, recorded=False).header.transforms
    assert [step.name for step in steps][-1] == "scale_time"


@pytest.mark.traces
def test_recorded_traffic_has_that_rate_too_and_its_parts_are_the_whole(shared_trace):
    shared_trace("azure-llm-2023/AzureLLMInferenceTrace_conv.csv")
    shared_trace("web-twitter/workload.tbz2")
    parts = [azure_part(part, 8) for part in range(8)]
    assert sum(map(len, parts)) == pytest.approx(8 * 3500, rel=0.05)
    assert all(part.duration_s == pytest.approx(3500.0, rel=0.01) for part in parts)
    assert azure_hour(0).rate_per_s == pytest.approx(scaling.RATE_PER_S, rel=0.05)
    assert azure_hour(0) != azure_hour(1)
    day = web(0.0, 86_400.0, 0, faster=24.0)
    assert day.duration_s == pytest.approx(3600.0, rel=0.01)
    assert day.rate_per_s == pytest.approx(scaling.RATE_PER_S, rel=0.1)
    assert per_minute(web(5000.0, 1800.0, 0)).max() > 3 * 60.0  # the burst of 01:32 on the first day


def test_phases_by_the_clock_have_the_mean_rate_and_come_at_the_end_of_each_period():
    trace = predictive_scaling.by_the_clock(10, 0)
    assert len(trace) / (10 * predictive_scaling.CLOCK_S) == pytest.approx(1.0, rel=0.05)
    arrived_s = trace.table["arrived_s"].to_numpy() % predictive_scaling.CLOCK_S
    in_phase = (arrived_s >= 900.0).mean()
    assert in_phase == pytest.approx(2.5 * 300.0 / 1200.0, abs=0.03)


def test_devices_are_held_from_when_it_counts_to_the_last_arrival():
    trace = at_minutes(30, 30, 30, 30)
    run = simulate(trace, fleet(Fixed(replicas=9)))
    for from_s in (0.0, 60.0):
        found = measures_of(run, from_s)
        counted = sum(time_s >= from_s for time_s in trace.table["arrived_s"].to_pylist())
        hours = (trace.duration_s - from_s) / 3600.0
        assert found["held"] == pytest.approx(9.0)
        assert found["cost"] == pytest.approx(1000.0 * 9.0 * hours * scaling.COST_PER_HOUR / counted)
        assert found["starts"] == found["changes"] == 0.0


def test_changes_and_cold_starts_are_counted_where_they_are_asked_for():
    trace = at_minutes(30, 30, 30, 30)
    run = simulate(trace, fleet(predictive()).replace(replicas=1, scaling=Fixed(replicas=4)))
    found = measures_of(run)
    hours = trace.duration_s / 3600.0
    assert found["starts"] * hours == pytest.approx(3.0)
    assert found["changes"] == 0.0  # four from the first look on
    later = measures_of(run, 60.0)
    assert later["starts"] == 0.0
    assert later["held"] == pytest.approx(4.0)
