"""`sweep`: every point of a grid, a drawing or a search, with every seed, each run kept in a folder as it ends."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
from msgspec import Struct

from experiments.compare import FaultSource, TraceSource
from experiments.executor import Executor, Failure
from experiments.measured import Measured, check_columns, measure
from experiments.metrics import Metric, metrics_of
from experiments.progress import progress_bar
from experiments.saved_metrics import saved_metric
from experiments.sweep.design import Design, method_of
from experiments.sweep.index import Index, Row
from experiments.sweep.judging import Candidate, Judging, constraints_of, objectives_of
from experiments.sweep.pareto import judged
from experiments.sweep.plan import Plan, alone_in, settle, sweep_up
from experiments.sweep.result import Sweep, load_sweep
from experiments.sweep.space import Axes, Point, SweepError
from fleet import FleetSpec, Run, simulate
from fleet.telemetry.provenance import ComponentSource, portable_spec, sources_of
from fleet.telemetry.run import versions
from traces import FaultTrace, Trace
from traces.sharing import SharedTrace, share

ALWAYS = ("throughput_per_s", "e2e_s.p50", "e2e_s.p99", "slo_attainment", "goodput_per_s", "gpu_seconds")
"""What is measured where no metric is named, beside objectives and constraints."""


class _Job(Struct, frozen=True, kw_only=True):
    """One run to make; its spec is built where it runs, so that a point that is no fleet fails like any other run."""

    point: Point
    seed: int
    base: FleetSpec
    trace: SharedTrace
    faults: FaultTrace | None
    sessions: bool
    metrics: tuple[Metric, ...]
    keep: Path | None

    def run(self) -> Measured:
        spec = self.base.replace(self.point.values)
        run = simulate(self.trace.open(), spec, seed=self.seed, faults=self.faults, sessions=self.sessions)
        if self.keep is not None:
            _keep(run, self.keep / f"point={self.point.number:06}" / f"seed-{self.seed}")
        return measure(run, self.metrics, self.point.name, self.seed)


def _keep(run: Run, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    run.save(part).rename(folder)


def sweep(
    trace: TraceSource,
    base: FleetSpec,
    axes: Axes,
    *,
    seeds: Iterable[int] = range(5),
    metrics: Sequence[Metric | str] | None = None,
    objectives: Mapping[str, str | None] | Sequence[str] = (),
    where: Sequence[str] = (),
    method: str = "grid",
    search_seed: int = 0,
    faults: FaultSource = None,
    sessions: bool = False,
    out: str | Path | None = None,
    keep_runs: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> Sweep:
    """Simulate `base` with the values of `axes`, by path, at every point that `method` chooses, with every seed.

    An axis lists its values, components among them, or is a `Range`. ``grid`` takes all combinations; ``random:N`` and
    ``sobol:N`` draw N points, ``optuna:N`` looks for the best ones, all seeded by `search_seed`. `objectives` such as
    ``{"throughput_per_s": "max", "e2e_s.p99": "min"}`` and constraints such as ``where=["slo_attainment>=0.99"]`` say
    what is worth choosing (`Sweep.pareto`). `trace` and `faults` may be functions of the seed.

    Each run is written to `out` as it ends. The same call with the same folder goes on where one was killed, and comes
    to the same bytes; so do `workers` processes of any number. A run that raises does not end the others: it is in
    `Sweep.failures`. Without `out` nothing is kept but what is returned. `keep_runs` saves the whole runs there, too.

    Raises `SweepError` for what is no sweep, for a folder in which there is another one, or one is under way;
    `PolicyError` for an axis that leads nowhere; `OSError` that names the file where the disk is full or read-only.
    """
    study = _study(
        trace, base, axes, seeds=seeds, metrics=metrics, objectives=objectives, where=where, method=method,
        search_seed=search_seed, faults=faults, sessions=sessions, keep_runs=keep_runs,
    )  # fmt: skip
    if out is not None:
        study.run_in(Path(out), workers, progress=progress)
        made = load_sweep(out)
        made.save()
        return made
    if keep_runs:
        raise SweepError("keep_runs needs a folder to keep them in: give out=")
    with tempfile.TemporaryDirectory(prefix="fleet-sweep-") as scratch:
        study.run_in(Path(scratch), workers, progress=progress)
        return load_sweep(scratch).detached()


class _Study(Struct, frozen=True, kw_only=True):
    """A sweep as it was asked for, everything checked."""

    base: FleetSpec
    design: Design
    metrics: tuple[Metric, ...]
    seeds: tuple[int, ...]
    traces: dict[int, Trace]
    """By seed, as are the faults."""
    faults: dict[int, FaultTrace | None]
    sessions: bool
    keep_runs: bool
    alternatives: list[ComponentSource]
    """The code that axes put in the place of the base's."""

    def run_in(self, folder: Path, workers: int, *, progress: bool) -> None:
        """Make the runs that are not in `folder` yet."""
        with alone_in(folder):
            settle(folder, self.plan())
            sweep_up(folder)
            shared = {seed: share(trace, folder / "traces") for seed, trace in self.traces.items()}
            index = Index(folder, self.design.axes, self.metrics)
            index.forget_lost()
            done = index.done()
            left = self.design.most_points * len(self.seeds) - len(done)
            with progress_bar("runs", left, shown=progress) as advance, Executor(workers) as executor:
                for points in self.design.batches(folder, partial(self._judged, index)):
                    jobs = self._jobs(points, shared, done, folder / "kept" if self.keep_runs else None)
                    for job, result in executor.run(_Job.run, jobs):
                        index.write(_row(job, result))
                        advance()

    def _jobs(
        self,
        points: Iterable[Point],
        shared: Mapping[int, SharedTrace],
        done: Collection[tuple[int, int]],
        keep: Path | None,
    ) -> Iterator[_Job]:
        for point, seed in product(points, self.seeds):
            if (point.number, seed) not in done:
                yield _Job(
                    point=point, seed=seed, base=self.base, trace=shared[seed], faults=self.faults[seed],
                    sessions=self.sessions, metrics=self.metrics, keep=keep,
                )  # fmt: skip

    def _judged(self, index: Index, point: Point) -> Candidate:
        runs = index.of_point(point.number, self.seeds)
        return judged(point.name, runs, self.design.objectives, self.design.constraints)

    def plan(self) -> Plan:
        """What there is to say of it."""
        spec, files = portable_spec(self.base)
        traces = {trace.sha256: trace for trace in self.traces.values()}
        return Plan(
            traces=[
                {"sha256": trace.sha256, "requests": len(trace), "header": msgspec.to_builtins(trace.header)}
                for trace in traces.values()
            ],
            spec=spec,
            files=files,
            components=[msgspec.to_builtins(one) for one in sources_of(self.base)],
            alternatives=[msgspec.to_builtins(one) for one in self.alternatives],
            axes=self.design.plain_axes(),
            method=str(self.design.method),
            search_seed=self.design.seed,
            seeds=list(self.seeds),
            metrics=[saved_metric(one) for one in self.metrics],
            faults=list(dict.fromkeys(map(_hash, self.faults.values()))),
            sessions=self.sessions,
            keep_runs=self.keep_runs,
            versions=versions(),
            objectives=list(map(str, self.design.objectives)),
            where=list(map(str, self.design.constraints)),
        )


def _study(
    trace: TraceSource,
    base: FleetSpec,
    axes: Axes,
    *,
    seeds: Iterable[int],
    metrics: Sequence[Metric | str] | None,
    objectives: Mapping[str, str | None] | Sequence[str],
    where: Sequence[str],
    method: str,
    search_seed: int,
    faults: FaultSource,
    sessions: bool,
    keep_runs: bool,
) -> _Study:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise SweepError(f"seeds={list(chosen)}: a sweep needs one at least, and each once")
    known = {item.key: item for item in metrics_of(ALWAYS if metrics is None else metrics)}
    design = Design(
        axes=axes, method=method_of(method), seed=search_seed, objectives=objectives_of(objectives, known),
        constraints=constraints_of(where, known),
    )  # fmt: skip
    judging: list[Judging] = [*design.objectives, *design.constraints]
    known |= {one.key: one.metric for one in judging}
    traces = {seed: trace if isinstance(trace, Trace) else trace(seed) for seed in chosen}
    check_columns(known.values(), traces.values())
    return _Study(
        base=base,
        design=design,
        metrics=tuple(known.values()),
        seeds=chosen,
        traces=traces,
        faults={seed: faults(seed) if callable(faults) else faults for seed in chosen},
        sessions=sessions,
        keep_runs=keep_runs,
        alternatives=design.check(base),
    )


def _row(job: _Job, result: Measured | Failure) -> Row:
    if isinstance(result, Failure):
        failed = Measured(candidate=job.point.name, seed=job.seed, error=result.error)
        return Row(job.point, failed, result.traceback)
    return Row(job.point, result)


def _hash(faults: FaultTrace | None) -> str:
    return "" if faults is None else hashlib.sha256(msgspec.json.encode(faults)).hexdigest()
