"""``python -m experiments.demo [--save FOLDER]``: compare in virtual time, replay live, and hold one against the other.

A sentence embedder is measured on this machine, in as many processes at once as there will be replicas, because
they share its cores. Four ways to run two replicas of it are then compared in virtual time; the first and the best
are replayed for 15 seconds each on real processes that run the real model, and simulated again with what their engines
took in those seconds.
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
from policies import AlwaysTrust, Greedy, LeastOutstanding, NoBatching, RoundRobin, Window
from traces import Trace, load_trace

REPLICAS = 2
MAX_BATCH = 8
SIZES, TOKENS, REPEATS = (1, 2, 4, MAX_BATCH), (16, 64, 128), 3
LIVE_S = 15.0
PEAK_PER_S, PEAK_S = 90.0, 30.0
"""Of the bundled trace: its highest rate, and when that is."""
PROMPT_TOKENS = 68
"""Of its requests, in the mean."""
LOAD = 0.75
"""At the peak, of what the replicas can do one by one: where it matters who waits for whom."""

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
    """Four ways to run the same two replicas, emulated from the measurement; the first is the baseline.

    All but one batch what waits, and one of these waits for more, as long as one text takes.
    """
    latency = ProfiledLatency(points=points, jitter_cv=0.05)
    base = FleetSpec(
        engine=EmulatedEngine(latency=latency), replicas=REPLICAS, max_inflight_batches=1,
        batching=Greedy(max_batch=MAX_BATCH), health=AlwaysTrust(),  # on a busy machine a probe may be late
    )  # fmt: skip
    window = Window(max_batch=MAX_BATCH, window_s=latency.at(1, PROMPT_TOKENS))
    return {
        "round robin": base.replace(routing=RoundRobin()),
        "least outstanding": base.replace(routing=LeastOutstanding()),
        "one queue, one by one": base.replace(binding="late", batching=NoBatching()),
        "one queue, window": base.replace(binding="late", batching=window),
    }


def feasible(points: Points) -> Trace:
    """`LIVE_S` seconds around the peak of the bundled trace, slowed or sped up to what was measured."""
    capacity_per_s = REPLICAS / ProfiledLatency(points=points).at(1, PROMPT_TOKENS)
    factor = min(3.0, LOAD * capacity_per_s / PEAK_PER_S)
    half_s = LIVE_S * factor / 2.0
    return load_trace("demo-surge").slice(PEAK_S - half_s, PEAK_S + half_s).scale_rate(factor)


def described(points: Points) -> str:
    """What was measured, and what that means for batches."""
    one_s, full_s = (next(s for n, t, s in points if (n, t) == (size, 64)) for size in (1, MAX_BATCH))
    return (
        f"measured: 1 text of 64 tokens takes {1000 * one_s:.1f} ms, {MAX_BATCH} together {1000 * full_s:.1f} ms, "
        f"{full_s / (MAX_BATCH * one_s):.2f} times as long as one by one (and all are padded to the longest)"
    )


def best(report: Report) -> str:
    """The candidate with the lowest mean p99."""
    return min(report.runs, key=lambda name: report.row("e2e_s.p99", name).mean)


def held_against_live(trace: Trace, specs: dict[str, FleetSpec]) -> CalibrationReport:
    """Replay them with the real model, simulate them with the engine that they have."""
    emulated = next(iter(specs.values())).engine
    real = {name: spec.replace(engine=ENGINE) for name, spec in specs.items()}
    return calibrate(trace, real, simulated=lambda spec: spec.replace(engine=emulated), progress=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--save", type=Path, default=Path("out/demo"), metavar="FOLDER")
    folder: Path = parser.parse_args(arguments).save
    screen = console()
    began_s = time.perf_counter()
    with screen.status(f"measuring the sentence embedder in {REPLICAS} processes"):
        points = measured_together()
    screen.print(f"{described(points)}\n")
    trace = feasible(points)
    specs = candidates(points)
    report = compare(trace, specs, seeds=range(10))
    screen.print(report)
    chosen = dict.fromkeys([report.baseline, best(report)])
    screen.print(
        f"\nreplaying {' and '.join(f'“{name}”' for name in chosen)} for {trace.duration_s:.0f} s each on {REPLICAS} "
        "real processes, with the real model"
    )
    with screen.status("live"):
        live = held_against_live(trace, {name: specs[name] for name in chosen})
    screen.print(live)
    report.save(folder)
    live.save(folder)
    took_s = time.perf_counter() - began_s
    screen.print(
        f"\nreport: {folder / 'report.html'} and {folder / 'calibration.html'} ({took_s:.0f} s in all)"
    )


if __name__ == "__main__":
    main()
