"""``fleet study prefix_routing``: is the cache worth following, or the load?

Conversations come to eight replicas, each with a prefix cache of its own. A router that spreads the load finds a
prompt's beginning in the cache by luck; one that follows the cache loads its replicas unevenly. Run on a recorded part
of Mooncake's conversation trace where that is at hand (conversations are told by their prefix hashes), else on the
bundled `chat-small`, with caches from a quarter of what an A100 holds beside the model to far more.

Question: Zheng et al., "SGLang", NeurIPS 2024 (cache-aware load balancing); Qin et al., "Mooncake", FAST 2025, sections
4.1 and 6 (hit rate by cache size, scheduling by cache and load); NVIDIA Dynamo's KV router.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from experiments.compare import compare
from experiments.load import at_rate
from experiments.report import Report
from experiments.studies.charts import Panel, lines
from experiments.studies.result import StudyResult, measured, result_of
from experiments.studies.study import Options, Study
from experiments.studies.workloads import BLOCK_TOKENS, device_blocks, engine, recorded
from fleet import FleetSpec
from policies import KvCost, LeastTokens, PrefixAffinity, Random, RoutingPolicy, SessionAffinity
from traces import Trace

POLICIES: Mapping[str, RoutingPolicy] = {
    "least tokens": LeastTokens(),
    "random": Random(),
    "session affinity": SessionAffinity(),
    "prefix affinity": PrefixAffinity(),
    "kv cost": KvCost(),
    "kv cost, cache first": KvCost(overlap_weight=4.0, ttl_s=None),
}
METRICS = measured(
    "cached_fraction", "ttft_s.mean", "ttft_s.p99", described=("ttft_s.p50", "tpot_s.p50", "preemptions")
)
MOONCAKE = Path("../shared/traces/mooncake/conversation_trace.jsonl")
MOONCAKE_PER_S, CHAT_SMALL_PER_S = 0.3, 4.0
"""Requests a second and replica that load it well: the prompts of one are ten times as long as those of the other."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    caches: tuple[float, ...]
    """Of what fits on the device beside the model."""
    replicas: int
    requests: int
    seeds: int


def _source(options: Options) -> tuple[str, float | None]:
    """The trace, and at how many requests a second and replica it is played; None: as it was recorded."""
    if options.trace is not None:
        return options.trace, None
    return (str(MOONCAKE), MOONCAKE_PER_S) if MOONCAKE.exists() else ("chat-small", CHAT_SMALL_PER_S)


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison at each cache size; a seed is another part of the trace."""
    source, rate_per_s = _source(options)

    def traffic(seed: int) -> Trace:
        trace = recorded(source, plan.requests, seed)
        return trace if rate_per_s is None else at_rate(trace, rate_per_s * plan.replicas)

    drawn = {seed: traffic(seed) for seed in range(plan.seeds)}
    reports: dict[float, Report] = {}
    for share in plan.caches:
        blocks = max(1, round(share * device_blocks()))
        base = FleetSpec(engine=engine(blocks=blocks), replicas=plan.replicas)
        candidates = {name: base.replace(routing=policy) for name, policy in POLICIES.items()}
        reports[blocks * BLOCK_TOKENS / 1000.0] = compare(
            drawn.__getitem__, candidates, seeds=range(plan.seeds), metrics=METRICS,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip
    return result_of(
        "prefix_routing", "cache (1,000 tokens)", reports, METRICS,
        workload=f"{plan.replicas} A100s, parts of {plan.requests} requests of {drawn[0].header.source}",
    )  # fmt: skip


def draw(result: StudyResult) -> str:
    """Hit rate and time to first token against the cache's size."""
    panels = (
        Panel(measure="cached_fraction", label="prefix hits (% of prompt tokens)"),
        Panel(measure="ttft_s.mean", label="TTFT, mean (s)", log=True, scale=1.0),
        Panel(measure="ttft_s.p50", label="TTFT p50 (s)", log=True, scale=1.0),
        Panel(measure="ttft_s.p99", label="TTFT p99 (s)", log=True, scale=1.0),
    )
    sizes = [round(size) for size in result.settings]
    return lines(result, panels, "cache of a replica (1,000 tokens)", x_log=True, x_ticks=sizes)


STUDY = Study(
    name="prefix_routing",
    title="Prefix routing: hit rate and time to first token by cache size and routing policy",
    plans={
        "small": Plan(caches=(0.5, 1.0, 4.0), replicas=8, requests=600, seeds=3),
        "full": Plan(caches=(0.5, 1.0, 2.0, 4.0, 16.0), replicas=8, requests=2400, seeds=5),
    },
    run=run,
    draw=draw,
)
