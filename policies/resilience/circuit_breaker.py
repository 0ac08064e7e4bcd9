"""Circuit breakers: stop asking a replica that fails, try it again after a while, and trust it once it answers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import BreakerPolicy
from policies.decisions import Reject
from policies.resilience.faults import TELLS_NOTHING
from policies.resilience.remembered import AWAY_S, Remembered
from policies.routing.attempts import Attempts
from policies.views import Completion, ReplicaView
from traces.schema import Request
from traces.values import BadValue

_ALL_OPEN = Reject("the circuit breakers of all candidates are open")


class CircuitBreaker(BreakerPolicy):
    """One breaker for each replica: closed, open, half-open. O(1) for each question and each attempt.

    *Closed*, it looks at the last `window` attempts that ended. From `min_calls` on it opens where the fraction of them
    that failed reaches `failure_threshold`, or of those that took longer than `slow_after_s` reaches `slow_threshold`.
    *Open*, it allows nothing for `open_s`. Then, *half-open*, it allows `half_open_calls` trials, and no more: when all
    have gone well it closes, with nothing held against the replica; the first one that fails or is slow opens it again.

    An attempt counts in the state in which it was sent; what comes back of an earlier one is no news. One that was
    withdrawn, refused or never had room says nothing, and a trial that ended so gives its place back, unless it had
    been out for longer than `slow_after_s`: slow it is, whoever ended it. Time counts from when an attempt was sent, so
    waiting at the replica is in it.

    A trial that neither ends nor fails keeps its breaker half-open: where replicas may hang, limit attempts
    (`AttemptTimeout`), or leave it to health checks.

    A replica that may not be chosen for a while (a missed probe) keeps its breaker, and what ends there meanwhile
    counts. It is forgotten when it has been away for `open_s`, or 300 s where that is longer.

    Source: Nygard, "Release It!", 2007, chapter 5; the states and defaults of Netflix Hystrix (20 calls, 50 % failed,
    5 s, one trial); window, slow calls and several trials as in resilience4j.
    """

    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """Attempts that ended last, of one replica."""
    min_calls: Annotated[int, Meta(ge=1)] = 20
    """Attempts in the window before it is judged."""
    failure_threshold: Annotated[float, Meta(gt=0, le=1)] | None = 0.5
    """Fraction of failed attempts that opens it; None: failures are not judged."""
    slow_threshold: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Fraction of slow attempts that opens it."""
    slow_after_s: Annotated[float, Meta(gt=0)] | None = None
    """An attempt that takes longer is slow; None: slowness is not judged."""
    open_s: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds for which it stays open."""
    half_open_calls: Annotated[int, Meta(ge=1)] = 1
    """Trials that must go well before it closes."""
    when_all_open: Literal["fail-fast", "ignore"] = "fail-fast"
    """When no candidate is allowed: refuse the request, or choose as if all were."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself: it must be able to open."""
        if self.min_calls > self.window:
            raise BadValue(
                "min_calls",
                f"{self.min_calls} attempts never are in a window of {self.window}; it would never open",
            )
        if self.failure_threshold is None and self.slow_after_s is None:
            raise BadValue(
                "failure_threshold",
                "missing, and so is `slow_after_s`; it would never open. Give one of them",
            )

    def reset(self, rng: random.Random) -> None:
        self.circuits: Remembered[_Circuit] = Remembered(max(AWAY_S, self.open_s))
        self.attempts: Attempts[_Sent] = Attempts()
        self.phases = 0
        """How many there were of all circuits, so that each has a number of its own."""

    def allows(self, replica: ReplicaView, now_s: float) -> bool:
        circuit = self.circuits.of(replica.id)
        if circuit is None or circuit.open_until_s is None:
            return True
        return now_s >= circuit.open_until_s and circuit.trials < self.half_open_calls

    def none_allowed(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Reject | None:
        return _ALL_OPEN if self.when_all_open == "fail-fast" else None

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        circuit = self.circuits.of(replica)
        if circuit is None:
            circuit = self.circuits.add(replica, _Circuit(self._next_phase()))
        trial = circuit.open_until_s is not None and now_s >= circuit.open_until_s
        circuit.trials += trial
        self.attempts.add(request.id, replica, _Sent(now_s, circuit.phase, trial))

    def on_completed(self, completion: Completion, now_s: float) -> None:
        attempt = self.attempts.take(completion.request.id, completion.replica)
        circuit = self.circuits.of(completion.replica)
        if attempt is None or circuit is None or attempt.phase != circuit.phase:
            return
        failure = completion.failure
        slow = self.slow_after_s is not None and now_s - attempt.sent_s > self.slow_after_s
        known = slow or failure not in TELLS_NOTHING
        failed = failure is not None and failure not in TELLS_NOTHING and self.failure_threshold is not None
        if attempt.trial:
            self._tried(circuit, known, failed or slow, now_s)
        elif circuit.open_until_s is None and known:
            self._count(circuit, failed, slow, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.circuits.seen((view.id for view in replicas), now_s)

    def _tried(self, circuit: _Circuit, known: bool, bad: bool, now_s: float) -> None:
        """A trial ended."""
        if not known:
            circuit.trials -= 1
        elif bad:
            circuit.begin(self._next_phase(), now_s + self.open_s)
        else:
            circuit.good += 1
            if circuit.good >= self.half_open_calls:
                circuit.begin(self._next_phase(), None)

    def _count(self, circuit: _Circuit, failed: bool, slow: bool, now_s: float) -> None:
        """An attempt ended while its replica's breaker is closed."""
        calls = circuit.add(failed, slow, self.window)
        if calls < self.min_calls:
            return
        failing = self.failure_threshold is not None and circuit.failed / calls >= self.failure_threshold
        if failing or circuit.slow / calls >= self.slow_threshold:
            circuit.begin(self._next_phase(), now_s + self.open_s)

    def _next_phase(self) -> int:
        self.phases += 1
        return self.phases


class _Circuit:
    """The breaker of one replica."""

    __slots__ = ("failed", "good", "last", "open_until_s", "phase", "slow", "trials")

    def __init__(self, phase: int) -> None:
        self.last: deque[tuple[bool, bool]] = deque()
        """Of the attempts in its window, whether each failed and whether it was slow; empty unless it is closed."""
        self.begin(phase, None)

    def begin(self, phase: int, open_until_s: float | None) -> None:
        """It closes (None), or opens until then, after which it is half-open."""
        self.phase, self.open_until_s = phase, open_until_s
        self.trials = self.good = 0
        """Since it is half-open: trials that are out or went well, and those that went well."""
        self.last.clear()
        self.failed = self.slow = 0
        """How many of the last ones."""

    def add(self, failed: bool, slow: bool, window: int) -> int:
        """One more in the window, the oldest out of it; how many there are."""
        if len(self.last) == window:
            was_failed, was_slow = self.last.popleft()
            self.failed -= was_failed
            self.slow -= was_slow
        self.last.append((failed, slow))
        self.failed += failed
        self.slow += slow
        return len(self.last)


class _Sent:
    """One attempt in flight."""

    __slots__ = ("phase", "sent_s", "trial")

    def __init__(self, sent_s: float, phase: int, trial: bool) -> None:
        self.sent_s = sent_s
        self.phase = phase
        """That of its circuit when it was sent."""
        self.trial = trial
