"""The cheapest variant that can do what the request asks for."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import VariantsPolicy
from policies.decisions import Reject, Use
from policies.variants.costs import costs
from policies.views import VariantView
from traces.schema import Request


class ByCapability(VariantsPolicy):
    """Of the variants with all capabilities that are asked for, the cheapest for each request. O(n) in the variants.

    A request asks by its field `capability` in `extra`: one name, or several with commas between. One that asks for
    nothing may go anywhere. Unknown prices come last; equal ones by the order of declaration. What nobody can do is
    refused.

    Source: none; the model cards of gateways to many models (tools, vision, long contexts) are used so.
    """

    field: str = "capability"
    """Of `Request.extra`."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use | Reject:
        asked = self._asked(request)
        able = [view for view in variants if all(name in view.capabilities for name in asked)]
        if not able:
            return Reject(
                f"no variant can do {', '.join(asked)}; served are {'; '.join(map(_card, variants))}"
            )
        prices = costs(able)
        return Use(able[prices.index(min(prices))].variant)

    def _asked(self, request: Request) -> list[str]:
        value = None if request.extra is None else request.extra.get(self.field)
        return [] if value is None else [name.strip() for name in str(value).split(",") if name.strip()]


def _card(view: VariantView) -> str:
    return f"{view.variant} ({', '.join(view.capabilities) or 'nothing in particular'})"
