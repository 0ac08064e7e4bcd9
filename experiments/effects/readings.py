"""What effects measure of a run, and the fleets and traffic that several of them share.

Whole requests: ten replicas, each serves one request at a time, for 50 ms on average. Token by token: steps that take
time for each prompt token and each decode, so that how sequences are mixed matters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc

from fleet import AffineLatency, AffineSteps, EmulatedEngine, EmulatedLlmEngine, FleetSpec, KvSpec, Run
from policies import NoBatching
from traces import Trace, poisson

SERVICE_S = 0.05
"""Of one request alone."""
REPLICAS = 10


# --- readings ----------------------------------------------------------------------------------------------


def e2e_mean_ms(run: Run) -> float:
    """Mean latency of the requests that completed."""
    return 1000.0 * float(pc.mean(run.records["e2e_s"]).as_py())


def e2e_p99_ms(run: Run) -> float:
    """Its 99th percentile."""
    return 1000.0 * float(np.percentile(run.records["e2e_s"].drop_null().to_numpy(), 99.0))


def ttft_mean_ms(run: Run) -> float:
    """Mean time to the first token."""
    return 1000.0 * float(pc.mean(run.records["ttft_s"]).as_py())


def failed_percent(run: Run) -> float:
    """Requests that came to nothing by a failure, of all."""
    return 100.0 * run.summary.failed / run.summary.submitted


def missed_percent(run: Run) -> float:
    """Requests that did not complete, for whatever reason, of all."""
    return 100.0 * (1.0 - run.summary.completed / run.summary.submitted)


def in_time_percent(run: Run, within_s: float) -> float:
    """Requests that completed within so many seconds, of all: what failed or was refused is not in time."""
    return (
        100.0 * float(pc.sum(pc.less_equal(run.records["e2e_s"], within_s)).as_py() or 0) / len(run.records)
    )


def attained_percent(run: Run) -> float:
    """Requests that met their objective, of those that had one."""
    return 100.0 * (run.summary.slo_attainment or 0.0)


def throughput_per_s(run: Run) -> float:
    """Completions a second."""
    return run.summary.throughput_per_s


def device_seconds(run: Run) -> float:
    """Seconds of devices held."""
    return run.summary.gpu_seconds or 0.0


def cached_percent(run: Run) -> float:
    """Prompt tokens found in a cache, of all."""
    return 100.0 * (run.summary.cached_fraction or 0.0)


# --- fleets and traffic ------------------------------------------------------------------------------------


def whole_requests(*, cv: float = 1.0, **fields: Any) -> FleetSpec:  # Any: fields of the fleet
    """Ten replicas that serve one request at a time, lognormal with this coefficient of variation."""
    latency = AffineLatency(base_s=0.0, per_item_s=SERVICE_S, jitter_cv=cv)
    given: dict[str, Any] = {
        "replicas": REPLICAS,
        "batching": NoBatching(),
        "max_inflight_batches": 1,
    } | fields
    return FleetSpec(engine=EmulatedEngine(latency=latency), **given)


def at_load(load: float, seed: int, *, requests: int = 3000, replicas: int = REPLICAS) -> Trace:
    """Poisson arrivals at this share of what so many replicas of `whole_requests` can serve."""
    rate_per_s = load * replicas / SERVICE_S
    return poisson(rate_per_s, requests / rate_per_s, seed)


LIGHT, BUSY, NEAR_FULL, OVER = (partial(at_load, load) for load in (0.5, 0.8, 0.9, 1.5))


def token_by_token(*, blocks: int = 4096, **fields: Any) -> FleetSpec:  # Any: fields of the fleet
    """One replica with so many key-value blocks of 16 tokens."""
    steps = AffineSteps(base_s=0.010, per_prefill_token_s=0.00005, per_decode_s=0.0002)
    return FleetSpec(engine=EmulatedLlmEngine(latency=steps, kv=KvSpec(blocks=blocks)), **fields)
