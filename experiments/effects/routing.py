"""Published effects of routing policies."""

from __future__ import annotations

import random
from functools import partial

from experiments.effects.effect import Effect
from fleet import FleetSpec, PoolSpec, Run
from fleet.engines import AffineLatency, AffineSteps, EmulatedEngine, EmulatedLlmEngine, KvSpec
from policies import (
    Composed,
    LeastOutstanding,
    NoBatching,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    VllmTokenBudget,
    Window,
)
from policies.routing.batch_filling import BatchFilling
from policies.routing.bounded_load_consistent_hash import BoundedLoadConsistentHash
from policies.routing.consistent_hash import ConsistentHash
from policies.routing.gradual_shift import GradualShift
from policies.routing.join_idle_queue import JoinIdleQueue
from policies.routing.llm_d_default import LlmDDefault
from policies.routing.peak_ewma import PeakEwma
from policies.routing.preble import Preble
from policies.routing.predicted_latency import PredictedLatency
from policies.routing.prequal_hot_cold import PrequalHotCold
from policies.routing.priority_tiers import PriorityTiers
from policies.routing.queue_scorer import QueueScorer
from policies.routing.zone_aware import ZoneAware
from traces import Fault, FaultTrace, Lengths, Request, Trace, TraceEntry, poisson, sessions, zipf

SERVICE_S = 0.1
"""What an ordinary request takes a replica that takes one at a time."""


# --- the requests ----------------------------------------------------------------------------------------------


def exponential(seed: int, *, rate_per_s: float, requests: int, urgent: float = 0.0) -> Trace:
    """Poisson arrivals, exponential service times; a share `urgent` of them has priority 1."""
    rng, now_s, entries = random.Random(seed), 0.0, []
    for number in range(requests):
        now_s += rng.expovariate(rate_per_s)
        priority = 1 if rng.random() < urgent else None
        entries.append(TraceEntry(Request(f"r{number}", now_s, work=rng.expovariate(1.0), priority=priority)))
    return Trace.from_entries(entries)


def skewed(seed: int, *, rate_per_s: float, duration_s: float) -> Trace:
    """Of many tenants some send far more than others."""
    return poisson(rate_per_s, duration_s, seed).assign(seed=seed, tenant=zipf(200, 0.7))


def conversations(seed: int) -> Trace:
    """Turns of a few hundred conversations, each with all that was said before."""
    return sessions(
        4.0, 24.0, seed, turns=6.0, think_s=4.0, prompt_tokens=Lengths.lognormal(300, 0.8),
        output_tokens=Lengths.lognormal(60, 0.5), system_tokens=256, block_tokens=64,
    )  # fmt: skip


def shared_prompts(seed: int) -> Trace:
    """Tools and documents: 40 long prefixes, unevenly popular, each followed by a short question."""
    rng, now_s, entries = random.Random(seed), 0.0, []
    popularity = [1.0 / (rank + 1) for rank in range(40)]
    for number in range(600):
        now_s += rng.expovariate(14.0)
        [prefix] = rng.choices(range(40), popularity)
        own, blocks = rng.randint(1, 4), 48 + prefix % 17
        names = (
            *(1_000 * prefix + block for block in range(blocks)),
            *(10**6 + 8 * number + block for block in range(own)),
        )
        request = Request(f"r{number}", now_s, prompt_tokens=64 * len(names), blocks=names, block_tokens=64)
        entries.append(TraceEntry(request, output_tokens=rng.randint(10, 60)))
    return Trace.from_entries(entries)


def unlike_prompts(seed: int) -> Trace:
    """Prompts from a line to a book, that share nothing, and short answers."""
    return poisson(
        40.0, 30.0, seed, prompt_tokens=Lengths.lognormal(1500, 1.2), output_tokens=Lengths.lognormal(6, 0.5)
    )


def questions(seed: int) -> Trace:
    """Short prompts and answers of some length."""
    return poisson(
        50.0, 20.0, seed, prompt_tokens=Lengths.lognormal(600, 0.8), output_tokens=Lengths.lognormal(100, 0.8)
    )


def short_answers(seed: int) -> Trace:
    """Little to compute for each, a lot of them."""
    return poisson(500.0, 4.0, seed, prompt_tokens=16, output_tokens=Lengths.lognormal(8, 0.6))


def zoned(seed: int) -> Trace:
    """Half of the requests come from one zone of three, a fifth from another."""
    rng, now_s, entries = random.Random(seed), 0.0, []
    for number in range(2000):
        now_s += rng.expovariate(80.0)
        [zone] = rng.choices(("east", "north", "west"), (0.5, 0.3, 0.2))
        entries.append(TraceEntry(Request(f"r{number}", now_s, extra={"zone": zone})))
    return Trace.from_entries(entries)


def slow_replica(seed: int) -> FaultTrace:
    """One of the replicas takes ten times as long for a while."""
    return FaultTrace(faults=(Fault(at_s=8.0, kind="slow", replica="replica/1", for_s=20.0, factor=10.0),))


def warms_up(seed: int) -> FaultTrace:
    """A replica is lost and replaced, and the new one is slow in its first seconds, as with cold caches."""
    crash = Fault(at_s=10.0, kind="crash", replica="replica/1")
    return FaultTrace(
        faults=(crash, Fault(at_s=10.1, kind="slow", replica="replica/1", for_s=8.0, factor=4.0))
    )


# --- the figures -----------------------------------------------------------------------------------------------


def e2e_ms(run: Run, quantile: str = "p99") -> float:
    """End-to-end latency."""
    return 1000.0 * float(getattr(run.summary.e2e_s, quantile))


def ttft_ms(run: Run, quantile: str = "mean") -> float:
    """Time to first token."""
    return 1000.0 * float(getattr(run.summary.ttft_s, quantile))


def cached_percent(run: Run) -> float:
    """Of prompt tokens, those that were found in a cache."""
    return 100.0 * float(run.summary.cached_fraction or 0.0)


def batch_size(run: Run) -> float:
    """Requests in a batch."""
    return float(run.summary.batch_size_mean or 0.0)


def urgent_p99_ms(run: Run) -> float:
    """End-to-end latency of requests of priority 1."""
    return e2e_ms(run.parts("priority")[(1,)])


def own_zone_percent(run: Run) -> float:
    """Of the requests that a replica served, those that one of their own zone did."""
    served = [
        (str(replica).split("/")[1], extra)
        for replica, extra in zip(
            run.records["replica"].to_pylist(), run.records["extra"].to_pylist(), strict=True
        )
        if replica is not None
    ]
    return 100.0 * sum(f'"{zone}"' in str(extra) for zone, extra in served) / len(served)


# --- the fleets ------------------------------------------------------------------------------------------------


def servers(replicas: int) -> FleetSpec:
    """Replicas that take one request at a time."""
    return FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=SERVICE_S)),
        replicas=replicas,
        batching=NoBatching(),
    )


def language_models(replicas: int, blocks: int = 4096) -> FleetSpec:
    """Replicas that serve token by token, with a prefix cache each: 50 μs a prompt token, 5 ms and more a step."""
    steps = AffineSteps(base_s=0.005, per_prefill_token_s=5e-5, per_decode_s=1e-4, per_context_token_s=1e-7)
    kv = KvSpec(blocks=blocks, block_tokens=16)
    return FleetSpec(engine=EmulatedLlmEngine(latency=steps, kv=kv), replicas=replicas)


MANY, SOME = servers(50), servers(10)
BATCHES = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.08, per_item_s=0.005)),
    replicas=8,
    batching=Window(max_batch=8, window_s=0.2),
)
MODELS = language_models(6)
FULL = MODELS.replace(iteration=VllmTokenBudget(max_sequences=8))
UNEQUAL = FleetSpec(
    engine=EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.001, per_decode_s=0.0075), kv=KvSpec(blocks=4096, block_tokens=16)
    ),
    replicas=50,
    weights=(1.0, 0.5),
)
ZONES = FleetSpec(
    engine=SOME.engine,
    batching=NoBatching(),
    pools={zone: PoolSpec(zone=zone, replicas=4) for zone in ("east", "north", "west")},
)

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="PeakEwma",
        claim="keeps away from a replica that turned slow, which a count of requests in flight sees late",
        trace=partial(poisson, 30.0, 40.0),
        faults=slow_replica,
        candidate=SOME.replace(routing=PeakEwma()),
        baseline=SOME.replace(routing=PowerOfTwoChoices()),
        against="PowerOfTwoChoices",
        figure="e2e mean (ms)",
        read=partial(e2e_ms, quantile="mean"),
        better="lower",
    ),
    Effect(
        policy="ConsistentHash",
        claim="what a key left in a cache is found again by its next request",
        trace=conversations,
        candidate=MODELS.replace(routing=ConsistentHash()),
        baseline=MODELS.replace(routing=Random()),
        against="Random",
        figure="prompt tokens found cached (%)",
        read=cached_percent,
        better="higher",
    ),
    Effect(
        policy="BoundedLoadConsistentHash",
        claim="no replica of popular keys is overloaded, as with consistent hashing alone",
        trace=partial(skewed, rate_per_s=70.0, duration_s=25.0),
        candidate=SOME.replace(routing=BoundedLoadConsistentHash()),
        baseline=SOME.replace(routing=ConsistentHash()),
        against="ConsistentHash",
        figure="e2e p99 (ms)",
        read=e2e_ms,
        better="lower",
    ),
    Effect(
        policy="Preble",
        claim="1.5 to 14.5 times lower latency on average than round robin, where long prompts are shared",
        trace=shared_prompts,
        candidate=MODELS.replace(routing=Preble()),
        baseline=MODELS.replace(routing=RoundRobin()),
        against="RoundRobin",
        figure="e2e mean (ms)",
        read=partial(e2e_ms, quantile="mean"),
        better="lower",
    ),
    Effect(
        policy="BatchFilling",
        claim="fuller batches than spreading requests gives, where batches wait for company",
        trace=partial(poisson, 60.0, 30.0),
        candidate=BATCHES.replace(routing=BatchFilling(batch_size=8)),
        baseline=BATCHES.replace(routing=LeastOutstanding()),
        against="LeastOutstanding",
        figure="requests in a batch",
        read=batch_size,
        better="higher",
    ),
    Effect(
        policy="PriorityTiers",
        claim="requests of high priority find nearly idle replicas at high load",
        trace=partial(exponential, rate_per_s=85.0, requests=2500, urgent=0.1),
        candidate=SOME.replace(routing=PriorityTiers()),
        baseline=SOME.replace(routing=PowerOfTwoChoices()),
        against="PowerOfTwoChoices",
        figure="e2e p99 of priority 1 (ms)",
        read=urgent_p99_ms,
        better="lower",
    ),
    Effect(
        policy="PredictedLatency",
        claim="lower time to first token than counting requests, where prompts differ by orders of magnitude",
        trace=unlike_prompts,
        candidate=MODELS.replace(routing=PredictedLatency(target="ttft")),
        baseline=MODELS.replace(routing=PowerOfTwoChoices(choices=3)),
        against="PowerOfTwoChoices of 3",
        figure="TTFT mean (ms)",
        read=ttft_ms,
        better="lower",
    ),
    Effect(
        policy="ZoneAware",
        claim="as much as there are replicas for stays in its zone",
        trace=zoned,
        candidate=ZONES.replace(routing=ZoneAware()),
        baseline=ZONES.replace(routing=PowerOfTwoChoices()),
        against="PowerOfTwoChoices",
        figure="served in their own zone (%)",
        read=own_zone_percent,
        better="higher",
    ),
    Effect(
        policy="PrequalHotCold",
        claim="lower tail latency than spreading evenly, over replicas of unequal and unknown speed",
        trace=short_answers,
        candidate=UNEQUAL.replace(routing=PrequalHotCold()),
        baseline=UNEQUAL.replace(routing=RoundRobin()),
        against="RoundRobin",
        figure="e2e p99 (ms)",
        read=e2e_ms,
        better="lower",
    ),
    Effect(
        policy="JoinIdleQueue",
        claim="shorter waits than two choices at moderate load, at no larger cost a choice",
        trace=partial(exponential, rate_per_s=350.0, requests=3000),
        candidate=MANY.replace(routing=JoinIdleQueue()),
        baseline=MANY.replace(routing=PowerOfTwoChoices()),
        against="PowerOfTwoChoices",
        figure="e2e mean (ms)",
        read=partial(e2e_ms, quantile="mean"),
        better="lower",
    ),
    Effect(
        policy="GradualShift",
        claim="requests do not pile up on a new replica that has yet to warm up",
        trace=partial(exponential, rate_per_s=55.0, requests=2000),
        faults=warms_up,
        candidate=SOME.replace(routing=GradualShift(routing=RoundRobin(), window_s=15.0)),
        baseline=SOME.replace(routing=RoundRobin()),
        against="RoundRobin",
        figure="e2e p99 (ms)",
        read=e2e_ms,
        better="lower",
    ),
    Effect(
        policy="QueueScorer",
        claim="lower time to first token than random choice, where batches are full and requests wait",
        trace=questions,
        candidate=FULL.replace(routing=Composed(scorers=[(1.0, QueueScorer())])),
        baseline=FULL.replace(routing=Random()),
        against="Random",
        figure="TTFT mean (ms)",
        read=ttft_ms,
        better="lower",
    ),
    Effect(
        policy="LlmDDefault",
        claim="lower time to first token than balancing that sees neither cache nor load",
        trace=conversations,
        candidate=MODELS.replace(routing=LlmDDefault()),
        baseline=MODELS.replace(routing=RoundRobin()),
        against="RoundRobin",
        figure="TTFT mean (ms)",
        read=ttft_ms,
        better="lower",
    ),
)  # fmt: skip
