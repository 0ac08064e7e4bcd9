"""Health: what its sources claim. Replicas behind a network that loses messages, and one that is ill but answers."""

from __future__ import annotations

from functools import partial

import pyarrow.compute as pc

from experiments.effects.effect import Effect
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from policies import AttemptTimeout, ConsecutiveFailures
from policies.health.passive_checks import PassiveChecks
from policies.health.phi_accrual import PhiAccrual
from traces import Fault, FaultTrace, Trace, poisson

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.005))
LIMIT_S = 0.5
"""What an attempt may take."""
LOST = 0.2
"""Of the messages in each direction: a probe comes back in 64 of 100 cases."""


def steady(seed: int, *, rate_per_s: float, duration_s: float) -> Trace:
    """Poisson arrivals."""
    return poisson(rate_per_s, duration_s, seed=seed)


def losses(seed: int) -> FaultTrace:
    """Every replica's network loses messages, all the time."""
    return FaultTrace(
        faults=tuple(
            Fault(at_s=0.0, kind="drop", replica=f"replica/{number}", probability=LOST, for_s=400.0)
            for number in range(4)
        )
    )


def one_is_slow(seed: int) -> FaultTrace:
    """The engine of one of four takes fifty times as long for 20 s; its process answers probes as ever."""
    return FaultTrace(faults=(Fault(at_s=5.0, kind="slow", replica="replica/1", factor=50.0, for_s=20.0),))


def given_up(run: Run) -> float:
    """Replicas that were failed."""
    of_health = run.decisions.filter(pc.equal(run.decisions["slot"], "health"))
    return float(pc.sum(pc.equal(of_health["choice"], "failed")).as_py() or 0)


def slow(run: Run) -> float:
    """Of a hundred requests, those that took longer than one attempt may."""
    taken = run.records["e2e_s"].drop_null()
    return 100.0 * (pc.sum(pc.greater(taken, LIMIT_S)).as_py() or 0) / len(taken)


NETWORK = FleetSpec(engine=ENGINE, replicas=4, failed_grace_s=60.0)
ILL = FleetSpec(engine=ENGINE, replicas=4, retry=AttemptTimeout(limit_s=LIMIT_S))

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="PhiAccrual",
        claim="adapts to a network that loses probes: fewer live replicas are given up, at the same time of detection",
        trace=partial(steady, rate_per_s=1.0, duration_s=300.0),
        faults=losses,
        candidate=NETWORK.replace(health=PhiAccrual()),
        # On a network that loses nothing both fail a replica with the fifth probe that times out, after 5.5 s.
        baseline=NETWORK.replace(health=ConsecutiveFailures(failures=5)),
        against="ConsecutiveFailures, five",
        figure="live replicas failed",
        read=given_up,
        better="lower",
    ),
    Effect(
        policy="PassiveChecks",
        claim="requests tell of a replica that is ill though it answers its probes",
        trace=partial(steady, rate_per_s=60.0, duration_s=30.0),
        faults=one_is_slow,
        candidate=ILL.replace(health=PassiveChecks(error_limit=3)),
        baseline=ILL.replace(health=ConsecutiveFailures()),
        against="ConsecutiveFailures",
        figure="longer than one attempt may (%)",
        read=slow,
        better="lower",
    ),
)
