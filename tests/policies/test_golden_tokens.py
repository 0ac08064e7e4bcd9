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
    InFlightScorer,
    KvUtilizationScorer,
    NoBatching,
    Policy,
    PrefixScorer,
    QueueScorer,
)
from tests.policies.makers import SHIPPED
from tests.policies.test_golden import digest_of
from traces import Trace, load_trace

TOKEN_SLOTS = {"iteration", "eviction"}
COVERED = [
    *(cls for cls in SHIPPED if cls.slot in TOKEN_SLOTS or cls.slot == "routing"),
    PrefixScorer,
    KvUtilizationScorer,
    QueueScorer,
    *(cls for cls in SHIPPED if cls.slot == "queueing"),
]

# fmt: off
EXPECTED: dict[str, tuple[float | str, ...]] = {
    # mean TTFT ms, p99 TTFT ms, mean TPOT ms, p99 longest gap ms, cached %, preemptions, met objectives %, digest
    "BatchFilling": (140.6, 923.5, 16.7, 386.0, 48.2, 36, 60.0, 'ae04a470'),
    "BoundedLoadConsistentHash": (168.3, 1280.7, 16.1, 582.1, 55.9, 44, 63.3, 'cd7b4953'),
    "CheapestMeetingDelay": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "Composed": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7, 'b2546257'),
    "ConsistentHash": (194.0, 1419.0, 16.4, 663.9, 58.7, 47, 63.3, 'ae69f36a'),
    "DeadlineFirst": (126.4, 914.0, 16.2, 320.0, 46.4, 36, 60.0, 'ec76bf29'),
    "FairTokens": (125.3, 980.6, 16.0, 270.8, 46.3, 39, 60.0, '6f44ada2'),
    "FastServe": (47.7, 121.9, 18.8, 1078.4, 46.6, 70, 60.0, '21efeb69'),
    "Gdsf": (144.6, 958.7, 15.7, 173.3, 47.2, 43, 60.0, 'f8c825aa'),
    "GradualShift": (140.2, 968.1, 16.1, 233.6, 48.8, 52, 60.3, '53680c5c'),
    "JoinIdleQueue": (144.8, 1126.8, 16.0, 207.8, 44.6, 40, 59.7, 'db127a91'),
    "KvCost": (138.8, 1251.3, 16.3, 525.1, 50.9, 52, 60.0, '44eb7e9b'),
    "LeastOutstanding": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "LeastTokens": (142.6, 984.7, 16.5, 358.8, 44.3, 58, 59.3, '662418b5'),
    "LeastWorkOracle": (140.4, 1140.5, 16.1, 344.0, 46.8, 48, 60.3, '6c61c804'),
    "Lfu": (147.5, 958.7, 15.8, 173.3, 40.9, 43, 60.0, '5da3dfff'),
    "LlmDDefault": (134.0, 977.7, 17.3, 429.9, 56.6, 52, 60.0, 'c57f38f6'),
    "Lru": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "NeverQueue": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "OldestFirst": (145.1, 958.7, 15.8, 173.3, 46.4, 43, 60.0, 'f8c825aa'),
    "Orca": (11778.7, 19758.6, 9.5, 9.6, 46.1, 0, 9.7, '56c33b61'),
    "PeakEwma": (150.8, 1075.1, 15.9, 185.4, 45.8, 37, 61.0, 'f69cb138'),
    "PowerOfTwoChoices": (140.6, 999.2, 16.2, 377.6, 43.4, 52, 60.0, 'db04ce37'),
    "Preble": (132.8, 913.9, 16.1, 252.9, 56.6, 49, 59.7, 'a7e3b140'),
    "PredictedLatency": (156.8, 1585.3, 16.5, 247.7, 46.9, 59, 58.0, '890f0ca6'),
    "PrefixAffinity": (143.6, 1042.7, 16.3, 383.3, 56.5, 54, 59.7, '0c8650fb'),
    "PrequalHotCold": (163.2, 1398.2, 16.9, 371.4, 46.9, 52, 59.0, '1e8ab493'),
    "PriorityPreemptive": (131.2, 1003.2, 16.2, 399.7, 46.2, 61, 59.7, 'dc2c9a4a'),
    "PriorityTiers": (155.0, 1518.2, 16.1, 303.7, 45.5, 45, 60.0, 'ba7e1e93'),
    "Random": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7, 'b2546257'),
    "RoundRobin": (142.7, 1044.6, 16.2, 363.4, 45.7, 50, 60.0, 'bcc56f45'),
    "Sarathi": (126.5, 914.0, 16.2, 320.0, 46.4, 36, 60.0, 'ec76bf29'),
    "SessionAffinity": (144.6, 1126.7, 16.0, 173.2, 55.9, 43, 60.3, '1ae27145'),
    "ShortestExpectedDelay": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "ShortestPredicted": (154.9, 1317.2, 16.1, 527.5, 46.2, 48, 60.7, '951886ca'),
    "ShortestRemainingOracle": (56.7, 176.5, 17.6, 1234.1, 46.5, 59, 60.0, '74358e9c'),
    "StaticBatch": (816.4, 3308.3, 13.7, 22.7, 45.4, 1, 42.7, '6c26ff66'),
    "VllmPrefillFirst": (162.1, 1458.9, 19.8, 405.9, 46.5, 75, 57.7, '17913e03'),
    "VllmTokenBudget": (145.5, 962.0, 15.8, 173.3, 46.7, 43, 60.0, '5bba9dc5'),
    "WeightedRandom": (153.7, 1585.3, 16.2, 247.7, 45.8, 55, 59.7, 'b2546257'),
    "ZoneAware": (140.2, 935.9, 16.1, 264.0, 44.2, 48, 60.7, '0063d9ae'),
    "PrefixScorer": (146.3, 1384.1, 15.8, 210.5, 48.7, 39, 61.0, '4155439a'),
    "KvUtilizationScorer": (142.9, 1205.2, 16.0, 310.9, 44.4, 56, 61.0, '8b1582a4'),
    "QueueScorer": (142.8, 1029.9, 16.3, 261.6, 44.0, 55, 60.0, 'c56b4c27'),
    "AdaptiveLifo": (822.7, 5232.4, 11.6, 66.5, 47.4, 0, 73.3, '904e48d7'),
    "CoDel": (134.2, 778.4, 10.7, 70.2, 43.4, 0, 66.0, '6f9c8c76'),
    "DeficitRoundRobin": (763.4, 3394.3, 11.6, 73.3, 46.0, 0, 62.0, 'eacdf5e6'),
    "EarliestDeadline": (788.0, 3299.6, 11.5, 66.6, 47.0, 0, 59.7, 'eacb151e'),
    "Fifo": (788.0, 3299.6, 11.5, 66.6, 47.0, 0, 59.7, 'eacb151e'),
    "OnlineFirst": (813.6, 4291.5, 11.6, 72.3, 47.0, 0, 61.7, '308d2eac'),
    "Priority": (754.4, 3560.5, 11.6, 82.9, 46.5, 0, 63.3, '095f2c84'),
    "PriorityAgeing": (754.4, 3560.5, 11.6, 82.9, 46.5, 0, 63.3, '095f2c84'),
    "ShortestJobFirst": (782.5, 3344.3, 11.6, 69.6, 46.5, 0, 61.3, 'f717f9ec'),
    "ShortestPrompt": (743.4, 4125.3, 11.5, 75.6, 47.1, 0, 67.7, '7ce6df12'),
    "VirtualTokenCounter": (758.9, 3409.1, 11.6, 72.3, 46.2, 0, 63.0, '79fd0550'),
    "WeightedFair": (758.4, 3414.7, 11.6, 72.4, 47.0, 0, 63.0, '9122a5cf'),
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
    """The same, nine in ten of one tenant, a third urgent, a fifth offline."""
    return Trace.from_entries(
        replace(
            entry,
            request=replace(
                entry.request,
                tenant="quiet" if number % 10 == 0 else "loud",
                priority=number % 3 // 2,
                kind="batch" if number % 5 == 0 else "online",
            ),
        )
        for number, entry in enumerate(conversations())
    )


BY_WHOSE_AND_HOW_URGENT = {"FairTokens", "PriorityPreemptive", "PriorityTiers"}
"""Beside queueing policies."""


def figures(policy: Policy) -> tuple[float | str, ...]:
    told_apart = policy.slot == "queueing" or type(policy).__name__ in BY_WHOSE_AND_HOW_URGENT
    run = simulate(of_two_tenants() if told_apart else conversations(), spec_with(policy), seed=1)
    summary = run.summary
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
        digest_of(run),
    )


@pytest.mark.parametrize("cls", COVERED)
def test_a_policy_does_what_it_did(cls: type[Policy]) -> None:
    got = figures(cls())
    assert cls.__name__ in EXPECTED, f'new? paste this line: "{cls.__name__}": {got},'
    assert got[:-1] == pytest.approx(EXPECTED[cls.__name__][:-1], abs=0.11)
    assert got[-1] == EXPECTED[cls.__name__][-1], (
        f'decides otherwise; if meant, paste "{cls.__name__}": {got},'
    )


def test_every_expectation_has_a_policy() -> None:
    assert EXPECTED.keys() <= {cls.__name__ for cls in COVERED}


if __name__ == "__main__":
    for cls in COVERED:
        print(f'    "{cls.__name__}": {figures(cls())},')
