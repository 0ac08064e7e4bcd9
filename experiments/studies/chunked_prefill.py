"""``fleet study chunked_prefill``: how large should a step be?

A step that takes more prompt tokens ends a prompt sooner, and keeps every decode waiting for longer. Requests with long
prompts come to one replica under Sarathi-Serve with budgets from 128 to 8,192 tokens a step, and under vLLM's first
scheduler, which cuts no prompt.

Question: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024, sections
4.3 and 5 (the token budget), figure 1a (generation stalls).
"""

from __future__ import annotations

from msgspec import Struct

from experiments.compare import compare
from experiments.load import at_rate
from experiments.plots import PALETTE, WIDTH, legend_above, log_ticks, new_figure
from experiments.report import Report
from experiments.studies.charts import compact_svg
from experiments.studies.result import StudyResult, measured, result_of
from experiments.studies.study import Options, Study
from experiments.studies.workloads import documents, engine, recorded
from fleet import FleetSpec
from policies import Sarathi, VllmPrefillFirst
from traces import Trace

WHOLE = "whole prompts"
METRICS = measured("ttft_s.p50", "ttft_s.p99", "itl_max_s.p99", described=("tpot_s.p50", "e2e_s.p50"))


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    budgets_tokens: tuple[int, ...]
    rates_per_s: tuple[float, ...]
    requests: int
    seeds: int


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison of all budgets at each rate."""
    base = FleetSpec(engine=engine())
    candidates = {WHOLE: base.replace(iteration=VllmPrefillFirst(max_sequences=128))}
    for budget in plan.budgets_tokens:
        candidates[_name(budget)] = base.replace(iteration=Sarathi(max_step_tokens=budget))

    def traffic(seed: int) -> Trace:
        if options.trace is None:
            return documents(plan.requests, seed)
        return recorded(options.trace, plan.requests, seed)

    drawn = {seed: traffic(seed) for seed in range(plan.seeds)}
    reports: dict[float, Report] = {}
    for rate in plan.rates_per_s:
        scaled = {seed: at_rate(trace, rate) for seed, trace in drawn.items()}
        reports[rate] = compare(
            scaled.__getitem__, candidates, seeds=range(plan.seeds), metrics=METRICS,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip
    return result_of(
        "chunked_prefill", "requests/s", reports, METRICS,
        workload=f"one A100, {plan.requests} requests of {options.trace or 'lengths as of paper summaries'}",
    )  # fmt: skip


def _name(budget: int) -> str:
    return f"{budget} tokens"


def budgets(result: StudyResult) -> list[int]:
    """The budgets that were run."""
    return [int(name.split()[0]) for name in result.candidates if name != WHOLE]


def draw(result: StudyResult) -> str:
    """Both latencies against the budget, at the highest rate; then one against the other, at every rate."""
    figure, (left, right) = new_figure(WIDTH, 4.2, rows=1, columns=2)
    sizes, busiest = budgets(result), result.settings[-1]
    for index, (measure, label) in enumerate(
        (("ttft_s.p50", "TTFT p50"), ("ttft_s.p99", "TTFT p99"), ("itl_max_s.p99", "longest token gap, p99"))
    ):
        colour = PALETTE[index]
        values = [result.mean(busiest, _name(size), measure) for size in sizes]
        left.plot(sizes, values, color=colour, marker="o", markersize=3.5, linewidth=1.5, label=label)
        left.axhline(result.mean(busiest, WHOLE, measure), color=colour, linestyle=":", linewidth=1.2)
    left.plot([], [], color="#000000", linestyle=":", linewidth=1.2, label=WHOLE)
    log_ticks(left, "x")
    log_ticks(left, "y")
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.minorticks_off()
    left.set_xlabel(f"budget of a step (tokens), at {busiest:g} requests/s")
    left.set_ylabel("seconds")
    for index, rate in enumerate(result.settings):
        colour = PALETTE[3 + index]
        points = [
            (result.mean(rate, name, "ttft_s.p99"), result.mean(rate, name, "itl_max_s.p99"))
            for name in map(_name, sizes)
        ]
        right.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.2,
                   label=f"{rate:g} requests/s")  # fmt: skip
        for size, point in zip(sizes, points, strict=True):
            if index == len(result.settings) - 1:
                right.annotate(str(size), point, textcoords="offset points", xytext=(6, 2), fontsize=8)
        whole = (result.mean(rate, WHOLE, "ttft_s.p99"), result.mean(rate, WHOLE, "itl_max_s.p99"))
        right.plot(*whole, color=colour, marker="x", linestyle="none")
    right.plot([], [], color="#000000", marker="x", linestyle="none", label=WHOLE)
    log_ticks(right, "x")
    log_ticks(right, "y")
    right.margins(x=0.1)
    right.set_xlabel("TTFT p99 (s)")
    right.set_ylabel("longest token gap, p99 (s)")
    right.legend(frameon=False, fontsize=8)
    legend_above(figure, left)
    return compact_svg(figure, result.study)


STUDY = Study(
    name="chunked_prefill",
    title="Chunked prefill: time to first token against the longest gap, by the budget of a step",
    plans={
        "small": Plan(budgets_tokens=(128, 256, 512, 1024, 2048, 4096, 8192), rates_per_s=(0.5, 0.8),
                      requests=120, seeds=6),
        "full": Plan(budgets_tokens=(128, 256, 512, 1024, 2048, 4096, 8192), rates_per_s=(0.3, 0.6, 0.9),
                     requests=300, seeds=8),
    },
    run=run,
    draw=draw,
)  # fmt: skip
