"""Ray Serve: Python deployments whose handles choose between two replicas, scaled on ongoing requests."""

from __future__ import annotations

from policies.batching.ray_serve_batch import RayServeBatch
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.routing.power_of_two_choices import PowerOfTwoChoices
from policies.scaling.target_ongoing_requests import TargetOngoingRequests
from policies.warm_pool.no_warm_pool import NoWarmPool


def ray_serve() -> Preset:
    """`num_replicas = "auto"` and `@serve.batch`, each without parameters.

    Both are switches: until they are set there is one replica, and requests are not batched. By default
    `max_ongoing_requests` is below `max_batch_size`, so that no batch is ever full.
    """
    return Preset(
        name="ray_serve",
        source='Ray documentation, "Configure Ray Serve deployments", "Ray Serve Autoscaling", "Advanced Ray Serve '
        'Autoscaling", "Dynamic Request Batching", and the API `AutoscalingConfig` (docs.ray.io/en/latest, read in '
        "November 2026)",
        serves="requests",
        fields={
            "binding": "early",
            "max_inflight_batches": 1,
            "routing": PowerOfTwoChoices(choices=2),
            "queueing": Fifo(),
            "batching": RayServeBatch(max_batch=10, batch_wait_timeout_s=0.01, max_ongoing_requests=5),
            "scaling": TargetOngoingRequests(
                target_ongoing_requests=2.0,
                look_back_period_s=30.0,
                upscale_delay_s=30.0,
                downscale_delay_s=600.0,
            ),
            "warm_pool": NoWarmPool(),
            "control_interval_s": 0.1,
            "min_replicas": 1,
            "probe_interval_s": 10.0,
            "probe_timeout_s": 30.0,
        },
        knobs=(
            Knob(
                "routing.policy",
                "power-of-two-choices",
                "request_router_class = PowerOfTwoChoicesRequestRouter",
            ),
            Knob("max_inflight_batches", 1, "@serve.batch(max_concurrent_batches = 1)"),
            Knob("batching.max_batch", 10, "@serve.batch(max_batch_size = 10)"),
            Knob(
                "batching.max_ongoing_requests",
                5,
                "max_ongoing_requests = 5",
                "below max_batch_size: a batch has five at most, and waits for the sixth that cannot come",
            ),
            Knob("batching.batch_wait_timeout_s", 0.01, "@serve.batch(batch_wait_timeout_s = 0.01)"),
            Knob("scaling.target_ongoing_requests", 2.0, "target_ongoing_requests = 2"),
            Knob("scaling.look_back_period_s", 30.0, "look_back_period_s = 30"),
            Knob("scaling.upscale_delay_s", 30.0, "upscale_delay_s = 30"),
            Knob("scaling.downscale_delay_s", 600.0, "downscale_delay_s = 600"),
            Knob("control_interval_s", 0.1, "RAY_SERVE_CONTROL_LOOP_INTERVAL_S = 0.1"),
            Knob(
                "min_replicas",
                1,
                "min_replicas = 1",
                "max_replicas, 100 with num_replicas = auto, is the fleet's",
            ),
            Knob("probe_interval_s", 10.0, "health_check_period_s = 10"),
            Knob("probe_timeout_s", 30.0, "health_check_timeout_s = 30"),
        ),
        left_out=(
            "max_ongoing_requests keeps what is beyond it at the router until a replica has room, so that replicas "
            "that come later get some of it; here it waits at the replica that was chosen on arrival",
            "replicas on the node of the router are preferred",
            "requests in flight are reported every 10 s (metrics_interval_s); here they are known",
        ),
    )
