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
from tests.fleets import in_slot
from tests.policies.makers import SHIPPED
from traces import Fault, FaultTrace, Trace, load_trace

# fmt: off
EXPECTED: dict[str, tuple[float | str, ...]] = {
    # completed, expired, otherwise ended, mean ms, p99 ms, GPU seconds, digest of decisions
    "ABTest": (839, 0, 0, 56.8, 144.4, 61.0),
    "AdmitAll": (839, 0, 0, 78.2, 194.9, 30.6),
    "AlwaysTrust": (834, 5, 0, 102.6, 231.6, 30.1),
    "AttemptTimeout": (839, 0, 0, 82.0, 342.1, 30.6),
    "BlueGreen": (839, 0, 0, 144.5, 358.4, 61.6),
    "BusyScorer": (839, 0, 0, 176.8, 513.4, 31.1),
    "ByCapability": (839, 0, 0, 78.2, 201.0, 60.8),
    "Canary": (839, 0, 0, 75.9, 194.9, 60.8),
    "Cascade": (839, 0, 0, 90.6, 230.7, 60.8),
    "CheapestMeetingDelay": (839, 0, 0, 78.2, 194.9, 30.6),
    "CheapestMeetingSlo": (839, 0, 0, 78.2, 201.0, 60.8),
    "CircuitBreaker": (790, 0, 49, 82.2, 232.9, 30.6),
    "ClipperAimd": (839, 0, 0, 78.2, 185.3, 30.7),
    "Composed": (839, 0, 0, 90.5, 240.4, 30.7),
    "ConsecutiveFailures": (839, 0, 0, 78.2, 194.9, 30.6),
    "DegradeUnderLoad": (839, 0, 0, 141.6, 249.3, 61.7),
    "EarliestDeadline": (839, 0, 0, 79.0, 208.2, 30.7),
    "ExpectedDelayScorer": (839, 0, 0, 79.0, 203.4, 30.6),
    "ExponentialBackoff": (839, 0, 0, 78.2, 194.9, 30.6),
    "FeatureFlag": (839, 0, 0, 55.8, 165.2, 60.8),
    "Fifo": (839, 0, 0, 79.2, 212.7, 30.7),
    "Fixed": (839, 0, 0, 78.2, 194.9, 30.6),
    "FixedSize": (839, 0, 0, 81.9, 260.4, 38.7),
    "FixedVariant": (839, 0, 0, 205.4, 378.1, 61.7),
    "FreshFilter": (839, 0, 0, 79.0, 203.4, 30.6),
    "Greedy": (839, 0, 0, 79.5, 227.6, 30.7),
    "HedgeAfterPercentile": (839, 0, 0, 81.4, 222.2, 30.6),
    "InFlightScorer": (839, 0, 0, 79.0, 203.4, 30.6),
    "KvCost": (839, 0, 0, 78.1, 188.6, 30.6),
    "KvUtilizationScorer": (839, 0, 0, 90.5, 240.4, 30.7),
    "LatencyTarget": (839, 0, 0, 71.5, 171.4, 33.9),
    "LeastOutstanding": (839, 0, 0, 78.2, 194.9, 30.6),
    "LeastTokens": (839, 0, 0, 78.5, 200.0, 30.6),
    "LeastWorkOracle": (839, 0, 0, 78.5, 200.0, 30.6),
    "MaxScorePicker": (839, 0, 0, 79.0, 203.4, 30.6),
    "NeverQueue": (839, 0, 0, 78.2, 194.9, 30.6),
    "NoBatching": (838, 1, 0, 510.7, 889.0, 31.8),
    "NoBreaker": (839, 0, 0, 78.2, 194.9, 30.6),
    "NoHedge": (839, 0, 0, 78.2, 194.9, 30.6),
    "NoRetry": (835, 0, 4, 75.3, 184.8, 30.6),
    "NoWarmPool": (839, 0, 0, 123.3, 628.3, 28.9),
    "NotFullFilter": (839, 0, 0, 79.0, 203.4, 30.6),
    "OutlierEjection": (839, 0, 0, 78.2, 194.9, 30.6),
    "Pinned": (839, 0, 0, 205.4, 378.1, 61.7),
    "PowerOfTwoChoices": (839, 0, 0, 84.0, 227.7, 30.6),
    "PrefixAffinity": (839, 0, 0, 78.2, 194.9, 30.6),
    "PrefixScorer": (839, 0, 0, 90.5, 240.4, 30.7),
    "Priority": (839, 0, 0, 78.9, 212.7, 30.7),
    "QueueDepth": (838, 1, 0, 210.9, 906.3, 26.6),
    "QueueLimit": (839, 0, 0, 78.2, 194.9, 30.6),
    "Ramp": (839, 0, 0, 129.7, 296.5, 62.0),
    "Random": (839, 0, 0, 90.5, 240.4, 30.7),
    "RoundRobin": (839, 0, 0, 78.3, 213.2, 30.6),
    "SessionAffinity": (839, 0, 0, 78.2, 194.9, 30.6),
    "ShadowTraffic": (839, 0, 0, 78.2, 201.0, 60.8),
    "ShortestExpectedDelay": (839, 0, 0, 78.2, 194.9, 30.6),
    "ShortestPrompt": (839, 0, 0, 79.0, 208.1, 30.7),
    "SoftmaxPicker": (839, 0, 0, 78.9, 203.4, 30.6),
    "TargetKvUtilization": (839, 0, 0, 78.2, 194.9, 30.6),
    "TargetUtilization": (839, 0, 0, 57.7, 155.3, 38.6),
    "TiedRequests": (839, 0, 0, 75.6, 207.3, 30.6),
    "VirtualTokenCounter": (839, 0, 0, 79.2, 212.7, 30.7),
    "WeightedRandom": (839, 0, 0, 90.5, 240.4, 30.7),
    "Window": (839, 0, 0, 90.2, 172.9, 30.7),
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
    "LatencyTarget": {"target_s": 0.15, "settle_s": 2.0, "down_stabilization_s": 3.0},
}
"""Of those whose objective is that of another fleet by default, or that would have nothing to do here."""
TOKEN_SLOTS = {"iteration", "eviction"}
"""Of no consequence where whole requests are served: tests/policies/test_golden_tokens.py has these."""
OURS = [cls for cls in SHIPPED if cls.slot not in TOKEN_SLOTS]


@pytest.mark.parametrize("cls", OURS)
def test_a_policy_does_what_it_did(cls: type[Policy]) -> None:
    got = figures(cls(**PARAMETERS.get(cls.__name__, {})))
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
        print(f'    "{cls.__name__}": {figures(cls(**PARAMETERS.get(cls.__name__, {})))},')
    print("}")
