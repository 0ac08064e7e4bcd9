"""The cheapest variant that is expected to be fast enough and is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Use
from policies.objectives import own_bound_s
from policies.variants.costs import by_quality, costs
from policies.views import VariantView
from traces.schema import Request


class CheapestMeetingSlo(VariantsPolicy):
    """Of the variants that are good enough and expected to be in time, the one of least cost per request. O(n).

    Latency is expected to be the `quantile` of what the last window measured, where it is fresh and has `min_samples`;
    else the expected service time, as often as there are requests for each ready replica, the new one among them. A
    variant of which neither is known, or that has no ready replica, cannot be said to meet anything. Cost is the price
    of a replica × its expected service time; unknown ones come last, and of equal ones the better quality, then the
    order of declaration. Where none meets all of this it is the fastest, of those that are good enough if any is.
    Objectives of first tokens and of gaps are not looked at.

    Source: Romero, Li, Yadwadkar and Kozyrakis, "INFaaS: Automated Model-less Inference Serving", USENIX ATC 2021
    (variants by cost, under latency and accuracy; there by an integer program, here greedily for each request).
    """

    objective_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """From the arrival to the reply, for requests with neither an end-to-end objective nor a deadline of their own;
    None: any latency."""
    min_quality: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Below it a variant is not good enough, nor where its quality is unknown, unless this is 0."""
    quantile: Annotated[float, Meta(gt=0, le=1)] = 0.9
    min_samples: Annotated[int, Meta(ge=1, le=4096)] = 20
    max_age_s: Annotated[float, Meta(gt=0, le=1e9)] = 10.0
    """A window that ended longer ago says nothing any more."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        left_s = self._left_s(request, now_s)
        expected = [self._expected_s(view, now_s) for view in variants]
        prices = costs(variants)
        good = [number for number, view in enumerate(variants) if self._is_good(view)]
        meeting = [n for n in good if variants[n].ready and _is_within(expected[n], left_s)]
        if meeting:
            chosen = min(meeting, key=lambda n: (prices[n], by_quality(variants[n])))
            return Use(variants[chosen].variant)
        among = good or range(len(variants))
        chosen = min(among, key=lambda n: (not variants[n].ready, _known_first(expected[n])))
        missed = "none meets the objective" if good else f"none has a quality of {self.min_quality:g}"
        return Use(variants[chosen].variant, f"{missed}: the fastest")

    def _left_s(self, request: Request, now_s: float) -> float | None:
        """How long from now its reply may take; None: as long as it takes."""
        own_s = own_bound_s(request)
        bound_s = self.objective_s if own_s is None else own_s
        return None if bound_s is None else request.arrived_s + bound_s - now_s

    def _is_good(self, view: VariantView) -> bool:
        return self.min_quality <= 0.0 or (view.quality is not None and view.quality >= self.min_quality)

    def _expected_s(self, view: VariantView, now_s: float) -> float | None:
        """How long a request takes there, from now to its reply; None: nobody knows."""
        if view.e2e_s.count >= self.min_samples and now_s - view.as_of_s <= self.max_age_s:
            return view.e2e_s.quantile(self.quantile)
        if view.expected_service_s is None:
            return None
        return view.expected_service_s * max(1.0, (view.in_flight + 1) / max(1, view.ready))


def _is_within(expected_s: float | None, left_s: float | None) -> bool:
    return left_s is None or (expected_s is not None and expected_s <= left_s)


def _known_first(value: float | None) -> tuple[bool, float]:
    return value is None, 0.0 if value is None else value
