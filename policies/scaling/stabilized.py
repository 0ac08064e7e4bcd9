"""Another scaling policy, held to what it has been asking for for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, field

from policies.base import Policy, ScalingPolicy, is_settled, parts_of
from policies.decisions import Scale
from policies.scaling.behaviour import Stabilizer
from policies.scaling.bounds import asked_so_far, is_known, within
from policies.scaling.queue_depth import QueueDepth
from policies.views import PoolView
from traces.values import BadValue


class Stabilized(ScalingPolicy):
    """Go up to the least that `scaler` asked for within `up_s`, down to the most within `down_s`. Amortised O(1).

    So what lasts for less than the window changes nothing: up soon, down late. From none it goes up at once.

    Source: "Inference Serving" in the Language AI Handbook (asymmetric cooldowns, 60 s up and 300 s down, against
    oscillation); Kubernetes documentation, "Horizontal Pod Autoscaling" (stabilization window).
    """

    scaler: ScalingPolicy = field(default_factory=QueueDepth)
    """What is held."""
    up_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds for which it must have asked for as much before there is more."""
    down_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds for which it must have asked for as little before there is less."""

    def check_values(self) -> None:
        """Raises `BadValue` where it holds one of its kind: the longer windows decide, and the others say otherwise."""
        if any(isinstance(part, Stabilized) for part in _all_parts(self)):
            raise BadValue(
                "scaler", "stabilized within stabilized: keep one, with the windows that are meant"
            )

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.asked: int | None = None
        self.stabilizer = Stabilizer(self.up_s, self.down_s)
        self.agreed_since_s: float | None = None
        self.agreed = -1
        self.at_rest = False

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        scale = self.scaler.desired(pool, now_s)
        asked = asked_so_far(pool, self.asked)
        held = within(pool, self.stabilizer.held(asked, scale.replicas, now_s))
        if asked == 0 and scale.replicas > 0:
            held = within(pool, scale.replicas)
        if is_known(pool, self.asked):
            self.asked = held
        self._see_rest(scale.replicas, held, now_s)
        return Scale(held, scale.reason)

    def _see_rest(self, wanted: int, held: int, now_s: float) -> None:
        """At rest: both windows hold nothing but what is asked for now."""
        if wanted != self.agreed or self.agreed_since_s is None:
            self.agreed, self.agreed_since_s = wanted, now_s
        over = now_s - self.agreed_since_s >= max(self.up_s, self.down_s)
        self.at_rest = over and self.asked == held == wanted

    def settled(self) -> bool:
        return self.at_rest and is_settled(self.scaler, "desired")


def _all_parts(policy: Policy) -> Iterator[Policy]:
    for part in parts_of(policy):
        yield part
        yield from _all_parts(part)
