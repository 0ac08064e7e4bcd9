"""`fleet sweep`: one fleet's file at many points of its parameters, each run kept as it ends."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.cli import inputs, output
from fleet.cli.values import UsageError
from traces.files import write_whole

if TYPE_CHECKING:
    from experiments import Sweep
    from experiments.sweep.space import Axis

COUNTED = ("random", "sobol", "optuna")


def sweep(arguments: Namespace) -> int:
    """Make the runs that are not there yet; print the front, or the points, and what failed: then the status is 1."""
    from experiments import sweep as sweep_it

    base, out = inputs.spec_of(arguments.spec, arguments.changes), inputs.writable(arguments.out)
    inputs.say_odd(base)
    trace = inputs.trace_of(arguments)
    made = sweep_it(
        trace, base, axes_of(arguments.grid, arguments.range), seeds=range(arguments.seeds),
        metrics=None if arguments.metrics is None else inputs.alternatives(arguments.metrics),
        objectives=inputs.alternatives(arguments.objectives) if arguments.objectives else (),
        where=arguments.where, method=_method(arguments), search_seed=arguments.search_seed,
        faults=inputs.faults_of(arguments, ends_s=trace.duration_s, replicas=base.all_replicas),
        sessions=arguments.sessions is not None, out=out, keep_runs=arguments.keep_runs, workers=arguments.workers,
    )  # fmt: skip
    output.stdout().print(made)
    if made.folder is not None:
        _draw(made, made.folder)
        there = made.plan.objectives and made.pareto().front
        front = f"; the fleets of the front are in {made.folder / 'front'}" if there else ""
        output.note(f"saved in {made.folder}{front}")
    return 1 if made.failures else 0


def _draw(made: Sweep, folder: Path) -> None:
    """`front.svg`, where there are two figures to draw it by, and what draws is installed."""
    from experiments import plot_pareto

    if not made.plan.objectives or find_spec("matplotlib") is None:
        return
    found = made.pareto()
    if len({one.key for one in (*found.objectives, *found.constraints)}) > 1:
        write_whole(folder / "front.svg", plot_pareto(found).encode())


def axes_of(lists: Sequence[str], ranges: Sequence[str]) -> Mapping[str, Axis]:
    """`PATH=A,B,...` and `PATH=LOW..HIGH`, each path once."""
    axes: dict[str, Any] = {}
    for flag, texts in (("--grid", lists), ("--range", ranges)):
        for text in texts:
            path, values = inputs.split_change(text, f"sweep: {flag} takes")
            if path in axes:
                raise UsageError(f"sweep: {flag} {path}: is given twice")
            listed = flag == "--grid"
            axes[path] = (
                list(map(inputs.value_of, inputs.alternatives(values))) if listed else range_of(text, values)
            )
    if not axes:
        raise UsageError("sweep: needs an axis: --grid PATH=A,B,... or --range PATH=LOW..HIGH")
    return axes


def range_of(text: str, values: str) -> Axis:
    """`1..64`, `0.001..0.1:log`."""
    from experiments import Range, SweepError

    ends, _, scale = values.partition(":")
    low, dots, high = (inputs.value_of(part) for part in ends.partition(".."))
    if dots != ".." or scale not in ("", "log") or not all(type(end) in (int, float) for end in (low, high)):
        raise UsageError(
            f"sweep: --range takes PATH=LOW..HIGH or PATH=LOW..HIGH:log, such as batching.max_batch=1..64; got {text!r}"
        )
    try:
        return Range(low, high, log=scale == "log")
    except SweepError as error:
        raise UsageError(f"sweep: --range {text}: {error}") from None


def _method(arguments: Namespace) -> str:
    for kind in COUNTED:
        if (count := getattr(arguments, kind)) is not None:
            return f"{kind}:{count}"
    return "grid"
