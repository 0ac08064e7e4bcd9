"""The smallest variant first; a larger one where its answer is not good enough."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import VariantsPolicy
from policies.decisions import Escalate, Use
from policies.views import AnswerView, Ending, VariantView
from traces.schema import Request


class Cascade(VariantsPolicy):
    """Ask variants in order until an answer has the quality `threshold`. O(n) in the variants.

    It costs the small answers that are thrown away, and the time that they took; it pays where most requests are easy.

    Source: Chen, Zaharia and Zou, "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving
    Performance", 2023 (LLM cascade with a scorer); Viola and Jones, CVPR 2001, for cascades as such.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Answers of this quality are given; worse ones are followed by the next variant's."""
    order: tuple[str, ...] = ()
    """Variants, the first asked first. Empty: by price, those without one last, then by order of declaration."""
    max_escalations: Annotated[int, Meta(ge=0, le=100)] = 1
    """Of one request."""
    when_unknown: Literal["accept", "escalate"] = "accept"
    """What to do with an answer of which nobody can say how good it is."""

    def reset(self, rng: random.Random) -> None:
        self.asked: dict[str, list[str]] = {}
        """Variants whose answers were not good enough, by request."""

    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use:
        return Use(self._ordered(variants)[0])

    def after_answer(
        self, request: Request, answer: AnswerView, variants: Sequence[VariantView], now_s: float
    ) -> Escalate | None:
        if answer.quality is None:
            if self.when_unknown == "accept":
                return None
        elif answer.quality >= self.threshold:
            return None
        asked = [*self.asked.get(request.id, ()), answer.variant]
        left = [name for name in self._ordered(variants) if name not in asked]
        if not left or len(asked) > self.max_escalations:
            return None
        self.asked[request.id] = asked
        return Escalate(left[0], "unknown" if answer.quality is None else f"quality {answer.quality:.3f}")

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        self.asked.pop(ending.request.id, None)

    def _ordered(self, variants: Sequence[VariantView]) -> list[str]:
        served = [view.variant for view in variants]
        named = [name for name in self.order if name in served]
        if named:
            return named
        by_price = sorted(variants, key=lambda view: (view.cost_per_hour is None, view.cost_per_hour or 0.0))
        return [view.variant for view in by_price]
