"""TensorFlow Serving: a shared batch scheduler, where batching is enabled."""

from __future__ import annotations

from policies.batching.window import Window
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def tensorflow_serving() -> Preset:
    """`--enable_batching` without a parameters file. Without the flag it is off: ``batching = NoBatching()``."""
    return Preset(
        name="tensorflow_serving",
        source='"TensorFlow Serving Batching Guide"; `BatchingParameters` of session_bundle_config.proto '
        "(tensorflow/serving, commit 03f8b6b) and the options of `BasicBatchScheduler` (tensorflow/tensorflow, "
        "basic_batch_scheduler.h), whose defaults they have; read in November 2026",
        serves="requests",
        fields={
            "binding": "early",
            "queueing": Fifo(),
            "batching": Window(max_batch=1000, window_s=0.0),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "queue_capacity": 10_000,
            "retry": NoRetry(),
        },
        knobs=(
            Knob(
                "batching.policy",
                "window",
                "--enable_batching = false",
                "on here: it is the only switch, and the rest are its defaults",
            ),
            Knob("batching.max_batch", 1000, "max_batch_size = 1000"),
            Knob("batching.window_s", 0.0, "batch_timeout_micros = 0"),
            Knob(
                "queue_capacity",
                10_000,
                "max_enqueued_batches = 10",
                "batches of 1000 requests, in all replicas together",
            ),
            Knob(
                "scaling.policy",
                "fixed",
                "model server",
                "it serves on one machine; what scales is outside of it",
            ),
        ),
        left_out=(
            "how requests come to one of several servers: the fleet's own `routing`",
            "num_batch_threads, by default the number of cores, is the fleet's max_inflight_batches: a batch is formed "
            "as soon as a thread is free, so that many threads form small ones",
            "several models or versions that share the threads",
            "allowed_batch_sizes, to which batches are padded",
        ),
    )
