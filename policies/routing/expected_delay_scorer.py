"""A scorer: the sooner a replica would be done with one more request the better."""

from __future__ import annotations

from collections.abc import Sequence

from policies.routing.delays import Concurrency, delays
from policies.routing.parts import Scorer
from policies.views import ReplicaView
from traces.schema import Request


class ExpectedDelayScorer(Scorer):
    """The shortest expected delay among the candidates over each one's own: 1 for the shortest, 1/2 for twice it. O(n).

    A ratio, so that one replica that is far behind does not make the others look alike. Alone, with a picker of the
    largest score, it is `ShortestExpectedDelay`.

    Source: the rule is Shenker and Weinrib's, "The Optimal Control of Heterogeneous Queueing Systems: A Paradigm for
    Load-Sharing and Routing", IEEE Transactions on Computers 38(12), 1989; none for the ratio.
    """

    concurrency: Concurrency = 1
    """Requests that a replica serves side by side in the time of one."""

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        each = delays(replicas, self.concurrency)
        shortest = min(each)
        return [1.0 if one == shortest else shortest / one for one in each]
