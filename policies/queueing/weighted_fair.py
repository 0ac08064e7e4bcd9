"""Start-time fair queueing: tenants share what is served in proportion to their weights."""

from __future__ import annotations

import random
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from policies.queueing.charging import Charges, payer
from policies.views import Completion
from traces.schema import Request

_PRUNE_AT = 1024  # tenants remembered that have nothing waiting, before some are forgotten


class WeightedFair(QueueingPolicy):
    """The request with the smallest start tag goes first. O(log tenants that wait).

    A request's start tag is where its tenant's last one finishes, or the virtual time if that is later; its finish tag
    is its cost over its tenant's weight after that. Virtual time is the start tag of the request taken last. A request
    costs its prompt tokens and as many output tokens as its tenant's answers had so far on average; the difference is
    settled when it has ended. Between two tenants that both have requests waiting, the tokens taken, each over its
    weight, never differ by more than the sum of their costliest requests over their weights, settlements apart. First
    in, first out within a tenant (where a request names none: its user).

    Source: Goyal, Vin, Cheng, "Start-Time Fair Queueing", IEEE/ACM Transactions on Networking 5(5), 1997 (theorem 1 is
    the bound); of the family of Golestani, "A Self-Clocked Fair Queueing Scheme", IEEE INFOCOM 1994, whose finish tags
    would have to be known before a request is served.
    """

    weights: dict[str, Annotated[float, Meta(gt=0)]] = {}
    """Share of each tenant relative to the others; 1 for one that is not named."""
    default_prompt_tokens: Annotated[int, Meta(ge=1)] = 1
    """What a request without a known prompt length counts as."""

    def reset(self, rng: random.Random) -> None:
        self.queues: dict[str | None, OrderedDict[str, Request]] = {}
        """By tenant, for those that have any waiting."""
        self.tags: dict[str | None, tuple[float, int]] = {}
        """Start tag of the first request of each of these, and the number of the entry in the heap that says so."""
        self.heap: list[tuple[float, int, str | None]] = []
        """Start tag, number, tenant; those that do not hold any more are taken off lazily."""
        self.numbered = 0
        self.finishes: dict[str | None, float] = {}
        """Of tenants that have nothing waiting: where their last request finishes."""
        self.virtual = 0.0
        self.tenants: dict[str, str | None] = {}
        """Of each request that waits."""
        self.charges = Charges(self.default_prompt_tokens)

    def push(self, request: Request, now_s: float) -> None:
        tenant = payer(request)
        if tenant not in self.queues:
            self.queues[tenant] = OrderedDict()
            self._tag(tenant, max(self.virtual, self.finishes.pop(tenant, 0.0)))
        self.queues[tenant][request.id] = request
        self.tenants[request.id] = tenant

    def pop(self, now_s: float) -> Request:
        while True:
            start, number, tenant = heappop(self.heap)
            if self.tags.get(tenant) == (start, number):
                break
        request = next(iter(self.queues[tenant].values()))
        self.virtual = start
        finish = start + self.charges.take(request) / self._weight(tenant)
        self._tag(tenant, finish)
        self._leave(request.id)
        return request

    def _tag(self, tenant: str | None, start: float) -> None:
        self.numbered += 1
        self.tags[tenant] = start, self.numbered
        heappush(self.heap, (start, self.numbered, tenant))
        if len(self.heap) > 2 * len(self.tags) + 64:  # so that what does not hold any more does not pile up
            self.heap = [(*tag, who) for who, tag in self.tags.items()]
            heapify(self.heap)

    def _weight(self, tenant: str | None) -> float:
        return 1.0 if tenant is None else self.weights.get(tenant, 1.0)

    def remove(self, request_id: str) -> bool:
        if request_id not in self.tenants:
            return False
        self._leave(request_id)
        return True

    def _leave(self, request_id: str) -> None:
        tenant = self.tenants.pop(request_id)
        queue = self.queues[tenant]
        del queue[request_id]
        if queue:
            return
        del self.queues[tenant]
        self.finishes[tenant] = self.tags.pop(tenant)[0]
        if len(self.finishes) > _PRUNE_AT:
            self._prune()

    def _prune(self) -> None:
        """Forget tenants whose last finish makes no difference any more; of too many others, those that left first."""
        kept = [(who, finish) for who, finish in self.finishes.items() if finish > self.virtual]
        self.finishes = dict(kept[-(_PRUNE_AT // 2) :])

    def __len__(self) -> int:
        return len(self.tenants)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if request.id not in self.charges:  # a batching policy picked it by name
            self._charge(payer(request), self.charges.take(request))

    def on_completed(self, completion: Completion, now_s: float) -> None:
        settled = self.charges.settle(completion)
        if settled is not None:
            self._charge(*settled)

    def _charge(self, tenant: str | None, tokens: float) -> None:
        """Move its tags on; back at most to virtual time, so that nobody saves up service."""
        moved = tokens / self._weight(tenant)
        if tenant in self.tags:
            self._tag(tenant, max(self.virtual, self.tags[tenant][0] + moved))
        else:
            self.finishes[tenant] = max(self.virtual, self.finishes.pop(tenant, 0.0)) + moved
