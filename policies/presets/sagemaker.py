"""Amazon SageMaker real-time endpoints: random routing, and target tracking on invocations."""

from __future__ import annotations

from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.routing.random import Random
from policies.scaling.target_tracking import TargetTracking
from policies.warm_pool.no_warm_pool import NoWarmPool


def sagemaker() -> Preset:
    """An endpoint with the scaling policy that the developer guide shows. Without one it does not scale."""
    return Preset(
        name="sagemaker",
        source='Amazon SageMaker AI developer guide, "Define a scaling policy"; its API, '
        '`ProductionVariantRoutingConfig`; AWS Machine Learning Blog, "Minimize real-time inference latency by using '
        'Amazon SageMaker routing strategies", 2023 (random by default); Application Auto Scaling API, '
        "`TargetTrackingScalingPolicyConfiguration`; read in November 2026",
        serves="requests",
        fields={
            "binding": "early",
            "routing": Random(),
            "queueing": Fifo(),
            "scaling": TargetTracking(
                metric="invocations_per_minute",
                target=70.0,
                scale_out_cooldown_s=300.0,
                scale_in_cooldown_s=300.0,
                period_s=60.0,
                out_periods=3,
                in_periods=15,
            ),
            "warm_pool": NoWarmPool(),
            "min_replicas": 1,
        },
        knobs=(
            Knob("routing.policy", "random", "RoutingStrategy = RANDOM"),
            Knob(
                "scaling.metric",
                "invocations_per_minute",
                "SageMakerVariantInvocationsPerInstance",
                "of the example",
            ),
            Knob(
                "scaling.target",
                70.0,
                "TargetValue = 70.0",
                "of the example; there is no default, and it says little of what a device can do",
            ),
            Knob("scaling.scale_out_cooldown_s", 300.0, "ScaleOutCooldown = 300"),
            Knob("scaling.scale_in_cooldown_s", 300.0, "ScaleInCooldown = 300"),
            Knob("scaling.period_s", 60.0, "period of a CloudWatch alarm = 60 s"),
            Knob("scaling.out_periods", 3, "evaluation periods of the high alarm = 3", "as it makes them"),
            Knob("scaling.in_periods", 15, "evaluation periods of the low alarm = 15", "as it makes them"),
            Knob("min_replicas", 1, "MinCapacity = 1", "of the example"),
        ),
        left_out=(
            "batching, which is the container's: the fleet's own",
            "the minutes in which an instance starts are the engine's and `provision_s`",
            "multi-model endpoints, serverless and asynchronous ones, scaling to zero by inference components",
        ),
    )
