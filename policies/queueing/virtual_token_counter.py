"""The virtual token counter: fair queueing that charges tenants for the tokens they were served."""

from __future__ import annotations

import random
from collections import OrderedDict
from heapq import heapify, heappop, heappush, heapreplace
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from policies.queueing.charging import payer
from policies.views import Completion
from traces.schema import Request

_PRUNE_AT = 1024  # tenants remembered before those are looked for that need not be


class VirtualTokenCounter(QueueingPolicy):
    """The tenant that was served least goes first. O(log tenants that wait).

    Each tenant (where a request names none: its user) has a counter, to which each of its prompt tokens adds
    `prompt_weight` when its request is taken, and each output token `output_weight` when it is generated. The tenant
    with the smallest counter goes next; first in, first out within one and among equals. One that comes back after it
    had nothing waiting is lifted to the smallest counter of those that wait, so that nobody saves up service; where
    none waits, to that of the last one to leave. Between two tenants that both have requests waiting all the time,
    service then never differs by more than a constant: twice the larger of the longest prompt and of the tokens of a
    full batch, weighed.

    It orders what waits here. A replica that serves token by token takes 1,024 requests unless `max_inflight_batches`
    says less, and of those its iteration policy decides; give it as many as shall run at once. Where an engine answers
    whole requests, whose output tokens nobody counts, a tenant is charged for its prompts.

    Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (the algorithm, and its bound on the
    service difference of two backlogged clients).
    """

    prompt_weight: Annotated[float, Meta(ge=0)] = 1.0
    """Cost of a prompt token."""
    output_weight: Annotated[float, Meta(ge=0)] = 2.0
    """Cost of an output token."""
    default_prompt_tokens: Annotated[int, Meta(ge=1)] = 1
    """What a request without a known prompt length counts as."""

    def reset(self, rng: random.Random) -> None:
        self.counters: dict[str | None, float] = {}
        self.waiting: dict[str | None, OrderedDict[str, tuple[int, Request]]] = {}
        """By tenant, for those that have any; numbered as they came."""
        self.pushed = 0
        self.tenants: dict[str, str | None] = {}
        """Of each request that waits."""
        self.served: dict[str, _Served] = {}
        """Each request that was taken and has not ended."""
        self.last_left: str | None = None
        self.heap: list[tuple[float, int, str | None]] = []
        """Counter, number of its first request, tenant: as they were when it was put there; no counter ever falls."""
        self.places: dict[str | None, tuple[float, int]] = {}
        """Of each tenant that waits, its entry in the heap; the others there are of nobody any more."""

    def push(self, request: Request, now_s: float) -> None:
        tenant = payer(request)
        if tenant not in self.waiting:
            self.counters[tenant] = max(self.counters.get(tenant, 0.0), self._floor())
            self.waiting[tenant] = OrderedDict()
        self.pushed += 1
        self.waiting[tenant][request.id] = self.pushed, request
        self.tenants[request.id] = tenant
        if tenant not in self.places:
            self.places[tenant] = self.counters[tenant], self.pushed
            heappush(self.heap, (*self.places[tenant], tenant))
            if len(self.counters) > max(_PRUNE_AT, 2 * len(self.waiting)):
                self._prune()

    def _least(self) -> str | None:
        """The tenant that waits with the smallest counter, of equals the one whose first request came first."""
        heap, places = self.heap, self.places
        while True:
            counter, number, tenant = heap[0]
            if places.get(tenant) != (counter, number):
                heappop(heap)
                continue
            first, _ = next(iter(self.waiting[tenant].values()))
            if (counter, number) == (self.counters[tenant], first):
                return tenant
            places[tenant] = self.counters[tenant], first
            heapreplace(heap, (*places[tenant], tenant))

    def _floor(self) -> float:
        """What the counter of a tenant that comes back is lifted to."""
        if self.waiting:
            return self.counters[self._least()]
        return self.counters.get(self.last_left, 0.0)

    def _prune(self) -> None:
        """Forget tenants that would be lifted if they came back: it makes no difference."""
        floor = self._floor()
        kept = dict.fromkeys(
            [*self.waiting, self.last_left, *(served.tenant for served in self.served.values())]
        )
        self.counters = {
            tenant: counter for tenant, counter in self.counters.items() if counter > floor or tenant in kept
        }

    def pop(self, now_s: float) -> Request:
        _, request = next(iter(self.waiting[self._least()].values()))
        self._leave(request.id)
        self._taken(request)
        return request

    def remove(self, request_id: str) -> bool:
        if request_id not in self.tenants:
            return False
        self._leave(request_id)
        return True

    def _leave(self, request_id: str) -> None:
        tenant = self.tenants.pop(request_id)
        del self.waiting[tenant][request_id]
        if not self.waiting[tenant]:
            del self.waiting[tenant], self.places[tenant]
            self.last_left = tenant
            if len(self.heap) > 2 * len(self.places) + 64:  # so that what is of nobody does not pile up
                self.heap = [(*place, who) for who, place in self.places.items()]
                heapify(self.heap)

    def __len__(self) -> int:
        return len(self.tenants)

    # --- what is charged ---------------------------------------------------------------------------------------

    def _taken(self, request: Request) -> None:
        served = self.served[request.id] = _Served(payer(request))
        tokens = self.default_prompt_tokens if request.prompt_tokens is None else request.prompt_tokens
        self._charge(served, self.prompt_weight * tokens)

    def _charge(self, served: _Served, cost: float) -> None:
        self.counters[served.tenant] = self.counters.get(served.tenant, 0.0) + cost

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if request.id not in self.served:  # a batching policy picked it by name
            self._taken(request)

    def on_tokens(self, request: Request, replica: str, output_tokens: int, now_s: float) -> None:
        served = self.served.get(request.id)
        if served is not None:
            # Those of an attempt that this one resumes were charged then.
            new = 1 if served.heard is None else output_tokens - served.heard
            served.heard = output_tokens
            served.charged += new
            self._charge(served, self.output_weight * new)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        served = self.served.pop(completion.request.id, None)
        if served is not None and completion.output_tokens is not None:
            unheard = completion.output_tokens - completion.resumed_tokens - served.charged
            self._charge(served, self.output_weight * max(0, unheard))


class _Served:
    """One request with a replica."""

    __slots__ = ("charged", "heard", "tenant")

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.charged = 0
        """Output tokens of this attempt."""
        self.heard: int | None = None
        """Output tokens of its answer when it was last heard of."""
