"""Several scaling policies at once: the one that asks for the most has it."""

from __future__ import annotations

from msgspec import field

from policies.base import ScalingPolicy, is_settled
from policies.decisions import Scale
from policies.scaling.queue_depth import QueueDepth
from policies.scaling.target_utilization import TargetUtilization
from policies.views import PoolView
from traces.values import BadValue


def _default_scalers() -> list[ScalingPolicy]:
    return [TargetUtilization(), QueueDepth()]


class MaxOf(ScalingPolicy):
    """Ask for the most that any of `scalers` asks for; the reason tells which. O(their sum).

    Each is shown the same pool, and goes on as if what it asked for had been done.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling" (of several metrics, the largest count); Application
    Auto Scaling of AWS, which gives several policies of one target the same precedence.
    """

    scalers: list[ScalingPolicy] = field(default_factory=_default_scalers)
    """At least one; of equal ones, the first is named as the reason."""

    def check_values(self) -> None:
        """Raises `BadValue` where there is none."""
        if not self.scalers:
            raise BadValue("scalers", 'name at least one, such as [{policy = "target-utilization"}]')

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        most, name, why = -1, "", None
        for scaler in self.scalers:
            scale = scaler.desired(pool, now_s)
            if scale.replicas > most:
                most, name, why = scale.replicas, scaler.name(), scale.reason
        return Scale(most, name if why is None else f"{name}: {why}")

    def settled(self) -> bool:
        return all(is_settled(scaler, "desired") for scaler in self.scalers)
