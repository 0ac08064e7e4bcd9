"""Every shipped policy keeps its contract."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from policies import (
    ABTest,
    AttemptTimeout,
    BlueGreen,
    BusyScorer,
    Canary,
    Cascade,
    CheapestMeetingDelay,
    CheapestMeetingSlo,
    CircuitBreaker,
    Composed,
    ConsecutiveFailures,
    DeadlineFirst,
    DegradeUnderLoad,
    ExponentialBackoff,
    FastServe,
    FeatureFlag,
    Fixed,
    FreshFilter,
    Gates,
    HedgeAfterPercentile,
    InFlightScorer,
    NeverQueue,
    NotFullFilter,
    Orca,
    OutlierEjection,
    Policy,
    PowerOfTwoChoices,
    QueueDepth,
    QueueLimit,
    Ramp,
    Sarathi,
    ShadowTraffic,
    ShortestExpectedDelay,
    ShortestRemainingOracle,
    SoftmaxPicker,
    TargetUtilization,
    TiedRequests,
    VllmPrefillFirst,
    VllmTokenBudget,
    WeightedRandom,
    Window,
    describe,
)
from policies.building import build
from policies.registry import resolve
from policies.testing import check_policy, parametrize_with_checks
from tests.conftest import ROOT
from tests.policies.makers import SHIPPED

# Parameters far from the defaults, where other branches run.
VARIANTS: list[Callable[[], Policy]] = [
    lambda: PowerOfTwoChoices(choices=5),
    lambda: WeightedRandom(weights={"replica/0": 0.0, "replica/1": 3.0}),
    lambda: Composed(
        filters=[NotFullFilter(), FreshFilter(max_age_s=1.0)],
        scorers=[(1.0, InFlightScorer()), (0.5, BusyScorer(unknown=0.0))],
        picker=SoftmaxPicker(temperature=0.2),
        when_empty="hold",
    ),
    lambda: Composed(filters=[NotFullFilter()], when_empty="reject"),
    lambda: Window(max_batch=1, window_s=0.0),
    lambda: Window(max_batch=64, window_s=5.0),
    lambda: QueueLimit(max_queue_depth=1, max_in_flight=1),
    lambda: Fixed(replicas=0),
    lambda: QueueDepth(up_at=2, down_at=2, step=3, keep=2, up_cooldown_s=1.0, down_cooldown_s=4.0),
    lambda: TargetUtilization(target=0.3, tolerance=0.0, up_stabilization_s=3.0, down_stabilization_s=0.0),
    lambda: ConsecutiveFailures(failures=1, recoveries=1, suspect_after=9),
    lambda: ExponentialBackoff(jitter="none", budget_ratio=None, max_attempts=100, cap_s=1e9),
    lambda: ExponentialBackoff(jitter="equal", budget_tokens=0.0),
    lambda: AttemptTimeout(limit_s=1e-3, retry=AttemptTimeout(limit_s=1e8)),
    lambda: HedgeAfterPercentile(percentile=0.5, window=20, min_samples=1, max_hedges=3, budget_ratio=None),
    lambda: TiedRequests(copies=4, delay_s=0.05, budget_ratio=None),
    lambda: CircuitBreaker(
        window=8,
        min_calls=3,
        slow_after_s=0.2,
        slow_threshold=0.5,
        open_s=0.3,
        half_open_calls=3,
        when_all_open="ignore",
    ),
    lambda: CircuitBreaker(
        failure_threshold=None, slow_after_s=0.05, slow_threshold=0.1, min_calls=1, open_s=1e4
    ),
    lambda: OutlierEjection(
        consecutive_failures=2,
        interval_s=0.5,
        request_volume=2,
        minimum_hosts=2,
        stdev_factor=0.5,
        base_ejection_s=0.2,
        max_ejection_s=1.0,
        max_ejected_fraction=1.0,
    ),
    lambda: Canary(share=0.9, bake_s=0.1, max_exposure=20, gates=Gates(min_requests=2, quality_margin=0.0)),
    lambda: Ramp(stages=(0.5,), stage_s=0.0),
    lambda: BlueGreen(at_s=3.0, watch_s=20.0, gates=Gates(min_requests=5)),
    lambda: ShadowTraffic(share=0.5),
    lambda: FeatureFlag(rules={"tenant": ("tenant-1",), "colour": ("blue",)}, percentage=50.0),
    lambda: ABTest(metric="quality", min_requests=2, horizon=30),
    lambda: CheapestMeetingSlo(objective_s=0.2, min_quality=0.5, min_samples=1),
    lambda: Cascade(threshold=0.9, max_escalations=5, when_unknown="escalate"),
    lambda: Cascade(order=("huge", "small")),
    lambda: Cascade(threshold=(0.9, 0.2), max_escalations=2),
    lambda: DegradeUnderLoad(degrade_at=0.5, restore_at=0.1, protect_priority=2),
    lambda: DegradeUnderLoad(signal="in_flight", degrade_at=8.0),
    lambda: ShortestExpectedDelay(concurrency=4),
    lambda: NeverQueue(concurrency=4),
    lambda: CheapestMeetingDelay(objective_s=0.3, headroom=0.0, concurrency=2),
    lambda: Orca(max_sequences=3, reserve_tokens=20),
    lambda: VllmPrefillFirst(max_sequences=4, max_step_tokens=50, swap=True),
    lambda: VllmTokenBudget(max_sequences=5, max_step_tokens=8),
    lambda: Sarathi(max_sequences=3, max_step_tokens=3),
    lambda: FastServe(
        max_sequences=4, max_step_tokens=30, quantum_tokens=2, prompt_tokens_per_token=20, starvation_s=0.2
    ),
    lambda: FastServe(levels=2, quantum_tokens=1, ratio=1, starvation_s=None, swap=False),
    lambda: DeadlineFirst(max_sequences=2, max_step_tokens=20, displaces=True),
    lambda: ShortestRemainingOracle(max_sequences=3, max_step_tokens=10, swap=True),
]


@parametrize_with_checks(SHIPPED)
def test_shipped_policy_conforms(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks(VARIANTS)
def test_shipped_policy_conforms_with_other_parameters(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("cls", SHIPPED)
def test_shipped_policy_says_what_it_does_how_much_it_costs_and_where_it_comes_from(
    cls: type[Policy],
) -> None:
    info = next(info for info in describe() if info.location == f"{cls.__module__}:{cls.__qualname__}")
    assert info.summary.endswith(".")
    assert info.source
    assert "O(" in (cls.__doc__ or "")


@pytest.mark.parametrize("cls", SHIPPED)
def test_shipped_policy_is_found_by_name(cls: type[Policy]) -> None:
    base = next(base for base in cls.__mro__ if base.__dict__.get("slot"))
    assert resolve(base, cls.name()) is cls
    assert build(base, {"policy": cls.name()}) == cls()


def test_each_slot_ships_a_null_baseline_without_parameters_that_must_be_given() -> None:
    nulls = {
        "AdmitAll", "Random", "Fifo", "NoBatching", "StaticBatch", "OldestFirst", "Fixed", "NoWarmPool", "AlwaysTrust",
        "NoRetry",
        "NoHedge", "NoBreaker",
    }  # fmt: skip
    assert nulls <= {cls.__name__ for cls in SHIPPED}


def test_no_shipped_policy_depends_on_the_hash_seed() -> None:
    """All at once in two fresh processes: one by one, as the slow check does it, takes a process each."""
    script = (
        "from policies._conformance.drive import answers\n"
        "from tests.policies.makers import SHIPPED\n"
        "for cls in SHIPPED: print(cls.__name__, answers(cls(), 1))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert len(outputs[0]) == len(SHIPPED)
    assert outputs[0] == outputs[1]


def test_the_slow_check_runs_on_a_shipped_policy() -> None:
    check_policy(PowerOfTwoChoices, slow=True)
