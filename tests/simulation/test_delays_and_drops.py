"""Requests that are told to wait before they are let in, and requests that are given up while they wait."""

import random
from collections.abc import Sequence

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from fleet.spec import from_mapping
from policies import (
    AdmissionPolicy,
    Admit,
    BatchingPolicy,
    Degrade,
    Delay,
    Dispatch,
    Drop,
    Fifo,
    FleetView,
    NoBatching,
    PolicyError,
    QueueView,
    Reject,
    ReplicaView,
    Request,
    ScalingPolicy,
)
from policies.decisions import Scale
from policies.views import PoolView
from tests.fleets import LLM
from traces import Trace, TraceEntry

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0))
FLEET = FleetSpec(engine=ENGINE, replicas=1, batching=NoBatching(), max_inflight_batches=1)


def trace(*arrived_s: float, **fields: object) -> Trace:
    return Trace.from_entries(
        [
            TraceEntry(Request(id=f"r{number}", arrived_s=at_s, **fields), output_tokens=50)
            for number, at_s in enumerate(arrived_s)
        ]
    )


def column(run: Run, name: str) -> list[object]:
    return list(run.records.sort_by("id")[name].to_pylist())


class LetInAt(AdmissionPolicy):
    """Nobody before `open_s`."""

    open_s: float = 2.0

    def reset(self, rng: random.Random) -> None:
        self.seen: list[int] = []

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Delay:
        self.seen.append(fleet.delayed)
        return Admit() if now_s >= self.open_s else Delay(self.open_s, "not open yet")


def test_a_delayed_request_is_let_in_when_its_time_comes_and_its_wait_counts() -> None:
    run = simulate(trace(0.0, 1.0, 3.0), FLEET.replace(admission=LetInAt()))

    assert column(run, "outcome") == ["completed"] * 3
    assert column(run, "e2e_s") == pytest.approx([2.1, 1.2, 0.1])
    said = [row for row in run.decisions.to_pylist() if row["slot"] == "admission"]
    assert [row["decision"] for row in said] == ["Delay", "Delay"]
    assert said[0]["value"] == 2.0


def test_who_is_delayed_is_in_nobodys_demand() -> None:
    class Watches(ScalingPolicy):
        def reset(self, rng: random.Random) -> None:
            self.seen: list[tuple[float, int]] = []

        def desired(self, pool: PoolView, now_s: float) -> Scale:
            if 0.5 < now_s < 2.0 and (pool.in_flight or pool.queue_depth or pool.arrivals_per_s):
                raise AssertionError(f"{pool.in_flight} in flight")
            return Scale(1)

    run = simulate(
        trace(0.0, 1.0), FLEET.replace(admission=LetInAt(), scaling=Watches(), control_interval_s=0.3)
    )

    assert run.summary.completed == 2


def test_the_lobby_is_bounded() -> None:
    spec = FLEET.replace(admission=LetInAt(), queue_capacity=3)

    run = simulate(trace(*[0.1 * number for number in range(5)]), spec)

    assert column(run, "outcome") == ["completed"] * 3 + ["shed"] * 2
    assert "3 requests are delayed already (queue_capacity)" in str(column(run, "detail")[4])


def test_a_deadline_runs_in_the_lobby() -> None:
    run = simulate(trace(0.0, 1.5, deadline_s=1.0), FLEET.replace(admission=LetInAt()))

    assert column(run, "outcome") == ["expired", "completed"]
    assert column(run, "detail")[0] == "its deadline passed before it was let in"


def test_one_may_be_refused_after_a_delay() -> None:
    class Later(AdmissionPolicy):
        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Delay | Reject:
            return Reject("closed") if now_s >= 1.0 else Delay(now_s + 0.3)

    run = simulate(trace(0.0), FLEET.replace(admission=Later()))

    assert column(run, "outcome") == ["rejected"]
    delays = [row["time_s"] for row in run.decisions.to_pylist() if row["decision"] == "Delay"]
    assert delays == pytest.approx([0.0, 0.3, 0.6, 0.9])


@pytest.mark.parametrize("until", ["0", "-1", "nan", "inf"])
def test_a_delay_ends_in_the_future(until: str) -> None:
    class Stuck(AdmissionPolicy):
        until: str

        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Delay:
            return Delay(float(self.until))

    with pytest.raises(
        PolicyError, match=r"stuck delays request 'r0' until .*; until_s must be in the future"
    ):
        simulate(trace(0.0), FLEET.replace(admission=Stuck(until=until)))


def test_a_policy_that_delays_for_ever_is_an_error_and_no_endless_run() -> None:
    class Never(AdmissionPolicy):
        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Delay:
            return Delay(now_s + 1e-3)

    with pytest.raises(PolicyError, match=r"never delayed request 'r0' 100,000 times"):
        simulate(trace(0.0), FLEET.replace(admission=Never()))


def test_a_degraded_request_gets_fewer_output_tokens() -> None:
    class Shorter(AdmissionPolicy):
        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Degrade | Admit:
            return Degrade(request, "busy", max_output_tokens=7) if request.id == "r0" else Admit()

    run = simulate(trace(0.0, 0.1, prompt_tokens=100), from_mapping({"engine": LLM, "admission": Shorter()}))

    assert column(run, "generated_tokens") == [7, 50]


def test_a_cap_never_makes_an_answer_longer_and_lowers_what_its_client_asked_for() -> None:
    class Shorter(AdmissionPolicy):
        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Degrade:
            return Degrade(request, max_output_tokens=64)

    llm = {**LLM, "default_output_tokens": 20}
    requests = [
        TraceEntry(Request("long", 0.0, prompt_tokens=10), output_tokens=200),
        TraceEntry(Request("short", 0.0, prompt_tokens=10), output_tokens=30),
        TraceEntry(Request("unknown", 0.0, prompt_tokens=10)),
        TraceEntry(Request("asks", 0.0, prompt_tokens=10, extra={"max_output_tokens": 5})),
    ]

    run = simulate(Trace.from_entries(requests), from_mapping({"engine": llm, "admission": Shorter()}))

    got = dict(zip(run.records["id"].to_pylist(), run.records["generated_tokens"].to_pylist(), strict=True))
    assert got == {"long": 64, "short": 30, "unknown": 20, "asks": 5}


# --- given up while they wait ----------------------------------------------------------------------------------


class DropsOdd(BatchingPolicy):
    """Gives up every request with an odd number, one at a time."""

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Drop:
        for request in queue:
            if int(request.id[1:]) % 2:
                return Drop((request.id,), "odd")
        return Dispatch(1)


def test_a_batching_policy_gives_up_what_waits() -> None:
    run = simulate(trace(*[0.0] * 6), FLEET.replace(batching=DropsOdd()))

    assert column(run, "outcome") == ["completed", "shed"] * 3
    assert column(run, "detail")[1] == "given up by batching policy drops-odd: odd"
    assert run.summary.submitted == 6


class DropsOld(Fifo):
    """Gives up what has waited for over `limit_s`."""

    limit_s: float = 0.25

    def push(self, request: Request, now_s: float) -> None:
        super().push(request, now_s)

    def drops(self, now_s: float) -> list[str]:
        return [request.id for request in self.waiting.values() if now_s - request.arrived_s > self.limit_s]


@pytest.mark.parametrize("binding", ["early", "late"])
def test_a_queueing_policy_gives_up_what_waits_when_a_batch_is_due(binding: str) -> None:
    run = simulate(trace(*[0.0] * 6), FLEET.replace(queueing=DropsOld(), binding=binding))

    assert column(run, "outcome") == ["completed"] * 3 + ["shed"] * 3
    assert column(run, "detail")[5] == "given up by queueing policy drops-old"


def test_what_does_not_wait_cannot_be_given_up() -> None:
    class DropsNobody(BatchingPolicy):
        def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Drop:
            return Drop(("nobody",))

    with pytest.raises(
        PolicyError, match=r"batching policy drops-nobody gave up requests that do not wait: \('nobody',\)"
    ):
        simulate(trace(0.0), FLEET.replace(batching=DropsNobody()))
