"""``fleet study retry_storm``: does a fleet recover from a fault that is over?

All replicas become four times as slow for 20 s, then as fast as before. Each attempt has one second, and one that
takes longer is tried again elsewhere. While all is slow that is most of them. Retries are load, load makes attempts
take longer, and what runs when its time is over is done for nobody. With enough retries for each request this goes on
when its cause is gone; a budget of retries is what is said to prevent it.

Question: Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021 (retries sustain what a trigger
began); Beyer et al., "Site Reliability Engineering", 2016, chapters 21 and 22 (retry budgets).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from fleet.telemetry.attempts import only_attempts
from policies import AttemptTimeout, ExponentialBackoff, NoBatching, NoRetry, RetryPolicy
from traces import Fault, FaultTrace, Trace

SERVICE_S, SERVICE_CV = 0.05, 1.0
LOAD = 0.6
"""Of what the replicas can do while they are not slow."""
LIMIT_S = 1.0
"""Of an attempt: what 1 in 30,000 takes alone."""
GOOD_S = 2.0
"""Within which an answer is of use."""
SLOW_FACTOR, SLOW_FOR_S = 4.0, 20.0
BEFORE_S, BIN_S = 30.0, 10.0


def _limited(retry: RetryPolicy) -> RetryPolicy:
    return AttemptTimeout(limit_s=LIMIT_S, retry=retry)


def _tries(most: int, budget_ratio: float | None) -> RetryPolicy:
    return _limited(ExponentialBackoff(max_attempts=most, budget_ratio=budget_ratio))


BASELINE, UNLIMITED, STOPPED = "no retry", "no limit", "10 attempts, loser stopped"
POLICIES: Mapping[str, RetryPolicy] = {
    BASELINE: _limited(NoRetry()),
    UNLIMITED: NoRetry(),
    "10 attempts, budget 0.2": _tries(10, 0.2),
    "3 attempts, no budget": _tries(3, None),
    "5 attempts, no budget": _tries(5, None),
    "10 attempts, no budget": _tries(10, None),
    STOPPED: _tries(10, None),
}
"""`no limit`: an attempt may take as long as it takes. `loser stopped`: no budget, and an engine that can end what
runs."""
MEASURES = (
    Measure(name="good", label=f"answered within {GOOD_S:g} s (%)", better="higher", scale=100.0),
    Measure(name="attempts", label="attempts a request", better="neither"),
)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    replicas: int
    after_s: float
    """How long requests come after the fault is over."""
    seeds: int


def spec_of(candidate: str, replicas: int) -> FleetSpec:
    """The fleet of a candidate."""
    latency = AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)
    return FleetSpec(
        engine=EmulatedEngine(latency=latency, interruptible=candidate == STOPPED),
        replicas=replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
        retry=POLICIES[candidate],
    )


def all_slow(replicas: int) -> FaultTrace:
    """Every replica, from `BEFORE_S` on."""
    return FaultTrace(
        faults=tuple(
            Fault(at_s=BEFORE_S, kind="slow", replica=f"replica/{number}", for_s=SLOW_FOR_S, factor=SLOW_FACTOR)
            for number in range(replicas)
        ),
        source="all slow",
    )  # fmt: skip


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    spec: FleetSpec
    seed: int
    bins: int

    def run(self) -> list[dict[str, float]]:
        """The measures of the requests that arrived in each bin, and of the attempts that were sent in it."""
        faults = all_slow(self.spec.replicas)
        run = simulate(self.trace, self.spec, seed=self.seed, faults=faults, check=False)
        edges_s = BIN_S * np.arange(self.bins + 1)
        arrived_s = run.records["arrived_s"].to_numpy()
        good = pc.fill_null(pc.less_equal(run.records["e2e_s"], GOOD_S), False).to_numpy()
        came, _ = np.histogram(arrived_s, edges_s)
        answered, _ = np.histogram(arrived_s[good], edges_s)
        sent, _ = np.histogram(sent_s(run), edges_s)
        return [
            {"good": float(a / c), "attempts": float(s / c)}
            for a, s, c in zip(answered, sent, np.maximum(came, 1), strict=True)
        ]


def sent_s(run: Run) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """When each attempt was sent; an only one that completed has no row of its own, and is sent on arrival."""
    only = run.records["arrived_s"].filter(pa.array(only_attempts(run.attempts, run.records)))
    return np.concatenate([run.attempts["sent_s"].drop_null().to_numpy(), only.to_numpy()])


def run(plan: Plan, options: Options) -> StudyResult:
    """One run for each candidate and seed; a bin of time is a setting."""
    seeds = range(plan.seeds)
    duration_s = BEFORE_S + SLOW_FOR_S + plan.after_s
    rate_per_s = LOAD * plan.replicas / SERVICE_S
    bins = int(duration_s // BIN_S)
    traces = [arrivals(rate_per_s, duration_s, seed, options.trace) for seed in seeds]
    jobs = {
        (name, seed): Job(trace=trace, spec=spec_of(name, plan.replicas), seed=seed, bins=bins)
        for name in POLICIES
        for seed, trace in zip(seeds, traces, strict=True)
    }
    done = run_all("runs", jobs, options)
    values = {
        (BIN_S * (number + 0.5) - BEFORE_S - SLOW_FOR_S, name, seed): of_bins[number]
        for number in range(bins)
        for (name, seed), of_bins in done.items()
    }
    return StudyResult(
        study="retry_storm",
        setting="s after the fault",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(values, MEASURES, BASELINE),
        workload=f"{plan.replicas} replicas at {100.0 * LOAD:g} % load, {SLOW_FACTOR:g} times as slow from "
        f"{-SLOW_FOR_S:g} s to 0; {LIMIT_S:g} s an attempt; {BIN_S:g} s of arrivals about each time",
        traces={"all": [trace.sha256 for trace in traces]},
        specs={name: spec_of(name, plan.replicas).to_dict() for name in POLICIES},
    )


def draw(result: StudyResult) -> str:
    """Useful answers, and attempts, over time."""
    panels = (
        Panel(measure="good", label=f"answered within {GOOD_S:g} s (%)"),
        Panel(measure="attempts", label="attempts sent for each arrival"),
    )
    return lines(result, panels, "time after the fault (s)")


STUDY = Study(
    name="retry_storm",
    title="Retry storm: what becomes of requests after a fault that slowed all replicas down is over",
    plans={
        "small": Plan(replicas=5, after_s=40.0, seeds=3),
        "full": Plan(replicas=10, after_s=60.0, seeds=5),
    },
    run=run,
    draw=draw,
)
