"""A request that has not ended, as its router keeps it, and what its client has of the answer."""

from __future__ import annotations

from msgspec import Struct

from fleet.actor import Timer
from fleet.messages import Payload, Streamed, Usage, Work
from policies.views import Completion, Ending, FailureKind, Outcome
from traces.schema import Request


class Pending(Struct):
    """A request that has not ended."""

    request: Request
    reply_to: str
    output_tokens: int | None
    payload: Payload | None
    answer_blocks: tuple[int, ...] = ()
    attempt: int = 0
    """How many there were. A hold is none, and neither is one that was moved before it ran."""
    ticket: int = 0
    """Of the current attempt."""
    replica: str | None = None
    placed: bool = False
    """An attempt is with the batcher; False while it is held here."""
    running: bool = False
    """The attempt was dispatched to a replica."""
    exclude: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Replicas that were lost while they had an attempt."""
    deadline: Timer | None = None
    timer: Timer | None = None
    """Ends a hold or a back-off."""
    resting: bool = False
    """It waits for its next attempt's time, whatever replicas there are."""
    holds: int = 0
    """How often the routing policy said `Hold`."""
    tokens: list[int] | None = None
    """Output tokens that the client has: a new attempt goes on after them. None: it does not stream them."""
    first_token: bool = False
    """The current attempt has given one."""
    first_token_s: float | None = None
    """When the client heard the first one, of whichever attempt."""

    resumed: int = 0
    """Tokens that the current attempt went on after."""
    told: int = 0
    """Tokens of it that policies were told of, where any listens."""

    @property
    def waits_for(self) -> str:
        """For the report of a deadlock."""
        if self.running:
            return f"an answer of {self.replica}"
        return "the batcher" if self.placed else "a replica it may go to"

    def begin(self, replica: str | None, ticket: int, *, each_token: bool) -> Work:
        """Its next attempt; `each_token`: a policy wants to hear of each one, whatever the client wants."""
        self.replica, self.placed = replica, True
        self.attempt += 1
        self.ticket = ticket
        self.first_token = False
        resume = self.resume
        self.resumed = self.told = len(resume)
        return Work(
            self.request, self.attempt, self.output_tokens, self.payload, ticket,
            each_token or self.tokens is not None, resume, self.answer_blocks,
        )  # fmt: skip

    @property
    def resume(self) -> tuple[int, ...]:
        """What the next attempt goes on after."""
        return tuple(self.tokens) if self.tokens else ()

    def lost_with(self, replica: str | None) -> int:
        """Its attempt ended with the loss of its replica; how many that makes."""
        if replica is not None and replica not in self.lost:
            self.lost += (replica,)
        return len(self.lost)

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

    def completion(
        self,
        failure: FailureKind | None,
        now_s: float,
        service_s: float | None = None,
        usage: Usage | None = None,
    ) -> Completion:
        """How its current attempt ended, as policies are told."""
        request = self.request
        ttft_s = None if self.first_token_s is None else self.first_token_s - request.arrived_s
        return Completion(
            request=request, replica=self.replica or "", attempt=self.attempt, failure=failure,
            service_s=service_s, e2e_s=now_s - request.arrived_s, ttft_s=ttft_s,
            output_tokens=None if usage is None else usage.output_tokens, resumed_tokens=self.resumed,
        )  # fmt: skip

    def ending(self, outcome: Outcome, usage: Usage | None, now_s: float) -> Ending:
        """How it ended, as policies are told."""
        request = self.request
        return Ending(
            request=request, outcome=outcome, attempts=self.attempt, e2e_s=now_s - request.arrived_s,
            ttft_s=None if self.first_token_s is None else self.first_token_s - request.arrived_s,
            output_tokens=None if usage is None else usage.output_tokens,
        )  # fmt: skip

    def take_back(self, lost: Streamed) -> None:
        """The client did not get these: from there on it gets the rest in one piece, with the answer."""
        if self.tokens is not None:
            del self.tokens[lost.start :]
