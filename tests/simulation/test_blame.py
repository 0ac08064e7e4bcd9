"""A policy that breaks is named, wherever it breaks: in its reset, in a hook, or by never deciding."""

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import Fifo, Hold, PolicyError, RoundRobin
from traces import poisson


class RaisesInReset(RoundRobin):
    def reset(self, rng):
        raise KeyError("weights")


class RaisesInHook(RoundRobin):
    def on_completed(self, completion, now_s):
        raise KeyError("weights")


class RaisesInPush(Fifo):
    def push(self, request, now_s):
        raise KeyError("weights")


class RaisesInPop(Fifo):
    def pop(self, now_s):
        raise KeyError("weights")


class HoldsForEver(RoundRobin):
    def route(self, request, replicas, now_s):
        return Hold(now_s + 1e-6)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (
            RaisesInReset(),
            r"routing policy raises-in-reset raised KeyError: 'weights' \(asked about nothing yet, in reset",
        ),
        (
            RaisesInHook(),
            r"routing policy raises-in-hook raised KeyError: 'weights' \(asked about 0, in on_completed at ",
        ),
        (RaisesInPush(), r"queueing policy raises-in-push raised KeyError: 'weights' \(asked about 0 at "),
        (
            RaisesInPop(),
            r"queueing policy raises-in-pop raised KeyError: 'weights' \(asked about the next of 1 waiting",
        ),
        (
            HoldsForEver(),
            r"routing policy holds-for-ever held request '0' 100,000 times, the last time for 1e-06 s",
        ),
    ],
)
def test_a_policy_that_breaks_outside_its_decision_is_named_too(policy, says):
    engine = EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.0))
    with pytest.raises(PolicyError, match=says):
        simulate(
            poisson(rate_per_s=10, duration_s=1, seed=0), FleetSpec(engine=engine, **{policy.slot: policy})
        )
