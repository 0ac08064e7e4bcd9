"""Exponential backoff with jitter, under a retry budget: help one request without drowning the fleet."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from msgspec import Meta

from policies.backoff import grown
from policies.base import RetryPolicy
from policies.decisions import GiveUp, Retry
from policies.views import Failure
from traces.schema import Request

_LAST_ATTEMPT = GiveUp("attempts exhausted")
_REFUSED = GiveUp("refused: replicas of one kind refuse alike")
_NO_BUDGET = GiveUp("retry budget exhausted")


class ExponentialBackoff(RetryPolicy):
    """Try again after a delay that grows with each attempt, elsewhere if possible, within a budget. O(1).

    Before attempt n + 1 it waits up to `d = min(cap_s, base_s · factor^(n-1))`: jitter `full` draws from
    [0, d), `equal` from [d/2, d), `none` takes d.

    The budget is a token bucket: it starts with `budget_tokens`, which it also holds at most; each completed
    request adds `budget_ratio`, each retry takes one. So retries stay below `budget_ratio` of what completes,
    however long everything fails.

    What a replica refuses as too large for it is not tried again: the others are of the same kind.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; Beyer et al., "Site
    Reliability Engineering", 2016, chapters 21 and 22 (retry budgets); Finagle's `RetryBudget`.
    """

    base_s: Annotated[float, Meta(ge=0)] = 0.05
    """Delay before the second attempt, before jitter."""
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    """Growth of the delay with each attempt."""
    cap_s: Annotated[float, Meta(ge=0)] = 5.0
    """Longest delay."""
    jitter: Literal["full", "equal", "none"] = "full"
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    """Attempts in all, the first included."""
    budget_ratio: Annotated[float, Meta(ge=0)] | None = 0.2
    """Retries earned by each completed request; None: no budget."""
    budget_tokens: Annotated[float, Meta(ge=0)] = 100.0
    """Retries that can be saved up, and that are there at the start."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.tokens = self.budget_tokens
        self.completions = 0
        """Those that the budget has been paid for."""

    def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp:
        if failure.kind == "refused":
            return _REFUSED
        if failure.attempt >= self.max_attempts:
            return _LAST_ATTEMPT
        if self.budget_ratio is not None:
            # Reckoned where it is needed: a policy that heard of each completion would cost something with each.
            earned = self.budget_ratio * (failure.completions - self.completions)
            self.tokens = min(self.budget_tokens, self.tokens + earned)
            self.completions = failure.completions
            if self.tokens < 1.0:
                return _NO_BUDGET
            self.tokens -= 1.0
        exclude = () if failure.replica is None else (failure.replica,)
        return Retry(self._delay_s(failure.attempt), exclude)

    def _delay_s(self, attempt: int) -> float:
        delay_s = grown(self.base_s, self.factor, attempt - 1, self.cap_s)
        if self.jitter == "none":
            return delay_s
        if self.jitter == "equal":
            return delay_s * (0.5 + 0.5 * self.random())
        return delay_s * self.random()
