"""One attempt at a time: the null baseline."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import HedgePolicy
from policies.views import AttemptView
from traces.schema import Request


class NoHedge(HedgePolicy):
    """Never add an attempt. O(1).

    Source: none.
    """

    def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> None:
        return None
