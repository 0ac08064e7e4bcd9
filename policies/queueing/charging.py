"""What a request costs whom: what the fair queues share that charge tokens, some of which nobody knows in advance."""

from __future__ import annotations

from policies.running_means import RunningMeans
from policies.views import Completion
from traces.schema import Request


def payer(request: Request) -> str | None:
    """Who is charged for it: its tenant, else its user; all without either are one."""
    return request.user if request.tenant is None else request.tenant


class Charges:
    """Tokens of each request: its prompt's, and what its payer's answers have had on average so far.

    What was charged too much or too little is settled when its attempt has ended. Where an engine answers whole
    requests nobody counts output tokens, and a request costs its prompt.
    """

    __slots__ = ("_default_prompt_tokens", "_means", "_taken")

    def __init__(self, default_prompt_tokens: int) -> None:
        self._default_prompt_tokens = default_prompt_tokens
        self._means = RunningMeans()
        self._taken: dict[str, tuple[str | None, float]] = {}
        """Of each request that was taken and has not ended: who was charged, and how many output tokens."""

    def __len__(self) -> int:
        """How many were taken and have not ended."""
        return len(self._taken)

    def __contains__(self, request_id: str) -> bool:
        """It was taken and has not ended."""
        return request_id in self._taken

    def cost(self, request: Request) -> float:
        """What it would be charged now."""
        return self._prompt_tokens(request) + (self._means.mean(payer(request)) or 0.0)

    def _prompt_tokens(self, request: Request) -> int:
        known = request.prompt_tokens
        return self._default_prompt_tokens if known is None else known

    def take(self, request: Request) -> float:
        """It leaves the queue. Answers what it is charged."""
        who = payer(request)
        expected = self._means.mean(who) or 0.0
        self._taken[request.id] = who, expected
        return self._prompt_tokens(request) + expected

    def settle(self, completion: Completion) -> tuple[str | None, float] | None:
        """Its attempt ended: who owes how many tokens more (below 0: has them to its credit); None: nobody does."""
        taken = self._taken.pop(completion.request.id, None)
        if taken is None or completion.output_tokens is None:
            return None  # of a failed attempt nobody may know: then what was expected stays charged
        who, expected = taken
        tokens = completion.output_tokens - completion.resumed_tokens
        if completion.failure is None:
            self._means.add(who, completion.output_tokens)
        return who, tokens - expected
