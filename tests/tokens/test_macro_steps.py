"""Steps in a row that only decode are simulated as one event, and nothing can tell that they were."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fleet import FleetSpec, NetworkModel, simulate
from fleet.engines import EmulatedLlmEngine, KvSpec
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.engines.latency.steps.roofline import RooflineSteps
from fleet.tokens.scheduler import StepScheduler
from policies import IterationPolicy, LeastOutstanding, RoundRobin
from policies.registry import classes
from traces import Fault, FaultTrace, Request, Trace, TraceEntry

RELATIVE = 1e-9
PHASES = [Phase.explicit, Phase.generate, Phase.shrink]
TIMES = ("arrived_s", "ended_s", "ttft_s", "tpot_s", "itl_max_s", "e2e_s", "service_s")
EQUAL = ("id", "outcome", "replica", "attempts", "generated_tokens", "cached_tokens", "preemptions", "detail")


class StepwiseLlmEngine(EmulatedLlmEngine):
    """The same, with an event for every step."""

    def run_step(self, work):
        work.most = 1
        super().run_step(work)


latencies = st.sampled_from(
    [
        AffineSteps(
            base_s=0.011, per_prefill_token_s=0.0007, per_decode_s=0.0013, per_context_token_s=0.000017
        ),
        AffineSteps(base_s=0.0203137713),
        RooflineSteps(model="smollm2-135m", device="l4", overhead_s=0.003),
    ]
)
times = st.floats(0.0, 3.0, allow_nan=False).map(lambda value: round(value, 6) + 1e-7)


@st.composite
def requests(draw):
    number = draw(st.integers(1, 8))
    entries = []
    for index in range(number):
        prompt_tokens = draw(st.integers(1, 60))
        family = draw(st.integers(0, 2))
        blocks = tuple(family * 1000 + block for block in range(-(-prompt_tokens // 8)))
        request = Request(
            f"r{index}", draw(times), prompt_tokens=prompt_tokens, blocks=blocks, block_tokens=8, session=f"s{family}",
            deadline_s=draw(st.none() | st.floats(0.1, 4.0).map(lambda value: round(value, 6) + 3.3e-8)),
        )  # fmt: skip
        entries.append(TraceEntry(request, draw(st.integers(0, 80))))
    return Trace.from_entries(sorted(entries, key=lambda entry: entry.request.arrived_s))


@st.composite
def fault_traces(draw):
    kinds = st.sampled_from(["crash", "hang", "slow", "partition"])
    faults = [
        Fault(
            kind=kind, at_s=draw(times), replica=f"replica/{draw(st.integers(0, 1))}",
            for_s=None if kind == "crash" else draw(st.floats(0.05, 1.0)), factor=3.0 if kind == "slow" else 1.0,
        )
        for kind in draw(st.lists(kinds, max_size=3))
    ]  # fmt: skip
    return FaultTrace(faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))


def spec(engine_class, *, latency, iteration, kv, routing, network, ahead):
    return FleetSpec(
        engine=engine_class(latency=latency, kv=kv, async_scheduling=ahead), iteration=iteration, routing=routing,
        replicas=2, network=network,
        report_interval_s=0.3, control_interval_s=0.7, provision_s=0.05, deep_probe_interval_s=0.451,
    )  # fmt: skip


def run_steps(engine_class, *given, **options):
    """Each step is planned once: none that was planned ahead is joined with the one that runs."""
    with pytest.MonkeyPatch.context() as patch:
        if engine_class is StepwiseLlmEngine:
            patch.setattr(StepScheduler, "join_ahead", lambda self: False)
        return simulate(*given, **options)


def close(one, other):
    if one is None or other is None:
        return one is other
    return abs(one - other) <= RELATIVE * max(1.0, abs(one), abs(other))


@pytest.mark.timeout(400)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    trace=requests(),
    faults=fault_traces(),
    latency=latencies,
    iteration=st.sampled_from(
        [cls for cls in classes(IterationPolicy) if cls.__module__.startswith("policies.")]
    ),
    blocks=st.sampled_from([24, 40, 400]),
    host_blocks=st.sampled_from([0, 20]),
    routing=st.sampled_from([LeastOutstanding, RoundRobin]),
    network=st.sampled_from([NetworkModel(), NetworkModel(delay_s=0.013)]),
    ahead=st.booleans(),
    step_tokens=st.sampled_from([None, 9]),
)
def test_one_event_for_many_steps_changes_nothing_that_anyone_can_see(
    *, trace, faults, latency, iteration, blocks, host_blocks, routing, network, ahead, step_tokens
):
    chunked = step_tokens is not None and "max_step_tokens" in iteration.__struct_fields__
    planner = iteration(max_step_tokens=step_tokens) if chunked else iteration()
    kv = KvSpec(blocks=blocks, block_tokens=4, host_blocks=host_blocks)
    macro, stepwise = (
        run_steps(
            engine,
            trace,
            spec(
                engine,
                latency=latency,
                iteration=planner,
                kv=kv,
                routing=routing(),
                network=network,
                ahead=ahead,
            ),
            faults=faults,
        )
        for engine in (EmulatedLlmEngine, StepwiseLlmEngine)
    )
    for name in EQUAL:
        assert macro.records[name].to_pylist() == stepwise.records[name].to_pylist(), name
    for name in TIMES:
        pairs = zip(macro.records[name].to_pylist(), stepwise.records[name].to_pylist(), strict=True)
        assert all(close(*pair) for pair in pairs), name
    for name in ("kv_utilization", "busy_fraction", "queue_depth", "in_flight"):
        pairs = zip(macro.series[name].to_pylist(), stepwise.series[name].to_pylist(), strict=True)
        assert all(close(*pair) for pair in pairs), name
