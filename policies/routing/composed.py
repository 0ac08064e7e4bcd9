"""Routing in parts: filters narrow the candidates, scorers rate them, a picker takes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from policies.base import RoutingPolicy, parts_of
from policies.decisions import Hold, Reject, Route
from policies.routing.max_score_picker import MaxScorePicker
from policies.routing.parts import Filter, Picker, Scorer
from policies.views import ReplicaView
from traces.schema import Request

_NOBODY = Reject("no replica passes the filters")


class Composed(RoutingPolicy):
    """Filter, then score, then pick: the weighted sum of the scores decides. O(n), and what each part costs.

    A part that declares `oracle = True` needs a whole that does: a subclass of this one that says so.

    Source: the scheduling framework of Kubernetes (filter and score plugins); the endpoint picker of the
    Kubernetes Gateway API Inference Extension (filters, weighted scorers, picker).
    """

    filters: list[Filter] = []
    """Applied in order, each to what the one before left."""
    scorers: list[tuple[Annotated[float, Meta(ge=0)], Scorer]] = []
    """Each with the weight of its score."""
    picker: Picker = field(default_factory=MaxScorePicker)
    when_empty: Literal["ignore", "hold", "reject"] = "ignore"
    """When a filter leaves nobody: do without that filter, ask again in `hold_s`, or refuse the request."""
    hold_s: Annotated[float, Meta(gt=0)] = 0.1
    """Seconds until a held request is tried again."""

    def __post_init__(self) -> None:
        if not self.oracle and any(part.oracle for part in parts_of(self)):
            raise ValueError("a part is an oracle; use a subclass of Composed that sets `oracle = True`")

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        candidates = replicas
        for part in self.filters:
            kept = part.keep(request, candidates, now_s)
            if kept:
                candidates = kept
            elif self.when_empty == "hold":
                return Hold(now_s + self.hold_s)
            elif self.when_empty == "reject":
                return _NOBODY
        ids = [replica.id for replica in candidates]
        totals = [0.0] * len(ids)
        for weight, scorer in self.scorers:
            scores = scorer.scores(request, candidates, now_s)
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
        chosen = ids[self.picker.pick(candidates, totals)]
        return Route(chosen, None, dict(zip(ids, totals, strict=True)))
