"""What it takes to write a run for other tools: seconds and bytes, beside saving the same run as Parquet.

CPU time of this process, the least of the rounds. Everything is written to a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fleet import Run, simulate
from fleet.exports import FORMATS, save_as
from tests.bench.simulation import spec
from tests.bench.table import Row
from traces import Trace, poisson, save_trace

RATE_PER_S = 200.0
LAYOUTS = ("mooncake", "azure", "vidur", "csv")


def recorded(requests: int) -> tuple[Trace, Run]:
    """So many requests, and the run of them on 8 replicas."""
    trace = poisson(RATE_PER_S, requests / RATE_PER_S, 1, prompt_tokens=512, output_tokens=64)
    return trace, simulate(trace, spec(), check=False)


def rows(requests: int = 100_000, rounds: int = 2) -> Iterator[Row]:
    """The run in every format, then its trace in every layout."""
    trace, run = recorded(requests)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out"
        parquet_s = _least_s(partial(run.save, Path(folder) / "run"), rounds)
        yield Row(f"a run of {len(trace):,} requests saved as Parquet", f"{parquet_s:.2f} s")
        for format in FORMATS:
            took_s = _least_s(partial(save_as, run, target, format), rounds)
            yield _row(f"the run as {format}", took_s, parquet_s, target)
        packed = Path(folder) / "out.gz"
        took_s = _least_s(partial(save_as, run, packed, "perfetto"), 1)
        yield _row("the run as perfetto, packed", took_s, parquet_s, packed)
        for format in LAYOUTS:
            took_s = _least_s(partial(save_trace, trace, target, format=format), rounds)
            yield _row(f"its trace as {format}", took_s, parquet_s, target)


def _row(what: str, took_s: float, reference_s: float, path: Path) -> Row:
    size_mb = path.stat().st_size / 1e6
    return Row(what, f"{took_s:.2f} s, {took_s / reference_s:.1f} ×, {size_mb:,.1f} MB")


def _least_s(work: Callable[[], object], rounds: int) -> float:
    least_s = float("inf")
    for _ in range(rounds):
        began_s = time.process_time()
        work()
        least_s = min(least_s, time.process_time() - began_s)
    return least_s
