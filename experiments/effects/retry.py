"""Retries: what their sources claim. A fleet that is too slow for a while, and clients that try again."""

from __future__ import annotations

from experiments.effects.effect import Effect
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from policies import AttemptTimeout, ExponentialBackoff, Fifo, NoBatching
from policies.resilience.retry_budget import RetryBudget
from traces import Fault, FaultTrace, Trace, poisson

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.025))
"""40 requests a second for each replica."""


def steady(seed: int) -> Trace:
    """70 % of what two replicas can do, each request to be answered within two seconds."""
    return poisson(56.0, 25.0, seed=seed).with_slo(e2e_s=2.0)


def slow_for_a_while(seed: int) -> FaultTrace:
    """Both replicas take three times as long for five seconds."""
    return FaultTrace(
        faults=tuple(
            Fault(at_s=5.0, kind="slow", replica=f"replica/{number}", factor=3.0, for_s=5.0)
            for number in range(2)
        )
    )


def attempts(run: Run) -> float:
    """Sent for each request, on average."""
    return run.summary.attempts_mean or 0.0


def in_time(run: Run) -> float:
    """Of a hundred requests, those that met their objective."""
    return 100.0 * (run.summary.slo_attainment or 0.0)


AGAIN = AttemptTimeout(limit_s=0.5, retry=ExponentialBackoff(base_s=0.05, max_attempts=10, budget_ratio=None))
FLEET = FleetSpec(engine=ENGINE, replicas=2, batching=NoBatching(), queueing=Fifo(), max_inflight_batches=1)

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="RetryBudget",
        claim="retries add about a fifth to the load, and do not grow into a storm",
        trace=steady,
        faults=slow_for_a_while,
        candidate=FLEET.replace(retry=RetryBudget(retry=AGAIN, min_retries_per_s=1.0)),
        baseline=FLEET.replace(retry=AGAIN),
        against="the same without a budget",
        figure="attempts per request",
        read=attempts,
        better="lower",
    ),
    Effect(
        policy="RetryBudget",
        claim="without a storm of retries the fleet is well again when what was slow is over",
        trace=steady,
        faults=slow_for_a_while,
        candidate=FLEET.replace(retry=RetryBudget(retry=AGAIN, min_retries_per_s=1.0)),
        baseline=FLEET.replace(retry=AGAIN),
        against="the same without a budget",
        figure="in time (%)",
        read=in_time,
        better="higher",
    ),
)
