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
    "Composed": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7),
    "CheapestMeetingDelay": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "DeadlineFirst": (126.4, 914.0, 16.2, 320.0, 46.4, 36, 60.0),
    "FastServe": (47.7, 121.9, 18.8, 1078.4, 46.6, 70, 60.0),
    "Gdsf": (144.6, 958.7, 15.7, 173.3, 47.2, 43, 60.0),
    "KvCost": (138.8, 1251.3, 16.3, 525.1, 50.9, 52, 60.0),
    "LeastOutstanding": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "LeastTokens": (142.6, 984.7, 16.5, 358.8, 44.3, 58, 59.3),
    "LeastWorkOracle": (140.4, 1140.5, 16.1, 344.0, 46.8, 48, 60.3),
    "Lfu": (147.5, 958.7, 15.8, 173.3, 40.9, 43, 60.0),
    "Lru": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "NeverQueue": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "OldestFirst": (145.1, 958.7, 15.8, 173.3, 46.4, 43, 60.0),
    "Orca": (11778.7, 19758.6, 9.5, 9.6, 46.1, 0, 9.7),
    "PowerOfTwoChoices": (140.6, 999.2, 16.2, 377.6, 43.4, 52, 60.0),
    "PrefixAffinity": (143.6, 1042.7, 16.3, 383.3, 56.5, 54, 59.7),
    "Random": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7),
    "RoundRobin": (142.7, 1044.6, 16.2, 363.4, 45.7, 50, 60.0),
    "Sarathi": (126.5, 914.0, 16.2, 320.0, 46.4, 36, 60.0),
    "SessionAffinity": (144.6, 1126.7, 16.0, 173.2, 55.9, 43, 60.3),
    "ShortestExpectedDelay": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "ShortestPredicted": (154.9, 1317.2, 16.1, 527.5, 46.2, 48, 60.7),
    "ShortestRemainingOracle": (56.7, 176.5, 17.6, 1234.1, 46.5, 59, 60.0),
    "StaticBatch": (816.4, 3308.3, 13.7, 22.7, 45.4, 1, 42.7),
    "VllmPrefillFirst": (162.1, 1458.9, 19.8, 405.9, 46.5, 75, 57.7),
    "VllmTokenBudget": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0),
    "WeightedRandom": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7),
    "PrefixScorer": (146.3, 1384.1, 15.8, 210.5, 48.7, 39, 61.0),
    "KvUtilizationScorer": (142.9, 1205.2, 16.0, 310.9, 44.4, 56, 61.0),
    "Fifo": (799.1, 3338.9, 12.3, 98.9, 48.3, 0, 59.7),
    "VirtualTokenCounter": (768.6, 3403.6, 12.4, 98.9, 47.8, 0, 63.0),
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
