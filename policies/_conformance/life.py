"""What becomes of attempts, told to a policy as actors would: every hook of its slot, in an order that can be."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from policies._conformance.calls import Ask
from policies._conformance.inputs import FAILURES
from policies.base import Policy
from policies.views import (
    BatchCompletion,
    Completion,
    Ending,
    FailureKind,
    Outcome,
    ReplicaLoad,
    ReplicaView,
)
from traces.schema import Request


class Batch(Struct):
    """Requests that were dispatched together."""

    requests: tuple[Request, ...]
    replica: str
    sent_s: float
    streams: bool
    """It is served token by token."""
    left: int
    version: str = "1"
    variant: str = "default"
    service_s: float | None = None
    """The longest of those that completed."""


class Attempt(Struct):
    """One in flight."""

    request: Request
    batch: Batch
    resumed_tokens: int = 0
    tokens: int = 0
    first_token_s: float | None = None


class Life:
    """Attempts in flight. Those of a batch end together, or where they are served token by token one by one."""

    def __init__(self, policy: Policy, rng: random.Random, ask: Ask) -> None:
        self.policy = policy
        self.rng = rng
        self.ask = ask
        self.attempts: list[Attempt] = []
        self.completions: list[Completion] = []
        """All that ended since somebody last took them away."""

    def in_flight(self, replica: str) -> int:
        """How many attempts this replica has."""
        return sum(attempt.batch.replica == replica for attempt in self.attempts)

    def served_by(self, version: str) -> int:
        """How many attempts this version has."""
        return sum(attempt.batch.version == version for attempt in self.attempts)

    def replicas(self, views: Sequence[ReplicaView], now_s: float) -> None:
        """These may be chosen from now on; what others had is lost."""
        self._tell("on_replicas", tuple(views), now_s)
        here = [view.id for view in views]
        for attempt in [attempt for attempt in self.attempts if attempt.batch.replica not in here]:
            self._end([attempt], "replica-lost", now_s)

    def dispatched(
        self,
        requests: Iterable[Request],
        replica: str,
        now_s: float,
        version: str = "1",
        variant: str = "default",
    ) -> None:
        """These were sent together, to a replica of this version and variant."""
        sent = tuple(requests)
        batch = Batch(
            sent, replica, now_s, self.rng.random() < 0.5, len(sent), version=version, variant=variant
        )
        for request in sent:
            resumed = self.rng.randrange(100) if batch.streams and self.rng.random() < 0.1 else 0
            self.attempts.append(Attempt(request, batch, resumed, resumed))
            self._tell("on_dispatched", request, replica, now_s)

    def goes_on(self, now_s: float) -> None:
        """Some get tokens, some end; mostly well."""
        rng = self.rng
        for attempt in self.attempts:
            if attempt.batch.streams and rng.random() < 0.4:
                self._token(attempt, now_s)
        while self.attempts and rng.random() < 0.5:
            attempt = self.attempts[rng.randrange(len(self.attempts))]
            together = [other for other in self.attempts if other.batch is attempt.batch]
            failure = rng.choice((*FAILURES, "withdrawn")) if rng.random() < 0.1 else None
            self._end([attempt] if attempt.batch.streams else together, failure, now_s)

    def _token(self, attempt: Attempt, now_s: float) -> None:
        request, replica = attempt.request, attempt.batch.replica
        attempt.tokens += 1
        if attempt.first_token_s is None:
            attempt.first_token_s = now_s
            self._tell("on_first_token", request, replica, now_s)
        self._tell("on_tokens", request, replica, attempt.tokens, now_s)

    def _end(self, attempts: list[Attempt], failure: FailureKind | None, now_s: float) -> None:
        service_s = None if failure is not None else self.rng.expovariate(10.0)
        for attempt in attempts:
            self.attempts.remove(attempt)
            batch = attempt.batch
            if batch.streams and failure is None and attempt.first_token_s is None:
                self._token(attempt, now_s)  # what completed has at least one
            done = self._completion(attempt, failure, service_s, now_s)
            self.completions.append(done)
            self._tell("on_completed", done, now_s)
            if not self.holds_back(attempt, done):
                self.request_ended(done, now_s)
            batch.left -= 1
            if service_s is not None:
                batch.service_s = max(service_s, batch.service_s or 0.0)
            if not batch.left:
                ended = BatchCompletion(
                    replica=batch.replica, requests=batch.requests, service_s=batch.service_s,
                    elapsed_s=now_s - batch.sent_s, failure=failure if batch.service_s is None else None,
                )  # fmt: skip
                self._tell("on_batch_completed", ended, now_s)

    def answered_for_load(self, load: ReplicaLoad, now_s: float) -> None:
        """A replica was asked how much it has to do."""
        self._tell("on_load", load, now_s)

    def holds_back(self, attempt: Attempt, done: Completion) -> bool:
        """The request goes on after this attempt."""
        return False

    def request_ended(self, done: Completion, now_s: float) -> None:
        """It ended with this attempt."""
        outcome: Outcome = (
            "completed" if done.failure is None else self.rng.choice(("failed", "expired", "cancelled"))
        )
        ending = Ending(
            request=done.request, outcome=outcome, attempts=1, e2e_s=now_s - done.request.arrived_s,
            ttft_s=done.ttft_s, output_tokens=done.output_tokens if done.failure is None else None,
            version=done.version, variant=done.variant, quality=done.quality,
        )  # fmt: skip
        self._tell("on_request_ended", ending, now_s)

    def _completion(
        self, attempt: Attempt, failure: FailureKind | None, service_s: float | None, now_s: float
    ) -> Completion:
        batch, first_s = attempt.batch, attempt.first_token_s
        known = first_s is not None and (failure is None or self.rng.random() < 0.5)
        return Completion(
            request=attempt.request,
            replica=batch.replica,
            attempt=1,
            failure=failure,
            service_s=service_s,
            e2e_s=now_s - attempt.request.arrived_s,
            ttft_s=None if first_s is None else first_s - attempt.request.arrived_s,
            output_tokens=attempt.tokens if known else None,
            resumed_tokens=attempt.resumed_tokens,
            version=batch.version,
            variant=batch.variant,
            quality=self.quality() if failure is None else None,
        )

    def quality(self) -> float | None:
        """Of an answer: nobody can say."""
        return None

    def _tell(self, hook: str, *arguments: Any) -> None:  # Any: those of the hook
        if hook in self.policy.hears:
            self.ask(self.policy, hook, *arguments)
