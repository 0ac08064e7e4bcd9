"""Drive policies of hedges and of breakers the way a router does: requests with several attempts each.

The one thing to know: replicas come, go and fall ill, so that attempts fail in bursts, and take long.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from policies._conformance.calls import Ask, Call, is_time
from policies._conformance.inputs import FAILURES, later, random_request
from policies.base import Policy
from policies.decisions import Hedge, Hold, Reject
from policies.views import (
    AttemptView,
    Completion,
    Ending,
    FailureKind,
    Outcome,
    ReplicaView,
    Role,
)
from traces.schema import Request

REQUESTS = 400
_MOST_TRIES = 4


def drive_hedge(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    """Ask after each attempt that was sent, and send what it answers when its time has come."""
    yield from _Hedging(policy, rng, ask).calls()


def drive_breaker(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    """Ask of each candidate at each choice, and what is to become of a request when none is allowed."""
    yield from _Breaking(policy, rng, ask).calls()


class _Attempt(Struct):
    """One that is live."""

    role: Role
    replica: str
    number: int
    sent_s: float
    started_s: float | None = None
    first_token_s: float | None = None
    tokens: int = 0

    def view(self) -> AttemptView:
        return AttemptView(
            role=self.role, replica=self.replica, pool="default", sent_s=self.sent_s,
            started_s=self.started_s, first_token=self.first_token_s is not None,
        )  # fmt: skip


class _Open(Struct):
    """A request that has not ended."""

    request: Request
    streams: bool
    live: list[_Attempt] = []
    sent: int = 0
    hedge: Hedge | None = None
    hedge_s: float = 0.0
    """When that is due."""


class _Router:
    """Sends requests to replicas at random, tries again what failed, and tells of all that comes of it."""

    def __init__(self, policy: Policy, rng: random.Random, ask: Ask) -> None:
        self.policy, self.rng, self.ask = policy, rng, ask
        self.now_s = 0.0
        self.numbers = list(range(rng.choice([1, 2, 3, 8])))
        self.ill: list[str] = []
        self.open: list[_Open] = []
        self._tell("on_replicas", tuple(self.views()))

    def calls(self) -> Iterator[Call]:
        """Requests come one after the other, in bursts and after long silences."""
        for number in range(REQUESTS):
            until_s = later(self.rng, self.now_s)
            for one in sorted((one for one in self.open if one.hedge), key=lambda one: one.hedge_s):
                if one.hedge_s <= until_s:
                    self.now_s = max(self.now_s, one.hedge_s)
                    yield from self.hedges(one)
            self.now_s = until_s
            yield from self._goes_on()
            request = random_request(self.rng, number, self.now_s)
            self.open.append(one := _Open(request, self.rng.random() < 0.5))
            yield from self.sends(one, "primary")

    def views(self) -> list[ReplicaView]:
        """Every replica, in the order of their numbers."""
        return [
            ReplicaView(id=name, in_flight=self._in_flight(name), as_of_s=self.now_s)
            for name in (f"replica/{number}" for number in self.numbers)
        ]

    # --- what the policies of a slot are asked -----------------------------------------------------------------

    def chooses(self, one: _Open, candidates: Sequence[ReplicaView]) -> Iterator[Call | str]:
        """Ends with the replica that is chosen; with none when the request is refused."""
        if candidates:
            yield self.rng.choice(candidates).id

    def asks(self, one: _Open) -> Iterator[Call]:
        """An attempt was sent."""
        yield from ()

    # --- attempts ----------------------------------------------------------------------------------------------

    def sends(self, one: _Open, role: Role) -> Iterator[Call]:
        """One attempt more, at a replica that has none of this request."""
        taken = [attempt.replica for attempt in one.live]
        chosen: str | None = None
        for step in self.chooses(one, [view for view in self.views() if view.id not in taken]):
            if isinstance(step, Call):
                yield step
            else:
                chosen = step
        if chosen is None:
            if not one.live:
                self._ends(one, "rejected")
            return
        one.sent += 1
        one.live.append(_Attempt(role, chosen, one.sent, self.now_s))
        self._tell("on_dispatched", one.request, chosen)
        yield from self.asks(one)

    def hedges(self, one: _Open) -> Iterator[Call]:
        """The time has come for what it was answered."""
        hedge, one.hedge = one.hedge, None
        late = any(
            attempt.first_token_s is not None or (attempt.started_s is not None and hedge and hedge.tied)
            for attempt in one.live
        )
        if hedge is not None and one in self.open and one.live and not late:
            yield from self.sends(one, "tied" if hedge.tied else "hedge")

    def _goes_on(self) -> Iterator[Call]:
        """Some begin, some have tokens, some end; now and then a replica falls ill, goes, or comes."""
        rng = self.rng
        if rng.random() < 0.08:
            self._change()
        for one in list(self.open):
            for attempt in list(one.live):
                if attempt in one.live:
                    yield from self._moves(one, attempt)

    def _moves(self, one: _Open, attempt: _Attempt) -> Iterator[Call]:
        rng, ill = self.rng, attempt.replica in self.ill
        if attempt.started_s is None and rng.random() < 0.5:
            attempt.started_s = self.now_s
            if attempt.role == "tied" or any(other.role == "tied" for other in one.live):
                self._alone(one, attempt)
        elif one.streams and rng.random() < 0.3:
            self._token(one, attempt)
        elif rng.random() < (0.05 if ill else 0.4):
            if rng.random() < (0.9 if ill else 0.05):
                yield from self._fails(one, attempt, rng.choice((*FAILURES, "timed-out")))
            else:
                self._answers(one, attempt)
        elif rng.random() < 0.02:  # its client has left
            self._ends(one, "cancelled")

    def _token(self, one: _Open, attempt: _Attempt) -> None:
        attempt.tokens += 1
        if attempt.first_token_s is None:
            attempt.first_token_s = self.now_s
            self._alone(one, attempt)
            self._tell("on_first_token", one.request, attempt.replica)
        self._tell("on_tokens", one.request, attempt.replica, attempt.tokens)

    def _alone(self, one: _Open, attempt: _Attempt) -> None:
        """It has won: the others are withdrawn."""
        for other in list(one.live):
            if other is not attempt:
                self._over(one, other, "withdrawn")

    def _answers(self, one: _Open, attempt: _Attempt) -> None:
        if one.streams and not attempt.tokens:
            self._token(one, attempt)
        self._over(one, attempt, None)
        self._ends(one, "completed")

    def _fails(self, one: _Open, attempt: _Attempt, failure: FailureKind) -> Iterator[Call]:
        self._over(one, attempt, failure)
        if one.live:
            return
        one.hedge = None
        if one.sent < _MOST_TRIES:
            yield from self.sends(one, "retry")
        else:
            self._ends(one, "failed")

    def _over(self, one: _Open, attempt: _Attempt, failure: FailureKind | None) -> None:
        one.live.remove(attempt)
        first_s, arrived_s = attempt.first_token_s, one.request.arrived_s
        done = Completion(
            request=one.request, replica=attempt.replica, attempt=attempt.number, failure=failure,
            service_s=None if failure is not None else self.rng.expovariate(10.0),
            e2e_s=self.now_s - arrived_s, ttft_s=None if first_s is None else first_s - arrived_s,
            output_tokens=attempt.tokens or None, role=attempt.role,
        )  # fmt: skip
        self._tell("on_completed", done)

    def _ends(self, one: _Open, outcome: Outcome) -> None:
        for attempt in list(one.live):
            self._over(one, attempt, "withdrawn")
        self.open.remove(one)
        ending = Ending(
            request=one.request, outcome=outcome, attempts=one.sent, e2e_s=self.now_s - one.request.arrived_s
        )
        self._tell("on_request_ended", ending)

    # --- replicas ----------------------------------------------------------------------------------------------

    def _in_flight(self, replica: str) -> int:
        return sum(attempt.replica == replica for one in self.open for attempt in one.live)

    def _change(self) -> None:
        """One falls ill or recovers; or one goes, with all it has; or a new one comes."""
        rng, names = self.rng, [view.id for view in self.views()]
        if rng.random() < 0.6:
            name = rng.choice(names)
            self.ill = [other for other in self.ill if other != name] + [name] * (name not in self.ill)
            return
        if len(names) > 1 and rng.random() < 0.5:
            gone = self.numbers.pop(rng.randrange(len(self.numbers)))
        else:
            gone = None
            self.numbers.append(self.numbers[-1] + 1)
        self._tell("on_replicas", tuple(self.views()))
        for one in list(self.open):
            lost = [attempt for attempt in one.live if attempt.replica == f"replica/{gone}"]
            for attempt in lost:
                self._over(one, attempt, "replica-lost")
            if lost and not one.live:
                self._ends(one, "failed")

    def _tell(self, hook: str, *arguments: Any) -> None:  # Any: those of the hook
        if hook in self.policy.hears:
            self.ask(self.policy, hook, *arguments, self.now_s)


class _Hedging(_Router):
    def asks(self, one: _Open) -> Iterator[Call]:
        views, now_s = [attempt.view() for attempt in one.live], self.now_s
        answer = self.ask(self.policy, "after_s", one.request, views, now_s)
        shown = ", ".join(f"{view.role} {view.replica} {view.sent_s!r}" for view in views)
        yield Call(f"after_s({one.request.id}, [{shown}], {now_s!r})", answer, now_s, one.request)
        if isinstance(answer, Hedge) and is_time(answer.after_s):
            one.hedge, one.hedge_s = answer, now_s + answer.after_s


class _Breaking(_Router):
    def chooses(self, one: _Open, candidates: Sequence[ReplicaView]) -> Iterator[Call | str]:
        allowed: list[ReplicaView] = []
        for view in candidates:
            answer = self.ask(self.policy, "allows", view, self.now_s)
            yield Call(f"allows({view.id}, {self.now_s!r})", answer, self.now_s, replicas=(view,))
            if answer is True:
                allowed.append(view)
        if candidates and not allowed:
            shown = f"[{', '.join(view.id for view in candidates)}]"
            answer = self.ask(self.policy, "none_allowed", one.request, list(candidates), self.now_s)
            question = f"none_allowed({one.request.id}, {shown}, {self.now_s!r})"
            yield Call(question, answer, self.now_s, one.request, tuple(candidates))
            allowed = [] if isinstance(answer, (Hold, Reject)) else list(candidates)
        if allowed:
            yield self.rng.choice(allowed).id
