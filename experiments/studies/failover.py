"""``fleet study failover``: how soon is a failure known, and how many are seen that there are not?

Ten replicas; one after the other crashes, hangs or becomes twenty times as slow, and on every link messages are lost. A
health check that waits for more failures in a row takes longer to see a replica that hangs, and takes a lossy link for
one less often. A probe that the process answers does not ask the engine behind it. Attempts that fail tell something,
too, wherever there are attempts.

Question: Hayashibara et al., "The Phi Accrual Failure Detector", SRDS 2004, and Chen, Toueg and Aguilera, "On the
Quality of Service of Failure Detectors", IEEE Transactions on Computers 51(5), 2002 (detection time against mistakes);
Huang et al., "Gray Failure", HotOS 2017 (what answers its probes and does no work).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from experiments.plots import WIDTH, legend_above, line_style, log_ticks, new_figure
from experiments.studies.charts import compact_svg
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult, judged, paired_figures
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals
from experiments.text import plain_number
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from fleet.telemetry.attempts import attempt_figures
from policies import (
    AlwaysTrust,
    AttemptTimeout,
    ConsecutiveFailures,
    ExponentialBackoff,
    HealthPolicy,
    NoBatching,
    Random,
)
from policies.health.passive_checks import PassiveChecks
from policies.health.phi_accrual import PhiAccrual
from traces import Fault, FaultTrace, Trace

SERVICE_S, SERVICE_CV, LOAD = 0.1, 0.5, 0.3
LIMIT_S = 1.0
"""Of an attempt."""
PERIOD_S, TIMEOUT_S = 1.0, 0.5
"""Of probes."""
NEVER_S = 1e6
"""A period that is longer than any run: of probes, or of a lease, that there are not."""
LEASE_S = 3.0
COLD_S, GRACE_S = 5.0, 5.0
EVERY_S, FOR_S, SLOW_FACTOR = 30.0, 25.0, 20.0
"""One failure in each so many seconds, how long it lasts unless its replica is replaced, and how slow."""
LOSSY_AGAIN_S = 5.0
"""How often links are made lossy: a replica that takes another's place has a new one."""
AFTER_S = 2.0
"""A replica that has just been well again may still be failed by what was asked before."""
RECOVERIES = 2

BASELINE = "3 failures"
IN_A_ROW: Mapping[str, int] = {"1 failure": 1, "2 failures": 2, BASELINE: 3, "5 failures": 5}
DEEP, PASSIVE, ALONE = "3 failures, deep probes", "3 failures, passive", "passive alone"
LEASE, NONE, BLIND = "lease alone", "no checks", "random router, "
HEALTH: Mapping[str, HealthPolicy] = {
    **{
        name: ConsecutiveFailures(failures=failures, recoveries=RECOVERIES)
        for name, failures in IN_A_ROW.items()
    },
    "phi 2": PhiAccrual(threshold=2.0, acceptable_pause_s=0.0, first_interval_s=PERIOD_S),
    "phi 8": PhiAccrual(threshold=8.0, acceptable_pause_s=0.0, first_interval_s=PERIOD_S),
    "phi 8, pause 3 s": PhiAccrual(threshold=8.0, acceptable_pause_s=3.0, first_interval_s=PERIOD_S),
    DEEP: ConsecutiveFailures(failures=3, recoveries=RECOVERIES),
    PASSIVE: PassiveChecks(active=ConsecutiveFailures(failures=3, recoveries=RECOVERIES), error_limit=3),
    ALONE: PassiveChecks(active=ConsecutiveFailures(failures=1), error_limit=3),
    LEASE: AlwaysTrust(),
    NONE: AlwaysTrust(),
    f"{BLIND}{BASELINE}": ConsecutiveFailures(failures=3, recoveries=RECOVERIES),
    f"{BLIND}{NONE}": AlwaysTrust(),
}
"""`passive`: three failed attempts in a row count as one failed probe. `passive alone`: there are no probes, and that
one is enough. `pause 3 s`: the time that Akka adds to the mean. `lease alone`: a process that has not been heard of for
so long is taken for dead by whoever started it, on its own host; the others do without. Without a word, the router is
least outstanding."""
HANG, HANG_SAID, FALSE, FALSE_SAID, SLOW = (
    "hang_s",
    "hang_said_s",
    "false_per_h",
    "false_said_per_h",
    "slow_known",
)
MEASURES = (
    Measure(name="crash_s", label="crash: known (s)", better="neither", shown=False),
    Measure(name=HANG, label="hang: known (s)", better="lower"),
    Measure(name=HANG_SAID, label="as predicted", better="neither"),
    Measure(name=SLOW, label="slow: known (%)", better="higher", scale=100.0),
    Measure(name=FALSE, label="false alarms/h", better="lower"),
    Measure(name=FALSE_SAID, label="as predicted", better="neither"),
    Measure(name="retried", label="retries (%)", better="neither", scale=100.0),
    Measure(name="failed", label="failed (%)", better="lower", scale=100.0),
    Measure(name="p99_s", label="e2e p99 (s)", better="lower"),
    Measure(name="p999_s", label="p99.9 (s)", better="lower"),
)
"""`known`: failed by its health check, or its process gone; one that never is counts with how long it lasted. False
alarms are for each hour of a replica."""


# --- what theory says --------------------------------------------------------------------------------------


def probes_to_run(probability: float, run: int) -> float:
    """Mean number of probes until `run` of them in a row come out in a way that each does with this probability.

    (1 - p^k) / ((1 - p) p^k): Feller, "An Introduction to Probability Theory and Its Applications" I, section XIII.7.
    """
    if probability <= 0.0:
        return math.inf
    if probability >= 1.0:
        return float(run)
    return (1.0 - probability**run) / ((1.0 - probability) * probability**run)


def lost_probes(loss: float) -> float:
    """Share of probes without an answer, of a replica that is well: the question is lost, or the answer."""
    return 1.0 - (1.0 - loss) ** 2


def alarms_per_h(loss: float, failures: int) -> float:
    """False alarms of a replica in an hour: after each it must be trusted again before there can be another."""
    lost = lost_probes(loss)
    probes = probes_to_run(lost, failures) + probes_to_run(1.0 - lost, RECOVERIES)
    return 3600.0 / (PERIOD_S * probes)


def delay_s(loss: float, failures: int) -> float:
    """Mean time from a hang to the last of `failures` probes in a row that are not answered, and its time-out.

    (k - 1/2) T without loss, for the first probe comes half a period after the hang on average. With it, some of the k
    have been lost already: at least j of them, in a row up to that moment, with probability p^j.
    """
    lost = lost_probes(loss)
    before = sum(lost**one for one in range(1, failures))
    return PERIOD_S * (failures - 0.5 - before) + TIMEOUT_S


# --- the runs ----------------------------------------------------------------------------------------------


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    losses: tuple[float, ...]
    """Probability with which a message is lost, each way."""
    replicas: int
    duration_s: float
    seeds: int
    candidates: tuple[str, ...] = tuple(HEALTH)


def spec_of(candidate: str, replicas: int) -> FleetSpec:
    """The fleet of a candidate."""
    latency = AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)
    spec = FleetSpec(
        engine=EmulatedEngine(latency=latency, cold_start_s=COLD_S),
        replicas=replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
        retry=AttemptTimeout(limit_s=LIMIT_S, retry=ExponentialBackoff(max_attempts=5, budget_ratio=None)),
        health=HEALTH[candidate],
        probe_interval_s=NEVER_S if candidate == ALONE else PERIOD_S,
        probe_timeout_s=TIMEOUT_S,
        deep_probe_interval_s=PERIOD_S if candidate == DEEP else None,
        failed_grace_s=GRACE_S,
        lease_s=LEASE_S if candidate == LEASE else NEVER_S,
    )
    return spec.replace(routing=Random()) if candidate.startswith(BLIND) else spec


def campaign(replicas: int, duration_s: float, loss: float, seed: int) -> FaultTrace:
    """Failures of all kinds, as many of each, at random times and places; and links that lose messages all along.

    No place is struck again before all others were.
    """
    draw = random.Random(f"failures {seed}")
    faults: list[Fault] = []
    kinds: list[str] = []
    places: list[int] = []
    for number in range(int(duration_s // EVERY_S)):
        kinds = kinds or draw.sample(("crash", "hang", "slow"), 3)
        places = places or draw.sample(range(replicas), replicas)
        # Not so late that it would last into the next one.
        at_s = EVERY_S * number + draw.uniform(0.0, EVERY_S - FOR_S)
        place, kind = f"place/{places.pop()}", kinds.pop()
        if kind == "crash":
            faults.append(Fault(at_s=at_s, kind="crash", replica=place))
        elif kind == "hang":
            faults.append(Fault(at_s=at_s, kind="hang", replica=place, for_s=FOR_S))
        else:
            faults.append(Fault(at_s=at_s, kind="slow", replica=place, for_s=FOR_S, factor=SLOW_FACTOR))
    if loss > 0.0:
        faults += [
            Fault(at_s=LOSSY_AGAIN_S * number, kind="drop", replica=f"place/{place}", probability=loss)
            for number in range(math.ceil(duration_s / LOSSY_AGAIN_S))
            for place in range(replicas)
        ]
    return FaultTrace(faults=tuple(faults), source="failures and lossy links", seed=seed)


class Failure(NamedTuple):
    """A fault that struck, and when it was known; None: never, while it lasted."""

    kind: str
    replica: str
    at_s: float
    known_s: float | None


def failures_of(run: Run) -> list[Failure]:
    """The crashes, hangs and slownesses of a run, of replicas that were ready: nobody probes one that still loads."""
    verdicts, ready = _verdicts(run), _ready(run, math.inf)
    gone_s = {
        row["replica"]: row["time_s"]
        for row in run.replicas.to_pylist()
        if row["state"] in ("stopped", "failed")
    }
    found = []
    for row in run.decisions.to_pylist():
        if row["slot"] != "fault" or row["decision"] == "drop":
            continue
        replica, at_s = row["subject"], row["time_s"]
        if not any(name == replica and from_s <= at_s <= to_s for name, from_s, to_s in ready):
            continue
        told = verdicts.get(replica, [])
        before = [trust for when_s, trust in told if when_s <= at_s]
        known = [at_s] if before and before[-1] == "failed" else []
        known += [when_s for when_s, trust in told if when_s > at_s and trust == "failed"]
        known += [gone_s[replica]] if replica in gone_s else []
        within = [when_s for when_s in known if when_s <= at_s + FOR_S]
        found.append(Failure(row["decision"], replica, at_s, min(within, default=None)))
    return found


def _verdicts(run: Run) -> dict[str, list[tuple[float, str]]]:
    found: dict[str, list[tuple[float, str]]] = {}
    for row in run.decisions.to_pylist():
        if row["slot"] == "health":
            found.setdefault(row["subject"], []).append((row["time_s"], row["decision"]))
    return found


def false_alarms_per_h(run: Run, failures: Iterable[Failure], until_s: float) -> float:
    """Verdicts that a replica has failed, of replicas that are ready and well, over the hours that they are that."""
    wrong_s: dict[str, list[float]] = {}
    for failure in failures:
        wrong_s.setdefault(failure.replica, []).append(failure.at_s)
    alarms, well_s = 0, 0.0
    told = _verdicts(run)
    for replica, from_s, to_s in _ready(run, until_s):
        spans = _without(from_s, to_s, wrong_s.get(replica, ()))
        well_s += sum(end_s - start_s for start_s, end_s in spans)
        alarms += sum(
            trust == "failed" and any(start_s <= when_s < end_s for start_s, end_s in spans)
            for when_s, trust in told.get(replica, ())
        )
    return 3600.0 * alarms / well_s


def _ready(run: Run, until_s: float) -> list[tuple[str, float, float]]:
    """From when to when each replica was ready."""
    since_s: dict[str, float] = {}
    found = []
    for row in run.replicas.to_pylist():
        replica, at_s = row["replica"], min(row["time_s"], until_s)
        if row["state"] == "ready":
            since_s.setdefault(replica, at_s)
        elif replica in since_s:
            found.append((replica, since_s.pop(replica), at_s))
    return found + [(replica, from_s, until_s) for replica, from_s in since_s.items()]


def _without(from_s: float, to_s: float, wrong_s: Iterable[float]) -> list[tuple[float, float]]:
    """What is left of a time when failures that began at these times are taken out."""
    spans = []
    for at_s in sorted(wrong_s):
        if at_s > from_s:
            spans.append((from_s, min(at_s, to_s)))
        from_s = max(from_s, at_s + FOR_S + AFTER_S)
    return [(start_s, end_s) for start_s, end_s in (*spans, (from_s, to_s)) if start_s < end_s]


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    faults: FaultTrace
    spec: FleetSpec
    seed: int
    duration_s: float

    def run(self) -> dict[str, float]:
        """Its measures."""
        run = simulate(self.trace, self.spec, seed=self.seed, faults=self.faults, check=False)
        failures = failures_of(run)
        e2e_s = run.records["e2e_s"].drop_null().to_numpy()
        p99_s, p999_s = (float(value) for value in np.percentile(e2e_s, (99.0, 99.9)))
        return {
            "crash_s": _mean_s(failures, "crash"),
            HANG: _mean_s(failures, "hang"),
            SLOW: float(np.mean([one.known_s is not None for one in failures if one.kind == "slow"])),
            FALSE: false_alarms_per_h(run, failures, self.duration_s),
            "retried": attempt_figures(run.attempts, run.records).retries / len(self.trace),
            "failed": 1.0 - run.summary.completed / len(self.trace),
            "p99_s": p99_s,
            "p999_s": p999_s,
        }


def _mean_s(failures: Iterable[Failure], kind: str) -> float:
    """Until they were known, or over."""
    of_kind = [one for one in failures if one.kind == kind]
    return float(np.mean([FOR_S if one.known_s is None else one.known_s - one.at_s for one in of_kind]))


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each loss, with the same requests and the same failures."""
    seeds = range(plan.seeds)
    rate_per_s = LOAD * plan.replicas / SERVICE_S
    traces = [arrivals(rate_per_s, plan.duration_s, seed, options.trace) for seed in seeds]
    jobs: dict[tuple[float, str, int], Job] = {}
    for loss in plan.losses:
        for name in plan.candidates:
            for seed, trace in zip(seeds, traces, strict=True):
                faults = campaign(plan.replicas, plan.duration_s, loss, seed)
                jobs[loss, name, seed] = Job(
                    trace=trace, faults=faults, spec=spec_of(name, plan.replicas), seed=seed,
                    duration_s=plan.duration_s,
                )  # fmt: skip
    measured = tuple(measure for measure in MEASURES if measure.name not in (HANG_SAID, FALSE_SAID))
    figures = list(figures_by(run_all("runs", jobs, options), measured, BASELINE))
    for loss in plan.losses:
        for measure, says in ((HANG_SAID, delay_s), (FALSE_SAID, alarms_per_h)):
            said = {
                name: [says(loss, IN_A_ROW[name])] * plan.seeds
                for name in plan.candidates
                if name in IN_A_ROW
            }
            figures += paired_figures(loss, measure, said, BASELINE)
    return StudyResult(
        study="failover",
        setting="lost each way",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=judged(figures, {measure.name: measure.better for measure in MEASURES}),
        workload=f"{plan.replicas} replicas at {100.0 * LOAD:g} % load of {options.trace or 'a Poisson process'}, a "
        f"failure every {EVERY_S:g} s for {plan.duration_s:g} s; probes every {PERIOD_S:g} s, {TIMEOUT_S:g} s for each",
        traces={"all": [trace.sha256 for trace in traces]},
        specs={name: spec_of(name, plan.replicas).to_dict() for name in plan.candidates},
    )


# --- what came of it ---------------------------------------------------------------------------------------


def finding(result: StudyResult) -> tuple[str, ...]:
    """Delay against false alarms, beside theory; what probes of either kind see; what it is worth to requests."""
    least, most = result.settings[0], result.settings[-1]
    counted = [name for name in result.candidates if name in IN_A_ROW]
    delays = "; ".join(
        f"{name} {result.mean(least, name, HANG):.2f} s ({result.mean(least, name, HANG_SAID):.2f} predicted)"
        for name in counted
    )
    alarms = "; ".join(
        f"{name} {_number(result.mean(most, name, FALSE))} ({_number(result.mean(most, name, FALSE_SAID))} predicted)"
        for name in counted
    )
    return (
        f"A hang is known, at {least:.0%} lost, after: {delays}.",
        f"False alarms in an hour of a replica, at {most:.0%} lost each way: {alarms}.",
        _by_kind(result, least),
        _accrual(result),
        _worth(result),
        _by_router(result, least),
    )


def _number(value: float) -> str:
    return plain_number(value, digits=3)


def _by_kind(result: StudyResult, loss: float) -> str:
    """Who sees a replica that is slow."""
    seen = {name: result.mean(loss, name, SLOW) for name in result.candidates}
    some = "; ".join(f"{100.0 * share:.0f} % by {name}" for name, share in seen.items() if share > 0.0)
    none = sum(share == 0.0 for share in seen.values())
    return (
        f"Of the replicas that are {SLOW_FACTOR:g} times as slow so many are failed at {loss:.0%} lost: "
        f"{some or 'none by anybody'}{f'; none by the other {none}' if some and none else ''}."
    )


def _accrual(result: StudyResult) -> str:
    """How a threshold of suspicion moves with the loss."""
    parts = []
    for name in (one for one in result.candidates if one.startswith("phi")):
        path = [
            f"{result.mean(loss, name, HANG):.1f} s and {_number(result.mean(loss, name, FALSE))} at {loss:.0%}"
            for loss in result.settings
        ]
        parts.append(f"{name}: {', '.join(path)}")
    return (
        f"Delay, and false alarms an hour, by suspicion: {'; '.join(parts)}."
        if parts
        else "No suspicion was run."
    )


def _by_router(result: StudyResult, loss: float) -> str:
    """Whether the router finds out by itself what checks would tell it."""
    parts = [
        f"{result.mean(loss, f'{router}{NONE}', 'p999_s'):.2f} s without checks and "
        f"{result.mean(loss, f'{router}{BASELINE}', 'p999_s'):.2f} s with {BASELINE} by {called}"
        for router, called in (("", "least outstanding"), (BLIND, "a random router"))
        if f"{router}{NONE}" in result.candidates
    ]
    return (
        f"E2E p99.9, at {loss:.0%} lost: {'; '.join(parts)}."
        if parts
        else "No router was run without checks."
    )


def _worth(result: StudyResult) -> str:
    """What of it requests notice."""
    parts = []
    for loss in result.settings:
        tail_s = {name: result.mean(loss, name, "p999_s") for name in result.candidates}
        best, worst = min(tail_s, key=tail_s.__getitem__), max(tail_s, key=tail_s.__getitem__)
        better, worse = (
            [name for name in result.candidates if result.figure(loss, name, "p999_s").verdict == way]
            for way in ("better", "worse")
        )
        parts.append(
            f"{loss:.0%}: from {tail_s[best]:.2f} s ({best}) to {tail_s[worst]:.2f} s ({worst}), {len(better)} shown "
            f"to be better and {len(worse)} worse than {BASELINE} ({tail_s[BASELINE]:.2f} s)"
        )
    return f"E2E p99.9, by loss: {'; '.join(parts)}."


# --- the plot ----------------------------------------------------------------------------------------------


def draw(result: StudyResult) -> str:
    """False alarms against delay, with a point for each loss, and where theory has it; slow ones seen, and p99.9."""
    figure, (trade, seen, tail) = new_figure(WIDTH, 4.8, rows=1, columns=3)
    for index, name in enumerate(result.candidates):
        style = {**line_style(index), "marker": "o", "markersize": 3.5}
        losses = result.settings
        values = {
            measure: [one.mean for one in result.curve(name, measure)[1]]
            for measure in (HANG, HANG_SAID, FALSE, FALSE_SAID, SLOW, "p999_s")
        }
        trade.plot(values[HANG], values[FALSE], **style, label=name)
        said = {"color": style["color"], "linestyle": "", "marker": "x", "markersize": 6}
        trade.plot(values[HANG_SAID], values[FALSE_SAID], **said)
        seen.plot(losses, [100.0 * share for share in values[SLOW]], **style)
        tail.plot(losses, values["p999_s"], **style)
    log_ticks(trade)
    trade.set_yscale("symlog", linthresh=1.0)
    trade.set_ylim(bottom=0.0)
    trade.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1,000"])
    trade.minorticks_off()
    trade.set(xlabel="a hang is known after (s)", ylabel="false alarms/h, by loss (×: predicted)")
    seen.set(xlabel="lost each way", ylabel="slow ones failed (%)", ylim=(-2.0, 102.0))
    tail.set(xlabel="lost each way", ylabel="e2e p99.9 (s)")
    tail.set_ylim(bottom=0.0)
    for panel in (seen, tail):
        panel.set_xticks(result.settings, [f"{loss:g}" for loss in result.settings])
    legend_above(figure, trade)
    return compact_svg(figure, result.study)


STUDY = Study(
    name="failover",
    title="Failover: how soon failures are known against false alarms, by messages lost",
    plans={
        "small": Plan(losses=(0.0, 0.05), replicas=10, duration_s=90.0, seeds=2),
        "full": Plan(losses=(0.0, 0.02, 0.05), replicas=10, duration_s=360.0, seeds=5),
    },
    run=run,
    draw=draw,
    finding=finding,
)
