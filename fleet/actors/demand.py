"""What a pool is asked for, counted where requests come in and go out: each once, whatever becomes of its attempts.

The router tells this ledger of every request that it lets in, that reaches a replica, and that ends. All it keeps
are counters that only grow, so that whoever asks twice has what lay between; only of latencies there are the values
themselves, since the last time that somebody asked.
"""

from __future__ import annotations

from collections import deque

from fleet.actors.pending import Pending
from fleet.messages import DemandReport, Outcome, Usage
from traces.schema import Slo

REMEMBERED = 65_536
"""Latencies kept between two reports: the last ones, where nobody asks for long."""


class Demand:
    """The ledger of one pool's requests."""

    __slots__ = (
        "_e2e_s",
        "_moments_s",
        "_run_moments_s",
        "_ttft_s",
        "arrived",
        "completed",
        "ended",
        "judged",
        "met",
        "running",
        "slo",
    )

    def __init__(self, slo: Slo | None = None) -> None:
        self.slo = slo
        """Objectives of requests that bring none of their own."""
        self.arrived = self.ended = self.completed = 0
        self.running = 0
        """Requests whose current attempt is with a replica."""
        self.judged = self.met = 0
        """Ended with an objective, and those of them that met it."""
        # With each request from one moment to another, the seconds of all of them up to now are
        # (how many there are now) · now - (sum of their beginnings - sum of their ends).
        self._moments_s = self._run_moments_s = 0.0
        self._ttft_s: deque[float] = deque(maxlen=REMEMBERED)
        self._e2e_s: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def in_flight(self) -> int:
        return self.arrived - self.ended

    @property
    def waiting(self) -> int:
        """Let in, and with no replica: held, queued, on the way, or waiting to be tried again."""
        return self.arrived - self.ended - self.running

    def let_in(self, now: float) -> None:
        self.arrived += 1
        self._moments_s += now

    def started(self, requests: int, now: float) -> None:
        """So many were given to a replica."""
        self.running += requests
        self._run_moments_s += requests * now

    def stopped(self, now: float) -> None:
        """A replica has one no more, and it has not ended."""
        self.running -= 1
        self._run_moments_s -= now

    def out(self, pending: Pending, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """One ended."""
        self.ended += 1
        self._moments_s -= now
        if pending.running:
            self.running -= 1
            self._run_moments_s -= now
        request = pending.request
        if outcome == "completed":
            self.completed += 1
            self._e2e_s.append(now - request.arrived_s)
            if usage is not None:
                first_s = pending.first_token_s
                self._ttft_s.append((now if first_s is None else first_s) - request.arrived_s)
        if request.slo is not None or self.slo is not None:
            self._judge(pending, outcome, usage, now)

    def _judge(self, pending: Pending, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """Whoever did not get an answer did not get it in time."""
        arrived_s = pending.request.arrived_s
        e2e_s, ttft_s, tpot_s = self._bounds(pending.request.slo)
        if e2e_s is None and ttft_s is None and tpot_s is None:
            return
        if outcome != "completed":
            self.judged += 1
            return
        first_s = now if pending.first_token_s is None else pending.first_token_s
        gaps = 0 if usage is None else usage.output_tokens - 1
        if usage is None and e2e_s is None and ttft_s is None:
            return  # a whole answer has no gaps, and nothing else was asked of it
        self.judged += 1
        self.met += (
            (e2e_s is None or now - arrived_s <= e2e_s)
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

    def report(self, oldest_wait_s: float, now: float) -> DemandReport:
        """The counters, and the latencies since the last report."""
        e2e_s, ttft_s = tuple(self._e2e_s), tuple(self._ttft_s)
        self._e2e_s.clear()
        self._ttft_s.clear()
        in_flight_s = self.in_flight * now - self._moments_s
        return DemandReport(
            queue_depth=self.waiting,
            oldest_wait_s=oldest_wait_s,
            in_flight=self.in_flight,
            arrived=self.arrived,
            ended=self.ended,
            completed=self.completed,
            judged=self.judged,
            met=self.met,
            in_flight_s=in_flight_s,
            queue_s=in_flight_s - (self.running * now - self._run_moments_s),
            ttft_s=ttft_s or e2e_s,
            e2e_s=e2e_s,
        )
