"""Small fleets and traces for the harness's tests."""

import pytest

from fleet import AffineLatency, AffineSteps, EmulatedEngine, EmulatedLlmEngine, FleetSpec, KvSpec
from policies import LeastOutstanding, PowerOfTwoChoices, Random, RoundRobin
from traces import Trace, load_trace, poisson


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


CHATS = load_trace("chat-small").first(seconds=30.0)


@pytest.fixture(scope="session")
def llm() -> FleetSpec:
    """Two replicas that serve token by token."""
    steps = AffineSteps(base_s=0.005, per_prefill_token_s=0.0001, per_decode_s=0.0002)
    return FleetSpec(engine=EmulatedLlmEngine(latency=steps, kv=KvSpec(blocks=4000)), replicas=2)
