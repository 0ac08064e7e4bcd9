"""Join the shortest queue, counted in tokens: a request weighs what it will have a replica compute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.attempts import Attempts
from policies.views import Completion, ReplicaView
from traces.schema import Request

_MAX_GROUPS = 1024  # bounds what is remembered of callers who make up a new tenant for each request


class LeastTokens(RoutingPolicy):
    """Take the replica with the fewest outstanding tokens, those to prefill and to decode weighed apart. O(n).

    Until its first token a request counts with its prompt, from then on with the output tokens expected of it: the
    running mean of what requests of the same model and tenant have generated, not its true length. Where
    `LeastOutstanding` takes a prompt of 100,000 tokens and one of 10 for the same, this one does not; unlike the
    cache-aware policies it is blind to what a replica need not compute. Ties go to the first in the order of the
    candidates.

    Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (work as a weighted sum of input and
    output tokens, with weights 1 and 2); Winston, 1977, for joining the queue with the least of it.
    """

    prefill_weight: Annotated[float, Meta(ge=0)] = 1.0
    """Cost of a prompt token that waits for its prefill."""
    decode_weight: Annotated[float, Meta(ge=0)] = 2.0
    """Cost of an output token that is expected."""
    default_prompt_tokens: Annotated[int, Meta(ge=0)] = 512
    """What a request without a known prompt length counts as."""
    default_output_tokens: Annotated[int, Meta(ge=0)] = 256
    """Expected of a request before anything was learnt; weighs as much in each mean as one completion."""

    def reset(self, rng: random.Random) -> None:
        self.prefill_tokens: dict[str, int] = {}
        self.decode_tokens: dict[str, int] = {}
        self.costs: dict[str, float] = {}
        """By replica, as long as it has any: tokens to prefill and to decode, and these as weighed."""
        self.attempts: Attempts[_Attempt] = Attempts()
        self.lengths: dict[tuple[str | None, str | None], tuple[int, int]] = {}
        """By model and tenant: completions, and the tokens that they generated."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        known = self.costs.get
        costs = [known(replica.id, 0.0) for replica in replicas]
        return Route(replicas[costs.index(min(costs))].id)

    def expected_tokens(self, request: Request) -> float:
        """Output tokens expected of a request."""
        count, tokens = self.lengths.get((request.model, request.tenant), (0, 0))
        return (self.default_output_tokens + tokens) / (1 + count)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        tokens = self.default_prompt_tokens if request.prompt_tokens is None else request.prompt_tokens
        self.attempts.add(request.id, replica, _Attempt(tokens))
        self._count(self.prefill_tokens, replica, tokens)

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        for attempt in self.attempts.of(request.id, replica):
            if attempt.prefilling:
                self._count(self.prefill_tokens, replica, -attempt.tokens)
                # Remembered, because by the time it ends the mean will have moved.
                attempt.tokens, attempt.prefilling = round(self.expected_tokens(request)), False
                self._count(self.decode_tokens, replica, attempt.tokens)
                return

    def on_completed(self, completion: Completion, now_s: float) -> None:
        request, replica = completion.request, completion.replica
        attempt = self.attempts.take(request.id, replica)
        if attempt is not None:
            counts = self.prefill_tokens if attempt.prefilling else self.decode_tokens
            self._count(counts, replica, -attempt.tokens)
        if completion.failure is None and completion.output_tokens is not None:
            self._learn((request.model, request.tenant), completion.output_tokens)

    def _count(self, counts: dict[str, int], replica: str, tokens: int) -> None:
        """Add to what a replica has; whole tokens, so that what was added can be taken away without a remainder."""
        total = counts.get(replica, 0) + tokens
        if total:
            counts[replica] = total
        else:
            counts.pop(replica, None)
        prefill, decode = self.prefill_tokens.get(replica, 0), self.decode_tokens.get(replica, 0)
        if prefill or decode:
            self.costs[replica] = self.prefill_weight * prefill + self.decode_weight * decode
        else:
            self.costs.pop(replica, None)

    def _learn(self, group: tuple[str | None, str | None], tokens: int) -> None:
        known = self.lengths.get(group)
        if known is not None:
            self.lengths[group] = known[0] + 1, known[1] + tokens
        elif len(self.lengths) < _MAX_GROUPS:
            self.lengths[group] = 1, tokens


class _Attempt:
    """One attempt in flight: the tokens that it counts as now."""

    __slots__ = ("prefilling", "tokens")

    def __init__(self, prompt_tokens: int) -> None:
        self.tokens = prompt_tokens
        self.prefilling = True
