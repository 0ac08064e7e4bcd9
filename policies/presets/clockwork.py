"""Clockwork: one controller that knows what everything takes, and drops what would be late."""

from __future__ import annotations

from policies.batching.clockwork_deadline import ClockworkDeadline
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def clockwork() -> Preset:
    """A central queue, the largest batch in which nobody is late, one batch at a time for each device.

    It goes by the deadlines or objectives of requests: without any it drops none.
    """
    return Preset(
        name="clockwork",
        source='Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom Up", OSDI '
        "2020, sections 4 and 5",
        serves="requests",
        fields={
            "binding": "late",
            "max_inflight_batches": 1,
            "queueing": Fifo(),
            "batching": ClockworkDeadline(max_batch=16, margin_s=0.0, measurements=10),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "retry": NoRetry(),
        },
        knobs=(
            Knob("binding", "late", "central controller", "all requests wait there"),
            Knob("max_inflight_batches", 1, "executor: one INFER at a time on a GPU"),
            Knob("batching.max_batch", 16, "batch sizes = 1, 2, 4, 8, 16", "here every number up to it"),
            Knob("batching.measurements", 10, "window of measurements = 10"),
            Knob("scaling.policy", "fixed", "workers", "a fixed set of machines"),
        ),
        left_out=(
            "several models that share a device: LOAD and UNLOAD, paged weights, which models are resident",
            "actions are sent up to 5 ms before they are due; here a device gets its next batch when it is free",
            "requests of one model are in the order of arrival; here the most urgent go first",
        ),
    )
