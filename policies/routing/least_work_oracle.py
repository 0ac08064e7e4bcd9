"""The router that is shown every output length: what knowing them is worth to the rule of least work."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import Completion, ReplicaView
from traces.schema import Request


class LeastWorkOracle(RoutingPolicy):
    """Take the replica with the least true work outstanding. O(n) in the number of replicas; simulation only.

    Work is output tokens; for a request without tokens its `work`, absent counting as 1. Ties go to the first
    in the order of the candidates. What runs counts whole until it has ended, so the mean response time is a little
    above that of one queue for all servers, which the rule with remaining work would have. It is no bound on what a
    router can reach: the rule is made for servers that take one request after the other, and where batches are formed
    anew at each step, prompts and the room in the cache matter as much. On Azure's conversations `LeastTokens`, which
    sees no length, has the shorter TTFT.

    Source: Harchol-Balter, Crovella, Murta, "On Choosing a Task Assignment Policy for a Distributed Server
    System", Journal of Parallel and Distributed Computing 59, 1999 (Least-Work-Remaining).
    """

    oracle = True

    def reset(self, rng: random.Random) -> None:
        self.outstanding: dict[str, float] = {}
        self.true_tokens: Callable[[str], int | None] = _unknown

    def reveal(self, output_tokens: Callable[[str], int | None]) -> None:
        self.true_tokens = output_tokens

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        outstanding = self.outstanding.get
        work = [outstanding(replica.id, 0.0) for replica in replicas]
        return Route(replicas[work.index(min(work))].id)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self.outstanding[replica] = self.outstanding.get(replica, 0.0) + self._work(request)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        left = self.outstanding.get(completion.replica, 0.0) - self._work(completion.request)
        if left > 0.0:
            self.outstanding[completion.replica] = left
        else:
            self.outstanding.pop(completion.replica, None)

    def _work(self, request: Request) -> float:
        tokens = self.true_tokens(request.id)
        if tokens is not None:
            return float(tokens)
        return 1.0 if request.work is None else request.work


def _unknown(request_id: str) -> int | None:
    return None
