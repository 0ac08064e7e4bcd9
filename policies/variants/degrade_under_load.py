"""The best variant while there is room; a smaller one while there is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Use
from policies.views import VariantView
from traces.schema import Request


class DegradeUnderLoad(VariantsPolicy):
    """Take the best variant that is not overloaded, with hysteresis. O(n) in the variants.

    A variant's load is its waiting requests for each ready replica. At `degrade_at` it takes no more, until that has
    fallen to `restore_at`; one without a ready replica takes none. Where all are overloaded it is the last one. Best is
    the highest quality, unknown last, then the order of declaration.

    Source: Klein, Maggio, Årzén and Hernández-Rodriguez, "Brownout: Building More Robust Cloud Applications", ICSE 2014
    (optional content is left out under load; there by a controller of its share).
    """

    degrade_at: Annotated[float, Meta(gt=0, le=1e9)] = 4.0
    """Waiting requests for each ready replica."""
    restore_at: Annotated[float, Meta(ge=0, le=1e9)] = 1.0
    """Likewise; below `degrade_at`."""
    protect_priority: int | None = None
    """Requests of this priority and above always get the best variant; None: nobody does."""

    def check_values(self) -> None:
        """Whether the two thresholds leave room for hysteresis."""
        if self.restore_at >= self.degrade_at:
            raise ValueError(
                f"restore_at = {self.restore_at:g} must be below degrade_at = {self.degrade_at:g}"
            )

    def reset(self, rng: random.Random) -> None:
        self.full: dict[str, bool] = {}
        """Whether each variant takes no more for now."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        best_first = sorted(variants, key=lambda view: (view.quality is None, -(view.quality or 0.0)))
        for view in best_first:
            self.full[view.variant] = self._is_full(view)
        if self.protect_priority is not None and (request.priority or 0) >= self.protect_priority:
            return Use(best_first[0].variant)
        open_ones = [view for view in best_first if not self.full[view.variant]]
        if not open_ones:
            return Use(best_first[-1].variant, "all are overloaded")
        chosen = open_ones[0].variant
        return Use(chosen) if chosen == best_first[0].variant else Use(chosen, "degraded under load")

    def _is_full(self, view: VariantView) -> bool:
        if not view.ready:
            return True
        load = view.queue_depth / view.ready
        return load > self.restore_at if self.full.get(view.variant, False) else load >= self.degrade_at
