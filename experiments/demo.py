"""``python -m experiments.demo [--save FOLDER]``: compare in virtual time, replay live, and hold one against the other.

A sentence embedder is measured on this machine, in as many processes at once as there will be replicas, because
they share its cores. Three ways to run two replicas of it are then compared in virtual time, and the best one
is replayed for 20 seconds on real processes that run the real model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from experiments.calibrate import CalibrationReport, calibrate
from experiments.compare import compare
from experiments.executor import results
from experiments.report import Report
from experiments.text import console
from fleet import EmulatedEngine, FleetSpec, ProfiledLatency
from fleet.engines import Profile, TorchEngine, profile_engine
from policies import Greedy, LeastOutstanding, RoundRobin, Window
from traces import Trace, load_trace

REPLICAS = 2
MAX_BATCH = 8
SIZES, TOKENS, REPEATS = (1, 2, 4, MAX_BATCH), (16, 64, 128), 3
LIVE_S = 20.0
PEAK_PER_S, PEAK_S = 90.0, 30.0
"""Of the bundled trace: its highest rate, and when that is."""
LOAD = 0.6
"""Of the measured capacity, at the peak."""

ENGINE = TorchEngine(
    module="fleet.engines.torch.minilm:SentenceEmbedder", num_threads=1, return_outputs=False
)
Points = tuple[tuple[int, int, float], ...]


def measure() -> Profile:
    """One profile of the engine, in this process."""
    return profile_engine(ENGINE, SIZES, TOKENS, repeats=REPEATS, warmup=1)


def measured_together(processes: int = REPLICAS) -> Points:
    """(batch size, tokens, seconds) of the engine while `processes` of it run: the mean of their medians."""
    profiles = results(lambda _: measure(), range(processes), processes)
    return tuple(
        (of_all[0].batch_size, of_all[0].tokens, mean(point.median_s for point in of_all))
        for of_all in zip(*(profile.points for profile in profiles), strict=True)
    )


def candidates(points: Points) -> dict[str, FleetSpec]:
    """Three ways to run the same two replicas, emulated from the measurement."""
    base = FleetSpec(
        engine=EmulatedEngine(latency=ProfiledLatency(points=points, jitter_cv=0.05)),
        replicas=REPLICAS,
        max_inflight_batches=1,
    )
    return {
        "round robin, one by one": base.replace(routing=RoundRobin(), batching=Greedy(max_batch=1)),
        f"least outstanding, batch {MAX_BATCH}": base.replace(
            routing=LeastOutstanding(), batching=Greedy(max_batch=MAX_BATCH)
        ),
        f"one queue, batch {MAX_BATCH}": base.replace(
            binding="late", batching=Window(max_batch=MAX_BATCH, window_s=0.010)
        ),
    }


def feasible(points: Points) -> Trace:
    """`LIVE_S` seconds around the peak of the bundled trace, slowed or sped up to what was measured."""
    latency = ProfiledLatency(points=points)
    capacity_per_s = REPLICAS * MAX_BATCH / latency.at(MAX_BATCH, 110)  # the longest of 8 uniform on 8..128
    factor = min(3.0, LOAD * capacity_per_s / PEAK_PER_S)
    half_s = LIVE_S * factor / 2.0
    return load_trace("demo-surge").slice(PEAK_S - half_s, PEAK_S + half_s).scale_rate(factor)


def best(report: Report) -> str:
    """The candidate with the lowest mean p99."""
    return min(report.runs, key=lambda name: report.row("e2e_s.p99", name).mean)


def held_against_live(trace: Trace, name: str, spec: FleetSpec) -> CalibrationReport:
    """Simulate the emulated spec; replay it with the real model in its place."""
    real = spec.replace(engine=ENGINE)
    return calibrate(trace, {name: real}, simulated=lambda _: spec, progress=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--save", type=Path, default=Path("out/demo"), metavar="FOLDER")
    folder: Path = parser.parse_args(arguments).save
    screen = console()
    began_s = time.perf_counter()
    with screen.status(f"measuring the sentence embedder in {REPLICAS} processes"):
        points = measured_together()
    one, full = (next(s * 1000 for n, t, s in points if (n, t) == (size, 64)) for size in (1, MAX_BATCH))
    screen.print(f"measured: 1 text of 64 tokens takes {one:.1f} ms, {MAX_BATCH} together {full:.1f} ms\n")
    trace = feasible(points)
    specs = candidates(points)
    report = compare(trace, specs, seeds=range(10))
    screen.print(report)
    chosen = best(report)
    screen.print(
        f"\nreplaying “{chosen}” for {trace.duration_s:.0f} s on {REPLICAS} real processes, with the real model"
    )
    with screen.status("live"):
        live = held_against_live(trace, chosen, specs[chosen])
    screen.print(live)
    report.save(folder)
    live.save(folder)
    took_s = time.perf_counter() - began_s
    screen.print(
        f"\nreport: {folder / 'report.html'} and {folder / 'calibration.html'} ({took_s:.0f} s in all)"
    )


if __name__ == "__main__":
    main()
