"""What each shipped policy does with a small bundled trace, in numbers that change only when its behaviour does.

A change that is meant: ``python -m tests.simulation.test_golden`` prints the table anew, to be pasted over this one.
"""

import pyarrow as pa
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import Composed, InFlightScorer, NoBatching, RoutingPolicy
from policies.base import BatchingPolicy, QueueingPolicy
from policies.registry import classes
from traces import Trace, load_trace

SLOTS = {"routing": RoutingPolicy, "batching": BatchingPolicy, "queueing": QueueingPolicy}
FIGURES = ("e2e_s.mean", "e2e_s.p50", "e2e_s.p99", "queue_s.mean", "batch_size_mean", "utilization")
PARAMETERS = {"composed": {"scorers": [(1.0, InFlightScorer())]}}
"""Those that need some to do anything."""

# fmt: off
GOLDEN = {
}
# fmt: on


def shipped():
    """Slot and class of every policy with golden numbers."""
    for slot, base in SLOTS.items():
        for cls in classes(base):
            if cls.__module__.startswith("policies."):
                yield slot, cls


def workload() -> Trace:
    """Multi-turn chat, played open-loop; an answer of 200 tokens is one unit of work."""
    table = load_trace("chat-small").first(requests=1_000).table
    work = pa.array(table["output_tokens"].to_numpy() / 200.0)
    return Trace(table.append_column("work", work), load_trace("chat-small").header)


def spec_for(slot, cls) -> FleetSpec:
    """Four replicas at a load of about 0.7, in which the policy has something to decide."""
    latency = AffineLatency(base_s=0.4, per_item_s=0.8) if slot == "batching" else AffineLatency(base_s=0.0, per_item_s=1.0)
    base = FleetSpec(
        engine=EmulatedEngine(latency=latency), replicas=4, batching=NoBatching(), max_inflight_batches=1,
        weights=(1.0, 2.0), binding="early" if slot == "routing" else "late",
    )  # fmt: skip
    return base.replace(**{slot: cls(**PARAMETERS.get(cls.name(), {}))})


def figures(slot, cls) -> dict[str, float]:
    summary = simulate(workload(), spec_for(slot, cls), seed=1).summary
    assert summary.completed == summary.submitted == 1_000
    row = {}
    for name in FIGURES:
        value = summary
        for part in name.split("."):
            value = getattr(value, part)
        row[name] = value
    return row


def line(slot, cls, row) -> str:
    numbers = ", ".join(f"{row[name]:.9g}" for name in FIGURES)
    return f'    ("{slot}", "{cls.name()}"): ({numbers}),'


def test_every_shipped_policy_of_these_slots_has_golden_numbers():
    assert set(GOLDEN) == {(slot, cls.name()) for slot, cls in shipped()}


@pytest.mark.parametrize(("slot", "cls"), shipped(), ids=lambda value: value if isinstance(value, str) else value.name())
def test_a_policy_still_does_what_it_did(slot, cls):
    row = figures(slot, cls)

    expected = dict(zip(FIGURES, GOLDEN.get((slot, cls.name()), ()), strict=False))
    assert row == pytest.approx(expected, rel=1e-8), f"if this is meant, paste:\n{line(slot, cls, row)}"


def test_what_sees_more_does_better():
    mean = {name: numbers[0] for (slot, name), numbers in GOLDEN.items() if slot == "routing"}

    assert mean["least-outstanding"] < mean["power-of-two-choices"] < mean["random"]
    assert mean["least-work-oracle"] < mean["random"]
    assert mean["round-robin"] < mean["random"]


if __name__ == "__main__":
    print("GOLDEN = {\n    # " + ", ".join(FIGURES))
    for slot, cls in shipped():
        print(line(slot, cls, figures(slot, cls)))
    print("}")
