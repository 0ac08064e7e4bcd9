"""How a client knows that its requests are still being worked on: it asks the head, several times a time-out.

The one thing to know: work being done is what counts, not answers. A batch may take an hour, and the head says all the
while that a replica runs it. Virtual time has no use for this: there it is known what is left to happen.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from fleet.actor import Context
from fleet.messages import ConfirmRequests, RequestsConfirmed, Tick

CHECKS = 4
"""In one time-out."""
MOST_CONFIRMED = 1_024
"""Requests asked about at a time, the oldest first: a message that was lost is found all the same."""
TICK = Tick("liveness")


class Liveness:
    """One client's watch over its head. The client calls `begin` once, and `check` at every `TICK`."""

    def __init__(self, timeout_s: float, router: str = "router") -> None:
        self.timeout_s = timeout_s
        self._router = router
        self._heard = -1
        self._alive_s = 0.0
        """When there was a last sign of work."""
        self._answered = True
        """The head has said something since its last question."""

    def begin(self, ctx: Context) -> None:
        self._alive_s = ctx.now
        ctx.after(self.timeout_s / CHECKS, TICK)

    def check(self, ctx: Context, waiting: Iterable[str], heard: int) -> bool:
        """Ask about the requests that wait for a reply; True when nothing was done for any of them for so long.

        `heard` counts whatever the client got from the head.
        """
        asked = tuple(islice(waiting, MOST_CONFIRMED))
        stalled = False
        if not asked or heard != self._heard:
            self._heard, self._alive_s = heard, ctx.now
        elif ctx.now - self._alive_s >= self.timeout_s:
            stalled, self._alive_s = True, ctx.now
        if asked and not stalled:
            self._answered = False
            ctx.send(self._router, ConfirmRequests(asked, ctx.address))
        ctx.after(self.timeout_s / CHECKS, TICK)
        return stalled

    def confirmed(self, ctx: Context, message: RequestsConfirmed) -> None:
        """The head's word."""
        self._answered = True
        if message.working:
            self._alive_s = ctx.now

    @property
    def why_stalled(self) -> str:
        """The detail of requests that end so."""
        what = (
            "no replica ran or loaded anything"
            if self._answered
            else "the head said nothing, and nothing came of it"
        )
        return f"stalled: {what} for {self.timeout_s:g} s"


LOST = "message-lost: the head does not know of it; it, or its reply, was lost on the way"
"""The detail of requests that the head says are missing."""
