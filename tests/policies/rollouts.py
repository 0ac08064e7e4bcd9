"""A small world for rollouts: requests that overlap, told to a policy in the order in which a router would."""

import heapq
import random
from collections.abc import Callable
from typing import Any

from policies import Ending, Request, RolloutPolicy, VersionView

Law = Callable[[str, float, random.Random], tuple[str, float] | None]
"""(version, time of sending, chance) -> (outcome, seconds) of a request; None: a variants policy refuses it."""


def good(version: str, now_s: float, rng: random.Random) -> tuple[str, float]:
    return "completed", rng.expovariate(5.0)


def reply(request: Request, version: str, outcome: str, e2e_s: float, **fields: Any) -> Ending:
    return Ending(request=request, outcome=outcome, attempts=1, e2e_s=e2e_s, version=version, **fields)


class World:
    """Requests of a Poisson process to two versions of one model."""

    def __init__(
        self,
        policy: RolloutPolicy,
        law: Law = good,
        *,
        seed: int = 0,
        rate_per_s: float = 20.0,
        users: int = 997,
    ) -> None:
        """`users`: 0 for requests that have none."""
        policy.reset(random.Random(seed))
        self.policy, self.law, self.rate_per_s = policy, law, rate_per_s
        self.users = users
        self.rng = random.Random(f"world {seed}")
        self.now_s = 0.0
        self.served = ["1", "2"]
        self.ready = {"1": 1, "2": 1}
        self.sent = {"1": 0, "2": 0}
        self.stages = [policy.stage]
        self._number = 0
        self._in_flight = {"1": 0, "2": 0}
        self._out: list[tuple[float, int, str, Request, str]] = []

    def run(self, until_s: float) -> "World":
        """Requests come and end until then."""
        while (next_s := self.now_s + self.rng.expovariate(self.rate_per_s)) <= until_s:
            self._end_until(next_s)
            self.now_s = next_s
            self._number += 1
            user = f"u{self._number % self.users}" if self.users else None
            self.send(Request(id=f"r{self._number}", arrived_s=next_s, user=user))
        self._end_until(until_s)
        self.now_s = until_s
        return self

    def send(self, request: Request, *, pinned: str | None = None) -> str:
        """One request, which a client may pin."""
        version = pinned or self.choose(request)
        fate = self.law(version, self.now_s, self.rng)
        if fate is None:
            return version
        outcome, e2e_s = fate
        self._in_flight[version] += 1
        self.policy.on_dispatched(request, f"replica/{version}", self.now_s)
        self._number += 1
        heapq.heappush(self._out, (self.now_s + e2e_s, self._number, version, request, outcome))
        return version

    def choose(self, request: Request) -> str:
        """Which version is to serve it."""
        views = tuple(
            VersionView(model="m", version=name, ready=self.ready[name], in_flight=self._in_flight[name])
            for name in self.served
        )
        version = self.policy.choose(request, views, self.now_s).version
        assert version in self.served
        self.sent[version] += 1
        self._note()
        return version

    def _end_until(self, until_s: float) -> None:
        while self._out and self._out[0][0] <= until_s:
            at_s, _, version, request, outcome = heapq.heappop(self._out)
            self._in_flight[version] -= 1
            self.policy.on_request_ended(reply(request, version, outcome, at_s - request.arrived_s), at_s)
            self._note()

    def _note(self) -> None:
        if self.policy.stage != self.stages[-1]:
            self.stages.append(self.policy.stage)
