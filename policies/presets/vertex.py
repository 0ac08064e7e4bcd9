"""Google Vertex AI online inference: replicas by the duty cycle of their accelerators."""

from __future__ import annotations

from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.scaling.gpu_utilization import GpuUtilization
from policies.warm_pool.no_warm_pool import NoWarmPool


def vertex() -> Preset:
    """A deployed model on dedicated resources with accelerators that says nothing of its target."""
    return Preset(
        name="vertex",
        source='Google Cloud, "Scale inference nodes by using autoscaling" (docs.cloud.google.com/vertex-ai, read in '
        "November 2026)",
        serves="requests",
        fields={
            "binding": "early",
            "queueing": Fifo(),
            "scaling": GpuUtilization(target=0.6, look_back_s=300.0, adjust_s=15.0),
            "warm_pool": NoWarmPool(),
            "min_replicas": 1,
        },
        knobs=(
            Knob("min_replicas", 1, "dedicatedResources.minReplicaCount = 1", "at least 1; 0 in a preview"),
            Knob(
                "scaling.target", 0.6, "autoscalingMetricSpecs.target = 60", "of the accelerator's duty cycle"
            ),
            Knob("scaling.look_back_s", 300.0, "highest need of the previous 5 minutes"),
            Knob("scaling.adjust_s", 15.0, "replicas adjusted every 15 seconds"),
        ),
        left_out=(
            "how it routes, which is not documented, and batching, which is the container's: the fleet's own",
            "utilisation of the CPU, which is a second metric with the same target and window",
            "the minutes in which a node starts are the engine's and `provision_s`",
        ),
    )
