"""All requests to one variant: the null baseline."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import VariantsPolicy
from policies.decisions import Use
from policies.views import VariantView
from traces.schema import Request


class FixedVariant(VariantsPolicy):
    """Serve every request by one variant. O(n) in the variants.

    One that is gone, or was never there, is no reason to refuse a request: then it is the first variant that is served.

    Source: none.
    """

    variant: str | None = None
    """None: the first that was declared."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        if any(view.variant == self.variant for view in variants):
            return Use(self.variant or "")
        return Use(variants[0].variant)
