"""``fleet study mixed_devices``: which routing pays where replicas run on unlike devices?

One model is served by two A100s and four L4s. An A100 is two and a half times as fast and five times as dear, so that
the L4s do the same work for half the money, and later. A routing policy sees the replicas of both pools; some count
requests, some reckon in time, one in money.

Question: Banawan and Zahorjan, "Load Sharing in Heterogeneous Queueing Systems", INFOCOM 1989, and Shenker and Weinrib,
"The Optimal Control of Heterogeneous Queueing Systems", IEEE Transactions on Computers 38(12), 1989 (shortest expected
delay, never queue); Griggs et al., "Mélange", 2024, for what the cheap device is worth.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.studies.charts import Panel, lines
from experiments.studies.result import StudyResult, measured
from experiments.studies.scoring import PRICES, Plan, compared, engine, most_per_s
from experiments.studies.study import Options, Study
from fleet import FleetSpec, PoolSpec
from policies import (
    CheapestMeetingDelay,
    LeastOutstanding,
    NeverQueue,
    NoBatching,
    PowerOfTwoChoices,
    RoundRobin,
    RoutingPolicy,
    ShortestExpectedDelay,
)
from traces import Slo, Trace

MODEL = "llama-3.1-8b"
REPLICAS: Mapping[str, int] = {"a100": 2, "l4": 4}
OBJECTIVE_S = 0.5
"""End to end. A round guess: five times what an ordinary text takes an L4."""
POLICIES: Mapping[str, RoutingPolicy] = {
    "least outstanding": LeastOutstanding(),
    "two choices": PowerOfTwoChoices(),
    "round robin": RoundRobin(),
    "shortest expected delay": ShortestExpectedDelay(),
    "never queue": NeverQueue(),
    "cheapest meeting delay": CheapestMeetingDelay(objective_s=OBJECTIVE_S),
}
L4_FIRST = ", L4 first"
CANDIDATES = ("least outstanding", f"least outstanding{L4_FIRST}", *list(POLICIES)[1:])
"""`L4 first`: of replicas with as many in flight the L4s come first, as chance, or the alphabet, may have it."""
METRICS = measured("e2e_s.p99", "slo_attainment", described=("e2e_s.mean", "cost_per_request"))


def spec_of(name: str) -> FleetSpec:
    """The fleet of a candidate. Pools are named for the order of their replicas, by which some rules break ties."""
    order = ("l4", "a100") if name.endswith(L4_FIRST) else ("a100", "l4")
    pools = {
        f"{place}-{device}": PoolSpec(
            engine=engine(MODEL, device),
            device=device,
            replicas=REPLICAS[device],
            cost_per_hour=PRICES[device],
        )
        for place, device in enumerate(order)
    }
    return FleetSpec(
        pools=pools, routing=POLICIES[name.removesuffix(L4_FIRST)], batching=NoBatching(), max_inflight_batches=1,
        queue_capacity=1_000_000, slo=Slo(e2e_s=OBJECTIVE_S),
    )  # fmt: skip


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison at each load."""
    return compared(
        "mixed_devices", plan, options, {name: spec_of(name) for name in CANDIDATES},
        metrics=METRICS, setting="load", capacity_per_s=_most_per_s,
        fleet=f"2 A100 and 4 L4, objective {1000 * OBJECTIVE_S:g} ms",
    )  # fmt: skip


def _most_per_s(trace: Trace) -> float:
    return sum(most_per_s(trace, engine(MODEL, device), replicas) for device, replicas in REPLICAS.items())


def draw(result: StudyResult) -> str:
    """The tail, attainment and what the work cost, against load."""
    panels = (
        Panel(measure="e2e_s.p99", label="E2E p99 (s)", log=True, scale=1.0),
        Panel(measure="slo_attainment", label="within the objective (%)"),
        Panel(measure="work_cost_per_request", label="work cost (10⁻³ $ a request)"),
    )
    return lines(result, panels, "load (offered over possible)")


STUDY = Study(
    name="mixed_devices",
    title="Mixed devices: routing over A100 and L4 by load",
    plans={
        "small": Plan(loads=(0.3, 0.6, 0.9), requests=800, seeds=4),
        "full": Plan(loads=(0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95), requests=4000, seeds=8),
    },
    run=run,
    draw=draw,
)
