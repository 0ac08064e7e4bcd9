"""What a request costs a simulation when three times as many come as the fleet can serve: queues grow, not the cost.

Whatever is done for each report or each event over all that waits or is held would show here, as a cost that grows with
the square of what is held. CPU time of this process, the least of the rounds, both loads in turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fleet import AffineSteps, EmulatedLlmEngine, FleetSpec, KvSpec, simulate
from policies import EarliestDeadline, LeastTokens, VllmTokenBudget
from tests.bench.simulation import BASE_S, MAX_BATCH, PER_ITEM_S
from tests.bench.simulation import spec as batch_spec
from tests.bench.table import Row
from traces import Trace, poisson

NORMAL, OVER = 0.7, 3.0
"""Offered load over capacity."""
GROWTH = 2.0
"""The most that a request may cost at `OVER`, beside `NORMAL`."""
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 64
STEP_S, PER_DECODE_S, PER_PROMPT_TOKEN_S = 0.01, 0.0002, 0.00005
SEQUENCES = 64
"""Of one batch of the language models here."""


def batch_capacity_per_s(replicas: int = 8) -> float:
    """Of `batch_spec`, all batches full."""
    return replicas * MAX_BATCH / (BASE_S + MAX_BATCH * PER_ITEM_S)


def llm_spec() -> FleetSpec:
    """Four replicas, with room for 64 sequences in a batch and for 1,024 at their doors."""
    latency = AffineSteps(base_s=STEP_S, per_decode_s=PER_DECODE_S, per_prefill_token_s=PER_PROMPT_TOKEN_S)
    engine = EmulatedLlmEngine(latency=latency, kv=KvSpec(blocks=SEQUENCES * 64))
    return FleetSpec(
        engine=engine, replicas=4, routing=LeastTokens(), iteration=VllmTokenBudget(max_sequences=SEQUENCES)
    )


def llm_capacity_per_s(replicas: int = 4) -> float:
    """Of `llm_spec`, all batches full: a sequence takes its prefill, and its share of the steps it decodes in."""
    decode_s = OUTPUT_TOKENS * (STEP_S / SEQUENCES + PER_DECODE_S)
    return replicas / (decode_s + PROMPT_TOKENS * PER_PROMPT_TOKEN_S)


def offered(load: float, capacity_per_s: float, requests: int, **tokens: int) -> Trace:
    """So many requests at this share of the capacity."""
    rate_per_s = load * capacity_per_s
    return poisson(rate_per_s, requests / rate_per_s, 1, **tokens)


def _us(traces: dict[float, Trace], spec: FleetSpec, rounds: int) -> dict[float, float]:
    """CPU microseconds a request, by load."""
    best: dict[float, float] = {}
    for _ in range(rounds):
        for load, trace in traces.items():
            began = time.process_time()
            simulate(trace, spec, check=False)
            cost_us = (time.process_time() - began) / len(trace) * 1e6
            best[load] = min(cost_us, best.get(load, cost_us))
    return best


def rows(requests: int = 20_000, llm_requests: int = 8_000, rounds: int = 3) -> Iterator[Row]:
    """The cost of a request at both loads, and how it grew."""
    batches = {load: offered(load, batch_capacity_per_s(), requests) for load in (NORMAL, OVER)}
    tokens = {"prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    sequences = {load: offered(load, llm_capacity_per_s(), llm_requests, **tokens) for load in (NORMAL, OVER)}
    late: dict[str, Any] = {"binding": "late", "queueing": EarliestDeadline(), "deadline_s": 2.0}
    for name, traces, spec in (
        ("requests, a queue for each replica", batches, batch_spec()),
        ("requests with deadlines, one queue by deadline", batches, batch_spec().replace(**late)),
        ("language model", sequences, llm_spec()),
        ("language model, with deadlines", sequences, llm_spec().replace(deadline_s=10.0)),
    ):
        best = _us(traces, spec, rounds)
        growth = best[OVER] / best[NORMAL]
        measured = f"{best[NORMAL]:.1f} and {best[OVER]:.1f} µs, × {growth:.2f}"
        yield Row(
            f"{name}: at {NORMAL} and {OVER:g} of capacity", measured, f"≤ × {GROWTH:g}", growth <= GROWTH
        )


if __name__ == "__main__":
    for row in rows():
        print(f"{row.what}: {row.measured} {row.target}")
