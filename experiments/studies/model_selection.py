"""``fleet study model_selection``: a good answer, a cheap one, or one in time?

One model is served by two variants: a small one on four L4s, whose answers have a quality of 0.6, and a large one on
four A100s, with 0.9. All by one of them, the cheapest that meets the objective, a cascade that asks the large one where
the small one's answer is not good enough, or the large one until it has a queue: what does that cost, how good are the
answers, and how many come in time?

Question: Romero et al., "INFaaS: Automated Model-less Inference Serving", USENIX ATC 2021 (cost, accuracy and latency);
Chen, Zaharia and Zou, "FrugalGPT", 2023 (cascades); Klein et al., "Brownout", ICSE 2014 (less under load).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.result import StudyResult, measured
from experiments.studies.scoring import PRICES, Plan, compared, engine, most_per_s
from experiments.studies.study import Options, Study
from fleet import FleetSpec, ModelPolicies, PoolSpec
from policies import (
    Cascade,
    CheapestMeetingSlo,
    DegradeUnderLoad,
    FixedVariant,
    NoBatching,
    VariantsPolicy,
)
from traces import Slo, Trace


class Variant(Struct, frozen=True, kw_only=True):
    """One size of the model, and what serves it."""

    model: str
    device: str
    replicas: int
    quality: float
    """Mean of its answers. A round guess, like the number of replicas."""


VARIANTS: Mapping[str, Variant] = {
    "small": Variant(model="llama-3.1-8b", device="l4", replicas=4, quality=0.6),
    "large": Variant(model="qwen3-32b", device="a100", replicas=4, quality=0.9),
}
OBJECTIVE_S = 1.0
"""End to end. A round guess: six times what an ordinary text takes the large one."""
SERVED = "scorer"
"""What clients ask for."""
POLICIES: Mapping[str, VariantsPolicy] = {
    "all large": FixedVariant(variant="large"),
    "all small": FixedVariant(variant="small"),
    "cheapest meeting SLO": CheapestMeetingSlo(objective_s=OBJECTIVE_S),
    "cascade at 0.3": Cascade(threshold=0.3),
    "cascade at 0.5": Cascade(threshold=0.5),
    "cascade at 0.7": Cascade(threshold=0.7),
    "degrade under load": DegradeUnderLoad(),
}
METRICS = measured("quality_mean", "slo_attainment", "e2e_s.p99", described=("cost_per_request",))


def spec_of(name: str) -> FleetSpec:
    """The fleet of a candidate."""
    pools = {
        variant: PoolSpec(
            model=SERVED, variant=variant, engine=engine(one.model, one.device), device=one.device,
            replicas=one.replicas, cost_per_hour=PRICES[one.device], quality=one.quality,
        )
        for variant, one in VARIANTS.items()
    }  # fmt: skip
    return FleetSpec(
        pools=pools, models={SERVED: ModelPolicies(variants=POLICIES[name])}, batching=NoBatching(),
        max_inflight_batches=1, queue_capacity=1_000_000, slo=Slo(e2e_s=OBJECTIVE_S),
    )  # fmt: skip


def run(plan: Plan, options: Options) -> StudyResult:
    """One comparison at each load."""
    return compared(
        "model_selection", plan, options, {name: spec_of(name) for name in POLICIES},
        metrics=METRICS, setting="load of the large variant", capacity_per_s=_most_per_s,
        fleet=f"4 L4 (small) and 4 A100 (large), objective {OBJECTIVE_S:g} s",
    )  # fmt: skip


def _most_per_s(trace: Trace) -> float:
    large = VARIANTS["large"]
    return most_per_s(trace, engine(large.model, large.device), large.replicas)


def draw(result: StudyResult) -> str:
    """Quality, attainment and what the work cost, against load."""
    panels = (
        Panel(measure="quality_mean", label="mean quality"),
        Panel(measure="slo_attainment", label="within the objective (%)"),
        Panel(measure="work_cost_per_request", label="work cost (10⁻³ $ a request)"),
    )
    return lines(result, panels, "load (offered over what the large variant can serve)")


STUDY = Study(
    name="model_selection",
    title="Model selection: cost, quality and attainment by load",
    plans={
        "small": Plan(loads=(0.3, 0.8, 1.3), requests=800, seeds=4),
        "full": Plan(loads=(0.3, 0.7, 0.9, 1.0, 1.1, 1.3), requests=2500, seeds=8),
    },
    run=run,
    draw=draw,
)
