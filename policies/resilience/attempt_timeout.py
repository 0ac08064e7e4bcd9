"""A limit on the time that one attempt may take, for any retry policy."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from policies.base import RetryPolicy
from policies.decisions import GiveUp, Retry
from policies.resilience.exponential_backoff import ExponentialBackoff
from policies.views import Failure
from traces.schema import Request


class AttemptTimeout(RetryPolicy):
    """Give each attempt `limit_s`; after that it has failed, and `retry` says what then. O(1), and what `retry` takes.

    The time runs from when an attempt is sent to wait at its replica. It is no deadline: a request may have several
    attempts of `limit_s` each. Where `retry` has a limit of its own, the shorter one counts.

    A limit below what a busy fleet takes makes it busier: what was done is thrown away, and done again elsewhere. So it
    belongs well above the tail of a healthy fleet, and on top of a retry policy with a budget.

    Source: Envoy's `per_try_timeout`; Beyer et al., "Site Reliability Engineering", 2016, chapter 22 (deadlines and
    retries in cascading failures).
    """

    limit_s: Annotated[float, Meta(gt=0, lt=1e9)] = 10.0
    """Seconds from being sent to the answer."""
    retry: RetryPolicy = field(default_factory=ExponentialBackoff)
    """What is done after an attempt that failed, be it by this limit or otherwise."""

    def __post_init__(self) -> None:
        if self.retry.oracle and not self.oracle:
            raise ValueError(
                "a part is an oracle; use a subclass of AttemptTimeout that sets `oracle = True`"
            )

    def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp:
        return self.retry.after_failure(request, failure, now_s)

    def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> float:
        own_s = self.retry.attempt_limit_s(request, attempt, now_s)
        return self.limit_s if own_s is None else min(own_s, self.limit_s)
