"""``fleet study kv_pressure``: what to do when the cache is too small?

Conversations come to one replica whose key-value cache holds from hardly one batch to plenty. A sequence that finds no
block takes the place of another, which later computes what it lost anew or gets it back from host memory; and what is
cached of ended turns has to go, by one eviction policy or another.

Question: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023,
section 7.3 (recompute or swap); Qin et al., "Mooncake", FAST 2025, section 4.2 (LRU, LFU and length-aware eviction).
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
from experiments.studies.workloads import conversations, engine, recorded
from fleet import FleetSpec
from policies import EvictionPolicy, Gdsf, Lfu, Lru, OldestFirst, VllmPrefillFirst
from traces import Slo, Trace

HOST_BLOCKS = 100_000
"""Host memory for what is swapped: 210 GB, more than is ever used."""
OUTPUT_TOKENS = 400
"""Mean of an answer: long enough that sequences outgrow what they were admitted with."""
SLO = Slo(ttft_s=2.0, tpot_s=0.1)
METRICS = measured(
    "preemptions", "cached_fraction", "goodput_per_s", "ttft_s.p99", described=("ttft_s.p50", "itl_max_s.p99")
)
EVICTION: Mapping[str, EvictionPolicy] = {
    "lru": Lru(),
    "lfu": Lfu(),
    "gdsf": Gdsf(),
    "oldest first": OldestFirst(),
}
CANDIDATES = (
    *(f"recompute, {name}" for name in EVICTION),
    "swap, lru",
    "recompute, no sharing",
    "swap, no sharing",
)
"""What becomes of a sequence that loses its place, and what is evicted; `no sharing`: no prompt finds anything."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    blocks: tuple[int, ...]
    rate_per_s: float
    requests: int
    seeds: int


def spec_of(name: str, blocks: int) -> FleetSpec:
    """The fleet of a candidate, with a cache of so many blocks."""
    way, eviction = name.split(", ")
    return FleetSpec(
        engine=engine(blocks=blocks, host_blocks=HOST_BLOCKS, prefix_caching=eviction in EVICTION),
        iteration=VllmPrefillFirst(swap=way == "swap"),
        eviction=EVICTION.get(eviction, EVICTION["lru"]),
        slo=SLO,
    )


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison at each cache size."""

    def traffic(seed: int) -> Trace:
        if options.trace is None:
            return at_rate(conversations(plan.requests, seed, output_tokens=OUTPUT_TOKENS), plan.rate_per_s)
        return at_rate(recorded(options.trace, plan.requests, seed), plan.rate_per_s)

    drawn = {seed: traffic(seed) for seed in range(plan.seeds)}
    reports: dict[float, Report] = {}
    for blocks in plan.blocks:
        candidates = {name: spec_of(name, blocks) for name in CANDIDATES}
        reports[float(blocks)] = compare(
            drawn.__getitem__, candidates, seeds=range(plan.seeds), metrics=METRICS,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip
    return result_of(
        "kv_pressure", "cache (blocks)", reports, METRICS,
        workload=f"one A100, {plan.requests} requests of {options.trace or 'synthetic conversations'} at "
        f"{plan.rate_per_s:g}/s, objectives TTFT {SLO.ttft_s:g} s and TPOT {1000 * (SLO.tpot_s or 0.0):g} ms",
    )  # fmt: skip


def draw(result: StudyResult) -> str:
    """Preemptions, hits, goodput and the worst waiting against the cache's size."""
    panels = (
        Panel(measure="preemptions", label="preemptions"),
        Panel(measure="cached_fraction", label="prefix hits (% of prompt tokens)"),
        Panel(measure="goodput_per_s", label="requests/s within objectives"),
        Panel(measure="ttft_s.p99", label="TTFT p99 (s)", log=True, scale=1.0),
    )
    return lines(result, panels, "cache (blocks of 16 tokens)", x_log=True, x_ticks=result.settings)


STUDY = Study(
    name="kv_pressure",
    title="Cache pressure: preemption and eviction by cache size",
    plans={
        "small": Plan(blocks=(3000, 5000, 8000, 16000), rate_per_s=3.5, requests=250, seeds=5),
        "full": Plan(blocks=(3000, 4000, 6000, 8000, 16000), rate_per_s=3.5, requests=400, seeds=6),
    },
    run=run,
    draw=draw,
)  # fmt: skip
