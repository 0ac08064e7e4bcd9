"""TorchServe: a queue for each model, from which its workers gather batches."""

from __future__ import annotations

from policies.batching.ray_serve_batch import RayServeBatch
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def torchserve() -> Preset:
    """A model that was registered without parameters: batches of one, a worker for each device.

    Its rule for larger batches is `RayServeBatch`'s: the delay runs from the first request that a worker took.
    """
    return Preset(
        name="torchserve",
        source='TorchServe documentation, "Advanced configuration", "Batch Inference with TorchServe" and "Management '
        'API" (pytorch/serve, docs/configuration.md at commit 077fe91, read in November 2026; no longer maintained)',
        serves="requests",
        fields={
            "binding": "late",
            "max_inflight_batches": 1,
            "queueing": Fifo(),
            "batching": RayServeBatch(max_batch=1, batch_wait_timeout_s=0.1),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "queue_capacity": 100,
            "retry": NoRetry(),
        },
        knobs=(
            Knob("binding", "late", "job queue", "one queue for a model, from which its workers take"),
            Knob(
                "max_inflight_batches",
                1,
                "default_workers_per_model = GPUs in the system",
                "a replica is a worker, with a device of its own",
            ),
            Knob("batching.max_batch", 1, "batch_size = 1"),
            Knob("batching.batch_wait_timeout_s", 0.1, "max_batch_delay = 100"),
            Knob("queue_capacity", 100, "job_queue_size = 100", "beyond it requests are answered by 503"),
            Knob(
                "scaling.policy",
                "fixed",
                "min_worker = max_worker = 1",
                "the management API changes it by hand",
            ),
        ),
        left_out=(
            "several workers on one device",
            "default_response_timeout, 120 s, after which a worker is started anew",
        ),
    )
