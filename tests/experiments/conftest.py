"""Small fleets and traces for the harness's tests."""

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from policies import LeastOutstanding, PowerOfTwoChoices, Random, RoundRobin
from traces import Trace, poisson


@pytest.fixture(scope="session")
def base() -> FleetSpec:
    return FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.005)), replicas=4)


@pytest.fixture(scope="session")
def specs(base: FleetSpec) -> dict[str, FleetSpec]:
    return {
        "random": base.replace(routing=Random()),
        "p2c": base.replace(routing=PowerOfTwoChoices()),
        "least": base.replace(routing=LeastOutstanding()),
        "round robin": base.replace(routing=RoundRobin()),
    }


@pytest.fixture(scope="session")
def trace() -> Trace:
    return poisson(rate_per_s=150.0, duration_s=3.0, seed=1)
