"""The checker of the invariants finds what breaks them: a fleet that is tampered with does not pass."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from msgspec.structs import force_setattr, replace

from fleet.messages import Reply, RunBatch
from fleet.runs.invariants import InvariantViolation, audit
from policies import Window
from tests.simulation.building import arrivals, faults, fleet, simulation
from traces import Fault

EARLY = fleet(replicas=2)
LATE = fleet(replicas=2, binding="late", batching=Window(max_batch=9, window_s=5.0))


def forget(sim):
    """Lose the waiting requests, and keep the counts right."""
    queue = next(queue for queue in sim.head.batcher.queues() if queue.waiting)
    taken = len(queue.clear())
    sim.head.batcher.depth -= taken
    sim.head.batcher.finished += taken


def misplace(sim):
    pending = next(pending for pending in sim.head.router.pending.values() if pending.running)
    pending.lead.ticket += 1


def answer_twice(sim):
    sim.client.submitted += 1


def skip(name, by=1):
    def change(sim):
        owner = sim.head.router if name == "submitted" else sim.head.batcher
        setattr(owner, name, getattr(owner, name) + by)

    return change


def miscount(actor, field):
    def change(sim):
        view = getattr(sim.head, actor).views()[0]
        force_setattr(view, field, getattr(view, field) + 1)

    return change


def idle_about(sim):
    sim.head.batcher.queues()[0].said_wait = False


def oversleep(sim):
    sim.head.batcher.queues()[0].wait_until_s = 0.1


def hide(sim):
    sim.head.batcher.queues()[0].idle.clear()


def distrust(sim):
    for view in (*sim.head.batcher.views(), *sim.head.router.views()):
        force_setattr(view, "trust", "failed")
    for queue in sim.head.batcher.queues():
        queue.idle.clear()


def overfill(sim):
    sim.head.router.catalogue.desks["default"].capacity = 1


def crowd(sim):
    replica = sim.runtime.contexts["replica/0"].actor
    replica.receive(RunBatch(98, [], "batcher/default"))


TAMPERED = {
    "a request that nobody counted": (EARLY, skip("submitted"), "1 (conservation)"),
    "a waiting attempt too many": (EARLY, skip("depth"), "1 (conservation)"),
    "an attempt that never came in": (EARLY, skip("enqueued"), "1 (conservation)"),
    "requests that nobody has any more": (EARLY, forget, "1 (conservation)"),
    "a request whose attempt is another": (EARLY, misplace, "1 (conservation)"),
    "the router's own count": (EARLY, miscount("router", "in_flight"), "1 (conservation)"),
    "the batcher's own count": (EARLY, miscount("batcher", "in_flight"), "1 (conservation)"),
    "room that is not there": (EARLY, miscount("batcher", "capacity"), "1 (conservation)"),
    "a reply too few": (EARLY, answer_twice, "2 (once)"),
    "idleness without a Wait": (LATE, idle_about, "4 (work conserving)"),
    "a Wait that is over": (LATE, oversleep, "4 (work conserving)"),
    "an idle replica that is not offered": (LATE, hide, "4 (work conserving)"),
    "a queue over its capacity": (EARLY, overfill, "5 (bounds)"),
    "a replica with more than it may hold": (EARLY, crowd, "5 (bounds)"),
    "a batch at a replica that failed": (EARLY, distrust, "6 (trust)"),
}


def look(checker):
    checker.check()
    checker.check_all()


@pytest.mark.parametrize("case", TAMPERED)
def test_a_state_that_cannot_be_is_found(case):
    spec, tamper, named = TAMPERED[case]
    sim = simulation(arrivals(*[0.2] * 6), spec)
    sim.run(until_s=0.5)
    sim.checker.check_all()

    tamper(sim)

    with pytest.raises(InvariantViolation) as caught:
        look(sim.checker)
    assert str(caught.value).startswith(f"invariant {named}: ")


def test_time_that_runs_backwards_is_found():
    sim = simulation(arrivals(0.2), EARLY)
    sim.run(until_s=0.5)
    sim.checker.check()

    sim.runtime.now = 0.4

    with pytest.raises(
        InvariantViolation, match=r"invariant 3 \(causality\): time ran from 0.5 s back to 0.4 s"
    ):
        sim.checker.check()


def test_a_second_reply_is_found():
    sim = simulation(arrivals(0.2, 2.0), EARLY)
    sim.run(until_s=1.9)

    with pytest.raises(Exception, match="a second reply to 'r0': failed"):
        sim.client.receive(Reply("r0", "failed"))


def with_values(run, table, name, change):
    """The run with one column of one table changed."""
    before = getattr(run, table)
    column = pa.chunked_array([pa.array(change(before[name].to_pylist()), before.schema.field(name).type)])
    setattr(run, table, before.set_column(before.schema.get_field_index(name), name, column))


RECORDS = {
    "an end before the arrival": ("records", "ended_s", lambda rows: [-1.0, *rows[1:]], "3"),
    "an answer before its batch can have run": ("records", "service_s", lambda rows: [9.0, *rows[1:]], "3"),
    "rows out of order": ("dispatches", "time_s", lambda rows: rows[::-1], "3"),
    "a signal from the future": ("decisions", "signal_age_s", lambda rows: [-1.0, *rows[1:]], "3"),
    "a replica that comes back from the dead": ("replicas", "state", None, "3"),
    "one request with two records": ("records", "id", lambda rows: [rows[1], *rows[1:]], "2"),
    "an attempt without a row": ("records", "attempts", lambda rows: [7, *rows[1:]], "1"),
    "two attempts of one number": ("attempts", "attempt", lambda rows: [1] * len(rows), "1"),
    "a batch that is too large": ("dispatches", "size", lambda rows: [99, *rows[1:]], "5"),
    "replicas beyond the maximum": ("decisions", "value", lambda rows: [99.0] * len(rows), "5"),
    "a batch for a replica that failed": ("dispatches", "replica", lambda rows: ["replica/0"] * len(rows), "6"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_cannot_be_are_found(case):
    table, name, change, number = RECORDS[case]
    failing = faults(Fault(at_s=0.5, kind="hang", replica="replica/0"))
    spec = fleet(replicas=2, batching=Window(max_batch=2, window_s=0.0), failed_grace_s=1.0)
    run = simulation(arrivals(0.0, 0.0, 4.0, 6.0), spec, faults=failing).run()
    audit(run, spec)
    if change is None:
        extra = pa.table({"time_s": [9e9], "replica": ["replica/0"], "state": ["ready"], "detail": [""]})
        run.replicas = pa.concat_tables([run.replicas, extra.cast(run.replicas.schema)])
    else:
        with_values(run, table, name, change)

    with pytest.raises(InvariantViolation, match=f"invariant {number} "):
        audit(run, spec)


def test_a_summary_that_does_not_add_up_is_found():
    run = simulation(arrivals(0.0), EARLY).run()
    assert pc.sum(run.records["attempts"]).as_py() == 1

    run.summary = replace(run.summary, completed=2)

    with pytest.raises(InvariantViolation, match="invariant 1 "):
        audit(run, EARLY)
