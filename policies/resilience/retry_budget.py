"""Finagle's retry budget, for any retry policy: retries are a fraction of requests, and of them a few per second."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta, field

from policies.base import RetryPolicy
from policies.decisions import GiveUp, Retry
from policies.resilience.exponential_backoff import ExponentialBackoff
from policies.views import Ending, Failure
from traces.schema import Request

_EMPTY = GiveUp("retry budget exhausted")

SLICES = 10
"""Of the time to live, in which deposits and withdrawals are counted."""


class RetryBudget(RetryPolicy):
    """Retry as `retry` says while the budget lasts: `percent_can_retry` of requests, and `min_retries_per_s`. O(1).

    A leaky token bucket. Each request, when it is first sent, deposits `percent_can_retry` of a retry; each retry takes
    one; both are forgotten after `ttl_s`. On top of that there is a reserve of `min_retries_per_s · ttl_s` for those
    who send little or have just begun. So over any nine tenths of `ttl_s`

        retries <= min_retries_per_s · ttl_s + percent_can_retry · requests first sent in the `ttl_s` before its end,

    whatever fails. Unlike a budget that is earned by what completes, it does not run dry in a long outage, and what it
    lets through is known beforehand: about 1.2 times the load, by default.

    A retry that `retry` would not make costs nothing. Give `retry` no budget of its own, or the tighter one counts.

    Source: Finagle's `RetryBudget` (`finagle-core`, its documentation and defaults: `ttl` 10 s, `minRetriesPerSec` 10,
    `percentCanRetry` 0.2; deposits and withdrawals in ten slices of the time to live). The same law is in
    tower's `retry::budget` and in Linkerd.
    """

    ttl_s: Annotated[float, Meta(ge=1, le=60)] = 10.0
    """Seconds after which a deposit, or a withdrawal, is forgotten; 1 to 60, as there."""
    min_retries_per_s: Annotated[float, Meta(ge=0)] = 10.0
    """Retries per second that need no deposits."""
    percent_can_retry: Annotated[float, Meta(ge=0, le=1000)] = 0.2
    """Retries for each request. A fraction, in spite of its name."""
    retry: RetryPolicy = field(default_factory=lambda: ExponentialBackoff(budget_ratio=None))
    """What is done after an attempt that failed, while the budget lasts."""

    def __post_init__(self) -> None:
        if self.retry.oracle and not self.oracle:
            raise ValueError("a part is an oracle; use a subclass of RetryBudget that sets `oracle = True`")

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.slices = [0.0] * SLICES
        """Retries deposited less withdrawn, of the last slices of time, each in its place."""
        self.now_slice = 0
        self.retrying: set[str] = set()
        """Requests whose retry was granted and not sent yet: it is no new request."""

    def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp:
        answer = self.retry.after_failure(request, failure, now_s)
        if isinstance(answer, GiveUp):
            return answer
        if self.balance(now_s) < 1.0 - 1e-9:  # five deposits of 0.2 are one retry, however they round
            return _EMPTY
        self.slices[self.now_slice % SLICES] -= 1.0
        self.retrying.add(request.id)
        return answer

    def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> float | None:
        return self.retry.attempt_limit_s(request, attempt, now_s)

    def balance(self, now_s: float) -> float:
        """How many retries there may be now."""
        self._turn(now_s)
        return self.min_retries_per_s * self.ttl_s + sum(self.slices)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        super().on_dispatched(request, replica, now_s)
        if request.id in self.retrying:
            self.retrying.discard(request.id)
            return
        self._turn(now_s)
        self.slices[self.now_slice % SLICES] += self.percent_can_retry

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        super().on_request_ended(ending, now_s)
        self.retrying.discard(ending.request.id)

    def _turn(self, now_s: float) -> None:
        """Forget what is older than the slices reach."""
        current = int(now_s * SLICES / self.ttl_s)
        for gone in range(self.now_slice + 1, min(current, self.now_slice + SLICES) + 1):
            self.slices[gone % SLICES] = 0.0
        self.now_slice = max(current, self.now_slice)
