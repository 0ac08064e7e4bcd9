"""Knative Serving: containers that scale with concurrency, and to none without requests."""

from __future__ import annotations

from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.routing.power_of_two_choices import PowerOfTwoChoices
from policies.scaling.knative_concurrency import KnativeConcurrency
from policies.warm_pool.no_warm_pool import NoWarmPool


def knative() -> Preset:
    """The Knative Pod Autoscaler with a revision that limits no concurrency."""
    return Preset(
        name="knative",
        source='Knative documentation, "Additional autoscaling configuration for Knative Pod Autoscaler", "Configuring '
        'scale bounds", "Load balancing"; ConfigMap `config-autoscaler` (knative.dev/docs, read in November 2026)',
        serves="requests",
        fields={
            "binding": "early",
            "routing": PowerOfTwoChoices(choices=2),
            "queueing": Fifo(),
            "scaling": autoscaler(),
            "warm_pool": NoWarmPool(),
            "control_interval_s": 2.0,
            "min_replicas": 0,
        },
        knobs=(
            Knob("min_replicas", 0, "enable-scale-to-zero = true, min-scale = 0"),
            *KNOBS,
        ),
        left_out=LEFT_OUT,
    )


def autoscaler() -> KnativeConcurrency:
    """The Knative Pod Autoscaler as it comes."""
    return KnativeConcurrency(
        target_concurrency=100.0,
        target_utilization_percentage=70.0,
        stable_window_s=60.0,
        panic_window_percentage=10.0,
        panic_threshold_percentage=200.0,
        max_scale_up_rate=1000.0,
        max_scale_down_rate=2.0,
        target_burst_capacity=211.0,
        scale_to_zero_grace_period_s=30.0,
        initial_scale=1,
    )


KNOBS = (
    Knob(
        "routing.policy",
        "power-of-two-choices",
        "containerConcurrency = 0",
        "the activator's choice of two at random; with a limit up to 3 it takes the first that has room, above it goes "
        "round",
    ),
    Knob("scaling.target_concurrency", 100.0, "container-concurrency-target-default = 100"),
    Knob("scaling.target_utilization_percentage", 70.0, "container-concurrency-target-percentage = 70"),
    Knob("scaling.stable_window_s", 60.0, "stable-window = 60s"),
    Knob("scaling.panic_window_percentage", 10.0, "panic-window-percentage = 10.0"),
    Knob("scaling.panic_threshold_percentage", 200.0, "panic-threshold-percentage = 200.0"),
    Knob("scaling.max_scale_up_rate", 1000.0, "max-scale-up-rate = 1000.0"),
    Knob("scaling.max_scale_down_rate", 2.0, "max-scale-down-rate = 2.0"),
    Knob("scaling.target_burst_capacity", 211.0, "target-burst-capacity = 211"),
    Knob("scaling.scale_to_zero_grace_period_s", 30.0, "scale-to-zero-grace-period = 30s"),
    Knob("scaling.initial_scale", 1, "initial-scale = 1"),
    Knob("control_interval_s", 2.0, "tick-interval = 2s"),
)
"""What KServe has of it, too."""
LEFT_OUT = (
    "batching, which is the container's: the fleet's own",
    "the activator leaves the path of requests while there is room for a burst, and Kubernetes then routes at random",
    "containerConcurrency, a limit of each container, none by default",
)
