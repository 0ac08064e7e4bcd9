"""What is claimed of admission policies: what those that are let in get, when more come than can be served."""

from __future__ import annotations

from functools import partial

from experiments.effects.effect import Effect
from experiments.effects.mixes import Fields, Stream, completed_percent, in_time_percent, mix, quantile_ms
from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec
from policies import NoBatching, QueueLimit
from policies.admission.brownout import Brownout
from policies.admission.dagor import Dagor
from policies.admission.deadline_feasible import DeadlineFeasible
from policies.admission.gradient_concurrency import GradientConcurrency
from policies.admission.priority_shedding import PriorityShedding
from policies.admission.token_bucket import Tier, TokenBucket
from traces import Trace

FLEET = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0)), replicas=10, binding="late",
    batching=NoBatching(), max_inflight_batches=1,
)  # fmt: skip
"""Ten servers that take 100 ms for each request: 100 of them a second."""
TOKENS = FleetSpec(
    engine=EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.01, per_prefill_token_s=0.0001, per_decode_s=0.002),
        kv=KvSpec(blocks=20_000, block_tokens=16), async_scheduling=False,
    ),
    replicas=2,
)  # fmt: skip
"""Two replicas that serve token by token, about 900 tokens a second together."""


def flood(seed: int) -> Trace:
    """One tenant asks for twice what there is, others for a fifth of it."""
    return mix(
        seed, Stream(name="flood", rate_per_s=200.0, until_s=10.0),
        Stream(name="others", rate_per_s=20.0, until_s=15.0),
    )  # fmt: skip


def overload(seed: int) -> Trace:
    """Half as much again as can be served, for twenty seconds."""
    return mix(seed, Stream(name="all", rate_per_s=150.0, until_s=20.0))


def deadlines(seed: int) -> Trace:
    """Likewise, each of which is of no use after half a second."""
    return mix(seed, Stream(name="all", rate_per_s=150.0, until_s=20.0, deadline_s=0.5))


def of_two_priorities(seed: int) -> Trace:
    """Likewise, a third of which is urgent; of many users."""
    common: Fields = {"until_s": 20.0, "users": 300, "deadline_s": 1.0}
    return mix(
        seed, Stream(name="urgent", rate_per_s=50.0, priority=3, **common),
        Stream(name="patient", rate_per_s=100.0, priority=0, **common),
    )  # fmt: skip


def long_answers(seed: int) -> Trace:
    """More output tokens than can be generated, for half a minute."""
    return mix(
        seed, Stream(name="all", rate_per_s=8.0, until_s=30.0, prompt_tokens=(50, 150), output_tokens=(100, 300))
    )  # fmt: skip


EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="TokenBucket",
        claim="a tenant that asks for more than its rate does not delay the others",
        trace=flood,
        candidate=FLEET.replace(admission=TokenBucket(default=Tier(requests_per_s=60.0, burst_requests=20.0))),
        baseline=FLEET, against="AdmitAll", figure="e2e p99 of the others (ms)",
        read=partial(quantile_ms, share=0.99, tenant="others"), better="lower",
    ),
    Effect(
        policy="GradientConcurrency",
        claim="latency stays near that of an idle fleet under overload, with no limit to be set",
        trace=overload, candidate=FLEET.replace(admission=GradientConcurrency()), baseline=FLEET,
        against="AdmitAll", figure="e2e p99 of what completed (ms)", read=partial(quantile_ms, share=0.99),
        better="lower",
    ),
    Effect(
        policy="DeadlineFeasible",
        claim="who is let in makes its deadline: less is done in vain, and more is answered in time",
        trace=deadlines, candidate=FLEET.replace(admission=DeadlineFeasible(margin=1.1)), baseline=FLEET,
        against="AdmitAll", figure="answered by their deadlines (%)", read=completed_percent, better="higher",
    ),
    Effect(
        policy="PriorityShedding",
        claim="the urgent are served under overload, because others are refused first",
        trace=of_two_priorities,
        candidate=FLEET.replace(admission=PriorityShedding(thresholds=(1.0, 2.0, 4.0))),
        baseline=FLEET.replace(admission=QueueLimit(max_queue_depth=10)),
        against="QueueLimit", figure="urgent requests that completed (%)",
        read=partial(completed_percent, tenant="urgent"), better="higher",
    ),
    Effect(
        policy="Dagor",
        claim="the urgent are served under overload, with no load to be set at which others are refused",
        # Windows of a second are for services that get thousands of requests in one: here it is 150.
        trace=of_two_priorities, candidate=FLEET.replace(admission=Dagor(window_s=0.2)),
        baseline=FLEET.replace(admission=QueueLimit(max_queue_depth=10)),
        against="QueueLimit", figure="urgent requests that completed (%)",
        read=partial(completed_percent, tenant="urgent"), better="higher",
    ),
    Effect(
        policy="Brownout",
        claim="serving some for less holds a latency that serving all in full does not, and refuses nobody",
        trace=long_answers,
        candidate=TOKENS.replace(admission=Brownout(setpoint_s=4.0, max_output_tokens=32)), baseline=TOKENS,
        against="AdmitAll", figure="answered within 5 s (%)", read=partial(in_time_percent, within_s=5.0),
        better="higher",
    ),
)  # fmt: skip
