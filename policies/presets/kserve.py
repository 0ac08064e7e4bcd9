"""KServe in its Knative (serverless) mode: a control plane over whatever serves in the container."""

from __future__ import annotations

from policies.presets.knative import KNOBS, LEFT_OUT, autoscaler
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.routing.power_of_two_choices import PowerOfTwoChoices
from policies.warm_pool.no_warm_pool import NoWarmPool


def kserve() -> Preset:
    """An InferenceService that says nothing of scaling: Knative's autoscaler with one replica kept.

    It scales to zero where `minReplicas` is 0, which is ``min_replicas = 0`` here. Batching is the runtime's: put it
    over that of another preset with ``fleet.replace(**triton().fields).replace(**kserve().fields)``.
    """
    return Preset(
        name="kserve",
        source="KServe, API reference of serving.kserve.io/v1beta1 (`ComponentExtensionSpec`), and its website, "
        '"Autoscaling" with Knative (kserve/kserve and kserve.github.io, read in November 2026)',
        serves="requests",
        fields={
            "binding": "early",
            "routing": PowerOfTwoChoices(choices=2),
            "queueing": Fifo(),
            "scaling": autoscaler(),
            "warm_pool": NoWarmPool(),
            "control_interval_s": 2.0,
            "min_replicas": 1,
        },
        knobs=(
            Knob("min_replicas", 1, "minReplicas = 1", "0 lets it scale to zero"),
            *KNOBS,
        ),
        left_out=(
            *LEFT_OUT,
            "canaryTrafficPercent, the share of a new version: the fleet's `rollout`",
            "the agent's batcher, off by default",
            "ModelMesh, which keeps many models in few replicas",
        ),
    )
