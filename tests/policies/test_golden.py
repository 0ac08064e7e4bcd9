"""Each shipped policy on one small recorded surge: a change in what a policy does shows as a change of numbers.

After an intended change: `python -m tests.policies.test_golden` prints the table to paste.
"""

from functools import cache
from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from fleet.pools import MODEL_COMPONENTS
from policies import Composed, Greedy, InFlightScorer, Policy, QueueDepth, RoutingPolicy
from policies.base import SLOTS
from policies.building import build
from policies.registry import tag_field
from tests.fleets import in_slot
from tests.policies.makers import SHIPPED
from traces import Fault, FaultTrace, Trace, load_trace

# fmt: off
EXPECTED: dict[str, tuple[float | str, ...]] = {
    # completed, expired, otherwise ended, mean ms, p99 ms, GPU seconds, digest of decisions
    "ABTest": (839, 0, 0, 51.0, 120.4, 60.7, '53b1d1eb'),
    "AdaptiveLifo": (761, 0, 78, 55.3, 109.2, 30.6, 'ddc9fb2d'),
    "AdmitAll": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "AlwaysTrust": (834, 5, 0, 102.6, 231.6, 30.1, 'fec23df7'),
    "AttemptTimeout": (839, 0, 0, 82.0, 342.1, 30.6, '8f8df8aa'),
    "BatchFilling": (839, 0, 0, 125.6, 236.6, 30.9, '5cb31698'),
    "BlueGreen": (839, 0, 0, 144.5, 358.4, 61.6, '4930a66b'),
    "BoundedLoadConsistentHash": (839, 0, 0, 82.1, 213.8, 30.6, '13e8e73f'),
    "Brownout": (839, 0, 0, 78.2, 195.5, 30.6, '5021c2ea'),
    "BusyScorer": (839, 0, 0, 176.8, 513.4, 31.1, '49186b45'),
    "ByCapability": (839, 0, 0, 78.2, 201.0, 60.8, 'c3f7d225'),
    "Canary": (839, 0, 0, 75.9, 194.9, 60.8, 'ae669ac0'),
    "Cascade": (839, 0, 0, 90.6, 230.7, 60.8, '023ebb40'),
    "CheapestMeetingDelay": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "CheapestMeetingSlo": (839, 0, 0, 78.2, 201.0, 60.8, 'c3f7d225'),
    "CircuitBreaker": (790, 0, 49, 82.2, 232.9, 30.6, '615ffc8d'),
    "ClipperAimd": (839, 0, 0, 74.4, 215.4, 30.6, 'b8f1ef4f'),
    "ClockworkDeadline": (839, 0, 0, 75.7, 217.4, 30.6, '44979298'),
    "CoDel": (782, 0, 57, 144.0, 439.6, 20.7, 'c3687816'),
    "Composed": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "ConsecutiveFailures": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "ConsistentHash": (839, 0, 0, 104.6, 330.2, 30.8, '8b2e45e3'),
    "Dagor": (722, 0, 117, 65.1, 157.8, 30.6, '0d5b6108'),
    "DeadlineFeasible": (819, 1, 19, 214.6, 690.7, 20.7, '8c778126'),
    "DeficitRoundRobin": (839, 0, 0, 75.3, 214.9, 30.6, '087845d5'),
    "DegradeUnderLoad": (839, 0, 0, 141.6, 249.3, 61.7, '1dd2ae5c'),
    "EarliestDeadline": (839, 0, 0, 75.7, 217.4, 30.6, '44979298'),
    "ExpectedDelayScorer": (839, 0, 0, 79.0, 203.4, 30.6, '7285ed3e'),
    "ExponentialBackoff": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "FeatureFlag": (839, 0, 0, 53.2, 122.3, 60.7, '8b5ca5f5'),
    "Fifo": (839, 0, 0, 75.4, 220.5, 30.6, '380a249d'),
    "Fixed": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "FixedSize": (839, 0, 0, 81.9, 260.4, 38.7, '801b8607'),
    "FixedVariant": (839, 0, 0, 205.4, 378.1, 61.7, 'fb3f26c1'),
    "Fraction": (839, 0, 0, 81.9, 260.4, 38.7, '801b8607'),
    "FreshFilter": (839, 0, 0, 79.0, 203.4, 30.6, '7285ed3e'),
    "GpuUtilization": (839, 0, 0, 50.1, 130.3, 40.4, 'd4a4305a'),
    "GradientConcurrency": (832, 0, 7, 76.9, 195.5, 30.6, '63e57477'),
    "GradualShift": (839, 0, 0, 79.4, 203.4, 30.7, '36bacec5'),
    "Greedy": (839, 0, 0, 75.4, 220.5, 30.6, '380a249d'),
    "HedgeAfterPercentile": (839, 0, 0, 81.4, 222.2, 30.6, 'bc32659b'),
    "HorizontalPodAutoscaler": (839, 0, 0, 97.7, 256.5, 31.5, '005dd343'),
    "InFlightScorer": (839, 0, 0, 79.0, 203.4, 30.6, '7285ed3e'),
    "JoinIdleQueue": (839, 0, 0, 83.0, 261.7, 30.7, '3fa5f20b'),
    "KedaQueueLength": (839, 0, 0, 113.1, 739.9, 43.2, '6269f9cc'),
    "KeepAliveHistogram": (839, 0, 0, 123.3, 628.3, 28.9, 'f2435eee'),
    "KnativeConcurrency": (839, 0, 0, 64.5, 156.3, 36.0, '8a74505c'),
    "KvCost": (839, 0, 0, 78.1, 188.6, 30.6, '606d7b6c'),
    "KvUtilizationScorer": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "LatencyTarget": (839, 0, 0, 71.5, 171.4, 33.9, '321166fd'),
    "LazyDrop": (839, 0, 0, 75.4, 220.5, 30.6, '380a249d'),
    "LeastOutstanding": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "LeastTokens": (839, 0, 0, 78.5, 200.0, 30.6, '181c77dd'),
    "LeastWorkOracle": (839, 0, 0, 78.5, 200.0, 30.6, '181c77dd'),
    "LlmDDefault": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "MaxOf": (839, 0, 0, 57.7, 155.3, 38.6, '95cf518c'),
    "MaxScorePicker": (839, 0, 0, 79.0, 203.4, 30.6, '7285ed3e'),
    "NeverQueue": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "NexusEarlyDrop": (839, 0, 0, 75.4, 220.5, 30.6, '380a249d'),
    "NoBatching": (838, 1, 0, 508.8, 898.0, 31.8, 'd2f2f3bf'),
    "NoBreaker": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "NoHedge": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "NoRetry": (835, 0, 4, 75.3, 184.8, 30.6, 'ea048dbd'),
    "NoWarmPool": (839, 0, 0, 123.3, 628.3, 28.9, 'f2435eee'),
    "NotFullFilter": (839, 0, 0, 79.0, 199.0, 30.6, 'ef3c399f'),
    "OnlineFirst": (839, 0, 0, 75.4, 217.4, 30.6, 'b75eddad'),
    "OutlierEjection": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "PassiveChecks": (838, 1, 0, 104.4, 211.3, 30.3, '43acce5c'),
    "PeakEwma": (839, 0, 0, 82.7, 235.1, 30.7, 'f10386bd'),
    "PhiAccrual": (838, 1, 0, 81.3, 221.8, 30.6, '5fb39837'),
    "Pinned": (839, 0, 0, 205.4, 378.1, 61.7, 'fb3f26c1'),
    "PowerOfTwoChoices": (839, 0, 0, 84.0, 227.7, 30.6, 'fe6d9beb'),
    "Preble": (839, 0, 0, 176.4, 545.6, 30.6, 'b5f93238'),
    "PredictedLatency": (839, 0, 0, 77.6, 187.4, 30.6, '9c917d4a'),
    "Predictive": (839, 0, 0, 54.2, 148.4, 43.4, 'd87cff71'),
    "PrefixAffinity": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "PrefixScorer": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "PrequalHotCold": (839, 0, 0, 93.5, 201.5, 30.7, 'ed743e53'),
    "Priority": (839, 0, 0, 75.6, 213.0, 30.6, 'f9ee8bc8'),
    "PriorityAgeing": (839, 0, 0, 75.6, 213.0, 30.6, 'f9ee8bc8'),
    "PriorityShedding": (755, 0, 84, 61.2, 124.8, 30.6, 'b8f4414c'),
    "PriorityTiers": (839, 0, 0, 79.9, 213.7, 30.6, 'eaf13008'),
    "QueueDepth": (838, 1, 0, 210.9, 906.3, 26.6, 'f9ab2e80'),
    "QueueLimit": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "QueueScorer": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "Ramp": (839, 0, 0, 129.7, 296.5, 62.0, '9d82a729'),
    "Random": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "RateLimited": (839, 0, 0, 57.7, 155.3, 38.6, '95cf518c'),
    "RayServeBatch": (839, 0, 0, 88.5, 252.7, 30.7, '3f146a45'),
    "RetryBudget": (835, 0, 4, 75.3, 184.8, 30.6, 'ea048dbd'),
    "RoundRobin": (839, 0, 0, 78.3, 213.2, 30.6, 'aa1eb0fd'),
    "ScaleToZero": (839, 0, 0, 123.3, 628.3, 28.9, 'f2435eee'),
    "Scheduled": (590, 249, 0, 1552.8, 2560.4, 12.6, '7c9bdb28'),
    "SessionAffinity": (839, 0, 0, 131.5, 371.3, 30.9, '0adfab80'),
    "ShadowTraffic": (839, 0, 0, 78.2, 201.0, 60.8, 'e28b685f'),
    "ShortestExpectedDelay": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "ShortestJobFirst": (839, 0, 0, 75.3, 214.9, 30.6, '7020b2c6'),
    "ShortestPrompt": (839, 0, 0, 75.6, 213.0, 30.6, 'f9ee8bc8'),
    "SoftmaxPicker": (839, 0, 0, 78.9, 203.4, 30.6, '63a48978'),
    "SquareRootStaffing": (839, 0, 0, 41.7, 98.6, 50.7, 'ac114f12'),
    "Stabilized": (838, 1, 0, 212.3, 906.3, 25.6, '9a6c03bd'),
    "SurgeSlope": (839, 0, 0, 123.3, 628.3, 29.4, '6ebc53ae'),
    "SymphonyDeferred": (832, 4, 3, 639.1, 1618.8, 32.4, 'a8efa7ef'),
    "TargetKvUtilization": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "TargetOngoingRequests": (839, 0, 0, 65.6, 161.0, 43.5, 'f2434793'),
    "TargetTracking": (839, 0, 0, 37.8, 91.6, 56.7, '61c3a1de'),
    "TargetUtilization": (839, 0, 0, 57.7, 155.3, 38.6, '95cf518c'),
    "TiedRequests": (839, 0, 0, 75.6, 207.3, 30.6, '5437b886'),
    "TokenBucket": (533, 0, 306, 130.8, 565.2, 31.8, 'a5a20530'),
    "TokensPerSecond": (839, 0, 0, 78.2, 194.9, 30.6, '6efbfe87'),
    "TritonDynamic": (839, 0, 0, 73.6, 195.7, 30.6, '372b2199'),
    "VirtualTokenCounter": (839, 0, 0, 75.4, 220.5, 30.6, '380a249d'),
    "WeightedFair": (839, 0, 0, 75.3, 214.9, 30.6, '04ffbc32'),
    "WeightedRandom": (839, 0, 0, 90.5, 240.4, 30.7, 'dc6a82a0'),
    "Window": (839, 0, 0, 78.0, 195.6, 30.7, 'c53f808e'),
    "ZoneAware": (839, 0, 0, 80.3, 194.4, 30.6, 'e6d1ff1c'),
}
# fmt: on


@cache
def surge() -> Trace:
    """The ten seconds around the peak, 80 to 90 requests a second of uneven work and urgency.

    Half of them are of one tenant, a fifth is offline work, and each is of one of 37 sessions.
    """
    entries = [
        replace(
            entry,
            request=replace(
                entry.request,
                work=(entry.request.prompt_tokens or 0) / 64,
                priority=number % 3,
                deadline_s=1.0 + number % 5,
                tenant=f"tenant-{number % 8 * (number % 2)}",
                session=f"session-{number % 37}",
                kind="online" if number % 5 else "batch",
            ),
        )
        for number, entry in enumerate(load_trace("demo-surge").slice(25.0, 35.0))
    ]
    return Trace.from_entries(entries)


FAULTS = FaultTrace(
    faults=(
        Fault(at_s=2.0, kind="crash", replica="replica/1"),
        Fault(at_s=4.0, kind="hang", replica="replica/0", for_s=3.0),
    )
)
POOLED_FAULTS = FaultTrace(
    faults=tuple(
        replace(fault, replica=(fault.replica or "").replace("/", "/first/")) for fault in FAULTS.faults
    )
)
"""The same in the first of two pools."""
BASE = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.020, per_item_s=0.012), cold_start_s=0.8),
    replicas=3,
    min_replicas=1,
    max_replicas=6,
    batching=Greedy(max_batch=8),
    control_interval_s=0.25,
    probe_interval_s=0.25,
    probe_timeout_s=0.2,
    failed_grace_s=0.5,
)


def spec_with(policy: Policy) -> FleetSpec:
    """The fleet with this policy in its slot; a part of a router goes into a composed one."""
    if policy.slot in MODEL_COMPONENTS:
        # Two versions, or two variants, of which the second is better and slower.
        own = "version" if policy.slot == "rollout" else "variant"
        first = {own: "1", "quality": 0.6, "cost_per_hour": 1.0}
        slow = EmulatedEngine(latency=AffineLatency(base_s=0.030, per_item_s=0.020), cold_start_s=0.8)
        second = {own: "2", "quality": 0.9, "cost_per_hour": 4.0, "engine": slow}
        return BASE.replace(**in_slot(policy.slot, policy), pools={"first": first, "second": second})
    if policy.slot in SLOTS:
        # A queue is only as good as its order when requests wait in one place.
        late = policy.slot in {"queueing", "batching"}
        return BASE.replace(**in_slot(policy.slot, policy), binding="late" if late else "early")
    in_flight = [(1.0, InFlightScorer())]
    router: RoutingPolicy = {
        "filter": lambda: Composed(filters=[policy], scorers=in_flight),  # type: ignore[list-item]
        "scorer": lambda: Composed(scorers=[(1.0, policy)]),  # type: ignore[list-item]
        "picker": lambda: Composed(scorers=in_flight, picker=policy),  # type: ignore[arg-type]
    }[policy.slot]()
    return BASE.replace(routing=router)


def digest_of(run: Run) -> str:
    """Of all decisions: who was served where, in what batch, and what policies said. No times, which are rounded."""
    rows = run.records.select(["id", "outcome", "replica", "attempts", "batch_size"]).to_pylist()
    said = run.decisions.select(["slot", "subject", "decision", "choice"]).to_pylist()
    return sha256(repr([[*row.values()] for row in (*rows, *said)]).encode()).hexdigest()[:8]


def figures(policy: Policy) -> tuple[float | str, ...]:
    """Completed, expired, otherwise ended, mean and p99 in ms, GPU seconds, and the digest of all decisions."""
    spec = spec_with(policy)
    if policy.slot == "warm_pool":
        spec = spec.replace(scaling=QueueDepth(up_at=4, down_at=1))
    spec = spec.replace(**FLEETS.get(type(policy).__name__, {}))
    failing = POOLED_FAULTS if spec.pools else FAULTS
    run = simulate(surge(), spec, seed=1, faults=failing)
    summary = run.summary
    ended_otherwise = summary.submitted - summary.completed - summary.expired - summary.in_flight
    mean_ms, p99_ms = 1000 * (summary.e2e_s.mean or 0), 1000 * (summary.e2e_s.p99 or 0)
    numbers = (mean_ms, p99_ms, summary.gpu_seconds)
    rounded = (round(number, 1) for number in numbers)
    return (summary.completed, summary.expired, ended_otherwise, *rounded, digest_of(run))


PARAMETERS: dict[str, dict[str, Any]] = {  # Any: whatever a parameter's type is
    "AttemptTimeout": {"limit_s": 0.2},
    "CircuitBreaker": {
        "window": 10,
        "min_calls": 5,
        "slow_after_s": 0.15,
        "slow_threshold": 0.5,
        "open_s": 0.5,
    },
    "Canary": {"share": 0.3, "bake_s": 3.0},
    "Cascade": {"threshold": 0.4},
    "CheapestMeetingSlo": {"objective_s": 0.1},
    "ClipperAimd": {"objective_s": 0.1},
    "BlueGreen": {"at_s": 5.0},
    "DegradeUnderLoad": {"degrade_at": 2.0, "restore_at": 0.5},
    "FeatureFlag": {"percentage": 30.0},
    "HedgeAfterPercentile": {"percentile": 0.9, "min_samples": 20},
    "Pinned": {"version": "2"},
    "FixedVariant": {"variant": "2"},
    "Ramp": {"stages": (0.1, 0.5, 1.0), "stage_s": 2.0, "gates": {"latency_factor": None}},
    "AdaptiveLifo": {"interval_s": 0.01, "target_s": 0.05},
    "CoDel": {"target_s": 0.01, "interval_s": 0.02},
    "DeadlineFeasible": {"deadline_s": 0.1, "margin": 2.0},
    "DeficitRoundRobin": {"quantum_tokens": 64.0},
    "HorizontalPodAutoscaler": {
        "metrics": {"in_flight": 4.0},
        "sync_period_s": 0.25,
        "down_stabilization_s": 2.0,
    },
    "KedaQueueLength": {"threshold": 2.0, "polling_interval_s": 0.25, "hpa_sync_period_s": 0.25},
    "KnativeConcurrency": {
        "target_concurrency": 5.0,
        "stable_window_s": 6.0,
        "panic_window_percentage": 20.0,
    },
    "OnlineFirst": {"max_batch_wait_s": 0.1},
    "PassiveChecks": {"error_limit": 1, "on_error": "mark-down"},
    "PhiAccrual": {"acceptable_pause_s": 0.2, "first_interval_s": 0.25},
    "Predictive": {"season_s": 5.0, "bucket_s": 0.5, "horizon_s": 1.0, "average_s": 1.0, "memory_s": 3.0},
    "PriorityShedding": {"thresholds": (0.5, 1.0, 2.0)},
    "RetryBudget": {"min_retries_per_s": 0.0, "percent_can_retry": 0.001},
    "ScaleToZero": {"keep_alive_s": 1.0},
    "ShortestJobFirst": {"job": "service_s"},
    "SquareRootStaffing": {"average_s": 2.0, "memory_s": 5.0, "down_stabilization_s": 2.0},
    "Stabilized": {"up_s": 0.5, "down_s": 2.0},
    "SurgeSlope": {"cold_start_s": 0.8, "window_s": 2.0},
    "TargetOngoingRequests": {"look_back_period_s": 1.0, "upscale_delay_s": 0.5, "downscale_delay_s": 2.0},
    "TargetTracking": {"target": 800.0, "period_s": 1.0, "out_periods": 1, "scale_out_cooldown_s": 1.0},
    "TokenBucket": {"default": {"requests_per_s": 10.0}, "over_rate": "delay", "max_delay_s": 0.5},
    "WeightedFair": {"weights": {"tenant-0": 4.0}},
    "ZoneAware": {"min_cluster_size": 2},
    "LatencyTarget": {"target_s": 0.15, "settle_s": 2.0, "down_stabilization_s": 3.0},
}
"""Of those whose objective is that of another fleet by default, or that would have nothing to do here."""


def made(cls: type[Policy]) -> Policy:
    """As it is held to its numbers here."""
    return build(cls, {tag_field(cls): cls.name(), **PARAMETERS.get(cls.__name__, {})})


FLEETS: dict[str, dict[str, Any]] = {
    "CoDel": {"replicas": 2, "max_replicas": 2},
    "DeadlineFeasible": {"replicas": 2, "max_replicas": 2},
    "PassiveChecks": {"probe_interval_s": 2.0},
}
"""Fleets in which these have something to do: that of the others is never short of replicas for long."""
TOKEN_SLOTS = {"iteration", "eviction"}
"""Of no consequence where whole requests are served: tests/policies/test_golden_tokens.py has these."""
OURS = [cls for cls in SHIPPED if cls.slot not in TOKEN_SLOTS]


@pytest.mark.parametrize("cls", OURS)
def test_a_policy_does_what_it_did(cls: type[Policy]) -> None:
    got = figures(made(cls))
    assert cls.__name__ in EXPECTED, f'new? paste this line: "{cls.__name__}": {got},'
    assert got[:-1] == pytest.approx(EXPECTED[cls.__name__][:-1], abs=0.11)
    assert got[-1] == EXPECTED[cls.__name__][-1], (
        f'decides otherwise; if meant, paste "{cls.__name__}": {got},'
    )


def test_every_expectation_has_a_policy() -> None:
    assert EXPECTED.keys() <= {cls.__name__ for cls in OURS}


if __name__ == "__main__":
    print("EXPECTED: dict[str, tuple[float | str, ...]] = {")
    print("    # completed, expired, otherwise ended, mean ms, p99 ms, GPU seconds, digest of decisions")
    for cls in OURS:
        print(f'    "{cls.__name__}": {figures(made(cls))},')
    print("}")
