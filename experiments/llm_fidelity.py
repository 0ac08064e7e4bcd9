"""``python -m experiments.llm_fidelity [--out DIR] [--size small|full]``: a real LLM against its own simulation.

SmolLM2 is measured step by step on this machine, in as many processes at once as there will be replicas. Three ways to
plan steps with three ways to route are then played on chat requests whose prompts share prefixes: on real processes
with the real model, and in virtual time with what was measured. One of them is played live several times: that is the
noise, and no simulator can be better than it. Each live run is simulated once more with the steps that it timed itself,
so that an error is the simulator's, and not that of a machine which has become slower since it was measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from experiments.calibrate import CalibrationReport, Player, calibrate
from experiments.executor import results
from fleet import FleetSpec, NetworkModel, simulate
from fleet.engines import (
    EmulatedLlmEngine,
    KvSpec,
    ProfiledSteps,
    StepEngine,
    StepGrid,
    StepPoint,
    StepProfile,
    TransformersEngine,
    profile_step_engine,
)
from fleet.engines.latency.steps.fitted import fit_steps
from policies import (
    IterationPolicy,
    LeastTokens,
    PrefixAffinity,
    RoundRobin,
    RoutingPolicy,
    StaticBatch,
    VllmPrefillFirst,
    VllmTokenBudget,
)
from traces import Trace, load_trace

if TYPE_CHECKING:
    from rich.console import Console

METRICS = ("throughput_per_s", "output_tokens_per_s", "ttft_s.p50", "tpot_s.p50", "e2e_s.p50")
AIMS = {"throughput_per_s": 0.05, "ttft_s.p50": 0.10, "tpot_s.p50": 0.10}
AIM_TAU = 0.8

REPLICAS = 2
BLOCK_TOKENS, BLOCKS, WATERMARK = 8, 512, 0.01
MAX_SEQUENCES = 8
ENGINE = TransformersEngine(threads=1, blocks=BLOCKS, block_tokens=BLOCK_TOKENS, watermark=WATERMARK)


PLANS: dict[str, IterationPolicy] = {
    "mixed steps": VllmTokenBudget(max_sequences=MAX_SEQUENCES, max_step_tokens=16),
    "prefill first": VllmPrefillFirst(max_sequences=MAX_SEQUENCES, max_step_tokens=128),
    "static batch": StaticBatch(max_sequences=MAX_SEQUENCES),
}
ROUTES: dict[str, RoutingPolicy] = {
    "round robin": RoundRobin(),
    "least tokens": LeastTokens(default_output_tokens=12),
    # A replica that has all the work has the machine to itself, and is then faster than it was measured.
    "prefix affinity": PrefixAffinity(balance_abs_threshold=3),
}


class Size(Struct, frozen=True, kw_only=True):
    """How much is measured and played."""

    grid: StepGrid
    profile_repeats: int
    live_s: float
    """Of each live run, about."""
    repeats: int
    """Of the combination that is played more than once."""
    load: float = 0.6
    """Of the rate at which all requests at once would be served."""
    plans: tuple[str, ...] = tuple(PLANS)
    routes: tuple[str, ...] = tuple(ROUTES)


SIZES = {
    "small": Size(
        grid=StepGrid(
            chunks=(1, 8, 32, 64), contexts=(0, 96), decodes=(1, 2, 4, MAX_SEQUENCES), mixed_chunks=(16,)
        ),
        profile_repeats=3,
        live_s=6.0,
        repeats=2,
        plans=("mixed steps", "static batch"),
        routes=("round robin", "prefix affinity"),
    ),
    "full": Size(
        grid=StepGrid(
            chunks=(1, 2, 4, 8, 16, 32, 64, 128), contexts=(0, 48, 128), decodes=(1, 2, 4, MAX_SEQUENCES),
            mixed_chunks=(8, 32, 96),
        ),
        profile_repeats=5,
        live_s=20.0,
        repeats=3,
    ),
}  # fmt: skip


def candidates(
    engine: StepEngine, plans: Sequence[str] = tuple(PLANS), routes: Sequence[str] = tuple(ROUTES)
) -> dict[str, FleetSpec]:
    """Every way to plan steps with every way to route, on the same two replicas."""
    base = FleetSpec(
        engine=engine,
        replicas=REPLICAS,
        # One way between two processes of one machine, encoding included, as `make bench` finds it.
        network=NetworkModel(delay_s=0.0003),
    )
    return {
        f"{plan}, {route}": base.replace(iteration=PLANS[plan], routing=ROUTES[route])
        for plan in plans
        for route in routes
    }


def small_chats(requests: int | None = None) -> Trace:
    """The bundled chats, an eighth as long: blocks of 8 tokens, prompts of 16 blocks at most, answers of 24 tokens."""
    return load_trace("chat-small").first(requests=requests).scale_lengths(
        BLOCK_TOKENS / 64, max_prompt_tokens=128, output_factor=1 / 16, max_output_tokens=24
    )  # fmt: skip


def at_load(spec: FleetSpec, *, load: float, seconds: float) -> Trace:
    """As many of the chats as come in `seconds` at `load` of what such a fleet can serve, in their own rhythm."""
    capacity_per_s = simulate(small_chats(200).scale_time(1e-6), spec).summary.throughput_per_s
    rate_per_s = load * capacity_per_s
    chosen = small_chats(max(8, round(rate_per_s * seconds)))
    return chosen.scale_time(len(chosen) / rate_per_s / chosen.duration_s)


# --- measuring ---------------------------------------------------------------------------------------------


def measure(engine: StepEngine, grid: StepGrid, repeats: int) -> StepProfile:
    """One profile of the engine, in this process."""
    return profile_step_engine(engine, grid, repeats=repeats, warmup=1)


def measured_together(
    engine: StepEngine, grid: StepGrid, repeats: int, processes: int = REPLICAS
) -> StepProfile:
    """Of the engine while `processes` of it run, because they share the machine: the mean of their medians."""
    profiles = results(lambda _: measure(engine, grid, repeats), range(processes), processes)
    points = [_mean_point(of_all) for of_all in zip(*[profile.points for profile in profiles], strict=True)]
    return structs.replace(profiles[0], points=tuple(points))


def _mean_point(points: Sequence[StepPoint]) -> StepPoint:
    return structs.replace(points[0], seconds=mean([point.seconds for point in points]))


def emulated(profile: Path) -> EmulatedLlmEngine:
    """What stands in for the engine in virtual time."""
    kv = KvSpec(blocks=BLOCKS, block_tokens=BLOCK_TOKENS, watermark=WATERMARK)
    return EmulatedLlmEngine(latency=ProfiledSteps(profile=str(profile)), kv=kv)


# --- the study ---------------------------------------------------------------------------------------------


def held_against_live(
    profile: Path,
    size: Size,
    *,
    engine: StepEngine = ENGINE,
    play: Player | None = None,
    progress: bool = True,
) -> CalibrationReport:
    """Every combination once in both runtimes; the first one `size.repeats` times live."""
    stand_in = emulated(profile)
    specs = candidates(engine, size.plans, size.routes)
    first = next(iter(specs))
    trace = at_load(specs[first].replace(engine=stand_in), load=size.load, seconds=size.live_s)
    return calibrate(
        trace, specs, repeats={first: size.repeats}, simulated=lambda spec: spec.replace(engine=stand_in),
        metrics=METRICS, tolerances=AIMS, play=play, progress=progress,
    )  # fmt: skip


def verdicts(report: CalibrationReport) -> list[str]:
    """Each aim: met, missed, or missed by no more than live runs differ among themselves."""
    lines = []
    for name, aim in AIMS.items():
        rows = [row for row in report.rows if row.metric == name and row.error is not None]
        worst = max(rows, key=lambda row: abs(row.error or 0.0))
        within = sum(1 for row in rows if abs(row.error or 0.0) <= aim)
        noise = worst.noise or 0.0
        line = f"{worst.label}: {within} of {len(rows)} within {aim:.0%}, worst {worst.error:+.1%} ({worst.candidate})"
        if noise > aim:
            line += f"; live runs of one combination differ by {noise:.1%}, more than the aim: it cannot be tested here"
        lines.append(line)
    for item in report.fidelity:
        tau = "none" if item.tau is None else f"{item.tau:+.2f}"
        line = f"{item.label}: Kendall's tau {tau} over {len(report.live)} combinations, aim {AIM_TAU}"
        if item.close:
            line += (
                f"; {item.close} of {item.pairs} pairs are closer than live noise, and their order is chance"
            )
        lines.append(line)
    return lines


def describe(profile: StepProfile) -> str:
    """How long a few steps take, and how well the formula fits all of them."""
    errors = sorted(abs(error) for error in fit_steps(profile.points).errors)
    alone = [point for point in profile.points if not point.prefill_tokens]
    decodes = ", ".join(
        f"{point.decodes} decode{'s' if point.decodes > 1 else ''} {1000 * point.seconds:.0f} ms"
        for point in alone[: len({point.decodes for point in alone})]
    )
    return (
        f"measured {len(errors)} kinds of steps: {decodes}. The formula is off by {errors[len(errors) // 2]:.1%} "
        f"in the middle, by {errors[-1]:.1%} at most"
    )


def run(folder: Path | None, size: Size, screen: Console) -> CalibrationReport:
    """Measure, play, print."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch if folder is None else folder) / "profile.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with screen.status(f"measuring the model's steps, in {REPLICAS} processes at once"):
            profile = measured_together(ENGINE, size.grid, size.profile_repeats)
        profile.save(path)
        screen.print(describe(profile))
        report = held_against_live(path, size)
    screen.print(report)
    for line in verdicts(report):
        screen.print(f"- {line}")
    if folder is not None:
        report.save(folder)
        screen.print(f"saved in {folder}")
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    from experiments.text import console

    parser = argparse.ArgumentParser(prog="python -m experiments.llm_fidelity", description=__doc__)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the profile, the report and all records here"
    )
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="full",
        help="small: four combinations in two minutes; full (the default): nine in ten",
    )
    given = parser.parse_args(arguments)
    run(given.out, SIZES[given.size], console())


if __name__ == "__main__":
    main()
