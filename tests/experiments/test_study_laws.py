"""What theory says in the studies of warm pools and of failover, against values that are worked out by hand."""

import math

import numpy as np
import pytest

from experiments.studies import failover
from experiments.studies.failover import alarms_per_h, campaign, delay_s, lost_probes, probes_to_run
from experiments.studies.warm_pool_law import (
    FULL,
    MU_PER_S,
    Plan,
    Ramp,
    arrivals,
    ready_at,
    spares_of,
    spec_of,
)
from fleet import simulate
from tests.simulation.building import arrivals as requests_at
from tests.simulation.building import faults, fleet, play
from traces import Fault

CLIMB = Ramp(low=5.0, high=25.0, start_s=100.0, climb_s=40.0)


# --- warm pools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("climb_s", "cold_s", "law", "keeping_up", "one_at_a_time"),
    [
        # 20 replicas more. Slope 1/2 a second, 5 in a cold start; 0.8 * 5 - 0.2 * 5 = 3; 4 of 20 come one by one.
        (40.0, 10.0, 5.0, 3.0, 16.0),
        # Twice as slow, half as many.
        (80.0, 10.0, 2.5, 1.0, 12.0),
        # No more than the climb itself needs, however short it is.
        (5.0, 10.0, 20.0, 15.0, 20.0),
        # A gentle one: what replicas are not planned to do is enough.
        (400.0, 10.0, 0.5, 0.0, 0.0),
    ],
)
def test_the_law_by_hand(climb_s, cold_s, law, keeping_up, one_at_a_time):
    ramp = Ramp(low=5.0, high=25.0, start_s=100.0, climb_s=climb_s)
    assert ramp.law(cold_s) == pytest.approx(law)
    assert ramp.short(ramp.peak_s, cold_s) == pytest.approx(law)
    assert ramp.short(ramp.peak_s, cold_s, spares=2.0) == pytest.approx(max(0.0, law - 2.0))
    assert ramp.keeping_up(cold_s) == pytest.approx(keeping_up)
    assert ramp.one_at_a_time(cold_s) == one_at_a_time


@pytest.mark.parametrize("climb_s", [5.0, 10.0, 17.0, 40.0, 80.0])
@pytest.mark.parametrize("cold_s", [4.0, 10.0])
def test_spares_to_keep_up_are_the_fewest_with_which_what_is_ready_can_do_what_arrives(climb_s, cold_s):
    ramp = Ramp(low=5.0, high=25.0, start_s=100.0, climb_s=climb_s)
    times_s = np.linspace(90.0, 220.0, 5201).tolist()

    def least_room(spares: float) -> float:
        return min(
            ramp.needed(at_s) - ramp.short(at_s, cold_s, spares) - FULL * ramp.needed(at_s)
            for at_s in times_s
        )

    spares = ramp.keeping_up(cold_s)
    assert least_room(spares) >= -1e-9
    if spares > 0.0:
        assert least_room(spares - 0.1) < 0.0


def test_demand_is_steady_then_climbs_then_is_steady():
    assert [CLIMB.needed(at_s) for at_s in (0.0, 100.0, 120.0, 140.0, 500.0)] == [5.0, 5.0, 15.0, 25.0, 25.0]


def test_arrivals_follow_the_ramp():
    trace = arrivals(CLIMB, 160.0, 3)
    times_s = trace.column("arrived_s").to_numpy()
    for from_s, to_s, replicas in ((0.0, 100.0, 5.0), (100.0, 140.0, 15.0), (140.0, 160.0, 25.0)):
        count = int(((times_s >= from_s) & (times_s < to_s)).sum())
        expected = MU_PER_S * replicas * (to_s - from_s)
        assert abs(count - expected) < 4.0 * math.sqrt(expected)


def test_a_replica_more_is_asked_for_from_when_those_before_it_are_not_enough():
    ramp = Ramp(low=2.0, high=4.0, start_s=100.0, climb_s=40.0)
    assert ramp.schedule() == ((0.0, 2), (100.0, 3), (120.0, 4))
    for at_s in (50.0, 100.5, 119.9, 120.1, 139.9, 300.0):
        asked = max(replicas for from_s, replicas in ramp.schedule() if from_s <= at_s)
        assert asked == math.ceil(ramp.needed(at_s))


def test_sizes_of_pools_follow_the_law():
    named = {
        name: spares_of(name, CLIMB, 10.0)
        for name in ("no spares", "spares to keep up", "spares of the law", "twice as many", "three fewer")
    }
    assert list(named.values()) == [0, 3, 5, 10, 2]


def test_what_is_ready_is_what_was_needed_a_cold_start_ago():
    """Rounded up to whole ones, and up to one look of the control loop late."""
    plan = Plan(climbs_s=(40.0,), cold_s=10.0, low=5, high=25, seeds=1)
    ramp = plan.ramp(40.0, 0)
    trace = arrivals(ramp, ramp.peak_s + 11.0, 0)
    run = simulate(trace, spec_of("no spares", ramp, 10.0), check=False)
    for after_s in (0.0, 10.0, 20.0, 30.0, 40.0):
        at_s = ramp.start_s + after_s
        assert ready_at(run, at_s) == pytest.approx(ramp.needed(at_s - 10.0), abs=1.0)


# --- failover ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "run", "mean"),
    # Coins: a head takes 2 throws, two in a row 6, three 14, five 62.
    [
        (0.5, 1, 2.0),
        (0.5, 2, 6.0),
        (0.5, 3, 14.0),
        (0.5, 5, 62.0),
        (0.1, 1, 10.0),
        (0.1, 2, 110.0),
        (1.0, 3, 3.0),
    ],
)
def test_probes_until_a_run_by_hand(probability, run, mean):
    assert probes_to_run(probability, run) == pytest.approx(mean)
    assert probes_to_run(0.0, run) == math.inf


def test_a_probe_is_lost_with_its_question_or_with_its_answer():
    assert lost_probes(0.2) == pytest.approx(0.36)
    assert alarms_per_h(0.0, 3) == 0.0
    # 1 / 0.36 probes to the alarm; (1 - 0.64²) / (0.36 · 0.64²) to two good ones in a row.
    assert alarms_per_h(0.2, 1) == pytest.approx(3600.0 / (2.777778 + 4.003906), rel=1e-5)


@pytest.mark.parametrize(("failures", "mean_s"), [(1, 1.0), (2, 2.0), (3, 3.0), (5, 5.0)])
def test_a_hang_is_known_half_a_period_and_a_time_out_after_the_probes_before(failures, mean_s):
    """Probes each second, half a second for each: (k - 1/2) + 1/2."""
    assert delay_s(0.0, failures) == pytest.approx(mean_s)
    lost = lost_probes(0.1)
    assert delay_s(0.1, failures) == pytest.approx(mean_s - sum(lost**n for n in range(1, failures)))


def test_a_campaign_has_as_many_failures_of_each_kind_one_at_a_time_and_the_same_ones_whatever_is_lost():
    quiet, lossy = (campaign(10, 900.0, loss, 3).faults for loss in (0.0, 0.05))
    assert [fault for fault in lossy if fault.kind != "drop"] == list(quiet)
    kinds = [fault.kind for fault in quiet]
    assert {kind: kinds.count(kind) for kind in kinds} == {"crash": 10, "hang": 10, "slow": 10}
    assert len({fault.replica for fault in quiet[:10]}) == 10
    ends_s = [fault.at_s + (fault.for_s or 0.0) for fault in quiet]
    assert all(end_s <= fault.at_s for end_s, fault in zip(ends_s, quiet[1:], strict=False))


def test_what_was_known_of_a_failure_is_the_first_verdict_or_its_end_and_a_false_alarm_is_of_one_that_is_well():
    """A hang at 2.25 s: probes at 3 and 4 s are not answered, and the second is given up at 4.5 s.

    The link of the other loses all from 10.25 s on. That replica is well, so that what follows is a false alarm.
    """
    spec = fleet(
        replicas=2, probe_interval_s=1.0, probe_timeout_s=0.5, failed_grace_s=60.0, lease_s=1e3, control_interval_s=1e3,
        health={"policy": "consecutive-failures", "failures": 2},
    )  # fmt: skip
    hang = Fault(at_s=2.25, kind="hang", replica="replica/0", for_s=3.0)
    crash = Fault(at_s=6.5, kind="crash", replica="replica/0")
    away = Fault(at_s=10.25, kind="drop", replica="replica/1", for_s=4.0)
    run = play(requests_at(20.0), spec, faults=faults(hang, crash, away))

    hung, crashed = failover.failures_of(run)

    assert (hung.kind, hung.replica, hung.known_s) == ("hang", "replica/0", pytest.approx(4.5))
    assert (crashed.kind, crashed.known_s) == ("crash", 6.5)
    # Well until 20 s: replica/1 all along, and replica/0 until it hung; nobody takes its place so soon.
    alarms_per_h = 3600.0 / (20.0 + 2.25)
    assert failover.false_alarms_per_h(run, [hung, crashed], 20.0) == pytest.approx(alarms_per_h)
