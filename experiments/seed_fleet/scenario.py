"""The reference scenario as a spec and a fault trace."""

from __future__ import annotations

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from policies import QueueDepth, Window
from traces import Fault, FaultTrace, Slo, Trace, load_trace

TRACE_NAME = "surge-reference"

SPEC = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.012, per_item_s=0.003), cold_start_s=0.8),
    binding="late",
    batching=Window(max_batch=16, window_s=0.010),
    # The loop in print retires a replica only if one happens to be idle at that instant, which in the surge is seldom;
    # whether the others can carry the load it does not ask.
    scaling=QueueDepth(up_at=10, down_at=3, only_idle=True, rest_busy=100),
    replicas=2,
    min_replicas=2,
    max_replicas=8,
    max_inflight_batches=1,
    control_interval_s=0.1,
    slo=Slo(e2e_s=0.2),
)

FAULTS = FaultTrace(faults=(Fault(at_s=20.0, kind="crash"),), source="the reference scenario")


def load() -> Trace:
    """The scenario's 6,606 arrivals."""
    return load_trace(TRACE_NAME)
