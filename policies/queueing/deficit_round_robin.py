"""Deficit round robin: tenants take turns, and each turn is worth so many tokens."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from policies.queueing.charging import Charges, payer
from policies.views import Completion
from traces.schema import Request


class DeficitRoundRobin(QueueingPolicy):
    """Tenants take turns; each turn adds `quantum_tokens` to what a tenant may take, and what is left of it stays.

    O(1) while a quantum covers a request, else O(tenants that wait). A request costs its prompt tokens and as many
    output tokens as its tenant's answers had so far on average; the difference is settled when it has ended. What a
    tenant has left is forgotten when nothing of it waits. First in, first out within a tenant (where a request names
    none: its user). Between two tenants that both have requests waiting, the tokens taken, each over its weight, never
    differ by more than the quantum and twice the costliest request (over the smaller weight), settlements apart.

    Source: Shreedhar, Varghese, "Efficient Fair Queueing Using Deficit Round Robin", ACM SIGCOMM 1995 (theorem 2 is
    the bound).
    """

    quantum_tokens: Annotated[float, Meta(gt=0)] = 1024.0
    """Tokens that a turn of a tenant of weight 1 adds. The source advises no less than the costliest request."""
    weights: dict[str, Annotated[float, Meta(gt=0)]] = {}
    """Share of each tenant relative to the others; 1 for one that is not named."""
    default_prompt_tokens: Annotated[int, Meta(ge=1)] = 1
    """What a request without a known prompt length counts as."""

    def reset(self, rng: random.Random) -> None:
        self.active: OrderedDict[str | None, OrderedDict[str, Request]] = OrderedDict()
        """What waits of each tenant; the first of them has its turn."""
        self.began = False
        """The one whose turn it is has had its quantum."""
        self.deficits: dict[str | None, float] = {}
        self.tenants: dict[str, str | None] = {}
        """Of each request that waits."""
        self.charges = Charges(self.default_prompt_tokens)

    def push(self, request: Request, now_s: float) -> None:
        tenant = payer(request)
        if tenant not in self.active:
            self.active[tenant] = OrderedDict()
            self.deficits[tenant] = 0.0
        self.active[tenant][request.id] = request
        self.tenants[request.id] = tenant

    def pop(self, now_s: float) -> Request:
        while True:
            for _ in range(len(self.active)):
                tenant, queue = next(iter(self.active.items()))
                if not self.began:
                    self.began = True
                    self.deficits[tenant] += self._quantum(tenant)
                request = next(iter(queue.values()))
                if self.charges.cost(request) <= self.deficits[tenant]:
                    self.deficits[tenant] -= self.charges.take(request)
                    self._leave(request.id)
                    return request
                self.active.move_to_end(tenant)
                self.began = False
            self._skip_rounds()

    def _skip_rounds(self) -> None:
        """Nobody could take anything in a whole round: pass over those in which nobody will either."""
        rounds = min(self._rounds_short(tenant) for tenant in self.active) - 1
        if rounds > 0:
            for tenant in self.active:
                self.deficits[tenant] += rounds * self._quantum(tenant)

    def _rounds_short(self, tenant: str | None) -> int:
        request = next(iter(self.active[tenant].values()))
        return math.ceil((self.charges.cost(request) - self.deficits[tenant]) / self._quantum(tenant))

    def _quantum(self, tenant: str | None) -> float:
        return self.quantum_tokens * (1.0 if tenant is None else self.weights.get(tenant, 1.0))

    def remove(self, request_id: str) -> bool:
        if request_id not in self.tenants:
            return False
        self._leave(request_id)
        return True

    def _leave(self, request_id: str) -> None:
        tenant = self.tenants.pop(request_id)
        queue = self.active[tenant]
        del queue[request_id]
        if not queue:
            self.began = self.began and next(iter(self.active)) != tenant
            del self.active[tenant], self.deficits[tenant]

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
        if tenant in self.deficits:  # one that has nothing waiting has nothing to take it from
            self.deficits[tenant] -= tokens
