"""The cheapest variant that is expected to be fast enough and is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Use
from policies.views import VariantView
from traces.schema import Request


class CheapestMeetingSlo(VariantsPolicy):
    """Of the variants whose latency meets the objective, the one of least cost per request. O(n) in the variants.

    Latency is expected to be the `quantile` of what the last window measured, where it has at least `min_samples`; else
    the expected service time, as often as there are requests for each ready replica. A variant of which neither is
    known cannot be said to meet anything. Cost is the price of a replica times its expected service time; unknown
    prices come last, and of equal ones the better quality, then the order of declaration. Where none meets the
    objective it is the fastest one.

    Source: Romero, Li, Yadwadkar and Kozyrakis, "INFaaS: Automated Model-less Inference Serving", USENIX ATC 2021
    (variants by cost, under latency and accuracy; there by an integer program, here greedily for each request).
    """

    objective_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """End to end, for requests with neither an end-to-end objective nor a deadline of their own; None: any latency."""
    min_quality: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Below it a variant is not considered, nor where its quality is unknown, unless this is 0."""
    quantile: Annotated[float, Meta(gt=0, le=1)] = 0.9
    min_samples: Annotated[int, Meta(ge=1, le=4096)] = 20

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        good = [view for view in variants if self._is_good(view)] or list(variants)
        bound_s = self._bound_s(request)
        expected = {view.variant: self._expected_s(view) for view in good}
        meeting = [
            view
            for view in good
            if view.ready and (bound_s is None or _within(expected[view.variant], bound_s))
        ]
        if meeting:
            return Use(min(meeting, key=_cost).variant)
        fastest = min(good, key=lambda view: (not view.ready, *_known_first(expected[view.variant])))
        return Use(fastest.variant, "none meets the objective: the fastest")

    def _is_good(self, view: VariantView) -> bool:
        return self.min_quality <= 0.0 or (view.quality is not None and view.quality >= self.min_quality)

    def _bound_s(self, request: Request) -> float | None:
        own = None if request.slo is None else request.slo.e2e_s
        if own is None:
            own = request.deadline_s
        return self.objective_s if own is None else own

    def _expected_s(self, view: VariantView) -> float | None:
        if view.e2e_s.count >= self.min_samples:
            return view.e2e_s.quantile(self.quantile)
        if view.expected_service_s is None or not view.ready:
            return None
        return view.expected_service_s * (1.0 + view.in_flight / view.ready)


def _within(expected_s: float | None, bound_s: float) -> bool:
    return expected_s is not None and expected_s <= bound_s


def _known_first(value: float | None) -> tuple[bool, float]:
    return value is None, 0.0 if value is None else value


def _cost(view: VariantView) -> tuple[bool, float, float]:
    cost = None
    if view.cost_per_hour is not None and view.expected_service_s is not None:
        cost = view.cost_per_hour * view.expected_service_s
    return *_known_first(cost), -(view.quality or 0.0)
