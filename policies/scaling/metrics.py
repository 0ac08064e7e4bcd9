"""What scaling policies that take a metric by name can go by, each as a total over the pool."""

from __future__ import annotations

from typing import Literal

from policies.views import PoolView

Metric = Literal[
    "utilization", "gpu_utilization", "busy_fraction", "memory_used_fraction", "kv_utilization", "in_flight",
    "queue_depth", "arrivals_per_s",
]  # fmt: skip
"""`utilization`: what devices report, and where none does, the fraction of time that engines ran."""

OF_REPLICAS = frozenset(
    ("utilization", "gpu_utilization", "busy_fraction", "memory_used_fraction", "kv_utilization")
)
"""Of those: what ready replicas measure in themselves; the rest is counted where requests come in."""


def mean_of_ready(pool: PoolView, metric: Metric) -> float | None:
    """The mean over ready replicas of what they measure; None: not known."""
    if pool.ready == 0:
        return None
    if metric == "utilization":
        return pool.busy_fraction if pool.gpu_utilization is None else pool.gpu_utilization
    if metric == "gpu_utilization":
        return pool.gpu_utilization
    if metric == "busy_fraction":
        return pool.busy_fraction
    if metric == "memory_used_fraction":
        return pool.memory_used_fraction
    return pool.kv_utilization_mean


def total_of_pool(pool: PoolView, metric: Metric) -> float:
    """What is counted where requests come in, by its mean over the interval."""
    if metric == "in_flight":
        return pool.in_flight_mean
    if metric == "queue_depth":
        return pool.queue_depth_mean
    return pool.arrivals_per_s


def unmeasured(pool: PoolView, metric: Metric) -> int:
    """How many ready replicas do not say how much of this they have, where others do. O(replicas)."""
    if metric == "gpu_utilization" or (metric == "utilization" and pool.gpu_utilization is not None):
        silent = [view.gpu_utilization is None for view in pool.replicas if view.state == "ready"]
    elif metric == "memory_used_fraction":
        silent = [view.memory_used_bytes is None for view in pool.replicas if view.state == "ready"]
    elif metric == "kv_utilization":
        silent = [view.tokens is None for view in pool.replicas if view.state == "ready"]
    else:
        silent = [view.busy_fraction is None for view in pool.replicas if view.state == "ready"]
    return 0 if all(silent) else sum(silent)
