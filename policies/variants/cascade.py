"""The cheapest variant first; the next one where its answer is not good enough."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Escalate, Use
from policies.variants.costs import costs
from policies.views import AnswerView, Ending, VariantView
from traces.schema import Request
from traces.values import BadValue

Quality = Annotated[float, Meta(ge=0, le=1)]


class Cascade(VariantsPolicy):
    """Ask variants in order until an answer has the quality `threshold`. O(n log n) in the variants.

    It costs the answers that are thrown away, and the time that they took; it pays where most requests are easy. It
    goes up the order only, to the next variant that is served.

    Source: Chen, Zaharia and Zou, "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving
    Performance", 2023 (LLM cascade: a scorer, and a threshold for each step); Viola and Jones, "Rapid Object Detection
    using a Boosted Cascade of Simple Features", CVPR 2001, for cascades as such.
    """

    threshold: Quality | Annotated[tuple[Quality, ...], Meta(min_length=1)] = 0.5
    """Answers of this quality are given; worse ones are followed by the next variant's. Several: one for each answer in
    turn, the last of them for all that follow."""
    order: tuple[str, ...] = ()
    """Variants, the first asked first; others are not asked. Empty, or where none of them is served: all, by cost per
    request, unknown ones last, then by order of declaration."""
    max_escalations: Annotated[int, Meta(ge=0, le=100)] = 1
    """Of one request."""
    when_unknown: Literal["accept", "escalate"] = "accept"
    """What to do with an answer of which nobody can say how good it is."""

    def check_values(self) -> None:
        """Raises `BadValue` for a variant that is to be asked twice."""
        twice = [name for number, name in enumerate(self.order) if name in self.order[:number]]
        if twice:
            raise BadValue(
                "order", f"{twice[0]!r} is there twice; each variant is asked once, so name it once"
            )

    def reset(self, rng: random.Random) -> None:
        self.asked: dict[str, list[str]] = {}
        """Variants whose answers were not good enough, by request."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        return Use(self._ordered(variants)[0])

    def after_answer(
        self, request: Request, answer: AnswerView, variants: Sequence[VariantView], now_s: float
    ) -> Escalate | None:
        asked = [*self.asked.get(request.id, ()), answer.variant]
        if len(asked) > self.max_escalations or self._is_good(answer.quality, len(asked)):
            return None
        ordered = self._ordered(variants)
        reached = max((ordered.index(name) for name in asked if name in ordered), default=-1)
        if reached + 1 == len(ordered):
            return None
        self.asked[request.id] = asked
        reason = "unknown" if answer.quality is None else f"quality {answer.quality:.3f}"
        return Escalate(ordered[reached + 1], reason)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        self.asked.pop(ending.request.id, None)

    def _is_good(self, quality: float | None, step: int) -> bool:
        """Whether the answer of this step, the first being 1, may be given."""
        if quality is None:
            return self.when_unknown == "accept"
        bounds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        return quality >= bounds[min(step, len(bounds)) - 1]

    def _ordered(self, variants: Sequence[VariantView]) -> list[str]:
        served = [view.variant for view in variants]
        named = [name for name in self.order if name in served]
        if named:
            return named
        prices = costs(variants)
        return [served[number] for number in sorted(range(len(served)), key=prices.__getitem__)]
