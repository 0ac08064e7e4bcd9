"""``python -m experiments.quickstart``: the smallest study, three routing policies on one bundled trace."""

from __future__ import annotations

from experiments import Report, compare
from fleet import AffineLatency, EmulatedEngine, FleetSpec
from policies import LeastOutstanding, PowerOfTwoChoices, RoundRobin
from traces import load_trace


def study(seeds: range = range(10)) -> Report:
    """Eight replicas that take one request at a time, loaded to about two thirds at the height of the surge."""
    trace = load_trace("demo-surge").scale_rate(5)
    base = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.008, per_item_s=0.004, jitter_cv=0.5)),
        replicas=8,
    )
    return compare(
        trace,
        {
            "round robin": base.replace(routing=RoundRobin()),
            "two choices": base.replace(routing=PowerOfTwoChoices()),
            "least outstanding": base.replace(routing=LeastOutstanding()),
        },
        seeds=seeds,
    )


if __name__ == "__main__":
    print(study())
