"""Engines that cannot be loaded: who waits for one is told, and the fleet goes on trying."""

import pytest
from msgspec.structs import replace

from fleet.runs.simulate import Simulation
from policies import Scale, ScalingPolicy
from tests.simulation.building import arrivals, column, decisions, engine, faults, fleet, play, trace_of
from tests.simulation.building_tokens import ONE_S, asks, serving
from traces import Fault

BROKEN = {"engine": engine(fail_load=True, cold_start_s=0.5)}
WHY = "the engine failed to load: the load was told to fail (fail_load=True)"


@pytest.mark.parametrize("binding", ["early", "late"])
def test_what_waits_ends_when_the_limit_is_reached_and_says_why(binding):
    run = play(arrivals(0.1, 1.0, 7.0), fleet(**BROKEN, binding=binding))

    assert set(column(run, "outcome").values()) == {"failed"}
    assert set(column(run, "detail").values()) == {f"no replica can be started: replica/5: {WHY}"}
    assert len(set(column(run, "ended_s").values())) == 1
    assert [row["value"] for row in decisions(run, "scaling", "StartFailed")] == [
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
    ]


def test_the_same_holds_token_by_token():
    broken = replace(serving(ONE_S).engine, fail_load=True)
    run = play(trace_of(asks("r", 0.1)), serving(engine=broken, failed_starts_limit=2))

    assert column(run, "detail")["r"] == f"no replica can be started: replica/1: {WHY}"


def test_replicas_that_fail_together_are_one_failed_start():
    run = play(arrivals(0.1), fleet(**BROKEN, replicas=8))

    assert column(run, "ended_s")["r0"] > 15.0
    assert run.manifest.counters["failed_starts"] > 8 * 5


def test_later_requests_wait_for_the_next_try_and_end_with_it():
    run = play(arrivals(0.1, 40.0, 60.0), fleet(**BROKEN, failed_starts_limit=1))

    ended = column(run, "ended_s")
    assert ended["r0"] < 3.0
    assert 40.0 < ended["r1"] < 71.0
    assert 60.0 < ended["r2"] < 91.0


def test_a_deadline_comes_first_and_says_what_was_missing():
    run = play(arrivals(0.1, deadline_s=3.0), fleet(**BROKEN))

    assert column(run, "outcome")["r0"] == "expired"
    assert column(run, "ended_s")["r0"] == pytest.approx(3.1)
    assert column(run, "detail")["r0"].startswith("its deadline passed while no replica was ready: replica/")


class AsManyAsWait(ScalingPolicy):
    def desired(self, pool, now_s):
        return Scale(min(2, pool.queue_depth))


def test_from_no_replicas_at_all_each_request_gets_its_own_tries():
    spec = fleet(**BROKEN, min_replicas=0, max_replicas=2, scaling=AsManyAsWait(), failed_starts_limit=2)
    run = play(arrivals(0.1, 200.0), spec)

    assert set(column(run, "outcome").values()) == {"failed"}
    assert run.manifest.counters["failed_starts"] >= 3


def test_one_load_that_succeeds_and_all_is_well_again():
    crash = Fault(at_s=1.5, kind="crash", replica="replica/0")
    failing = [Fault(at_s=0.0, kind="fail-load") for _ in range(3)]
    run = play(arrivals(1.0, 2.0, 60.0), fleet(), faults=faults(crash, *failing))

    assert set(column(run, "outcome").values()) == {"completed"}
    assert run.manifest.counters["failed_starts"] == 3


def test_others_that_are_ready_are_not_given_up_for_one_that_cannot_start():
    crash = Fault(at_s=0.5, kind="crash", replica="replica/1")
    failing = [Fault(at_s=0.0, kind="fail-load") for _ in range(5)]
    times = [0.1 * number for number in range(60)]
    run = play(arrivals(*times), fleet(replicas=2, failed_starts_limit=1), faults=faults(crash, *failing))

    assert set(column(run, "outcome").values()) == {"completed"}
    assert run.manifest.counters["failed_starts"] >= 3


def test_a_year_of_failing_starts_is_no_overflow():
    made = Simulation(arrivals(0.1, 40_000.0), fleet(**BROKEN))
    run = made.run()

    assert run.manifest.counters["failed_starts"] > 1_024
    assert decisions(run, "scaling", "StartFailed")[-1]["value"] == 30.0


def test_whoever_watches_a_live_head_gets_a_line_for_each():
    made = Simulation(arrivals(0.1), fleet(**BROKEN, failed_starts_limit=2))
    said = []
    made.head.pools["default"].autoscaler._say = said.append  # as the live head does
    made.run()

    assert said == [
        f"replica/0 did not start: {WHY} (failed start 1 in a row; the next try in 0.5 s)",
        f"replica/1 did not start: {WHY} (failed start 2 in a row; the next try in 1 s)",
    ]
