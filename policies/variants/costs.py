"""What variants cost and how good they are, as far as that is known: the orders in which policies compare them."""

from __future__ import annotations

from collections.abc import Sequence

from policies.views import VariantView

Cost = tuple[bool, float]
"""Whether it is unknown, and what it is: no price comes after every price."""


def costs(variants: Sequence[VariantView]) -> list[Cost]:
    """Of one request at each of them: the price of a replica × the expected service time. O(n).

    Where one that has a price does not know its service time, it is the price of an hour for all of them: unlike
    figures are never compared.
    """
    priced = [view for view in variants if view.cost_per_hour is not None]
    timed = all(view.expected_service_s is not None for view in priced)
    return [_cost(view, timed) for view in variants]


def _cost(view: VariantView, timed: bool) -> Cost:
    if view.cost_per_hour is None:
        return True, 0.0
    if not timed or view.expected_service_s is None:
        return False, view.cost_per_hour
    return False, view.cost_per_hour * view.expected_service_s


def by_quality(view: VariantView) -> tuple[bool, float]:
    """A key by which the best comes first, and unknown quality last."""
    return view.quality is None, 0.0 if view.quality is None else -view.quality
