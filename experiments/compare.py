"""`compare`: run candidates on the same trace, seeds and faults, and say what can be said about the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from experiments.executor import Executor, Failure
from experiments.measured import check_columns
from experiments.metrics import DEFAULT_METRICS, Metric, grouped_too, metrics_of
from experiments.paired import Interval, Scale, check_method
from experiments.progress import progress_bar
from experiments.report import Report
from fleet import FleetSpec, Run, simulate
from traces import FaultTrace, Trace
from traces.sharing import SharedTrace, share
from traces.values import BadValue

TraceSource = Trace | Callable[[int], Trace]
FaultSource = FaultTrace | Callable[[int], FaultTrace] | None


class Job(NamedTuple):
    """One run to make."""

    candidate: str
    seed: int
    trace: Trace | SharedTrace
    spec: FleetSpec
    faults: FaultTrace | None
    sessions: bool

    def run(self) -> Run:
        """Make it."""
        trace = self.trace.open() if isinstance(self.trace, SharedTrace) else self.trace
        return simulate(trace, self.spec, seed=self.seed, faults=self.faults, sessions=self.sessions)


def compare(
    trace: TraceSource,
    candidates: Mapping[str, FleetSpec],
    *,
    seeds: Iterable[int] = range(10),
    faults: FaultSource = None,
    baseline: str | None = None,
    metrics: Sequence[Metric | str] | None = None,
    primary: Metric | str | None = None,
    by: str | Sequence[str] = (),
    workers: int | None = None,
    progress: bool = True,
    sessions: bool = False,
    interval: Interval = "t",
    scale: Scale = "difference",
) -> Report:
    """Simulate every candidate on the same trace with the same seeds and faults; compare each to the baseline.

    A seed changes the policies' chance, the engines' noise and the network's. `trace` may also be a function of
    the seed: then arrivals are resampled too, which is the way to study a synthetic workload (``compare(lambda
    seed: poisson(rate_per_s=200, duration_s=60, seed=seed), ...)``); so may `faults`. The baseline is the first
    candidate unless named. `interval` is Student's ``t`` or the ``bca`` bootstrap, `scale` whether differences or
    ratios are judged; docs/statistics.md tells them apart.

    `metrics` are names such as ``"ttft_s.p99"`` or ``"ttft_s.p99@tenant"`` (`experiments.metric`) or values of your
    own; unless given they follow from the runs: `TOKEN_METRICS` where any serves token by token, else
    `DEFAULT_METRICS`. `by` has each of them by a column too. `primary` is the one that decides, named beforehand: its
    verdicts are corrected among themselves, the others' in a family of their own.

    A run that fails is in the report's `errors`, and the others are kept.

    `workers` processes share the work, one by default. They are fresh ones; policies may be defined in your script or
    notebook. What cannot be sent to another process runs in this one.

    Raises `ValueError` for an unknown baseline, metric or column, no candidates or no seeds, and where every run fails
    what the first raised.
    """
    chosen = list(seeds)
    first = baseline if baseline is not None else next(iter(candidates), None)
    if first is None or not chosen:
        raise BadValue("", "compare needs at least one candidate and one seed")
    if first not in candidates:
        raise BadValue("", f"baseline={first!r} is not a candidate; expected one of {', '.join(candidates)}")
    if len(set(chosen)) != len(chosen):
        raise BadValue("", f"a seed is given twice: {chosen}; a run counted twice is no replication")
    check_method(interval, scale)  # as a wrong name of a metric, it fails before the work
    measured = None if metrics is None else metrics_of(metrics)
    columns = [by] if isinstance(by, str) else list(by)
    if columns and measured and not any(one.of == "requests" for one in measured):
        names = ", ".join(one.name for one in measured)
        raise BadValue("", f"by {', '.join(columns)}: {names}: of the whole fleet; no requests to tell apart")
    decides = None if primary is None else metrics_of([primary, *(measured or ())])[0]
    if decides is not None and decides.better == "neither":
        raise BadValue(
            "", f"{decides.key} cannot be primary: it has no better way (a metric of your own: better=)"
        )
    traces = {seed: trace if isinstance(trace, Trace) else trace(seed) for seed in chosen}
    planned = {seed: faults(seed) if callable(faults) else faults for seed in chosen}
    check_columns(
        [*grouped_too(measured or DEFAULT_METRICS, columns), *filter(None, [decides])], traces.values()
    )
    done = _run_all(traces, candidates, planned, sessions, workers or 1, progress=progress)
    errors = {key: one for key, one in done.items() if isinstance(one, Failure)}
    if len(errors) == len(done):
        next(iter(errors.values())).reraise()
    runs = {name: [one for seed in chosen if isinstance(one := done[name, seed], Run)] for name in candidates}
    return Report(
        runs, seeds=chosen, baseline=first, metrics=measured, primary=decides, by=columns, interval=interval,
        scale=scale, errors={key: failure.error for key, failure in errors.items()},
    )  # fmt: skip


def _run_all(
    traces: Mapping[int, Trace],
    candidates: Mapping[str, FleetSpec],
    faults: Mapping[int, FaultTrace | None],
    sessions: bool,
    workers: int,
    *,
    progress: bool,
) -> dict[tuple[str, int], Run | Failure]:
    """What came of each candidate with each seed. Several processes read a trace from one file."""
    done: dict[tuple[str, int], Run | Failure] = {}
    number = len(traces) * len(candidates)
    with (
        TemporaryDirectory(prefix="fleet-compare-") as scratch,
        progress_bar("runs", number, shown=progress) as advance,
        Executor(min(workers, number)) as executor,
    ):
        here = min(workers, number) == 1
        given = {seed: trace if here else share(trace, Path(scratch)) for seed, trace in traces.items()}
        jobs = (
            Job(name, seed, given[seed], candidates[name], faults[seed], sessions)
            for seed, name in product(traces, candidates)
        )
        for job, result in executor.run(Job.run, jobs):
            if isinstance(result, Run):
                result.kept_trace = traces[job.seed]  # it is large, and stayed here
            done[job.candidate, job.seed] = result
            advance()
    return {(name, seed): done[name, seed] for seed, name in product(traces, candidates)}
