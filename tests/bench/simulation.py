"""What simulating costs: against SimPy on the same queue, and per request as requests, replicas and pools grow.

The machine may be shared, so time is this process's CPU time and the speeds are compared within one run, in turn.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from policies import Greedy, PowerOfTwoChoices
from tests.bench import simpy_reference
from tests.bench.table import Row
from traces import Trace, poisson, uniform

BASE_S, PER_ITEM_S, MAX_BATCH = 0.012, 0.003, 16
RATE_PER_REPLICA = 212.5
"""Requests per second: 80 % of what a replica can serve in full batches."""


def spec(replicas: int = 8, pools: int = 1) -> FleetSpec:
    """P2C over a queue for each replica, one batch at a time; all that is not named is the default, and so is on.

    With several pools the replicas are parted among them, and each serves a model of its own.
    """
    size: dict[str, Any] = {"replicas": replicas}
    if pools > 1:
        names = [f"model-{number}" for number in range(pools)]
        size = {"pools": {name: {"model": name, "replicas": replicas // pools} for name in names}}
    return FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=BASE_S, per_item_s=PER_ITEM_S)),
        **size,
        routing=PowerOfTwoChoices(),
        batching=Greedy(max_batch=MAX_BATCH),
        max_inflight_batches=1,
    )


def workload(requests: int, replicas: int = 8, seed: int = 1) -> Trace:
    """About so many Poisson arrivals at the fleet's share of its capacity."""
    rate_per_s = RATE_PER_REPLICA * replicas
    return poisson(rate_per_s, requests / rate_per_s, seed)


def ours(trace: Trace, replicas: int = 8, pools: int = 1) -> Run:
    """All mechanisms and all telemetry; the invariant checker is for tests."""
    return simulate(trace, spec(replicas, pools), check=False)


def simpys(arrivals_s: list[float], replicas: int = 8) -> list[float]:
    """The same queue in SimPy."""
    return simpy_reference.run(
        arrivals_s, replicas=replicas, max_batch=MAX_BATCH, base_s=BASE_S, per_item_s=PER_ITEM_S
    )


# --- speed ---------------------------------------------------------------------------------------------------


def speed_rows(requests: int = 40_000, rounds: int = 7) -> Iterator[Row]:
    """Requests per CPU second, ours and SimPy's, the best of the rounds; the ratio is the median over rounds."""
    trace = workload(requests)
    arrivals_s = trace.table["arrived_s"].to_pylist()
    spent: list[tuple[float, float]] = []
    for _ in range(rounds):
        began = time.process_time()
        run = ours(trace)
        between = time.process_time()
        latencies = simpys(arrivals_s)
        spent.append((between - began, time.process_time() - between))
    best_ours, best_simpy = (len(trace) / min(times) for times in zip(*spent, strict=True))
    ratio = statistics.median(simpy_s / ours_s for ours_s, simpy_s in spent)
    yield Row("simulation, 8 replicas", f"{best_ours:,.0f} req/s", "≥ 100,000 req/s", best_ours >= 100_000)
    yield Row("SimPy, the same queue", f"{best_simpy:,.0f} req/s")
    yield Row("simulation ÷ SimPy", f"{ratio:.2f}", "≥ 0.40", ratio >= 0.4)
    mean, reference = run.summary.e2e_s.mean or 0.0, statistics.fmean(latencies)
    apart = abs(mean / reference - 1.0)
    yield Row(
        "their mean latencies", f"{mean * 1e3:.2f} and {reference * 1e3:.2f} ms", "within 2 %", apart < 0.02
    )


# --- growth --------------------------------------------------------------------------------------------------


SIZES = ((10_000, 8), (100_000, 8), (1_000_000, 8), (200_000, 64), (200_000, 512))
"""Requests and replicas of the runs whose costs are compared, the first being what the others are held against."""


def growth_rows(sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Row]:
    """Time and memory per request as a run gets longer, and as its fleet gets larger, each in a fresh process."""
    first: dict[str, Any] = {}
    for requests, replicas in sizes:
        costs = _in_fresh_process(requests, replicas)
        first = first or costs
        name = f"{requests:,} requests, {replicas} replicas"
        growth = costs["us"] / first["us"]
        yield Row(
            f"{name}: time a request", f"{costs['us']:.1f} µs", f"≤ {GROWTH} × the first", growth <= GROWTH
        )
        yield Row(f"{name}: memory a request", f"{costs['bytes']:.0f} bytes", "≤ 400", costs["bytes"] <= 400)
        if requests == 1_000_000:
            yield Row(
                f"{name}: peak", f"{costs['peak'] / 2**30:.2f} GiB", "≤ 1.40 GiB", costs["peak"] <= 1.5e9
            )


GROWTH = 1.35
"""The most that time a request may grow: 64 times the replicas deepen the heap and outgrow the caches."""


MODELS = 50
"""That requests ask for, all as likely, where pools are compared: one pool serves them all, or each has its own."""
POOLS_GROWTH = 1.15
"""The most that a request may cost with a pool for each model, beside one pool of as many replicas."""


def pool_rows(requests: int = 1_000_000, replicas: int = 200, rounds: int = 3) -> Iterator[Row]:
    """Time and memory a request of one pool and of many, in turn, each in a fresh process; the least of the rounds."""
    best: dict[int, dict[str, Any]] = {}
    for _ in range(rounds):
        for pools in (1, MODELS):
            costs = _in_fresh_process(requests, replicas, pools)
            best[pools] = min(best.get(pools, costs), costs, key=lambda these: these["us"])
    one, many = best[1], best[MODELS]
    growth = many["us"] / one["us"]
    name = f"{requests:,} requests, {replicas} replicas"
    yield Row(f"{name}, one pool: time a request", f"{one['us']:.1f} µs")
    yield Row(
        f"the same in {MODELS} pools: time a request",
        f"{many['us']:.1f} µs, × {growth:.2f}",
        f"≤ × {POOLS_GROWTH}",
        growth <= POOLS_GROWTH,
    )
    measured = f"{one['bytes']:.0f} and {many['bytes']:.0f} bytes"
    yield Row("memory a request, one pool and many (with three columns more)", measured)


# --- the log of views ----------------------------------------------------------------------------------------


def log_rows(requests: int = 40_000, replicas: Sequence[int] = (8, 64), rounds: int = 5) -> Iterator[Row]:
    """What `log_views` adds to a simulation, in turn with one without; the median ratio, and bytes a decision."""
    for many in replicas:
        trace = workload(requests, many)
        spent: list[tuple[float, float]] = []
        for _ in range(rounds):
            began = time.process_time()
            simulate(trace, spec(many), check=False)
            between = time.process_time()
            run = simulate(trace, spec(many), check=False, log_views=True)
            spent.append((between - began, time.process_time() - between))
        ratio = statistics.median(logged_s / plain_s for plain_s, logged_s in spent)
        more_us = statistics.median(logged_s - plain_s for plain_s, logged_s in spent) / len(trace) * 1e6
        logged = (run.calls, run.views)
        held = sum(table.nbytes for table in logged) / len(trace)
        yield Row(f"{many} replicas: time with the log", f"× {ratio:.2f}, {more_us:.1f} µs a decision")
        yield Row(
            f"{many} replicas: bytes a decision",
            f"{held:.0f} in memory, {_saved_bytes(run) / len(trace):.0f} saved",
        )


def _saved_bytes(run: Run) -> int:
    with TemporaryDirectory() as folder:
        saved = run.save(folder)
        return sum((saved / f"{name}.parquet").stat().st_size for name in ("calls", "views"))


def _in_fresh_process(requests: int, replicas: int, *pools: int) -> dict[str, Any]:  # Any: JSON
    command = [sys.executable, "-m", "tests.bench.simulation", *map(str, (requests, replicas, *pools))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    costs: dict[str, Any] = json.loads(done.stdout)
    return costs


def _measure(requests: int, replicas: int, pools: int | None = None) -> dict[str, float]:
    """CPU microseconds and peak memory a request beyond the trace and what is there before the first.

    Where a number of pools is given, be it one, requests ask for models.
    """
    ours(workload(2_000, replicas), replicas)  # imports and thread pools are no cost of a request
    trace = workload(requests, replicas)
    if pools is not None:
        trace = trace.assign(model=uniform(MODELS))
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    times: list[float] = []
    peak = 0
    for _ in range(max(1, min(10, 100_000 // requests))):
        began = time.process_time()
        ours(trace, replicas, pools or 1)
        times.append(time.process_time() - began)
        peak = peak or _status_bytes("VmHWM")
    return {"us": min(times) / len(trace) * 1e6, "bytes": (peak - before) / len(trace), "peak": peak}


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    print(json.dumps(_measure(*map(int, sys.argv[1:]))))
