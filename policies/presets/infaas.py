"""INFaaS: the cheapest variant that meets an objective, each scaled by its own load."""

from __future__ import annotations

from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.square_root_staffing import SquareRootStaffing
from policies.warm_pool.no_warm_pool import NoWarmPool


def infaas() -> Preset:
    """Variants of the model ``default`` by cost, and as many replicas of each as its load over the rate of one.

    In a fleet of one variant there is nothing to choose, and it only scales.
    """
    return Preset(
        name="infaas",
        source='Romero, Li, Yadwadkar and Kozyrakis, "INFaaS: Automated Model-less Inference Serving", USENIX ATC '
        "2021; its code (stanford-mast/INFaaS, commit 02ad2b8, src/worker/autoscaler.cc)",
        serves="requests",
        fields={
            "binding": "early",
            "models": {"default": {"variants": {"policy": "cheapest-meeting-slo"}}},
            "queueing": Fifo(),
            "scaling": SquareRootStaffing(beta=0.0, average_s=1.0, down_stabilization_s=10.0),
            "warm_pool": NoWarmPool(),
            "control_interval_s": 0.5,
            "min_replicas": 1,
            "retry": NoRetry(),
        },
        knobs=(
            Knob(
                "models.default.variants.policy",
                "cheapest-meeting-slo",
                "model-variant selection: latency, accuracy",
                "for each request, of those that are loaded",
            ),
            Knob(
                "scaling.beta", 0.0, "replicas = load / throughput of one", "without a safety beyond the load"
            ),
            Knob(
                "scaling.down_stabilization_s",
                10.0,
                "GPU_SCALE_DOWN_DELAY = 20",
                "requests in a row, one each 0.5 s",
            ),
            Knob("min_replicas", 1, "NUM_INIT_CPU_WORKERS = 1", "it keeps the workers that it began with"),
            Knob("control_interval_s", 0.5, "sleep_interval = 500", "of the autoscaler's thread"),
        ),
        left_out=(
            "batching, which is a variant's, and routing among its replicas: the fleet's own",
            "replacing one variant by another as load changes, by an integer program",
            "the throughput of one is profiled at its largest batch; here it is learnt from the batches that ran",
            "machines: where all are used for more than 80 %, another one is started",
            "overloaded variants are avoided for some seconds",
        ),
    )
