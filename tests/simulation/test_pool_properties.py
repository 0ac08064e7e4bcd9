"""Whatever pools there are, whatever comes and goes, and however many attempts a request has: the invariants hold."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel
from fleet.engines import EmulatedLlmEngine, KvSpec
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.messages import OUTCOMES
from policies import (
    ABTest,
    BlueGreen,
    Canary,
    Cascade,
    CheapestMeetingSlo,
    CircuitBreaker,
    DegradeUnderLoad,
    ExponentialBackoff,
    FeatureFlag,
    FixedVariant,
    Hedge,
    HedgeAfterPercentile,
    HedgePolicy,
    LeastOutstanding,
    NoBreaker,
    NoHedge,
    NoRetry,
    OutlierEjection,
    Pinned,
    PowerOfTwoChoices,
    Ramp,
    RoundRobin,
    ShadowTraffic,
    TiedRequests,
)
from policies.resilience.attempt_timeout import AttemptTimeout
from policies.rollout.gates import Gates
from tests.simulation.building import play
from traces import Fault, FaultTrace, Operation, OperationsTrace, Request, Trace, TraceEntry

QUICK = Gates(min_requests=3)
rollouts = st.sampled_from([
    Pinned(), Pinned(version="2"), Canary(share=0.5, bake_s=1.0, gates=QUICK), ShadowTraffic(), BlueGreen(at_s=2.0),
    Ramp(stages=(0.5, 1.0), stage_s=1.0, gates=QUICK), FeatureFlag(percentage=50.0), ABTest(min_requests=3),
])  # fmt: skip
variants = st.sampled_from([
    FixedVariant(), FixedVariant(variant="large"), Cascade(threshold=0.7), Cascade(threshold=1.0, max_escalations=3),
    CheapestMeetingSlo(objective_s=0.3), DegradeUnderLoad(degrade_at=1.0, restore_at=0.2),
])  # fmt: skip


class HedgeSoon(HedgePolicy):
    """Up to two more attempts, one each `delay_s`."""

    delay_s: float = 0.0

    def after_s(self, request, attempts, now_s):
        return Hedge(self.delay_s) if len(attempts) < 3 else None


hedges = st.sampled_from([
    NoHedge(), HedgeSoon(), HedgeSoon(delay_s=0.04),
    HedgeAfterPercentile(percentile=0.5, min_samples=1, budget_ratio=0.5), TiedRequests(),
    TiedRequests(copies=3, budget_ratio=None), TiedRequests(delay_s=0.05),
])  # fmt: skip
breakers = st.sampled_from([
    NoBreaker(), CircuitBreaker(window=4, min_calls=2, open_s=0.5),
    CircuitBreaker(window=2, min_calls=1, slow_after_s=0.1, open_s=1.0, when_all_open="ignore"),
    OutlierEjection(consecutive_failures=1, max_ejected_fraction=1.0, base_ejection_s=1.0),
])  # fmt: skip
retries = st.sampled_from([
    NoRetry(), ExponentialBackoff(), AttemptTimeout(limit_s=0.4), AttemptTimeout(limit_s=0.1, retry=NoRetry()),
])  # fmt: skip
routings = st.sampled_from([LeastOutstanding(), PowerOfTwoChoices(), RoundRobin()])


@st.composite
def engines(draw, tokens):
    if tokens:
        steps = AffineSteps(base_s=draw(st.sampled_from([0.01, 0.05])), per_decode_s=0.001)
        return EmulatedLlmEngine(
            latency=steps, kv=KvSpec(blocks=64, block_tokens=16), default_output_tokens=5
        )
    latency = AffineLatency(
        base_s=draw(st.sampled_from([0.3, 0.1, 0.0])), per_item_s=draw(st.sampled_from([0.0, 0.05])),
        jitter_cv=draw(st.sampled_from([0.0, 1.0])),
    )  # fmt: skip
    cold = draw(st.sampled_from([0.0, 0.3]))
    return EmulatedEngine(latency=latency, cold_start_s=cold, interruptible=draw(st.booleans()))


MODELS = ("m", "m", "m", "n", None)


@st.composite
def fleets(draw, tokens):
    """One to four pools of two models, a version or two, a variant or two; some are of one variant together."""
    binding = draw(st.sampled_from(["early", "early", "early", "late"]))
    pools = {}
    for number in range(draw(st.sampled_from([3, 2, 4, 1]))):
        serves = {
            "model": draw(st.sampled_from(MODELS)), "version": draw(st.sampled_from("12")),
            "variant": draw(st.sampled_from(["small", "small", "large"])),
        }  # fmt: skip
        taken = [{key: pool[key] for key in serves} for pool in pools.values()]
        if binding == "late" and serves in taken:
            continue
        pools[f"p{number}"] = {
            **serves, "engine": draw(engines(tokens)), "replicas": draw(st.integers(1, 3)), "max_replicas": 4,
            "queue_capacity": draw(st.sampled_from([1000, 3, 1])), "quality": draw(st.sampled_from([None, 0.2, 0.9])),
            "cost_per_hour": draw(st.sampled_from([None, 1.0, 4.0])),
        }  # fmt: skip
    named = {pool["model"] or "default" for pool in pools.values()}
    early = binding == "early"
    return FleetSpec(
        pools=pools,
        models={name: {"rollout": draw(rollouts), "variants": draw(variants)} for name in sorted(named)},
        binding=binding,
        routing=draw(routings),
        hedge=draw(hedges) if early else NoHedge(),
        breaker=draw(breakers) if early else NoBreaker(),
        retry=draw(retries),
        deadline_s=draw(st.sampled_from([0.5, 5.0])),
        max_inflight_batches=draw(st.sampled_from([1, 2])),
        probe_interval_s=0.25,
        probe_timeout_s=0.2,
        failed_grace_s=0.5,
        network=draw(st.sampled_from([NetworkModel(), NetworkModel(), NetworkModel(delay_s=0.02, loss=0.1)])),
    )


requests = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 1.01, 1.1, 2.5]) | st.floats(0.0, 4.0),
        st.sampled_from([*MODELS, "m@2"]),
        st.integers(0, 4),
        st.integers(0, 12),
    ),
    min_size=12,
    max_size=40,
)


def trace_from(rows) -> Trace:
    return Trace.from_entries(
        TraceEntry(Request(f"r{n}", at_s, prompt_tokens=8, model=model, user=f"u{user}"), tokens)
        for n, (at_s, model, user, tokens) in enumerate(sorted(rows, key=lambda row: row[0]))
    )


@st.composite
def troubles(draw):
    names = [f"replica/p{pool}/{number}" for pool in range(4) for number in range(2)]
    kinds = st.sampled_from(["crash", "hang", "slow", "partition", "preempt", "drop"])
    return FaultTrace(
        faults=tuple(
            Fault(
                at_s=draw(st.floats(0.0, 4.0)), kind=draw(kinds), replica=draw(st.none() | st.sampled_from(names)),
                for_s=draw(st.sampled_from([0.3, 1.0])), factor=5.0, probability=0.5, notice_s=0.2,
            )
            for _ in range(draw(st.integers(0, 4)))
        )
    )  # fmt: skip


@st.composite
def changes(draw, spec):
    """Operations that can be done in the order of their times: what is retired is there, what is deployed is not."""
    there, made = set(spec.pools), []
    models = sorted({pool.model or "default" for pool in spec.pools.values()})
    for number in range(draw(st.integers(0, 4))):
        at_s = number + draw(st.floats(0.0, 0.9))
        kind = draw(st.sampled_from(["retire", "deploy", "scale", "rollout"]))
        if kind == "retire" and there:
            pool = draw(st.sampled_from(sorted(there)))
            there.discard(pool)
            made.append(Operation(at_s=at_s, kind="retire", pool=pool))
        elif kind == "deploy":
            first = next(iter(spec.pools.values()))
            serves = {"model": draw(st.sampled_from(["m", "n"])), "version": "3", "variant": f"v{number}"}
            there.add(f"d{number}")
            engine = {
                "engine": "emulated",
                "latency": {"latency": "affine", "base_s": 0.05, "per_item_s": 0.0},
            }
            if isinstance(first.engine, EmulatedLlmEngine):
                engine = {
                    "engine": "emulated-llm", "latency": {"latency": "affine", "base_s": 0.02},
                    "kv": {"blocks": 64, "block_tokens": 16},
                }  # fmt: skip
            made.append(
                Operation(
                    at_s=at_s,
                    kind="deploy",
                    pool=f"d{number}",
                    spec={**serves, "engine": engine, "replicas": 1},
                )
            )
        elif kind == "scale" and there:
            pool = draw(st.sampled_from(sorted(there)))
            made.append(Operation(at_s=at_s, kind="scale", pool=pool, replicas=draw(st.integers(0, 3))))
        elif kind == "rollout":
            serving = [pool for name, pool in spec.pools.items() if name in there]
            for model in [name for name in models if name in {pool.model or "default" for pool in serving}][
                :1
            ]:
                versions = sorted({pool.version for pool in serving if (pool.model or "default") == model})
                policy = {"policy": "pinned", "version": draw(st.sampled_from(versions))}
                made.append(Operation(at_s=at_s, kind="rollout", model=model, policy=policy))
    return OperationsTrace(operations=tuple(made))


WHATEVER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def hold(data, tokens, stream):
    spec = data.draw(fleets(tokens), "fleet")
    trace = trace_from(data.draw(requests, "requests"))
    operations = data.draw(changes(spec), "operations")

    run = play(
        trace, spec, seed=1, faults=data.draw(troubles(), "faults"), operations=operations, stream=stream
    )

    counts = {outcome: getattr(run.summary, outcome) for outcome in OUTCOMES}
    assert sum(counts.values()) == len(trace)
    rows = run.attempts.to_pylist()
    for row in rows:
        assert row["started_s"] is None or row["started_s"] >= row["sent_s"]
        assert row["ended_s"] is None or row["ended_s"] >= row["sent_s"]
    good = [row["request"] for row in rows if row["end"] == "completed" and row["role"] not in ("shadow",)]
    escalated = run.manifest.counters.get("escalations", 0)
    assert len(good) - len(set(good)) <= escalated, (
        "a request has one good attempt, and one more for each escalation"
    )


@WHATEVER
@given(st.data())
def test_any_world_of_pools_keeps_the_invariants(data):
    hold(data, tokens=False, stream=False)


@WHATEVER
@given(st.data(), st.booleans())
def test_any_world_of_language_models_keeps_the_invariants(data, stream):
    hold(data, tokens=True, stream=stream)
