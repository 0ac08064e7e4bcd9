"""Hedged requests: a second attempt for those that take longer than nearly all others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import HedgePolicy
from policies.decisions import Hedge
from policies.resilience.latency_window import LatencyWindow
from policies.routing.attempts import Attempts
from policies.views import AttemptView, Completion, Ending
from traces.schema import Request


class HedgeAfterPercentile(HedgePolicy):
    """Add an attempt when the last one has been out for longer than `percentile` of attempts take. O(log window).

    How long they take is learnt from the last `window` primary attempts, each from when it was sent: to its answer, or
    where it is served token by token to its first token, after which no attempt is added. One that came to nothing
    would have taken longer than it was out, be it withdrawn because its hedge won, timed out, or lost with its replica;
    it counts in equal parts as each of those that took longer, and where none did as what it was out
    (`LatencyWindow`). Left out, the slowest would be missing, and the percentile would fall with every hedge that wins.

    At low load it adds `1 - percentile` of attempts, while all is as it was. When all becomes slow at once, many more
    requests are out for longer than that: then `budget_ratio` is what keeps the load bounded.

    Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013 (hedged requests, deferred until the 95th percentile
    of expected latency, which limits the additional load to about 5 %).
    """

    percentile: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    """Part of attempts that take no longer than that after which one is added."""
    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    """Primary attempts that ended last, from which the percentile is taken."""
    min_samples: Annotated[int, Meta(ge=1)] = 100
    """Primary attempts that have had an answer before the first hedge."""
    max_hedges: Annotated[int, Meta(ge=1)] = 1
    """Attempts added to one request at most, however they end."""
    budget_ratio: Annotated[float, Meta(ge=0)] | None = 0.1
    """Attempts added over requests let in, at most; the router holds to it. None: no bound."""

    def reset(self, rng: random.Random) -> None:
        self.latencies = LatencyWindow(self.window, self.percentile)
        self.answered = 0
        self.attempts: Attempts[_Sent] = Attempts()
        self.spent: dict[str, int] = {}
        """Hedges that have ended, of requests that have not."""
        self.reason = f"out for longer than {self.percentile:.4g} of attempts take"

    def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Hedge | None:
        if self.answered < self.min_samples:
            return None
        limit_s = self.latencies.quantile_s
        if limit_s is None:
            return None
        hedges = self.spent.get(request.id, 0) + len([view for view in attempts if view.role == "hedge"])
        if hedges >= self.max_hedges:
            return None
        return Hedge(max(0.0, attempts[-1].sent_s + limit_s - now_s), reason=self.reason)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self.attempts.add(request.id, replica, _Sent(now_s))

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        for attempt in self.attempts.of(request.id, replica):
            if attempt.heard_s is None:
                attempt.heard_s = now_s
                return

    def on_completed(self, completion: Completion, now_s: float) -> None:
        name = completion.request.id
        attempt = self.attempts.take(name, completion.replica)
        if completion.role == "hedge":
            self.spent[name] = self.spent.get(name, 0) + 1
        elif completion.role == "primary" and attempt is not None:
            good = completion.failure is None
            self.answered += good
            heard_s = attempt.heard_s
            ended_s = now_s if heard_s is None else heard_s
            self.latencies.add(ended_s - attempt.sent_s, cut_short=heard_s is None and not good)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        self.spent.pop(ending.request.id, None)


class _Sent:
    """One attempt in flight."""

    __slots__ = ("heard_s", "sent_s")

    def __init__(self, sent_s: float) -> None:
        self.sent_s = sent_s
        self.heard_s: float | None = None
        """When it had its first token; None before."""
