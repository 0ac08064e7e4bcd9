"""An actor: a state machine that changes only in `receive`, and acts only through its `Context`.

Handlers are synchronous and short. Slow work belongs to an engine, which reports by message. Nothing an actor
can see tells it whether time is virtual.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from fleet.messages import Message

T = TypeVar("T")


class FleetError(Exception):
    """The world is not as it must be (as opposed to `PolicyError`: the policy broke its contract)."""


class Timer(Protocol):
    """A message to oneself that has not come yet."""

    def cancel(self) -> None:
        """Never deliver it; harmless when it was delivered."""


class Context(Protocol):
    """All that an actor can do to the world, and all that it can ask of it."""

    @property
    def address(self) -> str:
        """Such as ``router``, ``batcher/default``, ``replica/3``."""

    @property
    def now(self) -> float:
        """Seconds since the run began, on this process's clock."""

    @property
    def rng(self) -> random.Random:
        """Seeded from (run seed, address)."""

    def send(self, to: str, message: Message) -> None:
        """Deliver at most once, in order for each pair; what cannot be handed over comes back `Undeliverable`."""

    def after(self, delay_s: float, message: Message) -> Timer:
        """Deliver `message` to this actor after `delay_s`."""

    def every(self, period_s: float, message: Message) -> None:
        """Deliver `message` to this actor after `period_s`: like `after`, for what comes again and again.

        Virtual time may pass periods over, in which nothing happens anywhere and nothing would: see `Actor.at_rest`.
        """

    def in_thread(self, work: Callable[[], T], then: Callable[[T], Message]) -> None:
        """Run `work` on a thread and deliver `then(result)` to this actor; live runtime only."""


class Actor:
    """Base of every actor. `on_<message>` methods are found by `handlers()`, once, at the start."""

    ctx: Context

    def start(self, ctx: Context) -> None:
        """Called once before the first message."""
        self.ctx = ctx
        self._handlers = self.handlers()

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:  # Any: each handler takes its own type
        """The handler of each message type this actor understands."""
        raise NotImplementedError

    def settle(self) -> None:
        """Virtual time only: this actor is about to stand still.

        What it has simulated as one event, and would be caught in the middle of in real time, ends with its part that
        is under way.
        """

    def at_rest(self, message: Message) -> bool:
        """Virtual time only: would `message`, which is to come again and again (`Context.every`), change nothing?

        True when it changed nothing when it came last, and so would not the next time, nor any time after, unless
        something else happens first.
        """
        return False

    def passed_over(self, message: Message, due_s: float, periods: int) -> None:
        """Virtual time only: `message` did not come so many times, the first of which was due at `due_s`."""

    def receive(self, message: Message) -> None:
        """Dispatch by type; a message that this actor does not understand is an error of the sender."""
        try:
            handler = self._handlers[type(message)]
        except KeyError:
            raise FleetError(f"{self.ctx.address} does not understand {type(message).__name__}") from None
        handler(message)
