"""What nobody says: processes that fall silent, messages that are lost, and answers that come too late."""

import pytest

from fleet import EmulatedEngine, FleetError, NetworkModel
from fleet.actor import Actor
from fleet.actors.roster import REMEMBERED, Reports
from fleet.engines import AffineLatency
from fleet.messages import (
    Drain,
    LoadFinished,
    ReplicaExited,
    ReplicaReported,
    Submit,
    Tick,
)
from fleet.runtime.simulated import SimulatedRuntime
from fleet.telemetry.sink import BLOCK_ROWS, Telemetry
from policies import ConsecutiveFailures, ExponentialBackoff, RoundRobin
from policies.base import HealthPolicy
from policies.decisions import Verdict
from tests.simulation.building import (
    Script,
    arrivals,
    column,
    decisions,
    faults,
    fleet,
    play,
    play_with,
    simulation,
    states,
)
from traces import Fault, Request

RETRY = ExponentialBackoff(base_s=0.2, jitter="none")
TRUSTING = ConsecutiveFailures(failures=1_000, suspect_after=1_000)


def counters(run):
    return run.manifest.counters


def cut(kind, for_s, **fault):
    return faults(Fault(at_s=0.5, kind=kind, replica="replica/0", for_s=for_s, **fault))


# --- leases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang", "partition", "drop"])
def test_a_replica_that_is_silent_for_longer_than_its_lease_is_ended_and_its_work_goes_elsewhere(kind):
    spec = fleet(replicas=2, health=TRUSTING, retry=RETRY, lease_s=2.0)

    run = play(arrivals(0.0), spec, faults=cut(kind, None))

    assert states(run, "replica/0")[-1] == (2.5, "failed")
    assert {row["replica"]: row["detail"] for row in run.replicas.to_pylist()}[
        "replica/0"
    ] == "silent for 2 s"
    assert column(run, "replica") == {"r0": "replica/1"}
    assert column(run, "ended_s")["r0"] == pytest.approx(2.5 + 0.2 + 1.0)


@pytest.mark.parametrize("kind", ["hang", "partition"])
def test_one_that_is_heard_within_its_lease_keeps_it(kind):
    run = play(arrivals(0.0, 6.0), fleet(health=TRUSTING, lease_s=2.0), faults=cut(kind, 2.0))

    assert states(run, "replica/0") == [(0.0, "ready")]
    assert run.summary.completed == 2


def test_silences_that_overlap_are_one():
    both = faults(
        Fault(at_s=0.5, kind="hang", replica="replica/0", for_s=1.5),
        Fault(at_s=1.5, kind="partition", replica="replica/0", for_s=1.5),
    )

    run = play(arrivals(0.0), fleet(health=TRUSTING, lease_s=2.0, retry=RETRY), faults=both)

    assert states(run, "replica/0")[-1] == (2.5, "failed")


def test_the_end_of_a_replica_whose_last_words_are_lost_is_noticed_by_its_silence():
    drained = faults(
        Fault(at_s=0.5, kind="preempt", replica="replica/0", notice_s=1e3),
        Fault(at_s=0.6, kind="drop", replica="replica/0", for_s=1.0),
    )

    run = play(arrivals(0.0, 8.0), fleet(replicas=2, health=TRUSTING, retry=RETRY), faults=drained)

    assert states(run, "replica/0")[-1] == (pytest.approx(3.6), "failed")
    assert run.summary.completed == 2


def test_the_silence_of_a_client_is_its_own_affair():
    away = faults(Fault(at_s=1.5, kind="partition", replica="client/trace", for_s=9.0))

    run = play(arrivals(0.0, 20.0), fleet(), faults=away)

    assert run.summary.completed == 2


# --- messages that are lost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("binding", ["early", "late"])
@pytest.mark.parametrize("at_s", [0.9, 1.9], ids=["the batch", "its answer"])
def test_a_batch_that_is_lost_on_the_way_is_missed_by_the_next_report_and_tried_again(at_s, binding):
    lost = faults(Fault(at_s=at_s, kind="drop", replica="replica/0", for_s=0.2))
    spec = fleet(replicas=1, binding=binding, health=TRUSTING, retry=RETRY)

    run = play(arrivals(1.0), spec, faults=lost)

    assert column(run, "outcome") == {"r0": "completed"}
    assert counters(run)["lost_batches"] == 1
    assert decisions(run, "retry")[0]["reason"] == "message-lost"
    assert column(run, "ended_s")["r0"] < at_s + 0.2 + 0.25 + 0.2 + 1.0 + 1e-9


def test_nothing_is_taken_for_lost_that_is_merely_slow():
    spec = fleet(
        0.3, replicas=2, max_inflight_batches=3, network=NetworkModel(delay_s=0.7), report_interval_s=0.1
    )

    run = play(arrivals(*(0.1 * n for n in range(40))), spec.replace(health=TRUSTING))

    assert "lost_batches" not in counters(run)
    assert run.summary.completed == 40
    assert run.summary.attempts_mean == 1.0


# --- answers that come too late ------------------------------------------------------------------------------


def test_the_answer_to_an_expired_request_is_not_the_answer_to_another_of_its_id():
    def submit(deadline_s):
        return Submit(Request("twice", 0.0, deadline_s=deadline_s), "client/script")

    script = Script((0.0, "router", submit(0.5)), (0.6, "router", submit(9.0)))

    play_with(script, arrivals(5.0), fleet())

    assert [(at_s, reply.outcome) for at_s, reply in script.replies] == [(0.5, "expired"), (2.0, "completed")]


def test_a_move_is_no_attempt_and_uses_up_no_retry():
    suspect = cut("hang", 20.0)
    spec = fleet(replicas=2, routing=RoundRobin(), retry=ExponentialBackoff(max_attempts=1), lease_s=60.0)

    run = play(arrivals(0.0, 0.0, 0.6), spec, faults=suspect)

    assert counters(run)["moved"] == 1
    assert column(run, "replica")["r2"] == "replica/1"
    assert column(run, "attempts")["r2"] == 1


def test_a_replica_that_recovers_is_told_to_forget_what_was_taken_back_and_holds_no_more_than_it_may():
    most = 0

    def watch():
        nonlocal most
        for address, context in made.runtime.contexts.items():
            if address.startswith("replica/"):
                most = max(most, len(context.actor.holds()))
        made.checker.check_all()

    spec = fleet(
        4.0,
        replicas=2,
        routing=RoundRobin(),
        max_inflight_batches=2,
        lease_s=60.0,
        failed_grace_s=60.0,
        retry=RETRY,
    )
    made = simulation(arrivals(*(0.01 * n for n in range(6)), *(7.0 + 0.1 * n for n in range(20))), spec,
                      faults=cut("hang", 4.0))  # fmt: skip
    made.runtime.after_each = watch

    run = made.run()

    assert [row["choice"] for row in decisions(run, "health", "healthy")] == ["healthy"]
    assert most == 2
    assert run.summary.completed == 26
    assert counters(run)["late_batches"] == 2, "one ran to its end, one was still at the door"


def test_late_binding_counts_the_retries_that_it_could_not_keep_away():
    lost = faults(Fault(at_s=0.9, kind="drop", replica="replica/0", for_s=0.2))

    run = play(arrivals(1.0), fleet(binding="late", health=TRUSTING, retry=RETRY), faults=lost)

    assert counters(run)["excludes_ignored"] == 1


# --- starts that hang ----------------------------------------------------------------------------------------


def test_a_replica_that_never_becomes_ready_is_ended_and_another_is_started_after_a_back_off():
    stuck = faults(
        Fault(at_s=0.5, kind="crash", replica="replica/0"),
        Fault(at_s=1.5, kind="hang", replica="replica/1"),
    )
    slow = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=1.0), cold_start_s=2.0)
    spec = fleet(engine=slow, start_timeout_s=5.0, lease_s=1e3, retry=RETRY)

    run = play(arrivals(0.0), spec, faults=stuck)

    assert [state for _, state in states(run, "replica/1")] == ["provisioning", "loading", "stopped"]
    (failed,) = decisions(run, "scaling", "StartFailed")
    assert failed["reason"] == "it was loading for over 5 s (start_timeout_s)"
    assert column(run, "replica") == {"r0": "replica/2"}


def test_a_start_that_is_called_off_is_no_failed_start():
    from tests.simulation.test_behaviour import scaled

    run = play(arrivals(0.0, 9.0), scaled(3, 1, provision_s=30.0, replicas=1, min_replicas=1))

    assert "failed_starts" not in counters(run)


def test_a_load_that_fails_after_the_replica_was_told_to_stop_is_no_error():
    made = simulation(arrivals(0.0), fleet())
    made.run()
    replica = made.runtime.contexts["replica/0"].actor
    replica.receive(Drain())

    replica.receive(LoadFinished("unloaded before the load was done"))

    assert replica.state == "stopped"


class SaysItAgain(HealthPolicy):
    """Answers every probe with the same verdict."""

    def observe(self, probe, now_s):
        return Verdict(probe.replica, "failed") if probe.status == "timeout" else None


def test_a_verdict_that_is_said_again_does_not_begin_the_grace_anew():
    spec = fleet(replicas=2, health=SaysItAgain(), failed_grace_s=3.0, lease_s=1e3, retry=RETRY)

    run = play(arrivals(0.0, 12.0), spec, faults=cut("hang", None))

    assert states(run, "replica/0")[-1] == (pytest.approx(5.0), "stopped")
    assert counters(run)["replaced"] == 1


# --- what must not grow --------------------------------------------------------------------------------------


class Fickle(Actor):
    """Sets timers that it cancels at once."""

    def start(self, ctx):
        super().start(ctx)
        ctx.after(1.0, Tick("again", number=100_000))

    def handlers(self):
        return {Tick: self.on_tick}

    def on_tick(self, message):
        if message.number == 0:
            return
        self.ctx.after(1e6, Tick("never")).cancel()
        self.ctx.after(0.0, Tick("again", number=message.number - 1))


def test_timers_that_were_cancelled_do_not_pile_up():
    runtime = SimulatedRuntime(seed=0)
    runtime.add("router", Fickle())
    longest = 0

    def watch():
        nonlocal longest
        longest = max(longest, len(runtime.heap))

    runtime.after_each = watch
    with pytest.raises(FleetError, match="deadlock"):
        runtime.run()

    assert longest < 3_000


def test_the_dead_are_remembered_only_for_so_long():
    reports = Reports()

    for number in range(2 * REMEMBERED):
        assert reports.believe(ReplicaReported(f"replica/{number}", "ready", 0))
        reports.ended(f"replica/{number}")

    assert not reports.believe(ReplicaReported(f"replica/{number}", "ready", 0))
    assert len(reports._gone) == REMEMBERED


def test_a_head_that_serves_for_long_keeps_the_last_rows_only():
    telemetry = Telemetry(keep_rows=2 * BLOCK_ROWS)
    run = Telemetry()

    for number in range(5 * BLOCK_ROWS):
        for sink in (telemetry, run):
            sink.dispatched(float(number), "replica/0", 1, 0, None)

    assert len(run.dispatches) == 5 * BLOCK_ROWS
    assert len(telemetry.dispatches) == 2 * BLOCK_ROWS
    assert telemetry.dispatches.dropped == 3 * BLOCK_ROWS
    assert telemetry.dispatches.take()["time_s"][-1].as_py() == 5 * BLOCK_ROWS - 1


def test_an_exit_that_is_told_twice_is_one():
    class Twice(Script):
        def on_tick(self, message):
            for name in ("router", "batcher/default", "autoscaler", "health"):
                self.ctx.send(name, ReplicaExited("replica/0", "seen again"))

    script = Twice((2.0, "", Drain()))
    run = play_with(
        script, arrivals(0.0, 4.0), fleet(replicas=2), faults=faults(Fault(at_s=1.5, kind="crash"))
    )

    assert run.summary.completed == 2
