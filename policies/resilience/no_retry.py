"""One attempt and no more: the null baseline."""

from __future__ import annotations

from policies.base import RetryPolicy
from policies.decisions import GiveUp
from policies.views import Failure
from traces.schema import Request

_GIVE_UP = GiveUp("no retries")


class NoRetry(RetryPolicy):
    """Never try again. O(1).

    Source: none.
    """

    def after_failure(self, request: Request, failure: Failure, now_s: float) -> GiveUp:
        return _GIVE_UP
