"""What is claimed of queueing policies: who waits less, and that nobody pays more for it than is said."""

from __future__ import annotations

from functools import partial

import numpy as np

from experiments.effects.effect import Effect
from experiments.effects.mixes import (
    Fields,
    Stream,
    in_time_percent,
    mean_ms,
    mix,
    quantile_ms,
    values,
)
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec
from policies import NoBatching
from policies.queueing.adaptive_lifo import AdaptiveLifo
from policies.queueing.codel import CoDel
from policies.queueing.deficit_round_robin import DeficitRoundRobin
from policies.queueing.online_first import OnlineFirst
from policies.queueing.priority_ageing import PriorityAgeing
from policies.queueing.shortest_job_first import ShortestJobFirst
from policies.queueing.virtual_token_counter import VirtualTokenCounter
from policies.queueing.weighted_fair import WeightedFair
from traces import Trace

_SERVED_S = 0.02
WHOLE = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=_SERVED_S, per_item_s=0.0)), binding="late",
    batching=NoBatching(), max_inflight_batches=1,
)  # fmt: skip
"""One server that takes 20 ms for each request: 50 of them a second."""
TOKENS = FleetSpec(
    engine=EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.01, per_prefill_token_s=0.0001, per_decode_s=0.001),
        kv=KvSpec(blocks=4_000, block_tokens=16), async_scheduling=False,
    ),
    binding="late", batching=NoBatching(), max_inflight_batches=8,
)  # fmt: skip
"""One replica that serves eight sequences token by token; the others wait in the queue."""


def bursts(seed: int) -> Trace:
    """Half as much again as can be served, for five seconds of each of two quarters of a minute."""
    calm: Fields = {"until_s": 30.0, "rate_per_s": 25.0}
    return mix(
        seed, Stream(name="calm", **calm), Stream(name="one", from_s=2.0, until_s=7.0, rate_per_s=60.0),
        Stream(name="two", from_s=17.0, until_s=22.0, rate_per_s=60.0),
    )  # fmt: skip


def urgent_crowd(seed: int) -> Trace:
    """Urgent requests take nearly all there is for twenty seconds; a few are not urgent."""
    return mix(
        seed, Stream(name="urgent", rate_per_s=48.0, until_s=40.0, priority=1),
        Stream(name="patient", rate_per_s=6.0, until_s=40.0, priority=0),
    )  # fmt: skip


def short_and_long(seed: int) -> Trace:
    """Many short answers and a few long ones, whose tenants tell them apart, at 90 % load or so."""
    common: Fields = {"until_s": 80.0, "prompt_tokens": (50, 150)}
    return mix(
        seed, Stream(name="short", rate_per_s=12.0, output_tokens=(5, 15), **common),
        Stream(name="long", rate_per_s=1.0, output_tokens=(150, 250), **common),
    )  # fmt: skip


def loud_and_quiet(seed: int) -> Trace:
    """One tenant floods the fleet for twenty seconds, another asks now and then."""
    common: Fields = {"prompt_tokens": (50, 150), "output_tokens": (10, 30)}
    return mix(
        seed, Stream(name="loud", rate_per_s=40.0, until_s=20.0, **common),
        Stream(name="quiet", rate_per_s=3.0, until_s=30.0, **common),
    )  # fmt: skip


def gold_and_free(seed: int) -> Trace:
    """Two tenants ask for more than there is, one as much as the other."""
    common: Fields = {
        "rate_per_s": 30.0,
        "until_s": 15.0,
        "prompt_tokens": (50, 150),
        "output_tokens": (10, 30),
    }
    return mix(seed, Stream(name="gold", **common), Stream(name="free", **common))


def online_and_batch(seed: int) -> Trace:
    """A heap of batch work at once, under online work that leaves it a third of the time."""
    return mix(
        seed, Stream(name="online", rate_per_s=30.0, until_s=40.0),
        Stream(name="batch", kind="batch", rate_per_s=800.0, until_s=1.0),
    )  # fmt: skip


def share_error(run: Run, until_s: float = 15.0) -> float:
    """How far the share of the gold tenant, whose weight is three of four, is from that, in percentage points."""
    ended = {tenant: int(np.sum(values(run, "ended_s", tenant) < until_s)) for tenant in ("gold", "free")}
    return abs(100.0 * ended["gold"] / sum(ended.values()) - 75.0)


_QUIET = partial(mean_ms, column="ttft_s", tenant="quiet")
_FAIR = "a tenant that floods the queue does not delay one that asks for less than its share"

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="AdaptiveLifo",
        claim="in a burst most are answered in time, because the newest are served first",
        trace=bursts, candidate=WHOLE.replace(queueing=AdaptiveLifo()), baseline=WHOLE, against="Fifo",
        figure="answered within 250 ms (%)", read=partial(in_time_percent, within_s=0.25), better="higher",
    ),
    Effect(
        policy="CoDel",
        claim="a queue that stands is held near its target: those that are served in a burst have not waited long",
        trace=bursts, candidate=WHOLE.replace(queueing=CoDel(target_s=0.02)), baseline=WHOLE,
        against="Fifo", figure="e2e p99 of what completed (ms)", read=partial(quantile_ms, share=0.99),
        better="lower",
    ),
    Effect(
        policy="PriorityAgeing",
        claim="who is not urgent does not starve while the urgent take all there is",
        trace=urgent_crowd, candidate=WHOLE.replace(queueing=PriorityAgeing(level_s=2.0)),
        baseline=WHOLE.replace(queueing={"policy": "priority"}), against="Priority",
        figure="e2e p99 of the least urgent (ms)", read=partial(quantile_ms, share=0.99, tenant="patient"),
        better="lower",
    ),
    Effect(
        policy="ShortestJobFirst",
        claim="the least mean time of all orders, as far as lengths can be told apart",
        trace=short_and_long, candidate=TOKENS.replace(queueing=ShortestJobFirst()), baseline=TOKENS,
        against="Fifo", figure="mean e2e (ms)", read=mean_ms, better="lower",
        note="not shown on seeds that it was not tried out with",
    ),
    Effect(
        policy="DeficitRoundRobin", claim=_FAIR, trace=loud_and_quiet,
        candidate=TOKENS.replace(queueing=DeficitRoundRobin(quantum_tokens=200.0)), baseline=TOKENS,
        against="Fifo", figure="mean ttft of the quiet tenant (ms)", read=_QUIET, better="lower",
    ),
    Effect(
        policy="WeightedFair",
        claim="tenants that ask for more than there is get shares of their weights",
        trace=gold_and_free, candidate=TOKENS.replace(queueing=WeightedFair(weights={"gold": 3.0})),
        baseline=TOKENS, against="Fifo", figure="error of the heavier tenant's share (percentage points)",
        read=share_error, better="lower",
    ),
    Effect(
        policy="VirtualTokenCounter", claim=_FAIR, trace=loud_and_quiet,
        candidate=TOKENS.replace(queueing=VirtualTokenCounter()), baseline=TOKENS, against="Fifo",
        figure="mean ttft of the quiet tenant (ms)", read=_QUIET, better="lower",
    ),
    Effect(
        policy="OnlineFirst",
        claim="a heap of batch work does not delay online work",
        trace=online_and_batch, candidate=WHOLE.replace(queueing=OnlineFirst(batch_share=0.1)), baseline=WHOLE,
        against="Fifo", figure="e2e p99 of online work (ms)",
        read=partial(quantile_ms, share=0.99, tenant="online"), better="lower",
    ),
)  # fmt: skip
