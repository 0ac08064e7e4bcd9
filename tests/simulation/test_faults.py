"""A fault names a place, hits whoever is there, and keeps it out of order until its repair."""

import math

import pytest

from fleet import NetworkModel, simulate
from fleet.launch.places import Places
from fleet.telemetry.occupancy import transitions
from policies import ExponentialBackoff
from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from tests.simulation.building import arrivals, engine, faults, fleet, play, simulation, states
from tests.simulation.test_behaviour import scaled
from traces import Fault, poisson, random_faults

RETRY = ExponentialBackoff(base_s=0.2, jitter="none")


def counters(run):
    return run.manifest.counters


def crash(at_s, replica="replica/0", for_s=None, **fault):
    return Fault(at_s=at_s, kind="crash", replica=replica, for_s=for_s, **fault)


def seconds(run):
    """Spent in each state, over all replicas."""
    rows = [(row["time_s"], row["replica"], row["state"]) for row in run.replicas.to_pylist()]
    return transitions(rows, run.summary.duration_s)


def ready_over_time(run):
    """How many were ready, as (from, to, number)."""
    now, number, was = 0.0, 0, {}
    for row in run.replicas.to_pylist():
        if row["time_s"] > now:
            yield now, row["time_s"], number
        now = row["time_s"]
        number += (row["state"] == "ready") - (was.get(row["replica"]) == "ready")
        was[row["replica"]] = row["state"]
    yield now, run.summary.duration_s, number


# --- whom a fault hits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replica/0", "place/0"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_five_crashes_of_one_place_are_five_crashes(name, replicas):
    five = faults(*(crash(at_s, name) for at_s in (5, 15, 25, 35, 45)))

    run = play(poisson(rate_per_s=5, duration_s=60, seed=1), fleet(0.05, replicas=replicas), faults=five)

    ended = [row["replica"] for row in run.replicas.to_pylist() if row["state"] == "failed"]
    assert ended == ["replica/0", *(f"replica/{replicas + n}" for n in range(4))]
    assert counters(run)["faults"] == 5
    assert "faults_without_victim" not in counters(run)
    assert run.summary.completed == run.summary.submitted


def test_a_fault_that_finds_nobody_is_counted_and_not_as_one_that_struck():
    spec = fleet(0.1, replicas=1, engine=engine(0.1, cold_start_s=3.0))
    given = faults(
        crash(1.2),
        Fault(at_s=1.5, kind="hang", replica="replica/0"),  # at 2 s another one begins to load there
        crash(5.5, "replica/7"),
        Fault(at_s=6.5, kind="slow", replica="client/nobody", factor=2.0, for_s=1.0),
        Fault(at_s=7.0, kind="fail-load", replica="replica/0"),  # and none loads
    )

    run = play(arrivals(0.0, 8.0), spec, faults=given)

    assert counters(run)["faults"] == 1
    assert counters(run)["faults_without_victim"] == 4


def test_the_name_of_a_replica_beyond_the_places_is_the_place_that_it_held_first():
    run = play(
        arrivals(0.0, 9.0),
        fleet(0.1),
        faults=faults(crash(1.0), crash(3.0, "replica/1"), crash(5.0, "replica/1")),
    )

    assert [row["replica"] for row in run.replicas.to_pylist() if row["state"] == "failed"] == [
        "replica/0", "replica/1", "replica/2",
    ]  # fmt: skip


def test_preemptions_of_one_instant_are_of_as_many_replicas():
    two = faults(*(Fault(at_s=1.0, kind="preempt", notice_s=0.5) for _ in range(2)))

    run = play(arrivals(0.0, 4.0), fleet(0.1, replicas=3, network=NetworkModel(delay_s=0.01)), faults=two)

    assert counters(run)["faults"] == 2
    assert counters(run)["notices"] == 2


def test_a_load_fails_at_the_place_that_is_named():
    spec = fleet(0.1, replicas=2, engine=engine(0.1, cold_start_s=0.5))
    given = faults(Fault(at_s=0.5, kind="fail-load", replica="place/1"), crash(1.0), crash(4.0, "place/1"))

    run = play(arrivals(0.0, 9.0), spec, faults=given)

    details = [row["replica"] for row in run.replicas.to_pylist() if "injected" in (row["detail"] or "")]
    assert details == ["replica/3"]


# --- how long a place is out of order ------------------------------------------------------------------------


def test_a_place_out_of_order_has_no_replica_until_its_repair():
    run = play(arrivals(*range(70)), fleet(0.1, replicas=2), faults=faults(crash(10.0, for_s=40.0)))

    assert states(run, "replica/2") == [
        (10.0, "provisioning"), (10.0, "waiting"), (50.0, "provisioning"), (50.0, "loading"), (50.0, "ready"),
    ]  # fmt: skip
    at_once = play(arrivals(*range(70)), fleet(0.1, replicas=2), faults=faults(crash(10.0)))
    assert at_once.summary.gpu_seconds - run.summary.gpu_seconds == pytest.approx(40.0)
    assert [last for _, _, last in ready_over_time(run)][-1] == 2


@pytest.mark.parametrize("for_s", [None, 0.0])
def test_a_crash_that_is_over_at_once_is_replaced_as_fast_as_a_replica_starts(for_s):
    run = play(arrivals(*range(9)), fleet(0.1), faults=faults(crash(2.5, for_s=for_s)))

    assert states(run, "replica/1")[-1] == (3.0, "ready")


def test_outages_of_one_place_that_overlap_are_one():
    both = faults(crash(1.0, for_s=10.0), crash(4.0, for_s=20.0), crash(5.0, for_s=1.0))

    run = play(arrivals(*range(40)), fleet(0.1, retry=RETRY), faults=both)

    assert states(run, "replica/1")[-1] == (24.0, "ready")
    assert counters(run)["faults_without_victim"] == 2


def test_a_fleet_with_room_to_spare_starts_elsewhere():
    run = play(
        arrivals(*range(9)), fleet(0.1, min_replicas=1, max_replicas=2), faults=faults(crash(2.5, for_s=90.0))
    )

    assert states(run, "replica/1")[-1] == (3.0, "ready")


class OneSpare(WarmPoolPolicy):
    def desired(self, pool, now_s):
        return Warm(1)


def test_spares_have_places_too():
    spec = fleet(0.1, replicas=2, warm_pool=OneSpare())

    run = play(arrivals(*range(60)), spec, faults=faults(crash(10.5, for_s=30.0)))

    assert states(run, "replica/2")[-1] == (11.0, "ready"), "the spare takes over"
    assert [at_s for at_s, state in states(run, "replica/3") if state == "warm"] == [40.5]


def test_a_replica_that_only_lingers_takes_no_place_from_its_successor():
    slow = fleet(5.0, replicas=2, health=fleet().health, max_inflight_batches=1)
    given = faults(
        Fault(at_s=1.0, kind="preempt", replica="replica/0", notice_s=4.5), crash(2.0, "replica/1", for_s=9.0)
    )

    run = play(arrivals(0.5, 0.6, 20.0), slow, faults=given)

    assert states(run, "replica/2")[-1] == (1.0, "ready")
    assert states(run, "replica/3")[-1] == (11.0, "ready")


def test_a_preemption_takes_its_place_away_from_the_notice_on():
    given = faults(Fault(at_s=1.0, kind="preempt", replica="replica/0", notice_s=2.0, for_s=10.0))

    run = play(arrivals(*range(20)), fleet(0.1), faults=given)

    assert states(run, "replica/1")[-1] == (13.0, "ready")


def test_an_outage_that_names_nobody_while_nobody_is_ready_is_one_of_a_place():
    given = faults(crash(1.0, None, for_s=10.0), crash(2.0, None, for_s=10.0), crash(3.0, None))

    run = play(arrivals(*range(20)), fleet(0.1, replicas=1), faults=given)
    two = play(arrivals(*range(20)), fleet(0.1, replicas=2), faults=given)

    assert states(run, "replica/1")[-1] == (11.0, "ready")
    assert counters(run)["faults_without_victim"] == 2
    assert [number for start, _, number in ready_over_time(two) if start == 2.0] == [0]
    assert counters(two)["faults_without_victim"] == 1


def test_the_wait_for_a_place_is_no_part_of_a_start():
    spec = fleet(0.1, engine=engine(0.1, cold_start_s=2.0), start_timeout_s=3.0, retry=RETRY)

    run = play(arrivals(0.0, 60.0), spec, faults=faults(crash(10.0, for_s=40.0)))

    assert states(run, "replica/1")[-1] == (52.0, "ready")
    assert "failed_starts" not in counters(run)


def test_a_start_that_waits_for_a_place_can_be_called_off():
    given = faults(crash(1.0, "replica/0", for_s=90.0), crash(1.0, "replica/1", for_s=90.0))
    spec = scaled(3, 1, max_replicas=3)  # from 2 s on one is enough

    run = play(arrivals(0.0, 30.0), spec, faults=given)

    for replica in ("replica/3", "replica/4"):
        assert [state for _, state in states(run, replica)] == ["provisioning", "waiting", "stopped"]
    assert "failed_starts" not in counters(run)


def test_idle_time_is_passed_over_while_a_start_waits():
    given = faults(crash(10.0, for_s=90_000.0))

    made = simulation(arrivals(0.0, 100_000.0), fleet(0.1, replicas=2), faults=given)
    run = made.run()

    assert states(run, "replica/2")[-1] == (90_010.0, "ready")
    assert made.runtime.delivered < 10_000


# --- closed forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtbf_s", "mttr_s"), [(500.0, 500.0), (900.0, 100.0)])
def test_a_place_is_up_for_mtbf_over_mtbf_plus_mttr_of_the_time_and_k_of_n_are_as_often_as_the_binomial_says(
    mtbf_s, mttr_s
):
    replicas, duration_s = 3, 300_000.0
    given = random_faults(replicas=replicas, duration_s=duration_s, mtbf_s=mtbf_s, mttr_s=mttr_s, seed=7)

    spec = fleet(0.1, replicas=replicas, control_interval_s=5.0, report_interval_s=5.0, probe_interval_s=5.0)

    run = simulate(arrivals(0.0, duration_s), spec, faults=given)

    up = mtbf_s / (mtbf_s + mttr_s)
    # An alternating renewal process of exponential times: the variance of its time average, for long times.
    variance = 2 * (mtbf_s * mttr_s) ** 2 / (mtbf_s + mttr_s) ** 3 / duration_s
    tolerance = 4 * math.sqrt(variance)
    assert seconds(run)["ready"] / (replicas * run.summary.duration_s) == pytest.approx(up, abs=tolerance)
    at_least_two = sum(end - start for start, end, number in ready_over_time(run) if number >= 2)
    slope = 6 * up * (1 - up)  # of 3 p² - 2 p³
    expected = 3 * up**2 - 2 * up**3
    assert at_least_two / run.summary.duration_s == pytest.approx(expected, abs=slope * tolerance + 0.005)
    assert counters(run)["faults"] + counters(run).get("faults_without_victim", 0) == len(given.faults)


# --- the books -----------------------------------------------------------------------------------------------


def test_places_are_taken_from_the_lowest_and_never_refused_while_all_are_in_order():
    places = Places(2)

    for number in range(4):
        assert places.take(f"replica/{number}")
    assert [places.place_of(f"replica/{number}") for number in range(4)] == [0, 1, 2, 3]
    places.vacate("replica/0")
    assert places.place_of("replica/2") == 0, "it came before its place was known to be free"
    assert places.found("place/0") == "replica/2"
    assert places.found("replica/0") == "replica/0", "still there"
    places.leave("replica/0")
    assert places.found("replica/0") == "replica/2"


def test_a_place_out_of_order_is_one_fewer():
    places = Places(2)
    places.take("replica/0")
    places.repaired_s[1] = 9.0

    assert not places.take("replica/1")
    del places.repaired_s[1]
    assert places.take("replica/1")
    assert places.place_of("replica/1") == 1


def test_one_that_recovers_has_its_place_again_or_another():
    places = Places(2)
    places.take("replica/0")
    places.vacate("replica/0")
    places.stay("replica/0")
    assert places.holder(0) == "replica/0"
    places.vacate("replica/0")
    places.take("replica/1")
    places.stay("replica/0")
    assert (places.holder(0), places.holder(1)) == ("replica/1", "replica/0")
