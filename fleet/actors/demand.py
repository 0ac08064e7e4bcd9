"""What a pool is asked for, counted where requests come in and go out: each once, whatever becomes of its attempts.

The router tells this ledger of every request that it lets in, that reaches a replica, and that ends. All it keeps
are counters that only grow, so that whoever asks twice has what lay between; only of latencies there are the values
themselves, since the last time that somebody asked.
"""

from __future__ import annotations

from collections import deque

from fleet.messages import DemandReport, Usage
from policies.views import Outcome
from traces.schema import Request, Slo

REMEMBERED = 65_536
"""Latencies kept between two reports: the last ones, where nobody asks for long."""


class Demand:
    """The ledger of one pool's requests. It is told of every one, so it does little each time."""

    __slots__ = (
        "_ends_s",
        "_starts_s",
        "_ttft_s",
        "arrivals_s",
        "completions",
        "e2e_s",
        "ended",
        "in_flight",
        "judged",
        "met",
        "moved",
        "running",
        "slo",
    )

    def __init__(self, slo: Slo | None = None) -> None:
        self.slo = slo
        """Objectives of requests that bring none of their own."""
        self.in_flight = 0
        """Requests let in for it, and neither ended nor gone on to another pool."""
        self.running = 0
        """Those of them that a replica has."""
        self.ended = self.completions = self.moved = 0
        """Ended; completed; gone on to another pool."""
        self.judged = self.met = 0
        """Ended with an objective, and those of them that met it."""
        # A sum of moments is an integral: what n requests that are there spent up to now is n · now less the sum of
        # the moments at which they came; and of those that have gone since, the moments at which they went.
        self.arrivals_s = self._starts_s = self._ends_s = 0.0
        self.e2e_s: deque[float] = deque(maxlen=REMEMBERED)
        """Of those that completed since the last report."""
        self._ttft_s: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def waiting(self) -> int:
        """Let in, and with no replica: held by the router, queued, on the way."""
        return self.in_flight - self.running

    def came(self, now: float) -> None:
        """One was let in for it, or came from another pool."""
        self.in_flight += 1
        self.arrivals_s += now

    def uncount(self, now: float) -> None:
        """One that came at this very instant was for another pool."""
        self.in_flight -= 1
        self.arrivals_s -= now

    def went(self, running: bool, now: float) -> None:
        """One has gone on to another pool."""
        self.moved += 1
        self._gone(running, now)

    def _gone(self, running: bool, now: float) -> None:
        self.in_flight -= 1
        self._ends_s += now
        if running:
            self.running -= 1
        else:
            self._starts_s += now

    def started(self, requests: int, now: float) -> None:
        """So many went to a replica."""
        self.running += requests
        self._starts_s += requests * now

    def stopped(self, now: float) -> None:
        """A replica has one no more, and it has not ended."""
        self.running -= 1
        self._starts_s -= now

    def completed(self, requests: int, now: float) -> None:
        """So many got their answers from a replica."""
        self.in_flight -= requests
        self.running -= requests
        self.ended += requests
        self.completions += requests
        self._ends_s += requests * now

    def came_to_nothing(self, running: bool, now: float) -> None:
        """One ended without an answer."""
        self.ended += 1
        self._gone(running, now)

    def judge(
        self, request: Request, outcome: Outcome, first_token_s: float | None, usage: Usage | None, now: float
    ) -> bool | None:
        """Hold one that ends against its objectives, and say whether it met them; None: it has none.

        Whoever did not get an answer did not get it in time.
        """
        arrived_s = request.arrived_s
        first_s = now if first_token_s is None else first_token_s
        if usage is not None:
            self._ttft_s.append(first_s - arrived_s)
        e2e_s, ttft_s, tpot_s = self._bounds(request.slo)
        if e2e_s is None and ttft_s is None and tpot_s is None:
            return None
        self.judged += 1
        gaps = 0 if usage is None else usage.output_tokens - 1
        met = (
            outcome == "completed"
            and (e2e_s is None or now - arrived_s <= e2e_s)
            and (ttft_s is None or first_s - arrived_s <= ttft_s)
            and (tpot_s is None or gaps < 1 or (now - first_s) / gaps <= tpot_s)
        )
        self.met += met
        return met

    def _bounds(self, own: Slo | None) -> tuple[float | None, float | None, float | None]:
        """What a request asks for, and where it asks for nothing what the fleet's objectives say."""
        slo = self.slo
        if own is None or slo is None:
            only = own or slo or Slo()
            return only.e2e_s, only.ttft_s, only.tpot_s
        return (
            slo.e2e_s if own.e2e_s is None else own.e2e_s,
            slo.ttft_s if own.ttft_s is None else own.ttft_s,
            slo.tpot_s if own.tpot_s is None else own.tpot_s,
        )

    def report(self, now: float, *, oldest_wait_s: float) -> DemandReport:
        """What has been counted up to now, and the latencies since the last report."""
        e2e_s, ttft_s = tuple(self.e2e_s), tuple(self._ttft_s)
        self.e2e_s.clear()
        self._ttft_s.clear()
        in_flight, waiting = self.in_flight, self.waiting
        return DemandReport(
            queue_depth=waiting,
            oldest_wait_s=oldest_wait_s,
            in_flight=in_flight,
            arrived=in_flight + self.ended + self.moved,
            ended=self.ended,
            completed=self.completions,
            judged=self.judged,
            met=self.met,
            in_flight_s=in_flight * now - (self.arrivals_s - self._ends_s),
            queue_s=waiting * now - (self.arrivals_s - self._starts_s),
            ttft_s=ttft_s or e2e_s,
            e2e_s=e2e_s,
        )
