"""Another scaling policy, held to so many replicas at a time."""

from __future__ import annotations

import random

from msgspec import field

from policies.base import ScalingPolicy, is_settled
from policies.decisions import Scale
from policies.scaling.behaviour import Limit, RateLimit, Select
from policies.scaling.bounds import asked_so_far, is_known, within
from policies.scaling.target_utilization import TargetUtilization
from policies.views import PoolView
from traces.values import BadValue


class RateLimited(ScalingPolicy):
    """Follow `scaler`, at most so many replicas or per cent of them within a time. O(changes in the longest period).

    Per cent are of what there was when the period began, rounded in favour of the change; from none, one is always
    allowed. What is disabled never happens, though the bounds of the pool are kept.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling" (scaling policies, `selectPolicy`), whose defaults
    these are.
    """

    scaler: ScalingPolicy = field(default_factory=TargetUtilization)
    """What is followed."""
    up_limits: tuple[Limit, ...] = (("percent", 100, 15.0), ("pods", 4, 15.0))
    """Each: at most so many replicas (`pods`), or per cent, within so many seconds, on the way up."""
    up_select: Select = "max"
    """Which of them counts."""
    down_limits: tuple[Limit, ...] = (("percent", 100, 15.0),)
    """Likewise, on the way down."""
    down_select: Select = "max"
    """Which of them counts."""

    def check_values(self) -> None:
        """Raises `BadValue` where it could never move, or a direction has no limit."""
        if self.up_select == self.down_select == "disabled":
            raise BadValue("up_select", "both directions are disabled, so it never moves; take fixed instead")
        for direction in ("up", "down"):
            if (
                not getattr(self, f"{direction}_limits")
                and getattr(self, f"{direction}_select") != "disabled"
            ):
                raise BadValue(f"{direction}_limits", "name at least one limit, or disable the direction")

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.asked: int | None = None
        self.up = RateLimit(self.up_limits, self.up_select)
        self.down = RateLimit(self.down_limits, self.down_select)
        self.at_rest = False

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        scale = self.scaler.desired(pool, now_s)
        asked = asked_so_far(pool, self.asked)
        wanted = within(pool, scale.replicas)
        decided = wanted
        if wanted > asked:
            most = self.up.highest(asked, now_s)
            decided = min(wanted, most if asked or self.up_select == "disabled" else max(1, most))
        elif wanted < asked:
            decided = max(wanted, self.down.lowest(asked, now_s))
        if is_known(pool, self.asked):
            self.asked = decided
            if decided > asked:
                self.up.changed(decided - asked, now_s)
            elif decided < asked:
                self.down.changed(asked - decided, now_s)
        self.at_rest = self.asked == decided == wanted
        return Scale(decided, scale.reason)

    def settled(self) -> bool:
        return self.at_rest and is_settled(self.scaler, "desired")
