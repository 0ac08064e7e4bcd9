"""Rollouts in whole fleets: what a router tells them of, and when, is enough to judge by."""

import random

from fleet import AffineLatency, EmulatedEngine, simulate
from tests.simulation.building import entry, faults, fleet, trace_of
from traces import Fault, Operation, OperationsTrace

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0, jitter_cv=0.5))
POOL = {"model": "m", "engine": ENGINE, "replicas": 4}
CANARY = {"policy": "canary", "share": 0.3, "bake_s": 20.0}


def two(**new):
    """Two versions that are alike, a canary between them."""
    pools = {"old": POOL, "new": {**POOL, "version": "2", **new}}
    return fleet(pools=pools, models={"m": {"rollout": CANARY}})


def requests(until_s, ask=lambda number: {}):
    """Ten a second; `ask(number)` says what each asks for."""
    rng, entries, now_s = random.Random(1), [], 0.0
    while (now_s := now_s + rng.expovariate(10.0)) < until_s:
        entries.append(entry(f"r{len(entries)}", now_s, model="m", **ask(len(entries))))
    return trace_of(*entries)


def stages(run):
    return [(row["time_s"], row["decision"]) for row in run.decisions.to_pylist() if row["slot"] == "rollout"]


def test_what_a_variants_policy_refuses_is_not_held_against_the_version_that_was_chosen():
    spec = two().replace({"models.m.variants": {"policy": "by-capability"}})
    asking = requests(60.0, lambda number: {"extra": {"capability": "vision"}} if number % 2 else {})

    run = simulate(asking, spec)

    assert run.summary.rejected > 250
    assert [stage.partition(":")[0] for _, stage in stages(run)] == ["canary", "canary 30 %", "promoted"]


def test_a_version_that_is_deployed_and_chosen_at_once_is_judged_from_when_it_is_ready():
    spec = fleet(pools={"old": POOL})
    table = {"model": "m", "version": "2", "engine": {"engine": "emulated", **_latency()}, "replicas": 4}
    deployed = OperationsTrace(operations=(
        Operation(at_s=5.0, kind="deploy", pool="new", spec={**table, "provision_s": 30.0}),
        Operation(at_s=5.0, kind="rollout", model="m", policy=CANARY),
    ))  # fmt: skip

    run = simulate(requests(90.0), spec, operations=deployed)

    told = stages(run)
    begun_s = next(time_s for time_s, stage in told if stage == "canary 30 %")
    assert 35.0 <= begun_s < 37.0
    assert told[-1][1].startswith("promoted: no gate failed in ")
    assert run.summary.completed == run.summary.submitted


def _latency():
    return {"latency": {"latency": "affine", "base_s": 0.1, "per_item_s": 0.0, "jitter_cv": 0.5}}


def test_a_version_whose_only_replica_hangs_is_rolled_back():
    spec = two(replicas=1).replace(probe_interval_s=1e3, lease_s=1e4)
    hangs = faults(Fault(at_s=8.0, kind="hang", replica="replica/new/0"))
    leaving = requests(60.0, lambda number: {"deadline_s": 1.5})

    run = simulate(leaving, spec, faults=hangs)

    assert stages(run)[-1][1].startswith("rolled back: ")
    late = [row for row in run.records.to_pylist() if row["arrived_s"] > stages(run)[-1][0]]
    assert {row["version"] for row in late} == {"1"}
    assert {row["outcome"] for row in late} == {"completed"}
