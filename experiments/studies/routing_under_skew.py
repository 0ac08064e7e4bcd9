"""``fleet study routing_under_skew``: what do popular keys, and unequal speeds, do to routers?

Requests are for keys, such as sessions, of which the k-th is asked for in proportion to k^-s. Three fleets get them:
ten replicas that are alike, as many of which half are half as fast, and four that serve an LLM, where a key is a long
document in front of each prompt and following it spares most of the prefill. Consistent hashing follows keys whatever
becomes of the load, with bounded loads it passes on what is more than 1.25 times the average; most others look at no
key. In front of the LLM the rules that follow prefixes join them.

Question: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018 (no server above c
times the average); Banawan and Zahorjan, "Load Sharing in Heterogeneous Queueing Systems", INFOCOM 1989 (unequal
speeds); Srivatsa et al., "Preble", ICLR 2025 (exploit what is cached, explore for load). Popularity: Breslau et al.,
"Web Caching and Zipf-like Distributions", INFOCOM 1999 (exponents of 0.6 to 0.8).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from msgspec import Struct

from experiments.spread import busiest_over_mean
from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import (
    BLOCK_TOKENS,
    arrivals,
    engine,
    with_sessions,
    zipf_ranks,
    zipf_shares,
)
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from policies import (
    LeastOutstanding,
    NoBatching,
    PowerOfTwoChoices,
    PrefixAffinity,
    Random,
    RoundRobin,
    RoutingPolicy,
    SessionAffinity,
    ShortestExpectedDelay,
)
from policies.routing.bounded_load_consistent_hash import BoundedLoadConsistentHash
from policies.routing.consistent_hash import ConsistentHash
from policies.routing.join_idle_queue import JoinIdleQueue
from policies.routing.peak_ewma import PeakEwma
from policies.routing.preble import Preble
from policies.routing.predicted_latency import PredictedLatency
from policies.routing.prequal_hot_cold import PrequalHotCold
from traces import Trace, Transform

SERVICE_S, SERVICE_CV = 0.05, 1.0
"""Of a request at a replica of full speed, lognormal."""
LOAD = 0.7
"""Of what the replicas can do together, fast and slow."""
SLOW = 0.5
"""Speed of every second replica of the fleet that is not alike."""
BOUND = 1.25
"""Of bounded loads: a replica's most, in averages."""

DOCUMENTS, DOCUMENT_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 64, 4096, 128, 32
"""Of the LLM's requests: 4,096 tokens of one of so many documents, a question, an answer."""
DOCUMENTS_CACHED = 20
"""Documents that fit into the cache of one replica: all into those of four, in none more than a third."""
LLM_REPLICAS, LLM_PER_S = 4, 12.0
PREFILL_S_PER_TOKEN = 0.000086
"""What the study's device takes for a token of a long prompt: 2 × 8 × 10^9 operations at 187 × 10^12 a second."""

BASELINE, HASH, BOUNDED = "least outstanding", "consistent hash", "bounded loads"
AFFINITY, PREFIX, PREBLE = "session affinity", "prefix affinity", "preble"
BLIND: Mapping[str, RoutingPolicy] = {
    BASELINE: LeastOutstanding(),
    "random": Random(),
    "round robin": RoundRobin(),
    "two choices": PowerOfTwoChoices(),
    "join idle queue": JoinIdleQueue(),
    "peak ewma": PeakEwma(),
    "prequal": PrequalHotCold(),
    "predicted latency": PredictedLatency(),
    "shortest expected delay": ShortestExpectedDelay(),
}
"""Those that look at no key: popularity is nothing to them, as long as every request is the same work."""
BY_KEY: Mapping[str, RoutingPolicy] = {
    HASH: ConsistentHash(key="session"),
    BOUNDED: BoundedLoadConsistentHash(key="session", load_factor=BOUND),
    AFFINITY: SessionAffinity(),
}
LOOKED_AT = (BASELINE, *BY_KEY)
"""Of which it is told how far keys stay."""
WHOLE: Mapping[str, RoutingPolicy] = {**BLIND, **BY_KEY}
"""In front of replicas that take one whole request at a time."""
LLM: Mapping[str, RoutingPolicy] = {
    BASELINE: LeastOutstanding(),
    "random": Random(),
    "predicted latency": PredictedLatency(target="ttft"),
    **BY_KEY,
    PREFIX: PrefixAffinity(),
    PREBLE: Preble(prefill_s_per_token=PREFILL_S_PER_TOKEN),
}
CANDIDATES = (*WHOLE, PREFIX, PREBLE)
_MS = 1000.0
MEASURES = (
    Measure(name="p50_s", label="p50 (ms)", better="neither", scale=_MS, shown=False),
    Measure(name="p99_s", label="p99 (ms)", better="lower", scale=_MS),
    Measure(name="busiest", label="busiest/mean", better="neither"),
    Measure(name="fullest", label="in flight/bound", better="neither"),
    Measure(name="kept", label="at home (%)", better="neither", scale=100.0),
    Measure(name="unlike p50_s", label="unlike: p50 (ms)", better="neither", scale=_MS, shown=False),
    Measure(name="unlike p99_s", label="unlike: p99 (ms)", better="lower", scale=_MS),
    Measure(name="llm hits", label="LLM: hits (%)", better="higher", scale=100.0),
    Measure(name="llm ttft p50_s", label="TTFT p50 (ms)", better="neither", scale=_MS, shown=False),
    Measure(name="llm ttft p99_s", label="TTFT p99 (ms)", better="lower", scale=_MS),
    Measure(name="llm busiest", label="LLM: busiest/mean", better="neither", shown=False),
)
"""`fullest`: at worst over all arrivals, what the replica that was chosen has in flight over ⌈1.25 × average⌉. `kept`:
requests at the replica that most of their key's requests go to, of those that look at
keys and the baseline. `unlike`: where every
second replica is half as fast."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    exponents: tuple[float, ...]
    """Of Zipf's law; 0: all keys are asked for alike."""
    replicas: int
    keys: int
    requests: int
    llm_requests: int
    seeds: int


def keyed(trace: Trace, keys: int, exponent: float, seed: int) -> Trace:
    """The same requests, each for a key. Other seeds have other keys: which replica a popular one meets is chance."""
    ranks = zipf_ranks(len(trace), keys, exponent, seed)
    return with_sessions(trace, [f"{seed}.{rank}" for rank in ranks.tolist()], f"zipf({keys}, {exponent:g})")


def questions(requests: int, exponent: float, seed: int, name: str | None = None) -> Trace:
    """Questions about documents, of which some are asked about more than others."""
    trace = arrivals(LLM_PER_S, requests / LLM_PER_S, seed, name)
    trace = keyed(trace, DOCUMENTS, exponent, seed)
    shared, own = DOCUMENT_TOKENS // BLOCK_TOKENS, QUESTION_TOKENS // BLOCK_TOKENS
    count = len(trace)
    first = zipf_ranks(count, DOCUMENTS, exponent, seed) * shared
    blocks = np.empty((count, shared + own), dtype=np.int64)
    blocks[:, :shared] = first[:, None] + np.arange(shared)
    blocks[:, shared:] = DOCUMENTS * shared + np.arange(count * own).reshape(count, own)
    offsets = np.arange(count + 1, dtype=np.int32) * (shared + own)
    table = (
        trace.table.append_column("prompt_tokens", pa.array([DOCUMENT_TOKENS + QUESTION_TOKENS] * count))
        .append_column("output_tokens", pa.array([ANSWER_TOKENS] * count))
        .append_column("blocks", pa.ListArray.from_arrays(pa.array(offsets), pa.array(blocks.ravel())))
        .append_column("block_tokens", pa.array([BLOCK_TOKENS] * count))
    )
    return trace.derived(table, Transform("questions", {"documents": DOCUMENTS}))


def spec_of(candidate: str, replicas: int, *, unlike: bool = False) -> FleetSpec:
    """The fleet of a candidate, where whole requests are served."""
    return FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)),
        replicas=replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
        routing=WHOLE[candidate],
        weights=(1.0, SLOW) if unlike else (),
    )


def llm_spec_of(candidate: str) -> FleetSpec:
    """The fleet of a candidate in front of the LLM."""
    blocks = DOCUMENTS_CACHED * DOCUMENT_TOKENS // BLOCK_TOKENS
    return FleetSpec(engine=engine(blocks=blocks), replicas=LLM_REPLICAS, routing=LLM[candidate])


class Job(Struct, frozen=True, kw_only=True):
    """One candidate's runs on one trace, in front of replicas that are alike and of such as are not."""

    trace: Trace
    unlike: Trace
    candidate: str
    replicas: int
    seed: int

    def run(self) -> dict[str, float]:
        """The measures of both."""
        alike = simulate(self.trace, spec_of(self.candidate, self.replicas), seed=self.seed, check=False)
        spec = spec_of(self.candidate, self.replicas, unlike=True)
        unlike = simulate(self.unlike, spec, seed=self.seed, check=False)
        p50_s, p99_s = percentiles(alike, "e2e_s")
        unlike_p50_s, unlike_p99_s = percentiles(unlike, "e2e_s")
        found = {
            "p50_s": p50_s,
            "p99_s": p99_s,
            "busiest": busiest_over_mean(alike),
            "fullest": fullest_over_bound(alike, self.replicas),
            "unlike p50_s": unlike_p50_s,
            "unlike p99_s": unlike_p99_s,
        }
        if self.candidate in LOOKED_AT:
            found["kept"] = kept_share(self.trace, alike)
        return found


class LlmJob(Struct, frozen=True, kw_only=True):
    """One candidate's run in front of the LLM."""

    trace: Trace
    spec: FleetSpec
    seed: int

    def run(self) -> dict[str, float]:
        """Its measures."""
        run = simulate(self.trace, self.spec, seed=self.seed, check=False)
        p50_s, p99_s = percentiles(run, "ttft_s")
        return {
            "llm hits": run.summary.cached_fraction or 0.0,
            "llm ttft p50_s": p50_s,
            "llm ttft p99_s": p99_s,
            "llm busiest": busiest_over_mean(run),
        }


def percentiles(run: Run, column: str) -> tuple[float, float]:
    """Median and p99 of what completed."""
    p50, p99 = np.percentile(run.records[column].drop_null().to_numpy(), (50.0, 99.0))
    return float(p50), float(p99)


def fullest_over_bound(run: Run, replicas: int) -> float:
    """The most, over all arrivals, that the chosen replica has in flight over ⌈`BOUND` × average⌉, this one in both."""
    in_flight: Counter[str] = Counter()
    ends: list[tuple[float, str]] = []
    worst = 0.0
    columns = (run.records[name].to_pylist() for name in ("arrived_s", "e2e_s", "replica"))
    for arrived_s, e2e_s, replica in zip(*columns, strict=True):
        while ends and ends[0][0] <= arrived_s:
            in_flight[heapq.heappop(ends)[1]] -= 1
        in_flight[replica] += 1
        heapq.heappush(ends, (arrived_s + e2e_s, replica))
        most = math.ceil(BOUND * len(ends) / replicas - 1e-9)
        worst = max(worst, in_flight[replica] / most)
    return worst


def kept_share(trace: Trace, run: Run) -> float:
    """The share of requests that go where most requests of their key go."""
    replica = dict(zip(run.records["id"].to_pylist(), run.records["replica"].to_pylist(), strict=True))
    pairs = zip(trace.column("session").to_pylist(), trace.column("id").to_pylist(), strict=True)
    counts = Counter((key, replica[request]) for key, request in pairs)
    most: dict[str, int] = {}
    for (key, _), count in counts.items():
        most[key] = max(most.get(key, 0), count)
    return sum(most.values()) / len(trace)


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each exponent, with the same arrivals.

    Those of which it is not told how far keys stay look at none, and run once for all exponents.
    """
    seeds = range(plan.seeds)
    jobs: dict[tuple[float, str, int], Job] = {}
    llm_jobs: dict[tuple[float, str, int], LlmJob] = {}
    used: dict[str, list[str]] = {}
    capacity_per_s = plan.replicas / SERVICE_S
    slow = plan.replicas // 2
    rates_per_s = (LOAD * capacity_per_s, LOAD * (capacity_per_s - slow * (1.0 - SLOW) / SERVICE_S))
    for seed in seeds:
        alike, unlike = (arrivals(per_s, plan.requests / per_s, seed, options.trace) for per_s in rates_per_s)
        for exponent in plan.exponents:
            traces = [keyed(trace, plan.keys, exponent, seed) for trace in (alike, unlike)]
            asked = questions(plan.llm_requests, exponent, seed, options.trace)
            used.setdefault(f"{exponent:g}", []).extend(trace.sha256 for trace in (*traces, asked))
            for name in WHOLE:
                if name in LOOKED_AT or exponent == plan.exponents[0]:
                    jobs[exponent, name, seed] = Job(
                        trace=traces[0], unlike=traces[1], candidate=name, replicas=plan.replicas, seed=seed
                    )
            for name in LLM:
                llm_jobs[exponent, name, seed] = LlmJob(trace=asked, spec=llm_spec_of(name), seed=seed)
    done, llm_done = run_all("fleets", jobs, options), run_all("LLM fleets", llm_jobs, options)
    values = {}
    for exponent in plan.exponents:
        for name in CANDIDATES:
            for seed in seeds:
                whole = done.get((exponent if name in LOOKED_AT else plan.exponents[0], name, seed), {})
                values[exponent, name, seed] = {**whole, **llm_done.get((exponent, name, seed), {})}
    return StudyResult(
        study="routing_under_skew",
        setting="Zipf exponent",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(values, MEASURES, BASELINE),
        workload=f"{plan.replicas} replicas at {100.0 * LOAD:g} % load, {plan.requests:,} requests for {plan.keys:,} "
        f"keys; {LLM_REPLICAS} A100s, {plan.llm_requests:,} questions about {DOCUMENTS} documents; arrivals of "
        f"{options.trace or 'Poisson processes'}",
        traces=used,
        specs={
            name: (spec_of(name, plan.replicas) if name in WHOLE else llm_spec_of(name)).to_dict()
            for name in CANDIDATES
        },
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """What skew does to hashing, what a bound costs, what unequal speed does, and who pays for the cache."""
    even, steep = result.settings[0], result.settings[-1]

    def ms(at: float, name: str, measure: str) -> str:
        return f"{_MS * result.mean(at, name, measure):,.0f} ms"

    def most(name: str) -> float:
        return max(result.mean(at, name, "fullest") for at in result.settings)

    held = "at no time" if most(BOUNDED) <= 1.0 else "not at all times"
    unlike = {name: result.mean(even, name, "unlike p99_s") for name in BLIND}
    best, worst = min(unlike, key=unlike.__getitem__), max(unlike, key=unlike.__getitem__)
    hits = {name: result.mean(steep, name, "llm hits") for name in LLM}
    ttft = {at: {name: result.mean(at, name, "llm ttft p99_s") for name in LLM} for at in (even, steep)}
    soonest = {at: min(of_one, key=of_one.__getitem__) for at, of_one in ttft.items()}
    return (
        f"Under {HASH} the busiest replica has {result.mean(even, HASH, 'busiest'):.2f} times the mean load at an "
        f"exponent of {even:g} and {result.mean(steep, HASH, 'busiest'):.2f} times at {steep:g}, and p99 goes from "
        f"{ms(even, HASH, 'p99_s')} to {ms(steep, HASH, 'p99_s')}; under {BASELINE} it is "
        f"{ms(even, BASELINE, 'p99_s')}.",
        f"With {BOUNDED} a replica is above {BOUND:g} times the average in flight {held} (at worst {most(BOUNDED):.2f} "
        f"of it; {HASH}: {most(HASH):.1f}); p99 is {ms(steep, BOUNDED, 'p99_s')} at {steep:g}, and "
        f"{100.0 * result.mean(steep, BOUNDED, 'kept'):.0f} % of requests stay where most of their key go "
        f"({AFFINITY}: {100.0 * result.mean(steep, AFFINITY, 'kept'):.0f} %, with a p99 of "
        f"{ms(steep, AFFINITY, 'p99_s')}).",
        f"Where every second replica is half as fast, p99 is between {_MS * unlike[best]:,.0f} ms ({best}) and "
        f"{_MS * unlike[worst]:,.0f} ms ({worst}) of those that look at no key; {BASELINE} has "
        f"{_MS * unlike[BASELINE]:,.0f} ms.",
        f"In front of the LLM at {steep:g}, hits are {100.0 * hits[BASELINE]:.0f} % under {BASELINE}, "
        f"{100.0 * hits[HASH]:.0f} % under {HASH}, {100.0 * hits[PREFIX]:.0f} % under {PREFIX} and "
        f"{100.0 * hits[PREBLE]:.0f} % under {PREBLE}; the lowest p99 of TTFT has {soonest[even]} at {even:g} "
        f"({ms(even, soonest[even], 'llm ttft p99_s')}) and {soonest[steep]} at {steep:g} "
        f"({ms(steep, soonest[steep], 'llm ttft p99_s')}; {HASH}: {ms(steep, HASH, 'llm ttft p99_s')}).",
    )


def top_share(plan: Plan, exponent: float) -> float:
    """The share of requests for the most popular key: its replica has as much at least, where keys stay."""
    return float(zipf_shares(plan.keys, exponent)[0])


def draw(result: StudyResult) -> str:
    """Imbalance, tails of the three fleets and prefix hits, against the exponent."""
    keys = {name: name for name in (BASELINE, HASH, BOUNDED, AFFINITY)}
    blind = {name: name for name in (*BLIND, BOUNDED)}
    llm = {name: name for name in LLM}
    panels = (
        Panel(measure="busiest", label="busiest over mean load", names=keys, band=False),
        Panel(measure="p99_s", label="p99, alike (ms)", log=True, names=keys, band=False),
        Panel(measure="unlike p99_s", label="p99, unlike (ms)", log=True, names=blind, band=False),
        Panel(measure="llm hits", label="LLM: prefix hits (%)", names=llm, band=False),
        Panel(measure="llm ttft p99_s", label="LLM: TTFT p99 (ms)", log=True, names=llm, band=False),
    )
    return lines(result, panels, "Zipf exponent", x_ticks=result.settings)


STUDY = Study(
    name="routing_under_skew",
    title="Routing under skew: popular keys, unequal replicas, shared prefixes",
    plans={
        "small": Plan(
            exponents=(0.0, 1.4), replicas=10, keys=1_000, requests=1_500, llm_requests=100, seeds=3
        ),
        "full": Plan(
            exponents=(0.0, 0.7, 1.0, 1.4), replicas=10, keys=1_000, requests=4_000, llm_requests=300, seeds=5
        ),
    },
    run=run,
    draw=draw,
    finding=finding,
)
