"""`fleet profile`: measure an engine, and write the table that a profiled latency model reads."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli import inputs, output
from fleet.cli.values import UsageError, meant

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.engines import BatchEngine, Engine, Profile, StepEngine, StepProfile

OF_BATCHES = ("batch_sizes", "tokens")
OF_STEPS = ("chunks", "mixed_chunks", "contexts", "decodes")


def profile(arguments: Namespace) -> int:
    """One engine alone: by batches, or by steps where it serves token by token."""
    from fleet.engines import BatchEngine, StepEngine

    engine = engine_of(arguments.engine, arguments.changes, arguments.pool)
    out: Path | None = arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    measured: Profile | StepProfile
    if isinstance(engine, StepEngine):
        _demand_none(arguments, OF_BATCHES, f"{engine.name()} serves token by token: it takes", OF_STEPS)
        measured = _steps(engine, arguments)
        table = _step_table(measured)
    else:
        assert isinstance(engine, BatchEngine)
        _demand_none(arguments, OF_STEPS, f"{engine.name()} runs batches: it takes", OF_BATCHES)
        measured = _batches(engine, arguments)
        table = _batch_table(measured)
    print(f"{engine.name()}, loaded in {measured.load_s:.2f} s, {measured.repeats} runs a point")
    output.stdout().print(table)
    if out is not None:
        measured.save(out)
        output.note(f'saved; a fleet reads it as  latency = {{latency = "profiled", profile = "{out}"}}')
    return 0


def engine_of(name: str, changes: list[str], pool: str | None = None) -> Engine:
    """The engine of a fleet's file (of its `pool`), or the one of that name with the parameters that `changes` set."""
    path = Path(name)
    if path.suffix in (".toml", ".json") or path.exists():
        spec = inputs.spec_of(path, changes)
    else:
        spec = inputs.built({"engine": {"engine": name}}, changes, "profile")
    engines = {made.name: made.engine for made in spec.serving}
    if pool is None and any(engine != spec.serving[0].engine for engine in engines.values()):
        raise UsageError(f"profile: {name} has several engines; say whose with --pool: {', '.join(engines)}")
    if pool is not None and pool not in engines:
        hint = meant(pool, list(engines)) or f"; there are {', '.join(engines)}"
        raise UsageError(f"profile: --pool {pool}: {name} has no such pool{hint}")
    return engines[pool or spec.serving[0].name]


def _demand_none(arguments: Namespace, options: tuple[str, ...], why: str, instead: tuple[str, ...]) -> None:
    for option in options:
        if getattr(arguments, option) is not None:
            raise UsageError(f"{_flag(option)}: {why} {', '.join(map(_flag, instead))}")


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _runs(arguments: Namespace, repeats: int, warmup: int) -> tuple[int, int]:
    """How often each point is run, measured and before that: as asked, else so often."""
    return (
        repeats if arguments.repeats is None else arguments.repeats,
        warmup if arguments.warmup is None else arguments.warmup,
    )


# --- batches -----------------------------------------------------------------------------------------------


def _batches(engine: BatchEngine, arguments: Namespace) -> Profile:
    from fleet.engines import ProfilePoint, profile_engine

    sizes: list[int] = arguments.batch_sizes or [1, 2, 4, 8, 16, 32, 64]
    tokens: list[int] = arguments.tokens or [0]
    done: list[ProfilePoint] = []
    with output.progress("profiling", len(sizes) * len(tokens)) as advance:

        def on_point(point: ProfilePoint) -> None:
            done.append(point)
            advance(len(done))

        repeats, warmup = _runs(arguments, 10, 2)
        return profile_engine(engine, sizes, tokens, repeats=repeats, warmup=warmup, on_point=on_point)


def _batch_table(measured: Profile) -> Table:
    table = output.table(
        "batch size", "tokens", "min (ms)", "median (ms)", "p90 (ms)", "items a second", left=0
    )
    for point in measured.points:
        times = (f"{1000 * seconds:.3f}" for seconds in (point.min_s, point.median_s, point.p90_s))
        per_s = f"{point.batch_size / point.median_s:,.1f}" if point.median_s else "-"
        table.add_row(str(point.batch_size), str(point.tokens or "-"), *times, per_s)
    return table


# --- steps -------------------------------------------------------------------------------------------------


def _steps(engine: StepEngine, arguments: Namespace) -> StepProfile:
    from fleet.engines import StepGrid, StepPoint, profile_step_engine

    asked = {option: tuple(given) for option in OF_STEPS if (given := getattr(arguments, option)) is not None}
    grid = StepGrid(**asked)
    repeats, warmup = _runs(arguments, 5, 1)
    done: list[StepPoint] = []
    with output.progress("profiling", grid.steps() * (warmup + repeats)) as advance:

        def on_run(run: StepPoint) -> None:
            done.append(run)
            advance(len(done))

        return profile_step_engine(engine, grid, repeats=repeats, warmup=warmup, on_run=on_run)


def _step_table(measured: StepProfile) -> Table:
    """With what `ProfiledSteps` will say of each point, and how far off that is."""
    from fleet.engines.latency.steps.fitted import fit_steps

    table = output.table(
        "prefill", "after", "decodes", "contexts", "median (ms)", "fitted (ms)", "error", left=0
    )
    for point, error in zip(measured.points, fit_steps(measured.points).errors, strict=True):
        counts = [
            point.prefill_tokens, point.prefill_context_tokens, point.decodes, point.decode_context_tokens,
        ]  # fmt: skip
        ms = 1000 * point.seconds
        table.add_row(
            *(str(n or "-") for n in counts), f"{ms:.3f}", f"{ms * (1 + error):.3f}", f"{error:+.1%}"
        )
    return table
