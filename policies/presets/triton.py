"""NVIDIA Triton Inference Server: one queue for the instances of a model, and batches of what waits."""

from __future__ import annotations

from policies.batching.triton_dynamic import TritonDynamic
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def triton() -> Preset:
    """Dynamic batching as auto-completed configurations have it, one instance for each device, no autoscaler.

    Where a `config.pbtxt` is written by hand, batching is off until it says `dynamic_batching {}`. That is
    ``batching = NoBatching()`` here.
    """
    return Preset(
        name="triton",
        source='NVIDIA Triton Inference Server user guide, "Model Configuration" and "Batchers" '
        "(triton-inference-server/server, commit 06151b8, read in November 2026)",
        serves="requests",
        fields={
            "binding": "late",
            "max_inflight_batches": 1,
            "queueing": Fifo(),
            "batching": TritonDynamic(max_batch=4, max_queue_delay_s=0.0),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "retry": NoRetry(),
        },
        knobs=(
            Knob(
                "binding",
                "late",
                "dynamic_batching",
                "one queue for a model, from which its instances take batches",
            ),
            Knob(
                "max_inflight_batches",
                1,
                "instance_group.count = 1 for each GPU",
                "a replica is an instance; more on one device are not shown",
            ),
            Knob(
                "batching.policy",
                "triton-dynamic",
                "--disable-auto-complete-config = false",
                "completed configurations of ONNX Runtime and TensorRT have dynamic batching; written ones need "
                "dynamic_batching {}",
            ),
            Knob(
                "batching.max_batch",
                4,
                "--backend-config=default-max-batch-size = 4",
                "max_batch_size, where written",
            ),
            Knob("batching.max_queue_delay_s", 0.0, "max_queue_delay_microseconds = 0"),
            Knob("batching.priority_levels", 0, "priority_levels = 0"),
            Knob("batching.max_queue_size", 0, "default_queue_policy.max_queue_size = 0"),
            Knob("batching.default_timeout_s", 0.0, "default_queue_policy.default_timeout_microseconds = 0"),
            Knob(
                "scaling.policy",
                "fixed",
                "metrics endpoint",
                "it exports metrics; what scales is outside of it",
            ),
        ),
        left_out=(
            "several instances on one device (instance_group.count), which overlap copies with computation",
            "ensembles, and several models that share a device",
            "the rate limiter (--rate-limit = off by default) and the response cache (off by default)",
        ),
    )
