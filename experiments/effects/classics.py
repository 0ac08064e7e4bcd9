"""Effects of the classics, one or two in most slots, as far as no study shows them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from experiments.effects.effect import Effect
from experiments.effects.readings import (
    BUSY,
    LIGHT,
    NEAR_FULL,
    OVER,
    REPLICAS,
    SERVICE_S,
    at_load,
    attained_percent,
    cached_percent,
    device_seconds,
    e2e_mean_ms,
    e2e_p99_ms,
    failed_percent,
    in_time_percent,
    missed_percent,
    throughput_per_s,
    token_by_token,
    ttft_mean_ms,
    whole_requests,
)
from experiments.serving import stages_of
from experiments.studies.failing import FailingEngine
from experiments.studies.scoring import engine as scorer
from experiments.studies.scoring import work_cost
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from fleet.pools import ModelPolicies, PoolSpec
from policies import (
    ABTest,
    AdmitAll,
    AlwaysTrust,
    BlueGreen,
    BusyScorer,
    ByCapability,
    CircuitBreaker,
    ClipperAimd,
    Composed,
    ConsecutiveFailures,
    DeadlineFirst,
    EarliestDeadline,
    ExpectedDelayScorer,
    FastServe,
    FeatureFlag,
    Fifo,
    Fixed,
    FixedVariant,
    FreshFilter,
    Greedy,
    InFlightScorer,
    KvUtilizationScorer,
    LatencyTarget,
    LeastOutstanding,
    LeastWorkOracle,
    MaxScorePicker,
    NoBatching,
    NoBreaker,
    NoRetry,
    NotFullFilter,
    OutlierEjection,
    Pinned,
    PowerOfTwoChoices,
    PrefixScorer,
    Priority,
    QueueingPolicy,
    QueueLimit,
    Ramp,
    Random,
    RolloutPolicy,
    RoundRobin,
    ScalingPolicy,
    Scorer,
    ShadowTraffic,
    ShortestPredicted,
    ShortestPrompt,
    ShortestRemainingOracle,
    SoftmaxPicker,
    TargetKvUtilization,
    TargetUtilization,
    VariantsPolicy,
    VllmTokenBudget,
    WeightedRandom,
)
from traces import (
    Fault,
    FaultTrace,
    Lengths,
    Trace,
    Transform,
    choice,
    diurnal,
    merge,
    mmpp,
    poisson,
    sessions,
)

E2E_MEAN, E2E_P99 = "e2e mean (ms)", "e2e p99 (ms)"

# --- who gets it -------------------------------------------------------------------------------------------

_RANDOM = whole_requests(routing=Random())
_SPEEDS = (2.0, 2.0, 1.5, 1.5, 1.0, 0.8, 0.5, 0.3, 0.2, 0.2)
_LEASE_S = 60.0
"""Longer than a replica hangs here: nobody but the policy notices."""
_STALE_S = 0.25
"""Between two reports of a replica: five times what a request takes."""


def _heavy(seed: int) -> Trace:
    """Requests of which few are much more work than the others."""
    trace = at_load(0.7, seed)
    works = [1.0 if number % 20 else 10.0 for number in range(len(trace))]
    mean = sum(works) / len(works)
    work = pa.array([one / mean for one in works])
    return trace.derived(trace.table.append_column("work", work), Transform("heavy work", {"seed": seed}))


def _composed(*scorers: Scorer, **fields: Any) -> Composed:
    return Composed(scorers=[(1.0, scorer) for scorer in scorers], **fields)


def _stale(routing: Composed) -> FleetSpec:
    return whole_requests(routing=routing, report_interval_s=_STALE_S)


def _two_speeds(routing: Composed) -> FleetSpec:
    """A fast replica in each four, and three that take four times as long."""
    slow = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0, jitter_cv=1.0))
    fast = EmulatedEngine(latency=AffineLatency(base_s=0.025, per_item_s=0.0, jitter_cv=1.0))
    return FleetSpec(
        pools={
            "fast": PoolSpec(model="m", engine=fast, replicas=3, routing=routing),
            "slow": PoolSpec(model="m", engine=slow, replicas=7, routing=routing),
        },
        batching=NoBatching(),
        max_inflight_batches=1,
    )


def _for_model(seed: int, *, load: float = 0.6) -> Trace:
    return at_load(load, seed).assign(model="m")


def _uneven(seed: int) -> Trace:
    """Half of what replicas of `_SPEEDS` can serve; the fastest takes `SERVICE_S`."""
    return at_load(0.5 * sum(_SPEEDS) / max(_SPEEDS) / REPLICAS, seed)


def _conversations(seed: int) -> Trace:
    return sessions(
        1.0, 60.0, seed, turns=5.0, think_s=4.0, prompt_tokens=Lengths.lognormal(200, 1.0),
        output_tokens=Lengths.lognormal(60, 0.5), system_tokens=256, block_tokens=16,
    )  # fmt: skip


def _questions(rate_per_s: float, requests: int, seed: int) -> Trace:
    return poisson(
        rate_per_s, requests / rate_per_s, seed,
        prompt_tokens=Lengths.lognormal(400, 1.0), output_tokens=Lengths.lognormal(100, 1.5),
    )  # fmt: skip


def _memory(rate_per_s: float, requests: int, seed: int) -> Trace:
    """Prompts of very different lengths, so that requests take very different parts of the cache."""
    return poisson(
        rate_per_s, requests / rate_per_s, seed,
        prompt_tokens=Lengths.lognormal(400, 2.0), output_tokens=Lengths.lognormal(60, 0.5),
    ).first(requests=requests)  # fmt: skip


def _hang(_: int) -> FaultTrace:
    return FaultTrace(faults=(Fault(at_s=3.0, kind="hang", replica="replica/0", for_s=8.0),))


_SMALL_CACHE: dict[str, Any] = {"blocks": 400, "replicas": 4, "report_interval_s": 0.05}

_ROUTING = (
    Effect(
        policy="RoundRobin", claim="waiting is shorter than with random splitting: arrivals are more regular",
        trace=BUSY, candidate=whole_requests(routing=RoundRobin()), baseline=_RANDOM, against="Random",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="LeastOutstanding", claim="joining the shortest line gives the shortest wait there is at equal servers",
        trace=BUSY, candidate=whole_requests(routing=LeastOutstanding()),
        baseline=whole_requests(routing=RoundRobin()), against="RoundRobin",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="PowerOfTwoChoices", claim="two choices shorten the longest queues exponentially against one",
        trace=NEAR_FULL, candidate=whole_requests(routing=PowerOfTwoChoices()), baseline=_RANDOM, against="Random",
        figure=E2E_P99, read=e2e_p99_ms, better="lower",
    ),
    Effect(
        policy="WeightedRandom", claim="shares in proportion to speed keep slow replicas from being overloaded",
        trace=_uneven, candidate=whole_requests(routing=WeightedRandom(), weights=_SPEEDS),
        baseline=whole_requests(routing=Random(), weights=_SPEEDS), against="Random",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="LeastWorkOracle", claim="with heavy tails, counting work beats counting requests",
        trace=_heavy, candidate=whole_requests(cv=0.0, routing=LeastWorkOracle()),
        baseline=whole_requests(cv=0.0, routing=LeastOutstanding()), against="LeastOutstanding",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="Composed", claim="a filter, a scorer and a picker together make a load-aware router",
        trace=BUSY, candidate=whole_requests(routing=_composed(InFlightScorer(), filters=[NotFullFilter()])),
        baseline=_RANDOM, against="Random", figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="InFlightScorer", claim="prefers short queues",
        trace=BUSY, candidate=whole_requests(routing=_composed(InFlightScorer())),
        baseline=whole_requests(routing=_composed()), against="no scorer",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="MaxScorePicker", claim="takes the best of the candidates where the score is exact",
        trace=BUSY, candidate=whole_requests(routing=_composed(InFlightScorer(), picker=MaxScorePicker())),
        baseline=whole_requests(routing=_composed(InFlightScorer(), picker=SoftmaxPicker(temperature=0.5))),
        against="SoftmaxPicker", figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="SoftmaxPicker", claim="does not herd: with stale scores, chance beats taking the best",
        trace=BUSY, candidate=_stale(_composed(BusyScorer(), picker=SoftmaxPicker(temperature=0.3))),
        baseline=_stale(_composed(BusyScorer(), picker=MaxScorePicker())), against="MaxScorePicker",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="BusyScorer", claim="stays away from replicas that are busy, such as slow ones",
        trace=_uneven,
        candidate=whole_requests(
            routing=_composed(BusyScorer(), picker=SoftmaxPicker(temperature=0.3)), weights=_SPEEDS
        ),
        baseline=whole_requests(routing=Random(), weights=_SPEEDS), against="Random",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="NotFullFilter", claim="leaves out who has no room, so that nobody waits beside an idle replica",
        trace=BUSY, candidate=whole_requests(routing=_composed(filters=[NotFullFilter()])),
        baseline=whole_requests(routing=_composed()), against="no filter",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="FreshFilter", claim="leaves out who has not reported lately, such as a replica that hangs",
        trace=LIGHT, faults=_hang,
        candidate=whole_requests(
            routing=_composed(filters=[FreshFilter(max_age_s=1.0)]), health=AlwaysTrust(), lease_s=_LEASE_S
        ),
        baseline=whole_requests(routing=_composed(), health=AlwaysTrust(), lease_s=_LEASE_S),
        against="no filter",
        figure=E2E_P99, read=e2e_p99_ms, better="lower",
    ),
    Effect(
        policy="ExpectedDelayScorer", claim="reckons in time where replicas differ in speed",
        trace=_for_model, candidate=_two_speeds(_composed(ExpectedDelayScorer())),
        baseline=_two_speeds(_composed(InFlightScorer())), against="InFlightScorer",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="KvUtilizationScorer", claim="prefers replicas with room in the key-value cache",
        trace=partial(_memory, 26.0, 1000),
        candidate=token_by_token(routing=_composed(KvUtilizationScorer()), **_SMALL_CACHE),
        baseline=token_by_token(routing=_composed(), **_SMALL_CACHE), against="no scorer",
        figure="TTFT mean (ms)", read=ttft_mean_ms, better="lower",
        note="not shown on seeds that it was not tried out with",
    ),
    Effect(
        policy="PrefixScorer", claim="finds the conversation's earlier turns in the cache",
        trace=_conversations, candidate=token_by_token(routing=_composed(PrefixScorer()), replicas=4),
        baseline=token_by_token(routing=_composed(InFlightScorer()), replicas=4), against="InFlightScorer",
        figure="prompt tokens cached (%)", read=cached_percent, better="higher",
    ),
)  # fmt: skip

# --- who gets in, and who goes first -----------------------------------------------------------------------

_OBJECTIVE_S = 0.5
_ONE_QUEUE = whole_requests(binding="late")


def _in_time(run: Run) -> float:
    return in_time_percent(run, _OBJECTIVE_S)


def _deadlines(seed: int) -> Trace:
    """Half of the requests are in a hurry."""
    hurried = at_load(0.5, seed, requests=1500).with_deadline(0.2)
    patient = at_load(0.5, 1000 + seed, requests=1500).with_deadline(3.0)
    return merge(hurried, patient)


def _priorities(seed: int) -> Trace:
    return at_load(0.95, seed).assign(priority=choice({"0": 0.8, "1": 0.2}), seed=seed)


def _of_priority(run: Run, priority: int) -> float:
    rows = run.records.filter(pc.equal(run.records["priority"], priority))
    return 1000.0 * float(pc.mean(rows["e2e_s"]).as_py())


def _texts(seed: int) -> Trace:
    return poisson(14.0, 100.0, seed, prompt_tokens=Lengths.lognormal(512, 1.5))


def _scoring(queueing: QueueingPolicy) -> FleetSpec:
    """One replica whose time is that of the text's length."""
    return FleetSpec(
        engine=scorer("llama-3.1-8b", "a100"), binding="late", queueing=queueing,
        batching=NoBatching(), max_inflight_batches=1,
    )  # fmt: skip


def _kinds(seed: int) -> Trace:
    """Short prompts with short answers, and long ones with long answers."""
    short = poisson(10.0, 60.0, seed, prompt_tokens=100, output_tokens=Lengths.lognormal(16, 0.3))
    long = poisson(2.5, 60.0, 1000 + seed, prompt_tokens=800, output_tokens=Lengths.lognormal(400, 0.3))
    return merge(short, long)


def _two_objectives(seed: int) -> Trace:
    """Half of the answers are wanted in 4 s, half in 60 s."""
    soon = _questions(6.0, 300, seed).with_slo(e2e_s=4.0)
    late = _questions(6.0, 300, 1000 + seed).with_slo(e2e_s=60.0)
    return merge(soon, late)


_FEW = 16
"""Sequences at a time, so that the others wait and their order matters."""

_ORDER = (
    Effect(
        policy="QueueLimit", claim="under overload, refusing early keeps those that are let in within the objective",
        trace=OVER, candidate=whole_requests(admission=QueueLimit(max_queue_depth=50)),
        baseline=whole_requests(admission=AdmitAll()), against="AdmitAll",
        figure=f"answered within {_OBJECTIVE_S:g} s (%)", read=_in_time, better="higher",
    ),
    Effect(
        policy="EarliestDeadline", claim="meets more deadlines than the order of arrival",
        trace=_deadlines, candidate=_ONE_QUEUE.replace(queueing=EarliestDeadline()),
        baseline=_ONE_QUEUE.replace(queueing=Fifo()), against="Fifo",
        figure="deadlines missed (%)", read=missed_percent, better="lower",
    ),
    Effect(
        policy="Priority", claim="those of high priority hardly wait, however long the queue is",
        trace=_priorities, candidate=_ONE_QUEUE.replace(queueing=Priority()),
        baseline=_ONE_QUEUE.replace(queueing=Fifo()), against="Fifo",
        figure="e2e mean of priority 1 (ms)", read=partial(_of_priority, priority=1), better="lower",
    ),
    Effect(
        policy="ShortestPrompt", claim="shortest first has the least mean wait of all orders without preemption",
        trace=_texts, candidate=_scoring(ShortestPrompt()), baseline=_scoring(Fifo()), against="Fifo",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="DeadlineFirst", claim="more answers are in time where some can wait and some cannot",
        trace=_two_objectives, candidate=token_by_token(iteration=DeadlineFirst(max_sequences=_FEW)),
        baseline=token_by_token(iteration=VllmTokenBudget(max_sequences=_FEW)), against="VllmTokenBudget",
        figure="objective met (%)", read=attained_percent, better="higher",
    ),
    Effect(
        policy="FastServe", claim="preemption at token level ends the blocking by long answers: a lower mean latency",
        trace=_kinds, candidate=token_by_token(iteration=FastServe(max_sequences=_FEW)),
        baseline=token_by_token(iteration=VllmTokenBudget(max_sequences=_FEW)), against="VllmTokenBudget",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
        note="not shown on seeds that it was not tried out with",
    ),
    Effect(
        policy="ShortestPredicted", claim="ranking by predicted length ends head-of-line blocking, and lowers the mean",
        trace=_kinds, candidate=token_by_token(iteration=ShortestPredicted(max_sequences=_FEW)),
        baseline=token_by_token(iteration=VllmTokenBudget(max_sequences=_FEW)), against="VllmTokenBudget",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
    Effect(
        policy="ShortestRemainingOracle", claim="the least mean latency of all disciplines at a single server",
        trace=_kinds, candidate=token_by_token(iteration=ShortestRemainingOracle(max_sequences=_FEW)),
        baseline=token_by_token(iteration=VllmTokenBudget(max_sequences=_FEW)), against="VllmTokenBudget",
        figure=E2E_MEAN, read=e2e_mean_ms, better="lower",
    ),
)  # fmt: skip

# --- how many together -------------------------------------------------------------------------------------

_BATCH = EmulatedEngine(latency=AffineLatency(base_s=0.020, per_item_s=0.001))
_BATCH_OBJECTIVE_S = 0.1


def _batched(seed: int) -> Trace:
    """Five times what one replica serves one by one."""
    return poisson(250.0, 12.0, seed)


def _batch_in_time(run: Run) -> float:
    return in_time_percent(run, _BATCH_OBJECTIVE_S)


_BATCHING = (
    Effect(
        policy="Greedy", claim="batches multiply throughput where a batch costs little more than one request",
        trace=_batched, candidate=FleetSpec(engine=_BATCH, batching=Greedy(max_batch=16)),
        baseline=FleetSpec(engine=_BATCH, batching=NoBatching()), against="NoBatching",
        figure="throughput (1/s)", read=throughput_per_s, better="higher",
    ),
    Effect(
        policy="ClipperAimd", claim="finds the batch size by itself that serves the load within the objective",
        trace=_batched, candidate=FleetSpec(engine=_BATCH, batching=ClipperAimd(objective_s=0.05)),
        baseline=FleetSpec(engine=_BATCH, batching=NoBatching()), against="NoBatching",
        figure=f"answered within {_BATCH_OBJECTIVE_S:g} s (%)", read=_batch_in_time, better="higher",
    ),
)  # fmt: skip

# --- what fails --------------------------------------------------------------------------------------------

_MODEL = "m"


def _one_ill(**fields: Any) -> FleetSpec:
    """Nine replicas that are well, and one that fails whatever it gets."""
    latency = AffineLatency(base_s=0.0, per_item_s=SERVICE_S, jitter_cv=1.0)
    parts = {"breaker": fields.pop("breaker", NoBreaker())}
    return FleetSpec(
        pools={
            "well": PoolSpec(model=_MODEL, engine=EmulatedEngine(latency=latency), replicas=9, **parts),
            "ill": PoolSpec(model=_MODEL, engine=FailingEngine(latency=latency, failing=1.0), **parts),
        },
        batching=NoBatching(), max_inflight_batches=1, retry=NoRetry(), **fields,
    )  # fmt: skip


_FAILING = (
    Effect(
        policy="CircuitBreaker", claim="a replica that fails what it gets is not asked again, trials apart",
        trace=partial(_for_model, load=0.5), candidate=_one_ill(breaker=CircuitBreaker()), baseline=_one_ill(),
        against="NoBreaker", figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="OutlierEjection", claim="a host that fails again and again is taken out of the load balancer's set",
        trace=partial(_for_model, load=0.5), candidate=_one_ill(breaker=OutlierEjection()), baseline=_one_ill(),
        against="NoBreaker", figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="ConsecutiveFailures", claim="a replica that misses its probes gets no new work",
        trace=LIGHT, faults=_hang,
        candidate=whole_requests(routing=Random(), health=ConsecutiveFailures(), lease_s=_LEASE_S),
        baseline=whole_requests(routing=Random(), health=AlwaysTrust(), lease_s=_LEASE_S), against="AlwaysTrust",
        figure=E2E_P99, read=e2e_p99_ms, better="lower",
    ),
)  # fmt: skip

# --- how many replicas -------------------------------------------------------------------------------------


def _swings(seed: int) -> Trace:
    """A rate that swings between a tenth and seven tenths of what ten replicas serve, as between night and day."""
    return diurnal(80.0, 0.75, 30.0, 60.0, seed)


_ELASTIC: dict[str, Any] = {"min_replicas": 1, "max_replicas": 2 * REPLICAS, "provision_s": 1.0}


def _scaled(scaling: ScalingPolicy, **fields: Any) -> FleetSpec:
    return whole_requests(scaling=scaling, **(_ELASTIC | fields))


def _llm_swings(seed: int) -> Trace:
    return mmpp((1.0, 8.0), 20.0, 60.0, seed, prompt_tokens=400, output_tokens=Lengths.lognormal(100, 0.5))


def _llm_scaled(scaling: ScalingPolicy) -> FleetSpec:
    return token_by_token(scaling=scaling, replicas=2, min_replicas=1, max_replicas=8, provision_s=1.0)


_SCALING = (
    Effect(
        policy="TargetUtilization", claim="holds devices for the load that there is, and not for the peak",
        trace=_swings,
        candidate=_scaled(TargetUtilization(average_s=5.0, down_stabilization_s=10.0)),
        baseline=_scaled(Fixed()), against="Fixed, at the peak's need",
        figure="device seconds", read=device_seconds, better="lower",
    ),
    Effect(
        policy="LatencyTarget", claim="keeps an objective of latency by learning what load a replica can take",
        trace=_swings, candidate=_scaled(LatencyTarget(target_s=_OBJECTIVE_S), replicas=4),
        baseline=_scaled(Fixed(), replicas=4), against="Fixed, at the mean's need",
        figure=f"answered within {_OBJECTIVE_S:g} s (%)", read=_in_time, better="higher",
    ),
    Effect(
        policy="TargetKvUtilization", claim="a replica is busy with one sequence as with a hundred: memory tells load",
        trace=_llm_swings, candidate=_llm_scaled(TargetKvUtilization(average_s=5.0, down_stabilization_s=10.0)),
        baseline=_llm_scaled(TargetUtilization(average_s=5.0, down_stabilization_s=10.0)),
        against="TargetUtilization", figure="device seconds", read=device_seconds, better="lower",
    ),
)  # fmt: skip

# --- which version, which variant --------------------------------------------------------------------------


def _versions(rollout: RolloutPolicy, *, failing: float = 0.3) -> FleetSpec:
    """An old version that is well, and a new one that fails some of what it gets."""
    latency = AffineLatency(base_s=0.0, per_item_s=SERVICE_S, jitter_cv=0.5)
    return FleetSpec(
        replicas=4, batching=NoBatching(), retry=NoRetry(), models={_MODEL: ModelPolicies(rollout=rollout)},
        pools={
            "old": PoolSpec(model=_MODEL, version="1", engine=FailingEngine(latency=latency, failing=0.01)),
            "new": PoolSpec(model=_MODEL, version="2", engine=FailingEngine(latency=latency, failing=failing)),
        },
    )  # fmt: skip


def _users(seed: int) -> Trace:
    return poisson(20.0, 60.0, seed).assign(model=_MODEL)


def _until_verdict(run: Run) -> float:
    """Requests that came before the test had its verdict; all of them, where it had none."""
    decided = [stage.time_s for stage in stages_of(run, _MODEL) if "better" in stage.stage]
    at_s = decided[0] if decided else float("inf")
    return float(pc.sum(pc.less(run.records["arrived_s"], at_s)).as_py() or 0)


def _variants(policy: VariantsPolicy) -> FleetSpec:
    """A small variant that can do some things, and a large one at five times the price that can do all."""
    small = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.05))
    large = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.10))
    return FleetSpec(
        batching=NoBatching(), models={_MODEL: ModelPolicies(variants=policy)},
        pools={
            "small": PoolSpec(
                model=_MODEL, variant="small", engine=small, replicas=4, cost_per_hour=1.0, capabilities=("chat",)
            ),
            "large": PoolSpec(
                model=_MODEL, variant="large", engine=large, replicas=4, cost_per_hour=5.0,
                capabilities=("chat", "vision"),
            ),
        },
    )  # fmt: skip


def _asking(seed: int) -> Trace:
    return poisson(20.0, 60.0, seed).assign(
        model=_MODEL, capability=choice({"chat": 0.8, "vision": 0.2}), seed=seed
    )


def _work_cost(run: Run) -> float:
    """In 10⁻⁶ of the unit of prices."""
    return 1e6 * work_cost(run)


_NEW_FOR_ALL = _versions(Pinned(version="2"))

_ROLLOUT = (
    Effect(
        policy="BlueGreen", claim="a new version that fails is taken back in one switch",
        trace=_users, candidate=_versions(BlueGreen(at_s=5.0, watch_s=60.0)), baseline=_NEW_FOR_ALL,
        against="the new version for all", figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="Ramp", claim="going up in stages exposes fewer to a bad version than switching at once",
        trace=_users, candidate=_versions(Ramp(stage_s=10.0)),
        baseline=_versions(BlueGreen(at_s=5.0, watch_s=60.0)), against="BlueGreen",
        figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="FeatureFlag", claim="only those who are given the feature meet its faults",
        trace=_users, candidate=_versions(FeatureFlag(percentage=10.0)), baseline=_NEW_FOR_ALL,
        against="the new version for all", figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="ShadowTraffic", claim="the new version answers real requests, and its faults reach nobody",
        trace=_users, candidate=_versions(ShadowTraffic()), baseline=_NEW_FOR_ALL,
        against="the new version for all", figure="failed (%)", read=failed_percent, better="lower",
    ),
    Effect(
        policy="ABTest", claim="a test that may be looked at after every request stops sooner than one of fixed size",
        trace=_users, candidate=_versions(ABTest(effect=0.2)),
        baseline=_versions(ABTest(effect=0.2, min_requests=500)), against="a first look at 500 of each",
        figure="requests until the verdict", read=_until_verdict, better="lower",
    ),
    Effect(
        policy="ByCapability", claim="who needs little is served by what is cheap",
        trace=_asking, candidate=_variants(ByCapability()), baseline=_variants(FixedVariant(variant="large")),
        against="FixedVariant, large", figure="work cost (10⁻⁶ $)", read=_work_cost, better="lower",
    ),
)  # fmt: skip

_SEEDS = 10
"""What is corrected over a hundred claims needs more than five, unless nothing varies."""

_ALL = (*_ROUTING, *_ORDER, *_BATCHING, *_FAILING, *_SCALING, *_ROLLOUT)
EFFECTS: tuple[Effect, ...] = tuple(replace(effect, seeds=_SEEDS) for effect in _ALL)
