"""``python -m tests.bench.sweeping [--runs N] [--rounds N]``: what a sweep on two processes adds to its simulations.

Beside the sweep run two processes that only simulate, as many runs between them, one after the other with the sweep, so
that a busy machine slows both. What they do in one is what two cores can do at all; the aim is to come within 85 %.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from msgspec import Struct
from rich.console import Console

from experiments import sweep
from fleet import simulate
from policies import LeastOutstanding, PowerOfTwoChoices
from tests.bench.simulation import spec
from tests.bench.table import Row, show
from traces import Trace, poisson

AIM, PARENT_MB, RESUME_S = 0.85, 300.0, 5.0
REQUESTS, PROCESSES = 2_000, 2
RATE_PER_S = 400.0
MODULE = "tests.bench.sweeping"


class Spent(Struct, frozen=True):
    """By a process and those that it waited for."""

    wall_s: float
    cpu_s: float
    largest_mb: float
    """Of the process itself."""


def load() -> Trace:
    """What every run plays."""
    return poisson(RATE_PER_S, 2.0 * REQUESTS / RATE_PER_S, 1).first(requests=REQUESTS)


def simulate_only(runs: int) -> None:
    """So many runs, and their digests: every run of a sweep has one."""
    trace, fleet = load(), spec()
    for seed in range(runs):
        if not simulate(trace, fleet, seed=seed).digest:
            raise AssertionError("a run has a digest")


def sweep_all(runs: int, folder: Path) -> None:
    """The same runs as a sweep of ten points."""
    axes = {
        "routing": [PowerOfTwoChoices(), LeastOutstanding()],
        "control_interval_s": [1.0, 1.1, 1.2, 1.3, 1.4],
    }
    sweep(
        load(), spec(), axes, seeds=range(runs // 10), metrics=["e2e_s.p99", "throughput_per_s"],
        objectives=["e2e_s.p99"], out=folder, workers=PROCESSES, progress=False,
    )  # fmt: skip


def spent(*commands: list[str]) -> Spent:
    """By processes that run these parts of this module at once."""
    began_s = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, "-m", MODULE, *command],
                         stdout=subprocess.PIPE, text=True)
        for command in commands
    ]  # fmt: skip
    said = [process.communicate()[0].split() for process in running]
    wall_s = time.perf_counter() - began_s
    return Spent(wall_s, sum(float(cpu) for cpu, _ in said), max(float(mb) for _, mb in said))


def rounds_of(runs: int, rounds: int) -> Iterator[tuple[Spent, Spent, Spent]]:
    """Simulations alone, the sweep, and the sweep again when one run is missing: each round in this order."""
    half = ["--part", "simulate", "--runs", str(runs // PROCESSES)]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "swept"
            whole = ["--part", "sweep", "--runs", str(runs), "--out", str(folder)]
            alone, swept = spent(*[half] * PROCESSES), spent(whole)
            max(folder.rglob("seed-*.parquet")).unlink()
            yield alone, swept, spent(whole)


def rows(runs: int = 1_000, rounds: int = 3) -> Iterator[Row]:
    """What `make bench` prints of it."""
    found = list(rounds_of(runs, rounds))
    wall = median(alone.wall_s / swept.wall_s for alone, swept, _ in found)
    cpu = median(alone.cpu_s / swept.cpu_s for alone, swept, _ in found)
    largest_mb = max(swept.largest_mb for _, swept, _ in found)
    resumed = min((again for *_, again in found), key=lambda one: one.wall_s)
    yield Row(
        f"simulations alone ÷ sweep of {runs:,} runs, {PROCESSES} processes each",
        f"{wall:.2f}",
        f"{AIM}",
        wall >= AIM,
    )
    yield Row("the same in CPU time", f"{cpu:.2f}")
    yield Row(
        "memory of the sweep's own process",
        f"{largest_mb:.0f} MB",
        f"{PARENT_MB:.0f} MB",
        largest_mb <= PARENT_MB,
    )
    yield Row(
        "going on with one run missing", f"{resumed.wall_s:.1f} s, of them {resumed.cpu_s:.1f} s of CPU",
        f"{RESUME_S:.0f} s", resumed.wall_s <= RESUME_S,
    )  # fmt: skip


def main() -> None:
    """Print the table, or be one of the processes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sweeping", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("simulate", "sweep"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part is None:
        show(rows(given.runs, given.rounds), "Sweeps", Console())
        return
    if given.part == "simulate":
        simulate_only(given.runs)
    else:
        sweep_all(given.runs, given.out)
    own, others = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in (own, others))
    print(cpu_s, own.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
