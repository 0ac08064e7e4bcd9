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
    from fleet import FleetSpec


def compare(arguments: Namespace) -> int:
    """Simulate every candidate with every seed; print what can be said about the differences."""
    from experiments import compare as compare_them

    candidates = candidates_of(arguments.specs, arguments.changes, arguments.vary)
    if arguments.baseline is not None and arguments.baseline not in candidates:
        hint = meant(arguments.baseline, list(candidates)) or f"; there are {', '.join(candidates)}"
        raise UsageError(f"compare: --baseline {arguments.baseline} is no candidate{hint}")
    trace, faults, out = (
        inputs.trace_of(arguments),
        inputs.faults_of(arguments),
        inputs.writable(arguments.out),
    )
    report = compare_them(
        trace, candidates, seeds=range(arguments.seeds), faults=faults, baseline=arguments.baseline,
        workers=arguments.workers, sessions=arguments.sessions is not None,
    )  # fmt: skip
    output.stdout().print(report)
    if out is not None:
        report.save(out)
        output.note(f"saved in {out}")
    return 0


def candidates_of(paths: Sequence[Path], changes: Sequence[str], vary: Sequence[str]) -> dict[str, FleetSpec]:
    """Fleets by name: of each file, all combinations of the varied values."""
    axes = [(path, inputs.alternatives(values)) for path, values in map(inputs.split_change, vary)]
    candidates: dict[str, FleetSpec] = {}
    for file, stem in zip(paths, _stems(paths), strict=True):
        for values in product(*(values for _, values in axes)):
            varied = [f"{path}={value}" for (path, _), value in zip(axes, values, strict=True)]
            label = values[0] if len(axes) == 1 else ", ".join(varied)
            name = " ".join(part for part in (stem if len(paths) > 1 or not axes else "", label) if part)
            if name in candidates:
                raise UsageError(f"compare: two candidates are called {name}")
            candidates[name] = inputs.spec_of(file, [*changes, *varied])
    if len(candidates) < 2:
        raise UsageError("compare: needs two candidates: give two files, or --vary PATH=A,B")
    return candidates


def _stems(paths: Sequence[Path]) -> list[str]:
    """Each file's name without its suffix; where two are the same, what tells them apart."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(common).with_suffix("")) for path in paths]
