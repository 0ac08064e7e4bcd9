"""``fleet study continuous_batching``: what do batches gain that change at every step?

Requests of single questions come at several rates to one replica, whose steps are planned by a static batch (requests
that leave or come late wait for the batch to end), by Orca (any sequence may leave and join between two steps), by
vLLM's first scheduler (prompts before decodes, apart), by vLLM's second and by Sarathi-Serve (mixed steps with a
budget of tokens). All of them may run 128 sequences at once; budgets and reservations are their own.

Question: Yu et al., "Orca", OSDI 2022, figures 9 and 10 (throughput against latency); Agrawal et al., "Taming
Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024, for what mixed steps add.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from experiments.compare import compare
from experiments.load import at_rate
from experiments.report import Report
from experiments.studies.charts import Panel, lines
from experiments.studies.result import StudyResult, measured, result_of
from experiments.studies.study import Options, Study
from experiments.studies.workloads import chat, engine, recorded
from fleet import FleetSpec
from policies import IterationPolicy, Orca, Sarathi, StaticBatch, VllmPrefillFirst, VllmTokenBudget
from traces import Slo, Trace

MAX_SEQUENCES = 128
POLICIES: Mapping[str, IterationPolicy] = {
    "static batch": StaticBatch(max_sequences=MAX_SEQUENCES),
    "orca": Orca(max_sequences=MAX_SEQUENCES),
    "vllm prefill first": VllmPrefillFirst(max_sequences=MAX_SEQUENCES),
    "vllm token budget": VllmTokenBudget(max_sequences=MAX_SEQUENCES),
    "sarathi": Sarathi(max_sequences=MAX_SEQUENCES),
}
SLO = Slo(ttft_s=1.0, tpot_s=0.05)
METRICS = measured(
    "goodput_per_s", "e2e_s.p50", "itl_max_s.p99", described=("throughput_per_s", "ttft_s.p99")
)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    rates_per_s: tuple[float, ...]
    requests: int
    seeds: int


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison at each rate; the rates differ in nothing but the clock of the same requests."""
    base = FleetSpec(engine=engine(), slo=SLO)
    candidates = {name: base.replace(iteration=policy) for name, policy in POLICIES.items()}

    def traffic(seed: int) -> Trace:
        if options.trace is None:
            return chat(plan.requests, seed)
        return recorded(options.trace, plan.requests, seed)

    drawn = {seed: traffic(seed) for seed in range(plan.seeds)}
    reports: dict[float, Report] = {}
    for rate in plan.rates_per_s:
        scaled = {seed: at_rate(trace, rate) for seed, trace in drawn.items()}
        reports[rate] = compare(
            scaled.__getitem__, candidates, baseline="orca", seeds=range(plan.seeds), metrics=METRICS,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip
    return result_of(
        "continuous_batching", "requests/s", reports, METRICS,
        workload=f"one A100, {plan.requests} requests of {options.trace or 'lengths as in Azure 2023'}, "
        f"objectives TTFT {SLO.ttft_s:g} s and TPOT {1000 * (SLO.tpot_s or 0.0):g} ms",
    )  # fmt: skip


def draw(result: StudyResult) -> str:
    """Throughput, goodput and two latencies against load."""
    panels = (
        Panel(measure="throughput_per_s", label="completed requests/s"),
        Panel(measure="goodput_per_s", label="requests/s within objectives"),
        Panel(measure="ttft_s.p99", label="TTFT p99 (s)", log=True, scale=1.0),
        Panel(measure="itl_max_s.p99", label="longest token gap, p99 (s)", log=True, scale=1.0),
    )
    return lines(result, panels, "offered load (requests/s)")


STUDY = Study(
    name="continuous_batching",
    title="Continuous batching: static batch, Orca, mixed steps against load",
    plans={
        "small": Plan(rates_per_s=(1.0, 3.0, 5.0, 7.0), requests=250, seeds=6),
        "full": Plan(rates_per_s=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), requests=500, seeds=8),
    },
    run=run,
    draw=draw,
)
