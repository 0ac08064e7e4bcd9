"""What a sweep came to: its runs, its points, what failed, and what is worth choosing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct

from experiments.findings import LEVEL
from experiments.measured import Measured
from experiments.metrics import Metric
from experiments.saved_metrics import restored
from experiments.sweep.design import axes_of
from experiments.sweep.index import Index, measured_in
from experiments.sweep.judging import constraints_of, objectives_of
from experiments.sweep.pareto import Pareto, pareto
from experiments.sweep.plan import Plan, load_plan
from experiments.sweep.space import SweepError, Values
from experiments.sweep.words import failures_in_words, points_in_words
from experiments.text import as_text
from experiments.toml import toml_text
from fleet import FleetSpec
from fleet.telemetry.provenance import ComponentSource, rebuilt
from traces.files import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

FRONT, POINTS = "front", "points.parquet"
LONGEST = 200
"""Bytes of a candidate's name in that of a file; file systems take 255 for all of it."""
_NOT_IN_A_NAME = re.compile(r"[^\w.=,+-]+")


class Failed(Struct, frozen=True):
    """A run that did not come to its end."""

    candidate: str
    seed: int
    error: str
    traceback: str


class Sweep:
    """A sweep as far as it went. `print` shows its front, or where it had no objectives its points."""

    def __init__(self, folder: Path | None, plan: Plan, runs: pa.Table) -> None:
        self.folder = folder
        """Where it is kept; None where it is not."""
        self.plan = plan
        self.runs = runs
        """One row a run: point, candidate, seed, the axes' values, the metrics, digest, error; by point and seed."""

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What was measured."""
        return tuple(map(restored, self.plan.metrics))

    @cached_property
    def measured(self) -> dict[str, list[Measured]]:
        """The runs of each candidate, in the order of the seeds."""
        by_name: dict[str, list[Measured]] = {}
        keys = [item.key for item in self.metrics if item.key in self.runs.column_names]
        for one in measured_in(self.runs, keys):
            by_name.setdefault(one.candidate, []).append(one)
        return by_name

    @property
    def failures(self) -> list[Failed]:
        """The runs that raised, or took their worker with them."""
        failed = self.runs.filter(pc.is_valid(self.runs["error"])).select(Failed.__struct_fields__)
        return msgspec.convert(failed.to_pylist(), list[Failed])

    @property
    def complete(self) -> bool:
        """Every point that was begun has a run with every seed."""
        return all(len(runs) == len(self.plan.seeds) for runs in self.measured.values())

    @cached_property
    def points(self) -> pa.Table:
        """One row a point: its values, runs, failures, and each metric's mean with its 95 % interval over seeds."""
        return pa.Table.from_pylist(list(self._points()))

    def _points(self) -> Iterator[dict[str, Any]]:  # Any: cells of any column
        axes = [one["path"] for one in self.plan.axes]
        firsts = {
            row["candidate"]: row for row in reversed(self.runs.select(["candidate", *axes]).to_pylist())
        }
        keys = dict.fromkeys(key for runs in self.measured.values() for run in runs for key in run.values)
        for name, runs in self.measured.items():
            row: dict[str, Any] = {
                **firsts[name],
                "runs": len(runs),
                "failed": _failed(runs),
            }
            for key in keys:
                row |= _interval(key, runs)
            yield row

    def pareto(
        self,
        objectives: Mapping[str, str | None] | Sequence[str] | None = None,
        where: Sequence[str] | None = None,
    ) -> Pareto:
        """Which candidates are worth choosing from; by default for the sweep's own objectives and constraints."""
        known = {item.key: item for item in self.metrics}
        chosen = self.plan.objectives if objectives is None else objectives
        figures = objectives_of(chosen, known)
        bounds = constraints_of(self.plan.where if where is None else where, known)
        if unmeasured := [one.key for one in (*figures, *bounds) if one.key not in known]:
            raise SweepError(f"{unmeasured[0]} was not measured in this sweep; there are {', '.join(known)}")
        return pareto(self.measured, figures, bounds)

    def values_of(self, candidate: str) -> Values:
        """What the axes say at a point, components as tables."""
        row = self.runs.filter(pc.equal(self.runs["candidate"], candidate)).slice(0, 1).to_pylist()
        if not row:
            raise SweepError(
                f"{candidate!r} is no candidate of this sweep; there are {', '.join(self.measured)}"
            )
        return {one["path"]: _valued(one, row[0][one["path"]]) for one in self.plan.axes}

    def spec(self, candidate: str) -> FleetSpec:
        """The fleet of a candidate. Raises `PolicyError` where a component of it cannot be imported here."""
        components = [msgspec.convert(one, ComponentSource) for one in self.plan.components]
        base = rebuilt(self.plan.spec, components, self.plan.files, allow_changed=True)
        return base.replace(self.values_of(candidate))

    def save(self) -> None:
        """Write beside the runs what follows from them: ``points.parquet``, and the front's fleets as TOML."""
        if self.folder is None:
            raise SweepError("this sweep has no folder to write into: it was made without out=")
        sink = pa.BufferOutputStream()
        pq.write_table(self.points, sink, compression="zstd")
        write_whole(self.folder / POINTS, sink.getvalue().to_pybytes())
        for old in (self.folder / FRONT).glob("*.toml"):
            old.unlink()
        if self.plan.objectives:
            for name in self.pareto().front:
                write_whole(self.toml_of(name), toml_text(self.spec(name).to_dict()).encode())

    def toml_of(self, candidate: str) -> Path:
        """Where `save` puts the fleet of a candidate of the front."""
        folder = Path() if self.folder is None else self.folder
        name = _NOT_IN_A_NAME.sub("", candidate)
        if len(name.encode()) > LONGEST:
            start = name.encode()[:LONGEST].decode(errors="ignore")
            name = f"{start}-{sha256(candidate.encode()).hexdigest()[:8]}"
        return folder / FRONT / f"{name}.toml"

    def detached(self) -> Sweep:
        """The same without its folder."""
        return Sweep(None, self.plan, self.runs)

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        shown = points_in_words(self.points, self.metrics) if not self.plan.objectives else self.pareto()
        failed = [f"{one.candidate}, seed {one.seed}: {one.error}" for one in self.failures]
        return Group(shown, *failures_in_words(failed, len(self.runs)))

    def __str__(self) -> str:
        return as_text(self.__rich__())


def load_sweep(folder: str | Path) -> Sweep:
    """The sweep in a folder, whether it has ended or not. Raises `SweepError` where there is none."""
    source = Path(folder)
    plan = load_plan(source)
    index = Index(source, axes_of(plan.axes), tuple(map(restored, plan.metrics)))
    return Sweep(source, plan, index.read())


def _valued(axis: Mapping[str, Any], shown: Any) -> Any:  # Any: a spec's value
    if "range" in axis:
        return shown
    names, values = axis["names"], axis["values"]
    return next((value for value, name in zip(values, names, strict=True) if shown in (value, name)), shown)


def _failed(runs: Sequence[Measured]) -> int:
    return sum(run.error is not None for run in runs)


def _interval(key: str, runs: Sequence[Measured]) -> dict[str, float | None]:
    """The mean over the runs that have a value; its ends are None where chance had no part in them."""
    there = {run.fingerprint: value for run in runs if (value := run.values.get(key)) is not None}
    values = [value for run in runs if (value := run.values.get(key)) is not None]
    mean = fmean(values) if values else None
    half = half_width(values) if mean is not None and len(there) > 1 else None
    ends = (None, None) if mean is None or half is None else (mean - half, mean + half)
    return {key: mean, f"{key} low": ends[0], f"{key} high": ends[1]}


def half_width(values: Sequence[float]) -> float:
    """Of Student's 95 % interval of a mean. `scipy.stats` would say it too, and takes a second to import."""
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 1.0 - LEVEL / 2.0)) * stdev(values) / math.sqrt(len(values))
