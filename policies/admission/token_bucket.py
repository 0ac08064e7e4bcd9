"""Rate limits by tenant, in requests and in tokens: who asks for more waits, or is refused."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Annotated, Literal

from msgspec import Meta, Struct

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Delay, Reject
from policies.running_means import RunningMeans
from policies.views import Ending, FleetView
from traces.schema import Request
from traces.values import BadValue

_ADMIT = Admit()
_OVER_RATE = Reject("over its rate")
_NEVER = Reject("larger than its bucket")
_PRUNE_AT = 1024  # tenants remembered before those are looked for whose buckets are full


class Tier(Struct, frozen=True, forbid_unknown_fields=True):
    """What each tenant of a tier may ask for. None: there is no such limit."""

    requests_per_s: Annotated[float, Meta(gt=0)] | None = None
    burst_requests: Annotated[float, Meta(ge=1)] | None = None
    """Requests that may come at once; None: those of one second, one at least."""
    tokens_per_s: Annotated[float, Meta(gt=0)] | None = None
    burst_tokens: Annotated[float, Meta(gt=0)] | None = None
    """Tokens that may be asked for at once; None: those of one minute, as limits by the minute have it."""


class TokenBucket(AdmissionPolicy):
    """Each tenant has a bucket of requests and one of tokens, which fill at its rates; a request takes from both. O(1).

    A request takes one of the first, and of the second its prompt tokens and as many output tokens as its tenant's
    answers had so far on average; the difference is settled when it has ended. Where one of them has too little, it is
    told to come back when there is enough (`over_rate` "delay"), in the order of arrival, for which it takes its share
    in advance, or it is refused. So what one tenant is let in with within any time t is at most burst + rate * t, in
    requests, and in tokens as they were expected. One that asks for more tokens than its bucket holds is refused.

    Where a request names no tenant, its user is one. Where an engine answers whole requests, whose output tokens nobody
    counts, what was expected of an answer is given back.

    Source: Turner, "New Directions in Communications (or Which Way to the Information Age?)", IEEE Communications
    Magazine 24(10), 1986 (the leaky bucket as a meter); two buckets for requests and tokens as in the rate limits of
    inference services, such as OpenAI's RPM and TPM.
    """

    default: Tier = Tier(requests_per_s=10.0)
    """The tier of tenants that are not in `tier_of`."""
    tiers: dict[str, Tier] = {}
    """Others, by name."""
    tier_of: dict[str, str] = {}
    """The name of a tier, by tenant."""
    over_rate: Literal["delay", "reject"] = "reject"
    """What becomes of a request over its rate."""
    max_delay_s: Annotated[float, Meta(gt=0)] = 10.0
    """Delay beyond which it is refused."""
    output_tokens: Annotated[float, Meta(ge=0)] = 256.0
    """Expected of an answer before any of its tenant has ended."""

    def check_values(self) -> None:
        """Raises `BadValue` where a tenant is of a tier that is not there."""
        for tenant, name in self.tier_of.items():
            if name not in self.tiers:
                known = ", ".join(self.tiers) or "none"
                raise BadValue(f"tier_of[{tenant!r}]", f"{name!r} is no tier; there are: {known}")

    def reset(self, rng: random.Random) -> None:
        self.buckets: dict[str | None, _Buckets] = {}
        self.means = RunningMeans()
        self.expected: dict[str, float] = {}
        """Output tokens that were charged of each request that was let in and has not ended."""
        self.promised: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """When each delayed request is let in, and what was charged for its output."""

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Delay | Reject:
        promised = self.promised.get(request.id)
        if promised is not None:
            due_s, output = promised
            if now_s < due_s:
                return Delay(due_s)
            del self.promised[request.id]
            self.expected[request.id] = output
            return _ADMIT
        tenant = request.user if request.tenant is None else request.tenant
        buckets = self._filled(tenant, now_s)
        mean = self.means.mean(tenant)
        output = self.output_tokens if mean is None else mean
        tokens = (request.prompt_tokens or 0) + output
        if not buckets.could(tokens):
            return _NEVER
        due_s = buckets.due_s(tokens)
        if due_s <= now_s:
            buckets.take(tokens)
            self.expected[request.id] = output
            return _ADMIT
        too_late = request.deadline_s is not None and due_s >= request.arrived_s + request.deadline_s
        if self.over_rate == "reject" or due_s - now_s > self.max_delay_s or too_late:
            return _OVER_RATE
        buckets.fill(due_s)
        buckets.take(tokens)
        self._forget_promises(now_s)
        self.promised[request.id] = due_s, output
        return Delay(due_s, "over its rate")

    def _filled(self, tenant: str | None, now_s: float) -> _Buckets:
        buckets = self.buckets.get(tenant)
        if buckets is None:
            if len(self.buckets) >= _PRUNE_AT:
                self._prune(now_s)
            name = None if tenant is None else self.tier_of.get(tenant)
            buckets = self.buckets[tenant] = _Buckets(
                self.default if name is None else self.tiers[name], now_s
            )
        buckets.fill(now_s)
        return buckets

    def _prune(self, now_s: float) -> None:
        """Forget tenants whose buckets are full: new ones would be as well."""
        for buckets in self.buckets.values():
            buckets.fill(now_s)
        self.buckets = {tenant: buckets for tenant, buckets in self.buckets.items() if not buckets.full()}

    def _forget_promises(self, now_s: float) -> None:
        """Of those that never came back: cancelled, or too late. What they took is lost, and was theirs to use."""
        while self.promised:
            request_id, (due_s, _) = next(iter(self.promised.items()))
            if due_s + self.max_delay_s >= now_s:
                return
            del self.promised[request_id]

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        request, tokens = ending.request, ending.output_tokens
        expected = self.expected.pop(request.id, None)
        if expected is None:
            return
        tenant = request.user if request.tenant is None else request.tenant
        if ending.outcome == "completed":
            if tokens is not None:
                self.means.add(tenant, tokens)
        elif tokens is None:
            return  # what a request that failed was given nobody knows
        buckets = self.buckets.get(tenant)
        if buckets is not None:  # one that was forgotten was full, and can be given nothing more
            buckets.fill(now_s)
            buckets.tokens += expected - (tokens or 0)


class _Buckets:
    """What one tenant has left at a time, which is that of the last promise where that is still to come."""

    __slots__ = ("at_s", "burst_requests", "burst_tokens", "requests", "tier", "tokens")

    def __init__(self, tier: Tier, now_s: float) -> None:
        self.tier = tier
        self.at_s = now_s
        rate, burst = tier.requests_per_s, tier.burst_requests
        self.burst_requests = max(1.0, rate or 1.0) if burst is None else burst
        rate, burst = tier.tokens_per_s, tier.burst_tokens
        self.burst_tokens = 60.0 * (rate or 0.0) if burst is None else burst
        self.requests = self.burst_requests
        self.tokens = self.burst_tokens

    def fill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self.at_s)
        self.at_s = max(self.at_s, now_s)
        self.requests = min(
            self.burst_requests, self.requests + elapsed_s * (self.tier.requests_per_s or 0.0)
        )
        self.tokens = min(self.burst_tokens, self.tokens + elapsed_s * (self.tier.tokens_per_s or 0.0))

    def full(self) -> bool:
        return self.requests >= self.burst_requests and self.tokens >= self.burst_tokens

    def could(self, tokens: float) -> bool:
        return self.tier.tokens_per_s is None or tokens <= self.burst_tokens

    def due_s(self, tokens: float) -> float:
        """When both have enough, the last promise having been kept. After `fill`."""
        due_s = self.at_s
        if self.tier.requests_per_s is not None:
            due_s = max(due_s, self.at_s + (1.0 - self.requests) / self.tier.requests_per_s)
        if self.tier.tokens_per_s is not None:
            due_s = max(due_s, self.at_s + (tokens - self.tokens) / self.tier.tokens_per_s)
        return due_s

    def take(self, tokens: float) -> None:
        if self.tier.requests_per_s is not None:
            self.requests -= 1.0
        if self.tier.tokens_per_s is not None:
            self.tokens -= tokens
