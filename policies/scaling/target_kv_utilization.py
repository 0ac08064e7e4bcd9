"""Scaling to a target share of the key-value cache, for replicas that serve token by token."""

from __future__ import annotations

from policies.scaling.target_utilization import TargetUtilization
from policies.views import PoolView


class TargetKvUtilization(TargetUtilization):
    """Ask for `ceil(ready · current / target)` replicas; `current` is the wanted share of the key-value cache.

    Wanted is what sequences hold, and what those that wait at a replica would take to prefill: so it goes beyond 1 when
    a replica has more than it can hold, and one look tells how many replicas would hold it. A replica that serves token
    by token is busy with one sequence as with a hundred, so neither its busy fraction nor the head's queue tells that.
    Before any replica reports, nothing changes. All else is as in `TargetUtilization`. O(replicas).

    Source: the metrics `kv_cache_usage_perc` and `num_requests_waiting` of vLLM, on which its production stack scales;
    the rule of the Kubernetes documentation, "Horizontal Pod Autoscaling" (algorithm details).
    """

    def current(self, pool: PoolView) -> float | None:
        wanted = [
            (signals.used_blocks + signals.waiting_tokens / (signals.block_tokens or 1))
            / signals.total_blocks
            for replica in pool.replicas
            if replica.state == "ready" and (signals := replica.tokens) is not None and signals.total_blocks
        ]
        return sum(wanted) / len(wanted) if wanted else None
