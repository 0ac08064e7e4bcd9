"""Peak EWMA: the least of recent latency times requests in flight, of two."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.attempts import Attempts
from policies.routing.draws import two_of
from policies.views import Completion, ReplicaView
from traces.schema import Request

_SAYS_NOTHING = ("withdrawn", "refused")
"""Ends of an attempt for which its replica is not to blame."""


class PeakEwma(RoutingPolicy):
    """Of two different replicas the one of least latency × (in flight + 1). O(1).

    The latency is that of whole attempts, from when they were sent, in an average that forgets with time: a latency
    above it replaces it at once, one below it pulls it down by the share 1 - e^(-time / `decay_s`), the time being that
    since the average was last looked at. A look counts as a latency of 0, so that without news it falls, and a replica
    that was slow is tried again. One never heard of costs nothing and is tried at once; while its first attempts are
    in flight it comes after every other.

    Differs from its source in failures: there an attempt that fails at once looks like a fast one, and other parts
    keep away from the replica. Here it counts as having taken `failure_s` at least.

    Source: Finagle, `Balancers.p2cPeakEwma`, with its default `decayTime` of 10 seconds; the balancer of Linkerd.
    """

    decay_s: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds in which what is not confirmed falls to 1/e."""
    failure_s: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds that a failed attempt counts as having taken, at least. Not of the source."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.sent: Attempts[float] = Attempts()
        self.latencies: dict[str, tuple[float, float]] = {}
        """By replica: the average in seconds, and when it was that."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        one, other = two_of(len(replicas), self.random)
        first, second = replicas[one], replicas[other]
        better = second if self.cost(second, now_s) < self.cost(first, now_s) else first
        return Route(better.id)

    def cost(self, replica: ReplicaView, now_s: float) -> tuple[bool, float]:
        """For comparison: whether nothing is known though it is being tried, then the cost in seconds."""
        latency_s = self._observe(replica.id, 0.0, now_s)
        if latency_s == 0.0 and replica.in_flight:
            return True, replica.in_flight
        return False, latency_s * (replica.in_flight + 1)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self.sent.add(request.id, replica, now_s)
        # From now on it is told apart from one that has left, which nothing is learnt of any more.
        self.latencies.setdefault(replica, (0.0, now_s))

    def on_completed(self, completion: Completion, now_s: float) -> None:
        replica = completion.replica
        sent_s = self.sent.take(completion.request.id, replica)
        if sent_s is None:
            return
        took_s = now_s - sent_s
        if completion.failure is not None:
            if completion.failure not in _SAYS_NOTHING:
                took_s = max(took_s, self.failure_s)
            # It would have taken so long at least, which says nothing where that is less than is known.
            took_s = max(took_s, self.latencies.get(replica, (0.0, 0.0))[0])
        self._observe(replica, took_s, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        here = {replica.id for replica in replicas}
        self.latencies = {replica: known for replica, known in self.latencies.items() if replica in here}

    def _observe(self, replica: str, took_s: float, now_s: float) -> float:
        """The average after one more latency; 0 of a replica that nothing is known of."""
        known = self.latencies.get(replica)
        if known is None:
            return 0.0
        latency_s, at_s = known
        if took_s > latency_s:
            latency_s = took_s
        else:
            kept = math.exp((at_s - now_s) / self.decay_s)
            latency_s = latency_s * kept + took_s * (1.0 - kept)
        self.latencies[replica] = latency_s, now_s
        return latency_s
