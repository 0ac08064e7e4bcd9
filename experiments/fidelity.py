"""``python -m experiments.fidelity``: does the simulator order policies as real processes do?

Five routing policies on the same ten seconds of traffic, simulated and replayed three times each, on an engine that is
emulated in both. What differs is everything else: processes, sockets, timers, and this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments import CalibrationReport, calibrate
from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel
from policies import LeastOutstanding, NoBatching, PowerOfTwoChoices, Random, RoundRobin, Route, RoutingPolicy
from policies.views import ReplicaView
from traces import Request, poisson

BASE = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.010, jitter_cv=0.7)),
    replicas=4,
    batching=NoBatching(),
    # One way between two processes of one machine, encoding included: half of what `make bench` finds for both ways.
    network=NetworkModel(delay_s=0.0003),
)


class MostOutstanding(RoutingPolicy):
    """The worst that can be done with the same signal: pile up to a bound, then go on to the next replica."""

    bound: int = 4

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        below = [replica for replica in replicas if replica.in_flight < self.bound]
        return Route(max(below or replicas, key=lambda replica: replica.in_flight).id)


def study(*, seconds: float = 10.0, repeats: int = 3) -> CalibrationReport:
    """Replays take `seconds` each: five policies, `repeats` times."""
    return calibrate(
        poisson(rate_per_s=150, duration_s=seconds, seed=1),
        {
            "random": BASE.replace(routing=Random()),
            "round robin": BASE.replace(routing=RoundRobin()),
            "two choices": BASE.replace(routing=PowerOfTwoChoices()),
            "least outstanding": BASE.replace(routing=LeastOutstanding()),
            "most outstanding": BASE.replace(routing=MostOutstanding()),
        },
        repeats=repeats,
    )


if __name__ == "__main__":
    print(study())
