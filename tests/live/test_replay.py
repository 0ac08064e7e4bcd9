"""`replay`: the same policies in real processes, and what becomes of requests when those processes are hurt."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import regret
from fleet import AffineLatency, EmulatedEngine, FleetError, FleetSpec, Run, TorchEngine, replay, simulate
from policies import (
    ConsecutiveFailures,
    ExponentialBackoff,
    Greedy,
    NoRetry,
    PolicyError,
    PowerOfTwoChoices,
    QueueDepth,
    RoundRobin,
    Route,
    RoutingPolicy,
)
from tests.live.fragile import POISON, Fragile
from tests.live.harness import children
from tests.policies.listening import listening
from traces import Fault, FaultTrace, Trace, poisson
from traces.schema import Header, Request, TraceEntry

pytestmark = pytest.mark.live

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.004, per_item_s=0.001))
TWO = FleetSpec(engine=ENGINE, replicas=2, batching=Greedy(max_batch=8), control_interval_s=0.1)


@pytest.fixture(autouse=True)
def no_process_is_left() -> None:
    before = children()
    yield
    assert children() <= before


def evenly(requests: int, every_s: float) -> Trace:
    """One request at a time, far enough apart that none meets another."""
    entries = [TraceEntry(Request(str(number), 0.2 + number * every_s)) for number in range(requests)]
    return Trace.from_entries(entries, Header(source="test", provenance="synthetic"))


def books_balance(run: Run, requests: int) -> bool:
    """Every request ended exactly once."""
    s = run.summary
    ended = s.completed + s.rejected + s.shed + s.expired + s.failed + s.cancelled
    return s.submitted == requests == ended and run.records.num_rows == requests


class Recording(RoutingPolicy):
    """Takes turns, and writes down all it is shown."""

    # What it saw is kept on the class: a run uses a copy of the policy that the test never holds.

    def reset(self, rng) -> None:
        self.turn = 0

    def route(self, request, replicas, now_s):
        self.turn += 1
        type(self).calls.append(
            (request.id, [r.id for r in replicas], [r.in_flight for r in replicas], now_s)
        )
        return Route(replicas[self.turn % len(replicas)].id)

    def on_completed(self, completion, now_s):
        type(self).completions.append((completion.request.id, completion.replica, completion.attempt))


def test_a_policy_sees_the_same_calls_in_both_runtimes() -> None:
    trace = evenly(20, 0.05)
    seen = []
    for runtime in (simulate, replay):
        Recording.calls, Recording.completions = [], []
        runtime(trace, TWO.replace(routing=Recording()))
        seen.append(([call[:3] for call in Recording.calls], Recording.completions))
        assert all(now_s >= 0.2 + number * 0.05 for number, (*_, now_s) in enumerate(Recording.calls))
    assert seen[0] == seen[1]


HEAD_SLOTS = ("admission", "routing", "queueing", "batching", "scaling", "warm_pool", "health", "retry")


def said(call):
    """What a hook was told, short of what a clock measured."""
    name, told = call[0], call[1]
    if name == "on_completed":
        return name, told.request.id, told.replica, told.attempt, told.failure
    if name == "on_batch_completed":
        return name, [request.id for request in told.requests], told.replica, told.failure
    if name == "on_request_ended":
        return name, told.request.id, told.outcome, told.attempts, told.output_tokens
    return (name, told.id, *call[2:-1])


@pytest.mark.parametrize("binding", ["early", "late"])
def test_every_slot_of_the_head_hears_the_same_in_both_runtimes(binding) -> None:
    trace = evenly(8, 0.06)
    heard = {}
    for runtime in (simulate, replay):
        policies = {slot: listening(slot) for slot in HEAD_SLOTS}
        runtime(
            trace, TWO.replace(binding=binding, **{slot: policy for slot, (policy, _) in policies.items()})
        )
        for slot, (_, calls) in policies.items():
            # An answer about load comes when it comes, between whatever else there is to be told.
            apart = {"on_replicas", "on_load"}
            heard[runtime, slot] = [said(call) for call in calls if call[0] not in apart]
            loads = [call[1] for call in calls if call[0] == "on_load"]
            asks = slot == "routing" and binding == "early"
            assert {load.replica for load in loads} == ({"replica/0", "replica/1"} if asks else set())
            if binding == "late" or slot not in (
                "queueing",
                "batching",
            ):  # else each queue has a replica of its own
                sets = [[view.id for view in call[1]] for call in calls if call[0] == "on_replicas"]
                assert sets[-1] == ["replica/0", "replica/1"]
    for slot in HEAD_SLOTS:
        assert len(heard[simulate, slot]) >= 16, slot
        assert heard[replay, slot] == heard[simulate, slot], slot


def test_both_runtimes_give_the_same_type_of_result_with_the_same_columns() -> None:
    trace = evenly(10, 0.02)
    simulated, live = simulate(trace, TWO), replay(trace, TWO)
    assert simulated.records.schema == live.records.schema
    assert simulated.records["id"].to_pylist() == live.records["id"].to_pylist()
    assert simulated.manifest.trace == live.manifest.trace
    assert live.manifest.runtime == "live"
    assert live.manifest.machine is not None


def test_speed_makes_arrivals_come_faster_and_leaves_the_engine_alone() -> None:
    run = replay(evenly(20, 0.2), TWO, speed=10)
    assert run.summary.completed == 20
    assert run.summary.duration_s < 1.5
    assert run.records["service_s"].to_pylist() == [pytest.approx(0.005)] * 20


def test_nothing_is_lost_when_a_replica_is_killed_in_the_middle() -> None:
    trace = poisson(rate_per_s=300, duration_s=3, seed=1)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="crash", replica="replica/0"),))
    spec = TWO.replace(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.002)), max_replicas=3
    )
    run = replay(trace, spec, faults=faults)
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    assert run.manifest.counters["retries"] >= 1
    died = [row for row in run.replicas.to_pylist() if row["state"] == "failed"]
    assert [(row["replica"], row["detail"]) for row in died] == [
        ("replica/0", "its process was killed by SIGKILL")
    ]
    assert "replica/2" in run.records["replica"].to_pylist(), "the autoscaler replaced it"


def test_without_retry_the_killed_batch_fails_and_the_books_still_balance() -> None:
    trace = poisson(rate_per_s=300, duration_s=2, seed=1)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="crash"),))
    slow = EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.0))
    run = replay(trace, TWO.replace(engine=slow, retry=NoRetry()), faults=faults)
    assert books_balance(run, len(trace))
    assert 1 <= run.summary.failed <= 2 * 8
    assert all("replica-lost" in detail for detail in run.records["detail"].drop_null().to_pylist())


def test_a_stopped_replica_is_suspected_and_trusted_again_when_it_continues() -> None:
    trace = poisson(rate_per_s=100, duration_s=4, seed=2)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="hang", replica="replica/1", for_s=1.0),))
    spec = TWO.replace(
        probe_interval_s=0.1,
        probe_timeout_s=0.1,
        health=ConsecutiveFailures(failures=20, recoveries=2, suspect_after=2),
    )
    run = replay(trace, spec, faults=faults)
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    verdicts = [row["decision"] for row in run.decisions.to_pylist() if row["slot"] == "health"]
    assert verdicts[:2] == ["suspect", "healthy"]


def test_a_replica_that_stays_stopped_loses_its_lease_and_its_work_goes_elsewhere() -> None:
    trace = poisson(rate_per_s=100, duration_s=4, seed=2)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="hang", replica="replica/1"),))
    run = replay(trace, TWO.replace(lease_s=1.0), faults=faults)
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    assert any("silent" in (row["detail"] or "") for row in run.replicas.to_pylist())


def test_a_preempted_replica_finishes_what_it_has_and_is_replaced() -> None:
    trace = poisson(rate_per_s=100, duration_s=3, seed=3)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="preempt", replica="replica/0", notice_s=0.5),))
    run = replay(trace, TWO, faults=faults)
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    states = [row["state"] for row in run.replicas.to_pylist() if row["replica"] == "replica/0"]
    assert states == ["ready", "draining", "stopped"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(at_s=0.5, kind="slow", factor=5.0, for_s=1.0),
        Fault(at_s=0.5, kind="partition", for_s=0.3),
        Fault(at_s=0.5, kind="drop", probability=0.3, for_s=1.0),
    ],
    ids=lambda fault: fault.kind,
)
def test_nothing_is_lost_when_a_replica_is_slow_or_its_messages_are_lost(fault: Fault) -> None:
    trace = poisson(rate_per_s=100, duration_s=2, seed=6)
    run = replay(trace, TWO, faults=FaultTrace(faults=(fault,)))
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    assert (run.manifest.counters.get("dropped_by_fault", 0) > 0) == (fault.kind != "slow")
    assert run.summary.duration_s < 20.0


def test_a_fleet_whose_engine_does_not_load_is_an_error_that_says_why() -> None:
    broken = EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.0), fail_load=True)
    with pytest.raises(
        FleetError, match=r"replica/[01] did not come up: the engine failed to load: .*fail_load"
    ):
        replay(evenly(3, 0.1), TWO.replace(engine=broken))


def test_a_fleet_whose_engine_never_loads_ends_at_its_own_start_timeout() -> None:
    stuck = EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.0), cold_start_s=1e4)
    with pytest.raises(
        FleetError, match=r"the initial replicas were not ready after 2 s: replica/0 is loading"
    ):
        replay(
            evenly(3, 0.1), TWO.replace(engine=stuck, replicas=1, start_timeout_s=2.0), start_timeout_s=20.0
        )


def test_a_replacement_that_fails_to_load_is_tried_again() -> None:
    trace = poisson(rate_per_s=50, duration_s=4, seed=4)
    faults = FaultTrace(
        faults=(Fault(at_s=0.5, kind="fail-load"), Fault(at_s=1.0, kind="crash", replica="replica/0"))
    )
    run = replay(trace, TWO.replace(max_replicas=3), faults=faults)
    assert run.summary.completed == len(trace)
    assert run.manifest.counters["failed_starts"] == 1
    assert run.summary.replicas.max == 2


def test_a_replica_whose_device_is_lost_is_failed_and_its_batch_goes_elsewhere() -> None:
    pytest.importorskip("torch")
    engine = TorchEngine(
        module="tests.engines.modules:LosesDevice", kwargs={"after": 10}, device="cpu", input_shape=(4,)
    )
    trace = evenly(15, 0.05)
    run = replay(trace, FleetSpec(engine=engine, replicas=1, max_replicas=2, control_interval_s=0.1))
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    died = [row["detail"] for row in run.replicas.to_pylist() if row["state"] == "failed"]
    assert len(died) == 1
    assert "AcceleratorError: CUDA error: device-side assert triggered" in died[0]


def test_a_request_that_kills_its_replicas_is_failed_and_named_and_the_others_are_served() -> None:
    """The engine is of a module of the tests' own: the hosts of a `replay` may import what it was given."""
    engine = Fragile(latency=AffineLatency(base_s=0.004, per_item_s=0.001))
    retry = ExponentialBackoff(base_s=0.0, max_attempts=100, budget_ratio=None)
    trace = evenly(12, 0.1)
    run = replay(trace, TWO.replace(engine=engine, retry=retry, max_replicas=4, poison_limit=2))
    assert books_balance(run, len(trace))
    assert (run.summary.completed, run.summary.failed) == (len(trace) - 1, 1)
    (poisoned,) = [row for row in run.records.to_pylist() if row["outcome"] == "failed"]
    assert poisoned["id"] == POISON
    assert poisoned["detail"].startswith("poison: its attempts ended with the loss of replica/")


def test_what_cannot_be_queued_is_shed_with_a_reason() -> None:
    entries = [TraceEntry(Request(str(number), 0.1)) for number in range(200)]
    trace = Trace.from_entries(entries, Header(source="test", provenance="synthetic"))
    run = replay(trace, TWO.replace(queue_capacity=20))
    assert books_balance(run, 200)
    assert run.summary.shed > 100
    assert (
        "queue_capacity"
        in run.records.filter(run.records["outcome"].to_numpy() == "shed")["detail"][0].as_py()
    )


class RaisesLive(RoutingPolicy):
    """Breaks on the fifth request."""

    def route(self, request, replicas, now_s):
        if request.id == "4":
            raise ZeroDivisionError("division by zero")
        return Route(replicas[0].id)


class NamesAGhost(RoutingPolicy):
    """Chooses a replica that does not exist."""

    def route(self, request, replicas, now_s):
        return Route("replica/99")


@pytest.mark.parametrize("runtime", [simulate, replay])
def test_a_policy_that_raises_ends_the_run_with_its_name_the_request_and_the_time(runtime) -> None:
    with pytest.raises(
        PolicyError,
        match=r"routing policy raises-live raised ZeroDivisionError: division by zero \(asked about 4 at 0\.",
    ):
        runtime(evenly(10, 0.05), TWO.replace(routing=RaisesLive()))


@pytest.mark.parametrize("runtime", [simulate, replay])
def test_a_policy_that_names_a_replica_that_does_not_exist_is_told_the_candidates(runtime) -> None:
    with pytest.raises(
        PolicyError, match=r"named replica 'replica/99', which is not a candidate .*replica/0, replica/1"
    ):
        runtime(evenly(3, 0.05), TWO.replace(routing=NamesAGhost()))


def test_an_engine_of_the_script_itself_cannot_travel_and_is_refused_by_name() -> None:
    class Local(EmulatedEngine):
        """Defined where no other process can import it."""

    with pytest.raises(FleetError, match="Local is defined inside a function"):
        replay(evenly(1, 0.1), TWO.replace(engine=Local(latency=AffineLatency(base_s=0.01, per_item_s=0.0))))


def test_a_live_run_scales_up_under_load_and_down_after_it() -> None:
    burst = poisson(rate_per_s=400, duration_s=2, seed=5)
    tail = evenly(20, 0.2)
    trace = burst.merge(tail)
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.005), cold_start_s=0.2),
        replicas=1, min_replicas=1, max_replicas=3,
        binding="late", max_inflight_batches=1, batching=Greedy(max_batch=8),
        scaling=QueueDepth(up_at=10, down_at=3), control_interval_s=0.1, retry=ExponentialBackoff(),
        routing=RoundRobin(),
    )  # fmt: skip
    run = replay(trace, spec)
    assert books_balance(run, len(trace))
    assert run.summary.replicas.max >= 2
    assert run.replicas["state"].to_pylist().count("stopped") >= 1


def test_the_log_of_a_live_run_has_another_policy_agree_with_itself() -> None:
    trace = poisson(rate_per_s=100, duration_s=1, seed=3)

    run = replay(trace, TWO.replace(routing=PowerOfTwoChoices()), seed=4, log_views=True)

    found = regret(run, PowerOfTwoChoices())
    assert (found.asked, found.agreement) == (len(trace), 1.0)
    assert regret(run, RoundRobin()).decisions


def test_a_run_leaves_no_file_descriptor_open() -> None:
    replay(evenly(2, 0.05), TWO)
    before = len(list(Path("/proc/self/fd").iterdir()))
    replay(evenly(2, 0.05), TWO)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_engines_say_how_long_each_batch_took_and_how_large_it_was() -> None:
    run = replay(evenly(40, 0.02), TWO)
    assert sum(run.timings["batch_size"].to_pylist()) == 40
    for timing in run.timings.to_pylist():
        assert timing["service_s"] == pytest.approx(0.004 + 0.001 * timing["batch_size"])
    ended_s = run.timings["ended_s"].to_pylist()
    assert 0.2 <= min(ended_s) <= max(ended_s) <= run.records["ended_s"].to_pylist()[-1] + 0.05
    assert "timings" in run.tables
