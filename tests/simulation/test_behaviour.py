"""What the fleet does with a request and with its replicas, one law at a time.

Unless a test says otherwise a replica takes one request at a time and one second for each.
"""

import random
from collections import Counter
from itertools import pairwise

import pytest

from fleet import FleetError, NetworkModel, simulate
from fleet.actors.autoscaler import Autoscaler
from fleet.messages import Cancel, Drain, Submit
from fleet.runs.deadlock import DeadlockError
from fleet.runtime.simulated import SimulatedRuntime
from policies import (
    AdmissionPolicy,
    Admit,
    AlwaysTrust,
    BatchingPolicy,
    ConsecutiveFailures,
    Degrade,
    Dispatch,
    ExponentialBackoff,
    Fixed,
    FixedSize,
    Greedy,
    Hold,
    NoRetry,
    PolicyError,
    QueueDepth,
    QueueLimit,
    Reject,
    Retry,
    RetryPolicy,
    RoundRobin,
    Route,
    RoutingPolicy,
    Scale,
    ScalingPolicy,
    Wait,
    Warm,
    WarmPoolPolicy,
    Window,
)
from tests.simulation.building import (
    Script,
    arrivals,
    column,
    decisions,
    engine,
    entry,
    faults,
    fleet,
    play,
    play_with,
    simulation,
    sizes,
    states,
    trace_of,
)
from traces import Fault, Request

RETRY = ExponentialBackoff(base_s=0.2, jitter="none")


def counters(run):
    return run.manifest.counters


# --- how a request ends --------------------------------------------------------------------------------------


def test_a_request_expires_at_its_deadline_whether_it_waits_or_runs():
    run = play(arrivals(0.0, 0.1, 3.0, deadline_s=0.5), fleet(0.4))

    assert column(run, "outcome") == {"r0": "completed", "r1": "expired", "r2": "completed"}
    assert column(run, "ended_s")["r1"] == pytest.approx(0.6)

    run = play(arrivals(0.0, 0.1, deadline_s=0.5), fleet(1.0))

    assert column(run, "outcome") == {"r0": "expired", "r1": "expired"}
    assert column(run, "ended_s") == pytest.approx({"r0": 0.5, "r1": 0.6})
    assert sizes(run) == [1], "the one that waited never ran"


def test_the_fleets_deadline_is_for_requests_that_bring_none():
    trace = trace_of(entry("own", 0.0, deadline_s=5.0), entry("none", 0.0))

    run = play(trace, fleet(2.0, replicas=2, deadline_s=1.0))

    assert column(run, "outcome") == {"own": "completed", "none": "expired"}


def test_an_answer_after_the_request_ended_is_counted_and_dropped():
    run = play(arrivals(0.0, 1.2, deadline_s=0.9), fleet(1.0, replicas=2))

    assert column(run, "outcome") == {"r0": "expired", "r1": "expired"}
    assert counters(run)["late_answers"] == 1, "the other one is still running when the run ends"


def test_a_cancelled_request_ends_at_once_and_does_not_run_if_it_waited():
    script = Script((0.5, "router", Cancel("r1")), (0.5, "router", Cancel("unknown")))

    run = play_with(script, arrivals(0.0, 0.0), fleet())

    assert column(run, "outcome") == {"r0": "completed", "r1": "cancelled"}
    assert column(run, "ended_s")["r1"] == 0.5
    assert sizes(run) == [1]


def test_a_second_request_under_a_pending_id_is_rejected_and_the_first_is_served():
    again = Submit(Request("r0", 0.5), "client/script")
    script = Script((0.5, "router", again))

    run = play_with(script, arrivals(0.0, 1.5), fleet())

    assert column(run, "outcome") == {"r0": "completed", "r1": "completed"}
    ((at_s, reply),) = script.replies
    assert (at_s, reply.outcome, reply.detail) == (
        0.5,
        "rejected",
        "a request with id 'r0' is pending already",
    )


def test_what_does_not_fit_into_the_queue_is_shed():
    run = play(arrivals(*[0.0] * 5), fleet(queue_capacity=2))

    assert list(column(run, "outcome").values()) == ["completed"] * 3 + ["shed"] * 2
    assert column(run, "detail")["r4"] == "2 requests wait already (queue_capacity)"


def test_admission_rejects_with_its_reason():
    run = play(arrivals(0.0, 0.1, 0.2, 0.3), fleet(admission=QueueLimit(max_queue_depth=2)))

    assert list(column(run, "outcome").values()) == ["completed"] * 3 + ["rejected"]
    assert column(run, "detail")["r3"] == "queue full"
    assert [row["subject"] for row in decisions(run, "admission", "Reject")] == ["r3"]


class Halve(AdmissionPolicy):
    def admit(self, request, fleet, now_s):
        less = Request(request.id, request.arrived_s, work=0.5)
        return Degrade(less, "half of it") if fleet.in_flight else Admit()


def test_a_degraded_request_runs_as_the_lesser_one():
    run = play(arrivals(0.0, 0.0), fleet(admission=Halve()))

    assert column(run, "service_s") == {"r0": 1.0, "r1": 0.5}
    assert [row["reason"] for row in decisions(run, "admission", "Degrade")] == ["half of it"]


def test_at_the_horizon_what_has_no_reply_is_in_flight():
    run = play(arrivals(0.0, 0.5, 9.0), fleet(), until_s=1.7)

    assert column(run, "outcome") == {"r0": "completed", "r1": None}
    assert (run.summary.submitted, run.summary.in_flight, run.summary.duration_s) == (2, 1, 1.7)


def test_an_empty_trace_is_an_empty_run():
    run = play(trace_of(), fleet())

    assert (run.summary.submitted, run.summary.duration_s, run.summary.e2e_s.mean) == (0, 0.0, None)


# --- waiting and batches -------------------------------------------------------------------------------------


def test_latency_is_waiting_and_service_from_the_intended_arrival():
    run = play(arrivals(0.0, 0.25), fleet())

    assert column(run, "queue_s") == {"r0": 0.0, "r1": 0.75}
    assert column(run, "e2e_s") == {"r0": 1.0, "r1": 1.75}


def test_early_binding_waits_for_the_chosen_replica_and_late_binding_for_any():
    trace = trace_of(entry("long", 0.0, work=10.0), entry("a", 0.0), entry("b", 0.0), entry("c", 0.0))

    early = play(trace, fleet(replicas=2, binding="early", routing=RoundRobin()))
    late = play(trace, fleet(replicas=2, binding="late"))

    assert column(early, "ended_s") == {"long": 10.0, "a": 1.0, "b": 11.0, "c": 2.0}
    assert column(late, "ended_s") == {"long": 10.0, "a": 1.0, "b": 2.0, "c": 3.0}


def test_a_window_closes_when_it_is_full_or_its_time_is_over():
    spec = fleet(0.0, batching=Window(max_batch=3, window_s=0.2))

    run = play(arrivals(1.0, 1.1, 2.0, 2.05, 2.1), spec)

    assert run.dispatches["time_s"].to_pylist() == pytest.approx([1.2, 2.1])
    assert sizes(run) == [2, 3]


def test_the_next_batch_waits_at_the_door_of_a_replica_that_takes_two():
    run = play(arrivals(0.0, 0.0, 0.0), fleet(max_inflight_batches=2))

    assert run.dispatches["time_s"].to_pylist() == [0.0, 0.0, 1.0]
    assert column(run, "ended_s") == {"r0": 1.0, "r1": 2.0, "r2": 3.0}


class HoldOnce(RoutingPolicy):
    def reset(self, rng):
        self.held = set()

    def route(self, request, replicas, now_s):
        if request.id in self.held:
            return Route(replicas[0].id)
        self.held.add(request.id)
        return Hold(now_s + 0.5, "later")


def test_a_held_request_is_asked_about_again_and_a_hold_is_no_attempt():
    run = play(arrivals(0.0), fleet(routing=HoldOnce()))

    assert column(run, "ended_s") == {"r0": 1.5}
    assert column(run, "attempts") == {"r0": 1}
    assert [(row["value"], row["reason"]) for row in decisions(run, "routing", "Hold")] == [(0.5, "later")]


class Refuse(RoutingPolicy):
    def route(self, request, replicas, now_s):
        return Reject("not today")


def test_routing_may_reject():
    run = play(arrivals(0.0), fleet(routing=Refuse()))

    assert (column(run, "outcome"), column(run, "detail")) == ({"r0": "rejected"}, {"r0": "not today"})


# --- failure and retry ---------------------------------------------------------------------------------------

CRASH = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))


def test_what_a_dead_replica_had_is_tried_again_elsewhere_after_the_back_off():
    run = play(arrivals(0.0), fleet(replicas=2, retry=RETRY), faults=CRASH)

    assert column(run, "outcome") == {"r0": "completed"}
    assert (column(run, "attempts"), column(run, "replica")) == ({"r0": 2}, {"r0": "replica/1"})
    assert column(run, "ended_s")["r0"] == pytest.approx(0.5 + 0.2 + 1.0)
    assert counters(run)["retries"] == 1


@pytest.mark.parametrize(
    ("retry", "reason"),
    [
        (NoRetry(), "no retries"),
        (ExponentialBackoff(max_attempts=1), "attempts exhausted"),
        (ExponentialBackoff(budget_tokens=0.0), "retry budget exhausted"),
    ],
)
def test_a_retry_policy_that_gives_up_ends_the_request_as_failed(retry, reason):
    run = play(arrivals(0.0), fleet(replicas=2, retry=retry), faults=CRASH)

    assert column(run, "outcome") == {"r0": "failed"}
    assert column(run, "detail") == {"r0": "replica-lost: killed by a fault (SIGKILL)"}
    assert [row["reason"] for row in decisions(run, "retry", "GiveUp")] == [reason]


class NotOnOne(RetryPolicy):
    def after_failure(self, request, failure, now_s):
        return Retry(0.0, ("replica/1",))


def test_a_retry_avoids_the_replicas_it_excludes_where_there_are_others():
    spec = fleet(retry=NotOnOne(), scaling=Fixed(0), min_replicas=0)

    of_three = play(arrivals(0.0), spec.replace(replicas=3, max_replicas=3), faults=CRASH, until_s=0.4)
    assert of_three.summary.in_flight == 1

    of_three = play(arrivals(0.0), fleet(replicas=3, retry=NotOnOne()), faults=CRASH)
    of_two = play(arrivals(0.0), fleet(replicas=2, retry=NotOnOne(), provision_s=9.0), faults=CRASH)

    assert column(of_three, "replica") == {"r0": "replica/2"}
    assert column(of_two, "replica") == {"r0": "replica/1"}, "better than nowhere"


HANG = faults(Fault(at_s=0.5, kind="hang", replica="replica/0", for_s=20.0))


@pytest.mark.parametrize("binding", ["early", "late"])
def test_the_work_of_a_replica_that_fails_its_health_checks_moves_to_another(binding):
    spec = fleet(3.0, replicas=2, binding=binding, routing=RoundRobin(), retry=RETRY, failed_grace_s=60.0)

    run = play(arrivals(0.0, 0.0), spec, faults=HANG)

    # Probes at 1, 2 and 3 s are unanswered for half a second each.
    assert [row["time_s"] for row in decisions(run, "health", "failed")] == [3.5]
    assert column(run, "replica") == {"r0": "replica/1", "r1": "replica/1"}
    assert column(run, "ended_s")["r0"] == pytest.approx(3.5 + 0.2 + 3.0)


def test_what_waited_for_a_suspect_moves_before_the_verdict_is_final():
    spec = fleet(replicas=2, routing=RoundRobin(), retry=RETRY)

    run = play(arrivals(0.0, 0.0, 0.6), spec, faults=HANG)

    assert column(run, "replica")["r2"] == "replica/1"
    assert column(run, "ended_s")["r2"] == pytest.approx(1.5 + 1.0)
    assert counters(run)["moved"] == 1


def test_the_answer_of_a_replica_that_was_given_up_is_counted_and_dropped():
    failing = faults(Fault(at_s=0.5, kind="hang", replica="replica/0", for_s=5.0))
    spec = fleet(replicas=2, failed_grace_s=60.0, lease_s=60.0, retry=RETRY)

    run = play(arrivals(0.0, 7.0), spec, faults=failing)

    assert column(run, "replica")["r0"] == "replica/1"
    assert counters(run)["late_batches"] == 1


def test_a_replica_that_recovers_within_its_grace_is_trusted_again():
    failing = faults(Fault(at_s=0.5, kind="hang", replica="replica/0", for_s=5.0))

    run = play(arrivals(0.0, 9.0), fleet(replicas=2, failed_grace_s=60.0, lease_s=60.0), faults=failing)

    assert [row["choice"] for row in decisions(run, "health")] == ["suspect", "failed", "healthy"]
    assert column(run, "replica")["r1"] == "replica/0"


def test_a_slow_replica_takes_its_factor_longer_while_it_lasts():
    failing = faults(Fault(at_s=0.0, kind="slow", replica="replica/0", factor=3.0, for_s=2.5))

    run = play(arrivals(0.1, 5.0), fleet(), faults=failing)

    assert column(run, "ended_s")["r0"] > 3.0
    assert column(run, "service_s")["r1"] == 1.0


def test_a_batch_that_cannot_be_delivered_is_retried():
    class ToTheDead(Script):
        """Takes the replica out of the kernel without telling anybody."""

        def on_tick(self, message):
            made.runtime.remove("replica/0")

    made = simulation(arrivals(1.0), fleet(replicas=2, retry=RETRY, health=AlwaysTrust()))
    made.runtime.add("client/script", ToTheDead((0.5, "", Drain())))

    run = made.run()

    assert column(run, "outcome") == {"r0": "completed"}
    assert counters(run)["undeliverable_batches"] >= 1


# --- replicas come and go ------------------------------------------------------------------------------------


class Plan(ScalingPolicy):
    """`before` replicas until `at_s`, then `after`."""

    before: int
    at_s: float
    after: int

    def desired(self, pool, now_s):
        return Scale(self.before if now_s < self.at_s else self.after)


class Spares(WarmPoolPolicy):
    """None until 2 s, then one."""

    def desired(self, pool, now_s):
        return Warm(int(now_s >= 2.0))


def scaled(before, after, **changes):
    bounds = {"replicas": before, "min_replicas": 0, "max_replicas": 9}
    plan = Plan(before=before, at_s=2.0, after=after)
    return fleet(**{"scaling": plan, "control_interval_s": 0.5, **bounds, **changes})


def test_a_new_replica_is_provisioned_then_loads_then_serves():
    spec = scaled(1, 2, engine=engine(1.0, cold_start_s=1.5), provision_s=1.0)

    run = play(arrivals(0.0, 6.0, 6.0), spec)

    expected = [(2.0, "provisioning"), (3.0, "loading"), (4.5, "ready")]
    assert states(run, "replica/1")[:3] == expected
    assert column(run, "replica")["r2"] == "replica/1"
    assert column(run, "cold") == {"r0": True, "r1": False, "r2": True}
    assert run.summary.replicas.max == 2


def test_a_warm_spare_serves_at_once_and_is_replaced_by_another():
    spec = scaled(1, 2, engine=engine(1.0, cold_start_s=1.0), warm_pool=FixedSize(size=1))

    run = play(arrivals(0.0, 6.0), spec)

    assert states(run, "replica/1")[1:] == [(0.0, "loading"), (1.0, "warm"), (2.0, "ready")]
    assert [state for _, state in states(run, "replica/2")] == ["provisioning", "loading", "warm"]


def test_a_replica_that_is_no_longer_needed_drains_and_stops_and_the_newest_goes_first():
    run = play(arrivals(0.0, 6.0), scaled(3, 1))

    assert states(run, "replica/0") == [(0.0, "ready")]
    for name in ("replica/1", "replica/2"):
        assert states(run, name) == [(0.0, "ready"), (2.0, "draining"), (2.0, "stopped")]


PREEMPT = faults(Fault(at_s=0.5, kind="preempt", replica="replica/0", notice_s=30.0))


def test_a_draining_replica_finishes_what_is_at_its_door_and_what_waits_for_it_moves():
    spec = fleet(replicas=2, max_inflight_batches=2, routing=RoundRobin(), provision_s=60.0)

    run = play(arrivals(*[0.0] * 6), spec, faults=PREEMPT)

    # r0 and r2 are at its door, r4 waits for it.
    assert column(run, "replica") == {
        "r0": "replica/0", "r2": "replica/0",
        "r1": "replica/1", "r3": "replica/1", "r4": "replica/1", "r5": "replica/1",
    }  # fmt: skip
    assert states(run, "replica/0")[1:] == [(0.5, "draining"), (2.0, "stopped")]
    assert run.summary.completed == 6


def test_a_preempted_replica_is_killed_when_its_notice_is_over():
    failing = faults(Fault(at_s=0.5, kind="preempt", replica="replica/0", notice_s=0.2))

    run = play(arrivals(0.0), fleet(replicas=2, retry=RETRY), faults=failing)

    assert column(run, "ended_s")["r0"] == pytest.approx(0.7 + 0.2 + 1.0)


def test_the_batch_of_a_replica_that_hangs_while_it_drains_is_not_lost():
    failing = faults(
        Fault(at_s=0.5, kind="preempt", replica="replica/0", notice_s=1e3),
        Fault(at_s=0.6, kind="hang", replica="replica/0"),
    )

    run = play(arrivals(0.0), fleet(replicas=2, retry=RETRY), faults=failing)

    assert column(run, "replica") == {"r0": "replica/1"}
    assert column(run, "ended_s")["r0"] == pytest.approx(3.5 + 0.2 + 1.0)


def test_what_waits_for_a_replica_that_becomes_a_spare_moves():
    spec = scaled(2, 1, routing=RoundRobin(), warm_pool=Spares())
    waiting = [1.9] * 6

    run = play(arrivals(*waiting), spec)

    assert [state for _, state in states(run, "replica/1")][:2] == ["ready", "warm"]
    assert run.summary.completed == 6
    assert run.summary.e2e_s.max < 10.0


def test_a_failed_replica_is_replaced_after_its_grace():
    failing = faults(Fault(at_s=0.5, kind="hang", replica="replica/0"))

    run = play(arrivals(0.0, 20.0), fleet(replicas=2, failed_grace_s=3.0, lease_s=60.0), faults=failing)

    assert states(run, "replica/0")[-1] == (pytest.approx(7.0), "stopped")
    assert counters(run)["replaced"] == 1


def test_loads_that_fail_are_tried_again_ever_more_slowly():
    failing = faults(CRASH.faults[0], *(Fault(at_s=0.0, kind="fail-load") for _ in range(3)))

    run = play(arrivals(0.0, 20.0), fleet(control_interval_s=0.1), faults=failing)

    assert [row["value"] for row in decisions(run, "scaling", "StartFailed")] == [0.5, 1.0, 2.0]
    starts = [row["time_s"] for row in run.replicas.to_pylist() if row["state"] == "provisioning"]
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(gap >= least for gap, least in zip(gaps, (0.5, 1.0, 2.0), strict=True))
    assert run.summary.completed == 2


def test_a_fleet_scaled_to_nothing_sees_what_waits_for_it():
    spec = fleet(
        replicas=1, min_replicas=0, scaling=QueueDepth(up_at=0.5, down_at=0.4, keep=0), control_interval_s=0.5
    )

    run = play(arrivals(5.0), spec)

    assert run.summary.replicas.min == 0
    assert run.summary.completed == 1
    assert max(run.series["queue_depth"].to_pylist()) == 1


@pytest.mark.parametrize("lost", ["Drain", "Deactivate", "Activate"])
def test_a_command_that_was_lost_is_said_again(lost):
    cut = faults(Fault(at_s=1.8, kind="partition", replica="replica/1", for_s=0.6))
    spec = {
        "Drain": scaled(2, 1),
        "Deactivate": scaled(2, 1, warm_pool=Spares()),
        "Activate": scaled(1, 2, warm_pool=FixedSize(size=1)),
    }[lost]

    run = play(arrivals(0.0, 6.0), spec, faults=cut)

    reached = {"Drain": "stopped", "Deactivate": "warm", "Activate": "ready"}[lost]
    assert states(run, "replica/1")[-1] == (2.5, reached)


def replacement(spec, made):
    return Autoscaler(
        pool=spec.serving[0], initial_replicas=0,
        control_interval_s=spec.control_interval_s, failed_grace_s=spec.failed_grace_s, router="router",
        telemetry=made.telemetry, signals=made.head.signals, settle_s=2 * spec.report_interval_s, first_number=100,
    )  # fmt: skip


def test_an_autoscaler_that_dies_is_replaced_by_one_that_learns_from_reports():
    class Replace(Script):
        def on_tick(self, message):
            made.runtime.remove("autoscaler")
            made.runtime.add("autoscaler", replacement(made.spec, made))

    spec = scaled(3, 2, provision_s=0.1, max_replicas=4)
    made = simulation(
        arrivals(0.0, 0.5, 6.0), spec, faults=faults(Fault(at_s=3.0, kind="crash", replica="replica/0"))
    )
    made.runtime.add("client/script", Replace((1.2, "", Drain())))

    run = made.run()

    # It took three for what they are, retired one at 2 s, and replaced the one that died at 3 s.
    assert states(run, "replica/2")[-1][1] == "stopped"
    names = set(run.replicas["replica"].to_pylist())
    assert names == {"replica/0", "replica/1", "replica/2", "replica/100"}
    assert run.summary.completed == 3


def test_on_a_slow_network_the_replicas_that_are_on_their_way_are_not_ordered_twice():
    run = play(arrivals(1.0), fleet(replicas=3, network=NetworkModel(delay_s=0.05)))

    assert set(run.replicas["replica"].to_pylist()) == {"replica/0", "replica/1", "replica/2"}


def test_the_report_of_a_replica_that_died_meanwhile_does_not_bring_it_back():
    network = NetworkModel(delay_s=0.3)
    failing = faults(Fault(at_s=1.1, kind="crash", replica="replica/0"))

    run = play(arrivals(0.5, 4.0), fleet(replicas=2, network=network), faults=failing)

    assert states(run, "replica/0")[-1] == (1.1, "failed")
    assert column(run, "replica")["r1"] != "replica/0"


def test_a_report_that_was_overtaken_is_not_believed():
    network = NetworkModel(delay_s=0.01, jitter_s=1.0, reorder=True)
    spec = scaled(1, 3, engine=engine(0.1, cold_start_s=0.1), network=network, health=AlwaysTrust())

    run = play(arrivals(*range(40)), spec)

    for name in ("replica/1", "replica/2"):
        assert [state for _, state in states(run, name)] in (
            ["provisioning", "loading", "ready"],
            ["provisioning", "ready"],
        )


def test_what_a_replica_says_reaches_all_of_the_head_at_once_or_none():
    network = NetworkModel(jitter_s=0.5)
    spec = scaled(1, 4, network=network, routing=RoundRobin(), retry=NoRetry(), health=AlwaysTrust())

    run = play(arrivals(*(0.1 * n for n in range(100))), spec)

    assert run.summary.completed == 100, "nothing was sent to a replica that the batcher did not know yet"


# --- sessions ------------------------------------------------------------------------------------------------


def test_a_session_goes_on_after_the_reply_and_counts_from_there():
    trace = trace_of(
        entry("a", 0.0, session="s"),
        entry("b", 0.5, session="s", parent="a", think_s=2.0),
        entry("c", 9.0, session="s", parent="b", think_s=0.5),
    )

    run = play(trace, fleet(), sessions=True)

    assert column(run, "arrived_s") == {"a": 0.0, "b": 3.0, "c": 4.5}
    assert column(run, "e2e_s") == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_without_sessions_the_same_trace_is_played_open_loop():
    trace = trace_of(entry("a", 0.0), entry("b", 0.5, parent="a", think_s=2.0))

    run = play(trace, fleet())

    assert column(run, "arrived_s") == {"a": 0.0, "b": 0.5}


def test_a_session_goes_on_when_a_turn_is_refused():
    trace = trace_of(entry("a"), entry("b"), entry("c", parent="b", think_s=3.0))

    run = play(trace, fleet(admission=QueueLimit(max_in_flight=1)), sessions=True)

    assert column(run, "outcome") == {"a": "completed", "b": "rejected", "c": "completed"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("b", parent="a")], "the trace has a request that follows 'a', which is not in it"),
        ([entry("a", parent="a")], "the trace has a request that follows 'a', which itself follows it"),
    ],
)
def test_a_session_without_a_beginning_is_an_error(entries, message):
    with pytest.raises(FleetError) as caught:
        play(trace_of(*entries), fleet(), sessions=True)

    assert str(caught.value) == message


# --- when nothing happens any more ---------------------------------------------------------------------------


def test_nobody_to_wait_for_is_a_deadlock_that_says_who_waits():
    with pytest.raises(FleetError) as caught:
        SimulatedRuntime(seed=0).run(waiting=lambda: ["request 7 waits for Godot"])

    assert str(caught.value) == "deadlock: nothing is left to happen, but\n  request 7 waits for Godot"


class Never(BatchingPolicy):
    def next_batch(self, queue, idle, now_s):
        return Wait()


@pytest.mark.parametrize("spec", [fleet(), fleet(replicas=3, deep_probe_interval_s=7.0, binding="late")])
def test_requests_that_nobody_will_ever_serve_are_a_deadlock_that_names_them(spec):
    with pytest.raises(DeadlockError) as caught:
        simulate(arrivals(0.0, 0.5), spec.replace(batching=Never()))

    assert str(caught.value) == (
        "deadlock: nothing that is left to happen can end these requests:\n"
        "  request r0 waits for the batcher\n"
        "  request r1 waits for the batcher"
    )


@pytest.mark.parametrize(
    ("per_item_s", "network"),
    [(1_300.0, {}), (5_000.0, {}), (1_300.0, {"delay_s": 0.05, "jitter_s": 0.01})],
)
def test_an_engine_at_work_is_waited_for_however_long_it_takes(per_item_s, network):
    run = simulate(arrivals(0.0, 0.5), fleet(per_item_s, network=NetworkModel(**network)))

    assert column(run, "outcome") == {"r0": "completed", "r1": "completed"}
    assert run.summary.duration_s >= 2 * per_item_s


def test_a_start_that_takes_hours_is_waited_for():
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))
    spec = fleet(engine=engine(cold_start_s=10_000.0), provision_s=20_000.0, start_timeout_s=50_000.0)

    run = simulate(arrivals(1.0), spec, faults=crash)

    assert column(run, "ended_s") == {"r0": pytest.approx(30_002.0, abs=1.0)}


def test_a_scaler_that_changes_its_mind_before_a_replica_is_up_does_not_keep_work_waiting():
    class Flaps(ScalingPolicy):
        def desired(self, pool, now_s):
            return Scale(int(now_s) % 2)

    spec = fleet(
        replicas=1, min_replicas=0, scaling=Flaps(), engine=engine(cold_start_s=5.0), provision_s=1.0
    )
    assert simulate(arrivals(3.0), spec).summary.completed == 1


def test_the_router_can_say_who_waits_for_what():
    made = simulation(arrivals(0.0, 0.5, 0.6), fleet(replicas=1, max_replicas=1))
    made.run(until_s=0.7)

    assert made.head.router.waiting() == [
        "request r0 waits for an answer of replica/0",
        "request r1 waits for the batcher",
        "request r2 waits for the batcher",
    ]


def test_a_client_that_is_cut_off_for_good_is_an_error_not_a_hang():
    cut = faults(Fault(at_s=0.5, kind="partition", replica="client/trace"))

    with pytest.raises(DeadlockError, match="request r0 waits for a reply that was lost"):
        simulate(arrivals(1.0), fleet(), faults=cut)


# --- policies that break their contract ----------------------------------------------------------------------


class Raises(RoutingPolicy):
    def route(self, request, replicas, now_s):
        raise ZeroDivisionError("division by zero")


class Misroutes(RoutingPolicy):
    def route(self, request, replicas, now_s):
        return Route("replica/9")


class Mistypes(RoutingPolicy):
    def route(self, request, replicas, now_s):
        return "replica/0"


class HoldsInThePast(RoutingPolicy):
    def route(self, request, replicas, now_s):
        return Hold(now_s)


class TooMany(BatchingPolicy):
    def next_batch(self, queue, idle, now_s):
        return Dispatch(5)


class Unknown(BatchingPolicy):
    def next_batch(self, queue, idle, now_s):
        return Dispatch(1, ids=("nobody",))


class Elsewhere(BatchingPolicy):
    def next_batch(self, queue, idle, now_s):
        return Dispatch(1, replica="replica/9")


class WaitsInThePast(BatchingPolicy):
    def next_batch(self, queue, idle, now_s):
        return Wait(0.0)


class Renames(AdmissionPolicy):
    def admit(self, request, fleet, now_s):
        return Degrade(Request("other", request.arrived_s))


class AdmitsWithYes(AdmissionPolicy):
    def admit(self, request, fleet, now_s):
        return True


class LessThanNothing(ScalingPolicy):
    def desired(self, pool, now_s):
        return Scale(-1)


AT = "at 1.500000 s"
BROKEN = {
    "routing raises": (
        {"routing": Raises()},
        f"routing policy raises raised ZeroDivisionError: division by zero (asked about r0 {AT})",
    ),
    "routing names nobody": (
        {"routing": Misroutes()},
        "routing policy misroutes named replica 'replica/9', which is not a candidate for request 'r0' "
        f"{AT} (candidates: replica/0, replica/1)",
    ),
    "routing answers a string": (
        {"routing": Mistypes()},
        "routing policy mistypes answered 'replica/0'; expected Route, Hold or Reject",
    ),
    "routing holds until now": (
        {"routing": HoldsInThePast()},
        "routing policy holds-in-the-past held request 'r0' until 1.5 s at 1.5 s; until_s must be in the future",
    ),
    "batching wants more than waits": (
        {"batching": TooMany()},
        "batching policy too-many asked for a batch of 5 with 1 waiting",
    ),
    "batching names nobody": (
        {"batching": Unknown()},
        "batching policy unknown named requests that do not wait: ('nobody',)",
    ),
    "batching names no replica": (
        {"batching": Elsewhere(), "binding": "late"},
        "batching policy elsewhere named replica 'replica/9', which has no room (idle: replica/0, replica/1)",
    ),
    "batching waits until the past": (
        {"batching": WaitsInThePast()},
        "batching policy waits-in-the-past waits until 0.0 s at 1.5 s; until_s must be in the future",
    ),
    "admission renames": (
        {"admission": Renames()},
        "admission policy renames degraded request 'r0' and changed its id or arrival; both must stay",
    ),
    "admission answers a truth": (
        {"admission": AdmitsWithYes()},
        "admission policy admits-with-yes answered True; expected Admit, Reject, Degrade or Delay",
    ),
    "scaling asks for less than nothing": (
        {"scaling": LessThanNothing()},
        "scaling policy less-than-nothing answered Scale(replicas=-1, reason=None); expected Scale(replicas >= 0)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_policy_that_breaks_its_contract_is_named_with_request_and_time(case):
    changes, message = BROKEN[case]

    with pytest.raises(PolicyError) as caught:
        play(arrivals(1.5), fleet(replicas=2, **changes), seed=11)

    assert str(caught.value) == message
    assert "seed=11" in caught.value.__notes__[0]


class AskedOnce(RetryPolicy):
    def after_failure(self, request, failure, now_s):
        raise KeyError(failure.kind)


def test_a_retry_policy_that_raises_is_named_too():
    with pytest.raises(PolicyError) as caught:
        play(arrivals(0.0), fleet(replicas=2, retry=AskedOnce()), faults=CRASH)

    assert str(caught.value) == (
        "retry policy asked-once raised KeyError: 'replica-lost' (asked about r0 at 0.500000 s)"
    )


# --- what policies are told ----------------------------------------------------------------------------------


class Ledger(RoutingPolicy):
    """Counts what was sent to each replica and has not ended."""

    def reset(self, rng):
        BOOK.clear()
        self.turn = 0

    def route(self, request, replicas, now_s):
        self.turn += 1
        return Route(replicas[self.turn % len(replicas)].id)

    def on_dispatched(self, request, replica, now_s):
        BOOK[replica] += 1

    def on_completed(self, completion, now_s):
        BOOK[completion.replica] -= 1


BOOK: Counter[str] = Counter()


@pytest.mark.parametrize("binding", ["early", "late"])
def test_hooks_hear_of_every_attempt_that_was_sent_and_once_of_its_end(binding):
    trace = trace_of(*(entry(f"r{n}", 0.1 * n, deadline_s=3.0 if n % 3 else None) for n in range(60)))
    failing = faults(*HANG.faults, *PREEMPT.faults, Fault(at_s=4.0, kind="crash", replica="replica/1"))
    spec = fleet(replicas=4, binding=binding, routing=Ledger(), queue_capacity=12, retry=RETRY)

    run = play(trace, spec, faults=failing)

    assert {"completed", "expired", "shed"} <= set(column(run, "outcome").values())
    assert not any(BOOK.values())


# --- what policies can see -----------------------------------------------------------------------------------

SEEN: list[object] = []


class Looks(RoutingPolicy):
    def reset(self, rng):
        SEEN.clear()

    def reveal(self, output_tokens):
        SEEN.append(output_tokens)

    def route(self, request, replicas, now_s):
        SEEN.append(request)
        return Route(replicas[0].id)


class Knows(Looks):
    oracle = True

    def route(self, request, replicas, now_s):
        SEEN.append(SEEN[0](request.id))
        return Route(replicas[0].id)


LENGTHS = trace_of(entry("r0", 0.0, output_tokens=7), entry("r1", 2.0, output_tokens=9), entry("r2", 4.0))


def test_a_policy_is_never_shown_an_output_length():
    play(LENGTHS, fleet(routing=Looks()))

    assert [type(seen) for seen in SEEN] == [Request] * 3
    assert not any("output" in field for field in Request.__struct_fields__)


def test_a_policy_that_declares_itself_an_oracle_is_shown_the_true_lengths():
    play(LENGTHS, fleet(routing=Knows()))

    assert SEEN[1:] == [7, 9, None]


def test_one_oracle_does_not_make_the_others_see():
    class Curious(BatchingPolicy):
        def reveal(self, output_tokens):
            raise AssertionError("shown to a policy that is no oracle")

        def next_batch(self, queue, idle, now_s):
            return Dispatch(1)

    run = play(LENGTHS, fleet(routing=Knows(), batching=Curious()))

    assert run.summary.completed == 3


def test_candidates_are_ready_trusted_and_in_the_order_of_their_numbers():
    offered = []

    class Watches(RoutingPolicy):
        def route(self, request, replicas, now_s):
            offered.append([replica.id for replica in replicas])
            return Route(replicas[random.Random(0).randrange(len(replicas))].id)

    failing = faults(Fault(at_s=0.5, kind="hang", replica="replica/3"))
    play(
        arrivals(0.0, 2.0),
        fleet(0.1, replicas=12, routing=Watches(), health=ConsecutiveFailures()),
        faults=failing,
    )

    everyone = [f"replica/{number}" for number in range(12)]
    assert offered == [everyone, [name for name in everyone if name != "replica/3"]]


def test_greedy_takes_all_that_waits_up_to_its_limit():
    run = play(arrivals(0.0, 0.1, 0.2, 0.3, 0.4), fleet(batching=Greedy(max_batch=3)))

    assert sizes(run) == [1, 3, 1]


def test_with_late_binding_no_batch_waits_at_the_door_of_a_busy_replica_beside_an_idle_one():
    spec = fleet(0.1, replicas=3, binding="late", max_inflight_batches=2)

    run = play(arrivals(0.0, 0.01, 0.02, 0.03), spec)

    rows = sorted(run.records.to_pylist(), key=lambda row: row["id"])
    assert [row["replica"] for row in rows] == ["replica/0", "replica/1", "replica/2", "replica/0"]
    assert [row["e2e_s"] for row in rows] == pytest.approx([0.1, 0.1, 0.1, 0.17])
