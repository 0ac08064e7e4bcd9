"""``fleet study online_and_batch``: what do the gaps of online work give to batch work, and what does it cost?

A day of chats, from a trough to a peak and back, and jobs of long documents that are only wanted some time. Either
each kind has replicas of its own, as many as the online work needs at its peak and the rest, or all replicas serve both
and something keeps the documents out of the way: nothing (first come, first served); a queue at the head that takes
online work first, strictly or with a share for batch work that has waited long, with more or fewer requests sent on at
a time and steps that are smaller or larger; or priorities within the replica, where a chat may take a document's place.

Question: Qiao et al., "ConServe: Harvesting GPUs for Low-Latency and High-Throughput Large Language Model Serving",
arXiv:2410.01228, 2024 (harvesting gives throughput at hardly any latency where it is fine-grained, and does not where
whole requests or large steps are in the way); Verma et al., "Large-scale Cluster Management at Google with Borg",
EuroSys 2015, section 5.2 (separate cells for the two kinds would need more machines).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import (
    CHAT_OUTPUT,
    CHAT_PROMPT,
    DOCUMENT_OUTPUT,
    DOCUMENT_PROMPT,
    engine,
)
from fleet import FleetSpec, PoolSpec, simulate
from policies import (
    Fifo,
    IterationPolicy,
    NoBatching,
    OnlineFirst,
    Priority,
    PriorityPreemptive,
    QueueingPolicy,
    VllmTokenBudget,
)
from traces import Request, Slo, Trace, Transform, diurnal, merge, poisson

REPLICAS, FOR_ONLINE = 4, 3
"""A100s, and those of them that online work has to itself where each kind has its own: what its peak takes."""
SEQUENCES = 32
"""Of a replica: so many run at once."""
ONLINE_PER_S, AMPLITUDE = 4.5, 0.8
"""Mean of the day, and by what part of it the peak is above: at the peak three replicas are at seven tenths."""
DOCUMENTS_PER_S = 3.9
"""What all replicas do of documents alone."""
JOB_EVERY_S = 60.0
"""Documents come as jobs, all of a job's at once."""
SLO = Slo(ttft_s=1.0, tpot_s=0.05)
"""Of online work."""
SMALL_STEP, LARGE_STEP = 256, 2048
"""Tokens of a step: a document's prompt takes 31 or 4 of them on average."""
BATCH = "batch"
"""Kind and model of batch work; any replica serves it, unless it has replicas of its own."""

SEPARATE, SHARED = "separate, 3 and 1", "fifo"
PRIORITY, FIRST, DUE = "priority", "online first", "online first, batch share 0.2 after 20 s"
FEW, LARGE = "online first, 8 in flight", "online first, steps of 2,048"
BOTH, TAKES = "online first, priority within", "priority within, all sent on"
BASELINE = SEPARATE
_QUEUES: Mapping[str, QueueingPolicy] = {
    PRIORITY: Priority(),
    DUE: OnlineFirst(batch_share=0.2, max_batch_wait_s=20.0),
    **dict.fromkeys((FIRST, FEW, LARGE, BOTH), OnlineFirst()),
}
CANDIDATES = (SEPARATE, SHARED, PRIORITY, FIRST, DUE, FEW, LARGE, BOTH, TAKES)
"""Queues are at the head, one for each replica, which then holds as many requests as run at once, or fewer (`in
flight`). `within`: the replica, too, goes by priority; where all is sent on, all that waits does so there, and a chat
may take the place of a document that runs."""

MEASURES = (
    Measure(name="online_ttft_p50_s", label="online: TTFT p50 (s)", better="neither", shown=False),
    Measure(name="online_ttft_p99_s", label="online: TTFT p99 (s)", better="lower"),
    Measure(name="online_tpot_p99_s", label="online: TPOT p99 (ms)", better="lower", scale=1000.0),
    Measure(name="online_good", label="online: within objectives (%)", better="higher", scale=100.0),
    Measure(name="batch_per_s", label="batch: tokens/s in the day", better="higher"),
    Measure(
        name="batch_done", label="batch: done in the day (%)", better="neither", scale=100.0, shown=False
    ),
    Measure(name="batch_device_s", label="device s a batch request", better="neither"),
    Measure(name="batch_lost", label="places lost a batch request", better="neither", shown=False),
    Measure(name="beyond", label="beyond the bound", better="neither"),
    Measure(name="busy", label="busy (%)", better="neither", scale=100.0, shown=False),
)
"""`device s a batch request`: those of the replica that online work would not need by itself. `beyond the bound`:
online requests that went, at the head, after more batch work than `OnlineFirst` lets them."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    loads: tuple[float, ...]
    """Batch work that comes, of what all replicas do of it alone."""
    day_s: float
    seeds: int
    candidates: tuple[str, ...] = CANDIDATES


def spec_of(candidate: str) -> FleetSpec:
    """The fleet of a candidate."""
    tokens = LARGE_STEP if candidate == LARGE else SMALL_STEP
    within: IterationPolicy
    if candidate in (BOTH, TAKES):
        within = PriorityPreemptive(
            max_sequences=SEQUENCES, max_step_tokens=tokens, displaces=candidate == TAKES
        )
    else:
        within = VllmTokenBudget(max_sequences=SEQUENCES, max_step_tokens=tokens)
    spec = FleetSpec(engine=engine(), replicas=REPLICAS, iteration=within, slo=SLO)
    if candidate == TAKES:
        return spec
    at_once = 8 if candidate == FEW else SEQUENCES
    spec = spec.replace(
        batching=NoBatching(), max_inflight_batches=at_once, queueing=_QUEUES.get(candidate, Fifo())
    )
    if candidate != SEPARATE:
        return spec
    return spec.replace(
        pools={
            "online": PoolSpec(replicas=FOR_ONLINE),
            BATCH: PoolSpec(model=BATCH, replicas=REPLICAS - FOR_ONLINE),
        }
    )


def traffic(load: float, day_s: float, seed: int) -> Trace:
    """A day of chats, and jobs of documents. The chats of a seed are the same at every load."""
    online = diurnal(
        ONLINE_PER_S, AMPLITUDE, day_s, day_s, seed, prompt_tokens=CHAT_PROMPT, output_tokens=CHAT_OUTPUT
    ).assign(priority=1)
    each = round(load * DOCUMENTS_PER_S * JOB_EVERY_S)
    wanted = each * math.ceil(day_s / JOB_EVERY_S)
    if not wanted:
        return online
    drawn = poisson(
        1.0, 1.5 * wanted + 50.0, seed, prompt_tokens=DOCUMENT_PROMPT, output_tokens=DOCUMENT_OUTPUT
    )
    table = drawn.first(requests=wanted).table
    jobs = {"arrived_s": JOB_EVERY_S * (np.arange(wanted) // each), "kind": [BATCH] * wanted}
    for name, values in jobs.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values))
    documents = drawn.derived(table, Transform("jobs", {"each": each, "every_s": JOB_EVERY_S}))
    return merge(online, documents.assign(model=BATCH, priority=0))


class Tally(Struct):
    """Of online requests, those that went after more batch requests than `OnlineFirst` says, on one replica's queue."""

    beyond: int = 0


def watched(queueing: QueueingPolicy, tallies: list[Tally]) -> QueueingPolicy:
    """The same policy, which also counts, by replica, how its online requests fared while they waited.

    An online request may go after one batch request more than there were online ones before it.
    """

    class Watched(type(queueing)):  # type: ignore[misc]  # the class of whichever policy it is
        def reset(self, rng: random.Random) -> None:
            super().reset(rng)
            self.tally = Tally()
            tallies.append(self.tally)
            self.taken = {"online": 0, BATCH: 0}
            self.came: dict[str, tuple[int, int]] = {}

        def push(self, request: Request, now_s: float) -> None:
            super().push(request, now_s)
            if request.kind != BATCH:
                self.came[request.id] = self.taken["online"], self.taken[BATCH]

        def pop(self, now_s: float) -> Request:
            request: Request = super().pop(now_s)
            if request.kind != BATCH:
                online, batch = self.came.pop(request.id)
                self.tally.beyond += self.taken[BATCH] - batch > self.taken["online"] - online + 1
            self.taken[request.kind] += 1
            return request

    made: QueueingPolicy = Watched(**queueing.parameters())
    return made


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    spec: FleetSpec
    seed: int
    day_s: float

    def run(self) -> dict[str, float]:
        """Its measures. It goes on until all is done; of batch work counts what was done within the day."""
        tallies: list[Tally] = []
        spec = self.spec.replace(queueing=watched(self.spec.queueing, tallies))
        run = simulate(self.trace, spec, seed=self.seed, check=False)
        records = run.records
        is_batch = records["priority"].to_numpy() == 0
        online = records.filter(pa.array(~is_batch))
        series = run.series.filter(pc.less_equal(run.series["time_s"], self.day_s))
        found = {
            "online_ttft_p50_s": float(np.median(online["ttft_s"].to_numpy())),
            "online_ttft_p99_s": float(np.percentile(online["ttft_s"].to_numpy(), 99.0)),
            "online_tpot_p99_s": float(np.nanpercentile(online["tpot_s"].to_numpy(), 99.0)),
            "online_good": float(pc.mean(online["slo_met"]).as_py()),
            "busy": float(np.nanmean(series["busy_fraction"].to_numpy())),
        }
        if is_batch.any():
            done = is_batch & (records["ended_s"].to_numpy() <= self.day_s)
            tokens = records["prompt_tokens"].to_numpy() + records["output_tokens"].to_numpy()
            lost = float(records["preemptions"].to_numpy()[is_batch].sum())
            found |= {
                "batch_per_s": float(tokens[done].sum()) / self.day_s,
                "batch_done": float(done.sum() / is_batch.sum()),
                "batch_device_s": (REPLICAS - FOR_ONLINE) * self.day_s / max(1.0, float(done.sum())),
                "batch_lost": lost / float(is_batch.sum()),
                "beyond": float(sum(tally.beyond for tally in tallies)),
            }
        return found


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each load of batch work, with the same online work."""
    if options.trace is not None:
        raise ValueError("online_and_batch: its two kinds of work are its own; --trace has no place in it")
    seeds = range(plan.seeds)
    traces = {load: [traffic(load, plan.day_s, seed) for seed in seeds] for load in plan.loads}
    jobs = {
        (load, name, seed): Job(trace=trace, spec=spec_of(name), seed=seed, day_s=plan.day_s)
        for load, of_one in traces.items()
        for name in plan.candidates
        for seed, trace in zip(seeds, of_one, strict=True)
    }
    return StudyResult(
        study="online_and_batch",
        setting="batch work (of capacity)",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(run_all("runs", jobs, options), MEASURES, BASELINE),
        workload=f"{REPLICAS} A100s, a day of {plan.day_s:g} s with {ONLINE_PER_S:g} chats/s and a peak of "
        f"{ONLINE_PER_S * (1.0 + AMPLITUDE):.3g}/s, jobs of documents every {JOB_EVERY_S:g} s; objectives TTFT "
        f"{SLO.ttft_s:g} s and TPOT {1000 * (SLO.tpot_s or 0.0):g} ms",
        traces={f"{load:g}": [trace.sha256 for trace in of_one] for load, of_one in traces.items()},
        specs={name: spec_of(name).to_dict() for name in plan.candidates},
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """What harvesting gives, what it costs online work under each way, and whether the queue's bound is held."""
    most = result.settings[-1]
    shared = [name for name in result.candidates if name != BASELINE]
    gains = {name: _gain(result, most, name) for name in shared}
    good = {name: 100.0 * result.mean(most, name, "online_good") for name in result.candidates}
    kindest = max(shared, key=good.__getitem__)
    said = [
        f"With batch work of {most:g} of the capacity, sharing gives {min(gains.values()):.2f} to "
        f"{max(gains.values()):.2f} times the batch work of {BASELINE} on the same devices.",
        f"Of the online requests {good[BASELINE]:.1f} % are within their objectives where replicas are separate; where "
        f"they are shared, {min(good[name] for name in shared):.1f} to {good[kindest]:.1f} %, the most under "
        f"{kindest}, which does {gains[kindest]:.2f} times the batch work.",
    ]
    near = [name for name in shared if _most_lost(result, name) <= 0.01]
    said.append(
        f"Within a point of separate replicas at every load: {'; '.join(near)}."
        if near
        else f"No way of sharing keeps online work within a point of what separate replicas give it; "
        f"{min(shared, key=lambda name: _most_lost(result, name))} loses least."
    )
    queues = [name for name in (FIRST, DUE, LARGE, FEW, BOTH) if name in result.candidates]
    beyond = sum(_total(result, name) for name in queues)
    said.append(
        f"Under {'; '.join(queues)}, {beyond or 'no'} online requests went after more batch requests than the queue's "
        f"bound allows, in all runs; under {SHARED} {_total(result, SHARED):,}."
    )
    return tuple(said)


def _gain(result: StudyResult, at: float, name: str) -> float:
    return result.mean(at, name, "batch_per_s") / max(1.0, result.mean(at, BASELINE, "batch_per_s"))


def _most_lost(result: StudyResult, name: str) -> float:
    """Of online work within its objectives, at the load at which this way of sharing loses most."""
    good = [
        (result.mean(at, BASELINE, "online_good"), result.mean(at, name, "online_good"))
        for at in result.settings
    ]
    return max(separate - shared for separate, shared in good)


def _total(result: StudyResult, name: str) -> int:
    """Of all runs with batch work."""
    return round(sum(value or 0.0 for one in result.curve(name, "beyond")[1] for value in one.by_seed))


def draw(result: StudyResult) -> str:
    """Online latency and attainment, and what is done of batch work, by how much of it comes."""
    panels = (
        Panel(measure="online_ttft_p99_s", label="online: TTFT p99 (s)", log=True),
        Panel(measure="online_good", label="online: within objectives (%)"),
        Panel(measure="online_tpot_p99_s", label="online: TPOT p99 (ms)", band=False),
        Panel(measure="batch_per_s", label="batch: tokens/s done in the day", band=False),
    )
    return lines(result, panels, "batch work that comes (of capacity)", x_ticks=result.settings)


STUDY = Study(
    name="online_and_batch",
    title="Online and batch work on one fleet: what the gaps give, and what it costs",
    plans={
        "small": Plan(loads=(0.0, 0.5), day_s=60.0, seeds=2),
        "full": Plan(loads=(0.0, 0.25, 0.75), day_s=240.0, seeds=5),
    },
    run=run,
    draw=draw,
    finding=finding,
)
