"""What a pool is asked for, counted where requests come in and go out: each once, whatever becomes of its attempts.

The router tells this ledger of every request that it lets in, that reaches a replica, and that ends. All it keeps
are counters that only grow, so that whoever asks twice has what lay between; only of latencies there are the values
themselves, since the last time that somebody asked.
"""

from __future__ import annotations

from collections import deque

from fleet.actors.pending import Pending
from fleet.messages import DemandReport, Usage
from policies.views import Outcome
from traces.schema import Slo

REMEMBERED = 65_536
"""Latencies kept between two reports: the last ones, where nobody asks for long."""


class Demand:
    """The ledger of one pool's requests. It is told of every one, so it does little each time."""

    __slots__ = ("_ends_s", "_starts_s", "_ttft_s", "arrivals_s", "e2e_s", "judged", "met", "running", "slo")

    def __init__(self, slo: Slo | None = None) -> None:
        self.slo = slo
        """Objectives of requests that bring none of their own."""
        self.running = 0
        """Requests whose current attempt is with a replica."""
        self.judged = self.met = 0
        """Ended with an objective, and those of them that met it."""
        # A sum of moments is an integral: what n requests that are there spent up to now is n · now less the sum of
        # the moments at which they came; and of those that have gone since, the moments at which they went.
        self.arrivals_s = self._starts_s = self._ends_s = 0.0
        self.e2e_s: deque[float] = deque(maxlen=REMEMBERED)
        """Of those that completed since the last report."""
        self._ttft_s: deque[float] = deque(maxlen=REMEMBERED)

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
        self.running -= requests
        self._ends_s += requests * now

    def came_to_nothing(self, pending: Pending, outcome: Outcome, now: float) -> None:
        """One ended without an answer."""
        self._ends_s += now
        if pending.running:
            self.running -= 1
        else:
            self._starts_s += now
        if self.slo is not None or pending.request.slo is not None:
            self.judge(pending, outcome, None, now)

    def judge(self, pending: Pending, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """Hold it against its objectives. Whoever did not get an answer did not get it in time."""
        arrived_s = pending.request.arrived_s
        first_s = now if pending.first_token_s is None else pending.first_token_s
        if usage is not None:
            self._ttft_s.append(first_s - arrived_s)
        e2e_s, ttft_s, tpot_s = self._bounds(pending.request.slo)
        if e2e_s is None and ttft_s is None and tpot_s is None:
            return
        self.judged += 1
        gaps = 0 if usage is None else usage.output_tokens - 1
        self.met += (
            outcome == "completed"
            and (e2e_s is None or now - arrived_s <= e2e_s)
            and (ttft_s is None or first_s - arrived_s <= ttft_s)
            and (tpot_s is None or gaps < 1 or (now - first_s) / gaps <= tpot_s)
        )

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

    def report(
        self, now: float, *, arrived: int, completed: int, in_flight: int, oldest_wait_s: float
    ) -> DemandReport:
        """What has been counted up to now, and the latencies since the last report."""
        e2e_s, ttft_s = tuple(self.e2e_s), tuple(self._ttft_s)
        self.e2e_s.clear()
        self._ttft_s.clear()
        waiting = in_flight - self.running
        return DemandReport(
            queue_depth=waiting,
            oldest_wait_s=oldest_wait_s,
            in_flight=in_flight,
            arrived=arrived,
            ended=arrived - in_flight,
            completed=completed,
            judged=self.judged,
            met=self.met,
            in_flight_s=in_flight * now - (self.arrivals_s - self._ends_s),
            queue_s=waiting * now - (self.arrivals_s - self._starts_s),
            ttft_s=ttft_s or e2e_s,
            e2e_s=e2e_s,
        )
