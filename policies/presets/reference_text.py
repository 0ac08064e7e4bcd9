"""The serving system that the reference text builds by hand, in one page of Python."""

from __future__ import annotations

from policies.batching.window import Window
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.queue_depth import QueueDepth
from policies.warm_pool.fixed_size import FixedSize


def reference_text() -> Preset:
    """A central queue, a batching window, a queue-depth autoscaler and one warm spare."""
    return Preset(
        name="reference_text",
        source='"Distributed AI", chapter 23, "Serving Frameworks and Practice", Code 23.8.2',
        serves="requests",
        fields={
            "binding": "late",
            "max_inflight_batches": 1,
            "queueing": Fifo(),
            "batching": Window(max_batch=16, window_s=0.010),
            "scaling": QueueDepth(up_at=10.0, down_at=3.0, only_idle=True, keep=2, rest_busy=1e9),
            "warm_pool": FixedSize(size=1),
            "control_interval_s": 0.1,
            "min_replicas": 1,
            "retry": NoRetry(),
        },
        knobs=(
            Knob(
                "binding",
                "late",
                "queue = collections.deque()",
                "one central queue, from which idle replicas pull",
            ),
            Knob("max_inflight_batches", 1, "Replica.busy_until"),
            Knob("batching.max_batch", 16, "MAX_BATCH = 16"),
            Knob("batching.window_s", 0.010, "BATCH_WINDOW = 0.010"),
            Knob("scaling.up_at", 10.0, "SCALE_UP_Q = 10"),
            Knob("scaling.down_at", 3.0, "SCALE_DOWN_Q = 3"),
            Knob("scaling.keep", 2, "len(ready) > 1 + WARM_POOL"),
            Knob("scaling.only_idle", True, "if r.idle(t): replicas.remove(r)"),
            Knob("warm_pool.size", 1, "WARM_POOL = 1", "there it only keeps replicas from being retired"),
            Knob("control_interval_s", 0.1, "int(round(t * 1000)) % 100 == 0"),
            Knob("min_replicas", 1, "replica count min = 1"),
        ),
        left_out=("COLD_START_S = 0.8 and the cost of a batch are the engine's",),
    )
