"""Each shipped policy that matters to serving token by token, on conversations and a cache that is too small for them.

After an intended change: `python -m tests.policies.test_golden_tokens` prints the table to paste.
"""

from functools import cache

import pytest
from msgspec.structs import replace

from fleet import FleetSpec, simulate
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec
from policies import (
    Composed,
    Fifo,
    InFlightScorer,
    KvUtilizationScorer,
    NoBatching,
    Policy,
    PrefixScorer,
    VirtualTokenCounter,
)
from tests.policies.makers import SHIPPED
from traces import Trace, load_trace

TOKEN_SLOTS = {"iteration", "eviction"}
COVERED = [
    *(cls for cls in SHIPPED if cls.slot in TOKEN_SLOTS or cls.slot == "routing"),
    PrefixScorer,
    KvUtilizationScorer,
    Fifo,
    VirtualTokenCounter,
]

# fmt: off
EXPECTED: dict[str, tuple[float, ...]] = {
    # mean TTFT ms, p99 TTFT ms, mean TPOT ms, p99 longest gap ms, cached %, preemptions, met objectives %
    "Composed": (138.9, 1546.2, 16.2, 258.0, 43.2, 45, 59.7),
    "DeadlineFirst": (126.0, 904.0, 16.1, 316.7, 44.7, 36, 60.0),
    "FastServe": (47.4, 121.3, 18.4, 1209.6, 44.4, 65, 61.0),
    "Gdsf": (127.7, 930.1, 16.0, 277.5, 44.2, 40, 60.0),
    "KvCost": (109.5, 1017.1, 16.7, 601.9, 50.5, 50, 59.7),
    "LeastOutstanding": (127.5, 930.1, 16.0, 277.5, 44.7, 40, 60.0),
    "LeastTokens": (132.7, 1506.5, 16.0, 227.1, 43.0, 41, 60.3),
    "LeastWorkOracle": (125.6, 1293.0, 16.4, 338.0, 44.3, 49, 60.7),
    "Lfu": (129.3, 930.1, 16.1, 277.5, 40.8, 40, 60.0),
    "Lru": (127.5, 930.1, 16.0, 277.5, 44.7, 40, 60.0),
    "OldestFirst": (127.9, 926.7, 16.0, 277.5, 43.3, 40, 60.0),
    "Orca": (11738.0, 19766.4, 9.5, 9.6, 44.9, 0, 9.7),
    "PowerOfTwoChoices": (124.2, 883.8, 16.2, 362.8, 42.3, 41, 60.3),
    "PrefixAffinity": (124.1, 1032.6, 16.7, 468.5, 54.0, 58, 59.3),
    "Random": (138.9, 1546.2, 16.2, 258.0, 43.2, 45, 59.7),
    "RoundRobin": (125.4, 980.0, 16.1, 288.8, 44.3, 41, 60.0),
    "Sarathi": (126.2, 904.0, 16.1, 316.7, 44.7, 36, 60.0),
    "SessionAffinity": (124.9, 925.7, 16.3, 277.3, 53.9, 43, 60.0),
    "ShortestPredicted": (157.0, 1382.6, 15.9, 520.8, 44.7, 43, 61.0),
    "ShortestRemainingOracle": (62.6, 613.0, 17.3, 1351.4, 44.6, 52, 60.0),
    "StaticBatch": (1166.6, 4159.5, 12.0, 18.0, 44.7, 0, 39.3),
    "VllmPrefillFirst": (163.7, 1462.3, 19.8, 406.0, 44.6, 75, 57.7),
    "VllmTokenBudget": (127.5, 930.1, 16.0, 277.5, 44.7, 40, 60.0),
    "WeightedRandom": (138.9, 1546.2, 16.2, 258.0, 43.2, 45, 59.7),
    "PrefixScorer": (121.1, 1226.3, 16.1, 284.0, 47.5, 47, 61.0),
    "KvUtilizationScorer": (123.3, 1020.1, 16.1, 227.8, 43.2, 50, 60.0),
    "Fifo": (774.1, 3247.3, 12.5, 98.9, 46.6, 0, 59.7),
    "VirtualTokenCounter": (742.6, 3331.2, 12.5, 98.9, 46.5, 0, 63.0),
}
# fmt: on


@cache
def conversations() -> Trace:
    """300 requests of sessions whose prompts grow, a hundred times as fast as they came."""
    trace = load_trace("chat-small").first(requests=300).scale_lengths(0.25).scale_rate(100.0)
    return trace.with_slo(ttft_s=0.3, tpot_s=0.02).with_deadline(20.0)


BASE = FleetSpec(
    engine=EmulatedLlmEngine(
        latency=AffineSteps(
            base_s=0.009, per_prefill_token_s=0.00021, per_decode_s=0.0004, per_context_token_s=3e-7
        ),
        kv=KvSpec(blocks=120, block_tokens=16, host_blocks=100),
    ),
    replicas=2,
)


def spec_with(policy: Policy) -> FleetSpec:
    if policy.slot == "scorer":
        return BASE.replace(routing=Composed(scorers=[(1.0, policy), (1.0, InFlightScorer())]))  # type: ignore[list-item]
    if policy.slot == "queueing":  # it orders what waits at the head
        return BASE.replace(queueing=policy, binding="late", max_inflight_batches=8, batching=NoBatching())
    return BASE.replace(**{policy.slot: policy})


@cache
def of_two_tenants() -> Trace:
    """The same, nine in ten of one tenant."""
    return Trace.from_entries(
        replace(entry, request=replace(entry.request, tenant="quiet" if number % 10 == 0 else "loud"))
        for number, entry in enumerate(conversations())
    )


def figures(policy: Policy) -> tuple[float, ...]:
    trace = of_two_tenants() if policy.slot == "queueing" else conversations()
    summary = simulate(trace, spec_with(policy), seed=1).summary
    return (
        *(
            round(1000 * (seconds or 0.0), 1)
            for seconds in (
                summary.ttft_s.mean,
                summary.ttft_s.p99,
                summary.tpot_s.mean,
                summary.itl_max_s.p99,
            )
        ),
        round(100 * (summary.cached_fraction or 0.0), 1),
        summary.preemptions,
        round(100 * (summary.slo_attainment or 0.0), 1),
    )


@pytest.mark.parametrize("cls", COVERED)
def test_a_policy_does_what_it_did(cls: type[Policy]) -> None:
    got = figures(cls())
    assert cls.__name__ in EXPECTED, f'new? paste this line: "{cls.__name__}": {got},'
    assert got == pytest.approx(EXPECTED[cls.__name__], abs=0.11)


def test_every_expectation_has_a_policy() -> None:
    assert EXPECTED.keys() <= {cls.__name__ for cls in COVERED}


if __name__ == "__main__":
    for cls in COVERED:
        print(f'    "{cls.__name__}": {figures(cls())},')
