"""What policies ask for beside what they are shown: replicas' loads, verdicts on attempts, zones."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.network import NetworkModel
from fleet.spec import from_mapping
from policies import (
    Completion,
    ConsecutiveFailures,
    LeastOutstanding,
    NoBatching,
    PolicyError,
    ProbeOutcome,
    ReplicaLoad,
    ReplicaView,
    Request,
    Route,
    RoutingPolicy,
    Verdict,
)
from tests.fleets import ENGINE, LLM
from traces import Fault, FaultTrace, poisson

FLEET = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0)), replicas=2,
    batching=NoBatching(), max_inflight_batches=1,
)  # fmt: skip
HEARD: list[tuple[float, ReplicaLoad]] = []


class AsksAll(RoutingPolicy):
    """Asks every replica at each choice, and sends all to the first."""

    def reset(self, rng: random.Random) -> None:
        HEARD.clear()

    def probes(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[str]:
        return [view.id for view in replicas]

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(replicas[0].id)

    def on_load(self, load: ReplicaLoad, now_s: float) -> None:
        HEARD.append((now_s, load))


def test_a_replica_says_what_it_has_what_waits_for_it_and_how_long_its_attempts_took() -> None:
    trace = poisson(8.0, 1.0, seed=1)
    arrivals = [entry.request.arrived_s for entry in trace]

    run = simulate(trace, FLEET.replace(routing=AsksAll()))

    assert run.manifest.counters["load_probes"] == 2 * len(trace)
    assert [load.replica for _, load in HEARD] == ["replica/0", "replica/1"] * len(trace)
    ended = run.records.sort_by("arrived_s")
    done = [at_s + took_s for at_s, took_s in zip(arrivals, ended["e2e_s"].to_pylist(), strict=True)]
    for number, (at_s, load) in enumerate(HEARD[::2]):
        # Asked before the request was sent there: all that came before it and had not ended.
        assert load.in_flight == sum(end_s > at_s for end_s in done[:number])
        assert load.latency_s is None or load.latency_s == pytest.approx(0.1)
    assert HEARD[-1][1].latency_s is None
    assert HEARD[-2][1].latency_s is not None
    assert all(load.in_flight == 0 for _, load in HEARD[1::2])


def test_an_answer_takes_the_time_of_two_messages() -> None:
    simulate(poisson(8.0, 1.0, seed=1), FLEET.replace(routing=AsksAll(), network=NetworkModel(delay_s=0.01)))

    assert [at_s - load.asked_s for at_s, load in HEARD] == pytest.approx([0.02] * len(HEARD))


def test_replicas_that_serve_token_by_token_answer_too() -> None:
    spec = from_mapping({"engine": LLM, "replicas": 2, "routing": AsksAll()})

    simulate(poisson(2.0, 5.0, seed=1, prompt_tokens=100, output_tokens=20), spec)

    assert max(load.in_flight for _, load in HEARD) > 1
    assert HEARD[-2][1].latency_s is not None


class Wraps(RoutingPolicy):
    """Does as another one does."""

    inner: RoutingPolicy

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Any:
        return self.inner.route(request, replicas, now_s)


def test_the_parts_of_a_policy_ask_and_hear() -> None:
    simulate(poisson(8.0, 1.0, seed=1), FLEET.replace(routing=Wraps(inner=AsksAll())))

    assert len(HEARD) > 2


def test_who_is_no_candidate_cannot_be_asked() -> None:
    class AsksNobody(AsksAll):
        def probes(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[str]:
            return ["replica/9"]

    with pytest.raises(
        PolicyError, match=r"routing policy asks-nobody named replica 'replica/9', which is not a cand"
    ):
        simulate(poisson(8.0, 1.0, seed=1), FLEET.replace(routing=AsksNobody()))


def test_one_that_is_gone_does_not_answer() -> None:
    # It crashes between the question and its coming there, and is a candidate until the head knows.
    network = NetworkModel(delay_s=0.2)
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="crash", replica="replica/1"),))

    run = simulate(
        poisson(20.0, 3.0, seed=1), FLEET.replace(routing=AsksAll(), network=network), faults=faults
    )

    asked = run.manifest.counters["load_probes"]
    assert asked - 20 < len(HEARD) < asked
    assert {load.replica for at_s, load in HEARD if load.asked_s > 1.5} >= {"replica/0"}


# --- verdicts on attempts --------------------------------------------------------------------------------------


class DistrustsSlow(ConsecutiveFailures):
    """Suspects a replica at once when an attempt took long; its probes may say that it is well again."""

    limit_s: float = 0.2

    def after_completion(self, completion: Completion, now_s: float) -> Verdict | None:
        if (completion.service_s or 0.0) <= self.limit_s or completion.replica in self.records:
            return None
        self.observe(
            ProbeOutcome(replica=completion.replica, level="deep", status="failed", sent_s=now_s), now_s
        )
        return Verdict(completion.replica, "suspect", "slow")


def test_a_health_policy_may_judge_a_replica_by_its_attempts() -> None:
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="slow", replica="replica/1", factor=5.0, for_s=100.0),))
    spec = FLEET.replace(routing=LeastOutstanding(), health=DistrustsSlow(), probe_interval_s=0.5)

    run = simulate(poisson(8.0, 5.0, seed=1), spec, faults=faults)

    said = [row for row in run.decisions.to_pylist() if row["slot"] == "health"]
    assert [(row["subject"], row["choice"], row["reason"]) for row in said] == [
        ("replica/1", "suspect", "slow")
    ]
    late = run.records.to_pylist()
    assert all(row["replica"] != "replica/1" for row in late if row["arrived_s"] > said[0]["time_s"])


def test_a_verdict_on_an_attempt_is_of_its_replica() -> None:
    class BlamesAnother(ConsecutiveFailures):
        def after_completion(self, completion: Completion, now_s: float) -> Verdict:
            return Verdict("replica/7", "suspect")

    with pytest.raises(
        PolicyError, match=r"health policy blames-another answered Verdict\(replica='replica/7'.* an attempt"
    ):
        simulate(poisson(8.0, 1.0, seed=1), FLEET.replace(health=BlamesAnother()))


# --- zones -----------------------------------------------------------------------------------------------------


def test_routing_sees_the_zone_of_each_replica() -> None:
    zones: set[tuple[str, str | None]] = set()

    class SeesZones(RoutingPolicy):
        def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
            zones.update((view.pool, view.zone) for view in replicas)
            return Route(replicas[0].id)

    pools: dict[str, Any] = {"east": {"zone": "e1"}, "west": {"zone": "w1"}, "nowhere": {}}
    spec = from_mapping({"engine": ENGINE, "pools": pools, "routing": SeesZones()})

    simulate(poisson(8.0, 1.0, seed=1), spec)

    assert zones == {("east", "e1"), ("west", "w1"), ("nowhere", None)}
    assert from_mapping(spec.to_dict()).pools["east"].zone == "e1"


# --- room ------------------------------------------------------------------------------------------------------


def test_routing_sees_how_many_more_batches_a_replica_can_take() -> None:
    seen: list[tuple[float, int]] = []

    class SeesRoom(RoutingPolicy):
        def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
            seen.append((now_s, replicas[0].capacity))
            return Route(replicas[0].id)

    spec = FLEET.replace(routing=SeesRoom(), replicas=1, max_inflight_batches=3)

    arrivals = poisson(30.0, 1.0, seed=1)
    run = simulate(arrivals, spec)

    ends_s = [entry["ended_s"] for entry in run.records.to_pylist()]
    for number, (at_s, capacity) in enumerate(seen):
        there = sum(end_s > at_s for end_s in ends_s[:number])
        assert capacity == max(0, 3 - there)
