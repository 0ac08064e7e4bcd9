"""What policies for whole requests do with multi-turn chat, in numbers that change only when their behaviour does.

These were there first; `tests/policies/test_golden.py` has every policy.

A change that is meant: ``python -m tests.simulation.test_golden`` prints the table anew, to be pasted over this one.
"""

import pyarrow as pa
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.pools import PoolSpec
from policies import InFlightScorer, NoBatching, RoutingPolicy
from policies.base import BatchingPolicy, QueueingPolicy
from policies.registry import resolve
from traces import Trace, load_trace

SLOTS = {"routing": RoutingPolicy, "batching": BatchingPolicy, "queueing": QueueingPolicy}
FIGURES = ("e2e_s.mean", "e2e_s.p50", "e2e_s.p99", "queue_s.mean", "batch_size_mean", "utilization")
PARAMETERS = {
    "composed": {"scorers": [(1.0, InFlightScorer())]},
    "clipper-aimd": {"objective_s": 4.0},
    "weighted-random": {"weights": {"replica/1": 2.0, "replica/3": 2.0}},
    "cheapest-meeting-delay": {"headroom": 0.95},
}
"""Those that need some to do anything."""
MIXED = ("cheapest-meeting-delay", "never-queue", "shortest-expected-delay")
"""Routing policies that have something to decide where replicas are unlike each other only."""

# fmt: off
GOLDEN = {
    # e2e_s.mean, e2e_s.p50, e2e_s.p99, queue_s.mean, batch_size_mean, utilization
    ("routing", "cheapest-meeting-delay"): (2.12157477, 1.66063067, 6.61581289, 1.12686143, 1, 0.811723344),
    ("routing", "composed"): (1.97368005, 1.57110585, 6.93744343, 1.00560005, 1, 0.787163134),
    ("routing", "least-outstanding"): (1.96862087, 1.53725946, 6.44752811, 1.00054087, 1, 0.789332487),
    ("routing", "least-work-oracle"): (1.91363798, 1.58634162, 5.68356802, 0.945557979, 1, 0.789332487),
    ("routing", "kv-cost"): (2.22819148, 1.73742133, 8.26765313, 1.26011148, 1, 0.787800377),
    ("routing", "least-tokens"): (2.13211725, 1.57199042, 7.38561278, 1.16403725, 1, 0.786777116),
    ("routing", "never-queue"): (1.98478684, 1.57333333, 6.35948218, 1.0418735, 1, 0.768509939),
    ("routing", "prefix-affinity"): (3.0878934, 2.56335756, 10.2953656, 2.1198134, 1, 0.783662022),
    ("routing", "session-affinity"): (2.51706281, 1.97306282, 8.11063002, 1.54898281, 1, 0.786986083),
    ("routing", "power-of-two-choices"): (2.40303776, 1.92182904, 7.89172003, 1.43495776, 1, 0.785642794),
    ("routing", "random"): (4.53354009, 3.09444969, 18.2548158, 3.56546009, 1, 0.764313634),
    ("routing", "round-robin"): (2.91903107, 2.08938701, 10.5833986, 1.95095107, 1, 0.781730681),
    ("routing", "shortest-expected-delay"): (2.04649402, 1.67152109, 6.5288095, 1.15970736, 1, 0.723477961),
    ("routing", "weighted-random"): (10.5401214, 6.78756784, 38.4245319, 9.57204143, 1, 0.706591627),
    ("batching", "clipper-aimd"): (2.55131218, 2.12980371, 7.61044933, 0.305840177, 2.372, 0.829475356),
    ("batching", "greedy"): (2.8074393, 2.15869986, 8.24108194, 0.2604073, 2.78, 0.823695259),
    ("batching", "no-batching"): (6.7502231, 5.6853116, 15.9538786, 5.5757591, 1, 0.914836915),
    ("batching", "window"): (3.0191633, 2.17346571, 12.4852503, 0.283671299, 2.996, 0.821208304),
    ("queueing", "earliest-deadline"): (1.83295821, 1.39383783, 5.74477031, 0.864878214, 1, 0.789332487),
    ("queueing", "fifo"): (1.82736121, 1.48832667, 5.35693559, 0.859281206, 1, 0.789332487),
    ("queueing", "priority"): (1.79335801, 1.225, 7.445494, 0.825278008, 1, 0.789332487),
    ("queueing", "shortest-prompt"): (1.8398034, 1.174678, 13.46029, 0.871723405, 1, 0.789332487),
    ("queueing", "virtual-token-counter"): (1.82736121, 1.48832667, 5.35693559, 0.859281206, 1, 0.789332487),
}
# fmt: on


def shipped():
    """Slot and class of every policy with golden numbers."""
    for slot, name in GOLDEN:
        yield slot, resolve(SLOTS[slot], name)


def workload() -> Trace:
    """Multi-turn chat, played open-loop; an answer of 200 tokens is one unit of work. Later turns are more urgent."""
    chat = load_trace("chat-small").first(requests=1_000)
    table, turn = chat.table, chat.table["turn"].to_numpy()
    table = table.append_column("work", pa.array(table["output_tokens"].to_numpy() / 200.0))
    table = table.append_column("priority", pa.array(turn % 3))
    return Trace(table.append_column("deadline_s", pa.array(60.0 - turn % 4)), chat.header)


def pool_of(per_item_s, cost_per_hour) -> PoolSpec:
    """Replicas of one speed and price: two at 2 s and two at 2/3 s do as much as four at 1 s."""
    engine = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=per_item_s))
    return PoolSpec(engine=engine, cost_per_hour=cost_per_hour)


def spec_for(slot, cls) -> FleetSpec:
    """Four replicas at a load of about 0.7, in which the policy has something to decide."""
    latency = (
        AffineLatency(base_s=0.4, per_item_s=0.8)
        if slot == "batching"
        else AffineLatency(base_s=0.0, per_item_s=1.0)
    )
    base = FleetSpec(
        engine=EmulatedEngine(latency=latency), replicas=4, batching=NoBatching(), max_inflight_batches=1,
        binding="early" if slot == "routing" else "late",
    )  # fmt: skip
    if cls.name() in MIXED:
        base = base.replace(replicas=2, pools={"cheap": pool_of(2.0, 1.0), "fast": pool_of(2.0 / 3.0, 4.0)})
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


@pytest.mark.parametrize(
    ("slot", "cls"), list(shipped()), ids=lambda value: value if isinstance(value, str) else value.name()
)
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
