"""The best variant while there is room; a lesser one while there is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Use
from policies.variants.costs import by_quality
from policies.views import VariantView
from traces.schema import Request


class DegradeUnderLoad(VariantsPolicy):
    """Take the best variant that is not overloaded, with hysteresis. O(n log n) in the variants.

    A variant's load is what waits, or all that is in flight, for each ready replica. At `degrade_at` it takes no more,
    until the load has fallen to `restore_at`. Where all are overloaded it is the last one. Variants without a ready
    replica are passed over where others have one. Best is the highest quality, unknown last, then the order of
    declaration.

    Source: Klein, Maggio, Årzén and Hernández-Rodriguez, "Brownout: Building More Robust Cloud Applications", ICSE 2014
    (optional content is left out under load; there by a controller of its share).
    """

    signal: Literal["queue_depth", "in_flight"] = "queue_depth"
    """What load is: requests that wait for a replica, or all that have not ended. Where replicas serve token by token,
    or take many batches at a time, hardly any wait, and `in_flight` is the signal."""
    degrade_at: Annotated[float, Meta(gt=0, le=1e9)] = 4.0
    """Of the signal, for each ready replica."""
    restore_at: Annotated[float, Meta(ge=0, le=1e9)] = 1.0
    """Likewise; below `degrade_at`."""
    protect_priority: int | None = None
    """Requests of this priority and above are not degraded under load; None: all may be."""

    def check_values(self) -> None:
        """Whether the two thresholds leave room for hysteresis."""
        if self.restore_at >= self.degrade_at:
            raise ValueError(
                f"restore_at = {self.restore_at:g} must be below degrade_at = {self.degrade_at:g}"
            )

    def reset(self, rng: random.Random) -> None:
        self.full: dict[str, dict[str, bool]] = {}
        """By version, whether each of its variants takes no more for now."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        before = self.full.get(variants[0].version, {})
        full = {view.variant: self._is_full(view, before.get(view.variant, False)) for view in variants}
        self.full[variants[0].version] = full
        ready = sorted((view for view in variants if view.ready), key=by_quality)
        if not ready:
            return Use(min(variants, key=by_quality).variant, "none is ready: the best")
        best = ready[0].variant
        if self.protect_priority is not None and (request.priority or 0) >= self.protect_priority:
            return Use(best)
        for view in ready:
            if not full[view.variant]:
                return Use(view.variant, None if view.variant == best else "degraded under load")
        return Use(ready[-1].variant, "all are overloaded: the last")

    def _is_full(self, view: VariantView, was_full: bool) -> bool:
        if not view.ready:
            return was_full  # of a load without replicas nothing can be said
        load = (view.queue_depth if self.signal == "queue_depth" else view.in_flight) / view.ready
        return load > self.restore_at if was_full else load >= self.degrade_at
