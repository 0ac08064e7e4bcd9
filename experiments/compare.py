"""`compare`: run candidates on the same trace, seeds and faults, and say what can be said about the difference."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from typing import NamedTuple

from experiments.measured import check_columns
from experiments.metrics import DEFAULT_METRICS, Metric, grouped_too, metrics_of
from experiments.paired import Interval, Scale
from experiments.progress import progress_bar
from experiments.report import Report
from experiments.workers import Workers
from fleet import FleetSpec, Run, simulate
from fleet.spec import components_of
from fleet.text import one_line
from traces import FaultTrace, Trace
from traces.values import BadValue

TraceSource = Trace | Callable[[int], Trace]
FaultSource = FaultTrace | Callable[[int], FaultTrace] | None


class Job(NamedTuple):
    """One run to make."""

    candidate: str
    seed: int
    trace: Trace
    spec: FleetSpec
    faults: FaultTrace | None
    sessions: bool


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

    `workers` processes share the work, one by default. They are spawned and import your script again: guard it
    with ``if __name__ == "__main__":``, and define policies in a module of their own. What cannot be sent to
    another process runs in this one.

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
    measured = None if metrics is None else metrics_of(metrics)  # a wrong name fails before the work
    columns = [by] if isinstance(by, str) else list(by)
    decides = None if primary is None else metrics_of([primary])[0]
    if decides is not None and decides.better == "neither":
        raise BadValue(
            "", f"{decides.key} cannot be primary: it has no better way (a metric of your own: better=)"
        )
    traces = {seed: trace if isinstance(trace, Trace) else trace(seed) for seed in chosen}
    planned = {seed: faults(seed) if callable(faults) else faults for seed in chosen}
    jobs = [
        Job(name, seed, traces[seed], candidates[name], planned[seed], sessions)
        for seed, name in product(chosen, candidates)
    ]
    check_columns(
        [*grouped_too(measured or DEFAULT_METRICS, columns), *filter(None, [decides])], traces.values()
    )
    with progress_bar("runs", len(jobs), shown=progress) as advance:
        done = _run_all(jobs, workers or 1, advance)
    errors = {key: one for key, one in done.items() if isinstance(one, Exception)}
    if len(errors) == len(done):
        raise next(iter(errors.values()))
    runs = {name: [one for seed in chosen if isinstance(one := done[name, seed], Run)] for name in candidates}
    return Report(
        runs, seeds=chosen, baseline=first, metrics=measured, primary=decides, by=columns, interval=interval,
        scale=scale, errors={key: said(error) for key, error in errors.items()},
    )  # fmt: skip


def said(error: Exception) -> str:
    """What was raised, in a line."""
    return f"{type(error).__name__}: {one_line(str(error))}"


def _run_all(
    jobs: list[Job], workers: int, advance: Callable[[], None]
) -> dict[tuple[str, int], Run | Exception]:
    done: dict[tuple[str, int], Run | Exception] = {}
    if workers > 1 and (obstacle := _obstacle(jobs)) is not None:
        print(f"compare: running in this process, because {obstacle}", file=sys.stderr)
        workers = 1
    if workers > 1:
        try:
            with Workers(min(workers, len(jobs))) as pool:
                futures = {pool.submit(_run, job): job for job in jobs}
                for future in as_completed(futures):
                    job = futures[future]
                    done[job.candidate, job.seed] = future.result()
                    advance()
        except BrokenProcessPool:
            print(
                "compare: the worker processes ended early; running in this process "
                '(is the script guarded by `if __name__ == "__main__":`?)',
                file=sys.stderr,
            )
    for job in jobs:
        if (job.candidate, job.seed) not in done:
            done[job.candidate, job.seed] = _run(job)
            advance()
    return done


def _run(job: Job) -> Run | Exception:
    """The run, or what it raised: the others go on."""
    try:
        return simulate(job.trace, job.spec, seed=job.seed, faults=job.faults, sessions=job.sessions)
    except Exception as error:
        return error


def _obstacle(jobs: Sequence[Job]) -> str | None:
    """Why the work cannot go to other processes."""
    for spec in {id(job.spec): job.spec for job in jobs}.values():
        for _, component in components_of(spec):
            if type(component).__module__ == "__main__":
                return f"{type(component).__name__} is defined in the script itself, which a worker does not have"
        try:
            pickle.dumps(spec)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return f"a spec cannot be sent to another process ({error})"
    return None
