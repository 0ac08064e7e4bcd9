"""What is claimed of iteration policies that decide whose turn it is on a replica."""

from __future__ import annotations

from functools import partial

from experiments.effects.effect import Effect
from experiments.effects.mixes import Fields, Stream, mean_ms, mix, quantile_ms
from fleet import FleetSpec
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec
from policies import VllmTokenBudget
from policies.iteration.fair_tokens import FairTokens
from policies.iteration.priority_preemptive import PriorityPreemptive
from traces import Trace

REPLICA = FleetSpec(
    engine=EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.01, per_prefill_token_s=0.0001, per_decode_s=0.001),
        kv=KvSpec(blocks=200, block_tokens=16), async_scheduling=False,
    ),
    iteration=VllmTokenBudget(max_sequences=16),
)  # fmt: skip
"""One replica with sixteen places; all that comes waits within it."""


def urgent_in_a_crowd(seed: int) -> Trace:
    """More than there is to have, of which a tenth is urgent."""
    common: Fields = {"until_s": 15.0, "prompt_tokens": (100, 300), "output_tokens": (20, 60)}
    return mix(
        seed, Stream(name="crowd", rate_per_s=18.0, **common),
        Stream(name="urgent", rate_per_s=2.0, priority=1, **common),
    )  # fmt: skip


def loud_and_quiet(seed: int) -> Trace:
    """One tenant floods the replica for fifteen seconds, another asks now and then."""
    common: Fields = {"prompt_tokens": (50, 150), "output_tokens": (10, 30)}
    return mix(
        seed, Stream(name="loud", rate_per_s=50.0, until_s=15.0, **common),
        Stream(name="quiet", rate_per_s=3.0, until_s=20.0, **common),
    )  # fmt: skip


EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="PriorityPreemptive",
        claim="urgent requests begin soon however many others wait",
        trace=urgent_in_a_crowd,
        candidate=REPLICA.replace(iteration=PriorityPreemptive(max_sequences=16)), baseline=REPLICA,
        against="VllmTokenBudget", figure="ttft p99 of urgent requests (ms)",
        read=partial(quantile_ms, share=0.99, column="ttft_s", tenant="urgent"), better="lower",
    ),
    Effect(
        policy="FairTokens",
        claim="a tenant that floods the replica does not delay one that asks for less than its share",
        trace=loud_and_quiet, candidate=REPLICA.replace(iteration=FairTokens(max_sequences=16)),
        baseline=REPLICA, against="VllmTokenBudget", figure="mean ttft of the quiet tenant (ms)",
        read=partial(mean_ms, column="ttft_s", tenant="quiet"), better="lower",
    ),
)  # fmt: skip
