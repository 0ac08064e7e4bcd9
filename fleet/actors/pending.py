"""A request that has not ended, as its router keeps it: its live attempts, and what its client has of the answer."""

from __future__ import annotations

from msgspec import Struct

from fleet.actor import Timer
from fleet.actors.serving import Desk, Variant
from fleet.messages import Payload, Streamed, Usage, Work
from policies.decisions import Hedge
from policies.views import AttemptView, Completion, Ending, FailureKind, Outcome, Role
from traces.schema import Request


class Attempt(Struct, gc=False):
    """One attempt that is live: it waits, or a replica has it."""

    ticket: int
    role: Role
    number: int
    """Counts within its request, from 1."""
    desk: Desk
    """The pool that it was sent to."""
    replica: str | None
    """None: whichever will be free (late binding)."""
    sent_s: float
    started_s: float | None = None
    """When it was dispatched to its replica; None: it waits."""
    tied: bool = False
    first_token: bool = False
    resumed: int = 0
    """Tokens that it went on after."""
    told: int = 0
    """Tokens of it that policies were told of, where any listens."""
    limit: Timer | None = None
    """Ends the time that one attempt is given."""

    def view(self) -> AttemptView:
        """As hedge policies see it."""
        return AttemptView(
            role=self.role, replica=self.replica or "", pool=self.desk.pool.name, sent_s=self.sent_s,
            started_s=self.started_s, first_token=self.first_token,
        )  # fmt: skip


class Answer(Struct, frozen=True):
    """A good answer that was not good enough: what its client gets if nothing better comes."""

    attempt: Attempt
    variant: Variant
    batch_size: int
    service_s: float | None
    cold: bool
    result: Payload | None
    usage: Usage | None
    quality: float | None


NOBODY: tuple[Attempt, ...] = ()


class Pending(Struct, gc=False):
    """A request that has not ended."""

    request: Request
    reply_to: str
    output_tokens: int | None
    payload: Payload | None
    answer_blocks: tuple[int, ...]
    variant: Variant
    """What serves it."""
    desk: Desk
    """The pool in whose demand it counts: that of its first live attempt."""
    number: int = 0
    """Of its last attempt."""
    gaps: int = 0
    """Numbers of attempts that never ran, and that a later one has passed."""
    ticket: int = 0
    """Of the last attempt that was made the first of those that are live."""
    lead: Attempt | None = None
    """The first of its live attempts; None while it is held."""
    others: tuple[Attempt, ...] = NOBODY
    """The other live ones, the oldest first."""
    running: int = 0
    """How many of them replicas have."""
    role: Role = "primary"
    """Of the next attempt that is made because there is none."""
    exclude: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Replicas that were lost while they had an attempt."""
    deadline: Timer | None = None
    timer: Timer | None = None
    """Ends a hold or a back-off."""
    hedge: Timer | None = None
    """Ends the time after which one more attempt is made, as `hedging` says."""
    hedging: Hedge | None = None
    replica: str | None = None
    """Of its last attempt, where it has none now and is not held."""
    resting: bool = False
    """It waits for its next attempt's time, whatever replicas there are."""
    holds: int = 0
    """How often a policy said `Hold`."""
    tokens: list[int] | None = None
    """Output tokens that the client has: a new attempt goes on after them. None: it does not stream them."""
    muted: bool = False
    """Its client hears nothing before an answer is accepted."""
    first_token_s: float | None = None
    """When the client heard the first one, of whichever attempt."""
    asked: tuple[str, ...] = ()
    """Variants whose answers were not good enough."""
    fallback: Answer | None = None
    """The last of these answers."""

    @property
    def waits_for(self) -> str:
        """For the report of a deadlock."""
        if self.lead is None:
            return "a replica it may go to"
        running = next((item for item in (self.lead, *self.others) if item.started_s is not None), None)
        return "the batcher" if running is None else f"an answer of {running.replica}"

    def live(self) -> tuple[Attempt, ...]:
        """Its live attempts, the first one first."""
        return self.others if self.lead is None else (self.lead, *self.others)

    @property
    def attempts(self) -> int:
        """How many there were. A hold is none, and neither is one that was moved before it ran, nor a shadow."""
        return self.number - self.gaps

    def other(self, ticket: int) -> Attempt | None:
        """The live attempt with this ticket that is not the first one."""
        return next((attempt for attempt in self.others if attempt.ticket == ticket), None)

    def first(
        self, desk: Desk, replica: str | None, ticket: int, now_s: float, each_token: bool
    ) -> Work:  # called for every request, and so does it all
        """Begin its next attempt, where there is none, and say what a replica is asked: see `work`."""
        self.number = number = self.number + 1
        self.ticket = ticket
        self.lead = attempt = Attempt(ticket, self.role, number, desk, replica, now_s)
        if self.tokens is not None:
            return self.work(attempt, each_token=each_token)
        return Work(
            self.request, number, self.output_tokens, self.payload, ticket, each_token, (), self.answer_blocks
        )

    def join(self, role: Role, desk: Desk, replica: str, ticket: int, now_s: float) -> Attempt:
        """One more beside those that it has."""
        self.number += 1
        attempt = Attempt(ticket, role, self.number, desk, replica, now_s)
        self.others = (*self.others, attempt)
        return attempt

    def never_ran(self, attempt: Attempt) -> None:
        """It is none; the next one may have its number, unless a later one has come since."""
        if attempt.number == self.number:
            self.number -= 1
        else:
            self.gaps += 1

    def drop(self, attempt: Attempt) -> None:
        """It is live no more; if it was the first one, the next one is."""
        if attempt.started_s is not None:
            self.running -= 1
        if attempt is self.lead:
            self.replica = attempt.replica
            self.lead, self.others = (self.others[0], self.others[1:]) if self.others else (None, NOBODY)
            if self.lead is not None:
                self.ticket = self.lead.ticket
        else:
            self.others = tuple(item for item in self.others if item is not attempt)

    def lead_by(self, attempt: Attempt) -> None:
        """This live attempt is the first one from now on."""
        if attempt is not self.lead:
            rest = tuple(item for item in self.live() if item is not attempt)
            self.lead, self.others, self.ticket = attempt, rest, attempt.ticket

    def work(self, attempt: Attempt, *, each_token: bool) -> Work:
        """What a replica is asked; `each_token`: a policy wants to hear of each one, whatever the client wants."""
        resume = self.resume
        attempt.resumed = attempt.told = len(resume)
        return Work(
            self.request, attempt.number, self.output_tokens, self.payload, attempt.ticket,
            each_token or self.tokens is not None, resume, self.answer_blocks,
        )  # fmt: skip

    @property
    def resume(self) -> tuple[int, ...]:
        """What the next attempt goes on after."""
        return tuple(self.tokens) if self.tokens else ()

    def lost_with(self, replica: str | None) -> int:
        """An attempt ended with the loss of its replica; how many that makes."""
        if replica is not None and replica not in self.lost:
            self.lost += (replica,)
        return len(self.lost)

    # --- what its client has -----------------------------------------------------------------------------------

    def pass_on(self, start: int, ids: tuple[int, ...]) -> Streamed | None:
        """What the client is told of output tokens from number `start` on; None: nothing, for some before are missing.

        One that does not stream is told of the first, and when it came.
        """
        if self.tokens is not None:
            if start != len(self.tokens) or not ids:
                return None
            self.tokens += ids
            return Streamed(self.request.id, start, ids)
        return Streamed(self.request.id, start, ())

    def rest_of(self, result: Payload | None) -> Streamed | None:
        """What of its answer the client has not got yet, because a message was lost or it reads too slowly."""
        had = self.tokens
        if had is None or result is None or result.tensor is None or len(result.tensor) <= len(had):
            return None
        return Streamed(self.request.id, len(had), tuple(int(token) for token in result.tensor[len(had) :]))

    def take_back(self, lost: Streamed) -> None:
        """The client did not get these: from there on it gets the rest in one piece, with the answer."""
        if self.tokens is not None:
            del self.tokens[lost.start :]

    # --- what policies are told --------------------------------------------------------------------------------

    def heard(self, attempt: Attempt, replica: str, tokens: int, now_s: float) -> None:
        """This attempt has so many output tokens now. A message that was overtaken says nothing new."""
        hooks = attempt.desk.hooks
        if not attempt.first_token:
            attempt.first_token = True
            if self.first_token_s is None and not self.muted:
                self.first_token_s = now_s
            if hooks.on_first_token:
                hooks.tell("on_first_token", now_s, self.request, replica)
        if hooks.on_tokens and tokens > attempt.told:
            attempt.told = tokens
            hooks.tell("on_tokens", now_s, self.request, replica, tokens)

    def attempt_ended(  # noqa: PLR0917  # called for every attempt where somebody listens, and keywords cost
        self,
        attempt: Attempt,
        failure: FailureKind | None,
        now_s: float,
        service_s: float | None = None,
        usage: Usage | None = None,
        quality: float | None = None,
    ) -> None:
        """An attempt ended; of tokens that were lost on the way it is told before."""
        hooks = attempt.desk.hooks
        if usage is not None and hooks.of_attempts and usage.output_tokens > attempt.resumed:
            self.heard(attempt, attempt.replica or "", usage.output_tokens, now_s)
        if hooks.on_completed:
            completion = self._completion(attempt, failure, now_s, service_s, usage, quality)
            hooks.tell("on_completed", now_s, completion)

    def _completion(  # noqa: PLR0917  # likewise
        self,
        attempt: Attempt,
        failure: FailureKind | None,
        now_s: float,
        service_s: float | None,
        usage: Usage | None,
        quality: float | None,
    ) -> Completion:
        request, pool = self.request, attempt.desk.pool
        return Completion(
            request=request, replica=attempt.replica or "", attempt=attempt.number, failure=failure,
            service_s=service_s, e2e_s=now_s - request.arrived_s, ttft_s=self._ttft_s,
            output_tokens=None if usage is None else usage.output_tokens, resumed_tokens=attempt.resumed,
            role=attempt.role, pool=pool.name, version=pool.version, variant=pool.variant, quality=quality,
        )  # fmt: skip

    def ending(
        self,
        outcome: Outcome,
        usage: Usage | None,
        now_s: float,
        *,
        quality: float | None = None,
        slo_met: bool | None = None,
    ) -> Ending:
        """How it ended, as policies are told."""
        request, pool = self.request, self.desk.pool
        return Ending(
            request=request, outcome=outcome, attempts=self.attempts, e2e_s=now_s - request.arrived_s,
            ttft_s=self._ttft_s, output_tokens=None if usage is None else usage.output_tokens,
            pool=pool.name, version=pool.version, variant=pool.variant, quality=quality, slo_met=slo_met,
        )  # fmt: skip

    @property
    def _ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.request.arrived_s
