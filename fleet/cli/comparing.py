"""`fleet compare`: candidates from several files, or from one file by varying some of its values."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli import inputs, output
from fleet.cli.values import UsageError, meant

if TYPE_CHECKING:
    from experiments import Metric
    from experiments.compare import TraceSource
    from fleet import FleetSpec
    from policies.presets import Preset
    from traces import Trace


def compare(arguments: Namespace) -> int:
    """Simulate every candidate with every seed; print what can be said about the differences."""
    from experiments import compare as compare_them
    from experiments import power

    candidates = candidates_of(
        arguments.specs, arguments.changes, arguments.vary, presets=presets_of(arguments.presets)
    )
    if arguments.baseline is not None and arguments.baseline not in candidates:
        hint = meant(arguments.baseline, list(candidates)) or f"; there are {', '.join(candidates)}"
        raise UsageError(f"compare: --baseline {arguments.baseline} is no candidate{hint}")
    metrics = metrics_of(arguments.metrics)
    primary = metrics_of(arguments.primary, "--primary")
    inputs.say_odd(*candidates.values(), names=list(candidates))
    trace, out = inputs.trace_of(arguments), inputs.writable(arguments.out)
    ends_s = arguments.stretch_s or trace.duration_s
    replicas = max(spec.all_replicas for spec in candidates.values())
    faults = inputs.faults_of(arguments, ends_s=ends_s, replicas=replicas)
    report = compare_them(
        stretches_of(trace, arguments.stretch_s, arguments.seeds), candidates, seeds=range(arguments.seeds),
        faults=faults, baseline=arguments.baseline, metrics=metrics, primary=primary[0] if primary else None,
        by=arguments.by, workers=arguments.workers, sessions=arguments.sessions is not None,
        interval=arguments.interval, scale=arguments.scale,
    )  # fmt: skip
    output.stdout().print(report)
    if arguments.effect is not None:
        output.stdout().print(power(report, arguments.effect).table())
    if faults is not None:
        for name, runs in report.runs.items():
            output.note(f"{name}: {output.faults_in(runs)}")
    if out is not None:
        report.save(out)
        output.note(f"saved in {out}")
    return 1 if report.errors else 0


def metrics_of(names: str | None, flag: str = "--metrics") -> list[Metric] | None:
    """The figures that were named by `flag`, in that order; None leaves the choice to `compare`."""
    from experiments import metric

    if names is None:
        return None
    try:
        return [metric(name) for name in dict.fromkeys(inputs.alternatives(names))]
    except ValueError as error:
        raise UsageError(f"compare: {flag}: {error}") from None


def stretches_of(
    trace: Trace, stretch_s: float | None, seeds: int, *, command: str = "compare"
) -> TraceSource:
    """The trace for every seed, or `stretch_s` seconds of it for each, one after another."""
    if stretch_s is None:
        return trace
    if (seeds - 1) * stretch_s >= trace.duration_s:
        raise UsageError(
            f"{command}: {seeds} stretches of {stretch_s:g} s are more than the {trace.duration_s:,.0f} s of the "
            "trace; give fewer --seeds or a shorter --stretch-s"
        )
    stretches = [trace.slice(seed * stretch_s, (seed + 1) * stretch_s) for seed in range(seeds)]
    for seed, stretch in enumerate(stretches):
        inputs.plausible(stretch, f"{command}: --stretch-s {stretch_s:g}, seed {seed}")
    return stretches.__getitem__


def candidates_of(
    paths: Sequence[Path],
    changes: Sequence[str],
    vary: Sequence[str],
    *,
    presets: Sequence[Preset] = (),
    command: str = "compare",
    least: int = 2,
) -> dict[str, FleetSpec]:
    """Fleets by name: of each file, under each preset, all combinations of the varied values; at `least` so many."""
    axes = [(path, inputs.alternatives(values)) for path, values in map(inputs.split_change, vary)]
    candidates: dict[str, FleetSpec] = {}
    for file, stem in zip(paths, _stems(paths), strict=True):
        for preset in presets or (None,):
            for values in product(*(values for _, values in axes)):
                varied = [f"{path}={value}" for (path, _), value in zip(axes, values, strict=True)]
                label = values[0] if len(axes) == 1 else ", ".join(map(_short, varied))
                alone = len(paths) == 1 and (axes or preset is not None)
                parts = ("" if alone else stem, "" if preset is None else preset.name, label)
                name = " ".join(part for part in parts if part)
                if name in candidates:
                    raise UsageError(f"{command}: two candidates are called {name}")
                candidates[name] = _spec_of(file, preset, [*changes, *varied], command)
    if len(candidates) < least:
        raise UsageError(f"{command}: needs two candidates: give two files, two presets, or --vary PATH=A,B")
    return candidates


def _spec_of(file: Path, preset: Preset | None, changes: Sequence[str], command: str) -> FleetSpec:
    """The fleet of a file, under a preset, then with these changes."""
    if preset is None:
        return inputs.spec_of(file, changes)
    from fleet.reading import read_table
    from policies.base import Component
    from policies.building import to_table

    plain = {
        name: to_table(value) if isinstance(value, Component) else value
        for name, value in preset.fields.items()
    }
    spec = inputs.built({**read_table(file), **plain}, changes, f"{file} under preset {preset.name}")
    wrong = wrong_engine(preset, spec)
    if wrong is not None:
        raise UsageError(f"{command}: {file}: {wrong}")
    return spec


def wrong_engine(preset: Preset, spec: FleetSpec) -> str | None:
    """Why this preset says nothing of such a fleet; None where it does."""
    from fleet.engines import StepEngine

    tokens = {isinstance(pool.engine, StepEngine) for pool in spec.serving}
    if preset.serves == "both" or tokens == {preset.serves == "tokens"}:
        return None
    does = {"tokens": "serves token by token", "requests": "answers whole requests"}
    other = {"tokens": "answers whole requests", "requests": "serves token by token"}
    return (
        f"preset {preset.name} is of a system that {does[preset.serves]}, and an engine of this fleet "
        f"{other[preset.serves]}"
    )


def presets_of(names: str | None) -> list[Preset]:
    """The presets that `--presets` names, in that order."""
    from policies.presets import PRESETS

    found = []
    for name in [] if names is None else dict.fromkeys(inputs.alternatives(names)):
        made = PRESETS.get(name.replace("-", "_"))
        if made is None:
            hint = meant(name, list(PRESETS)) or f"; there are {', '.join(PRESETS)}"
            raise UsageError(f"compare: --presets: there is no preset {name!r}{hint}")
        found.append(made())
    return found


def _short(change: str) -> str:
    """`pools.large.replicas=2` -> `large.replicas=2`. A pool and a model have no field in common: it stays clear."""
    return change.removeprefix("$.").removeprefix("pools.").removeprefix("models.")


def _stems(paths: Sequence[Path]) -> list[str]:
    """Each file's name without its suffix; where two are the same, what tells them apart."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(common).with_suffix("")) for path in paths]
