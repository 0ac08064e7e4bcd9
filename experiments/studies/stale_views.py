"""Old news of the replicas: a router that is shown how many requests each had a while ago, and what theory says of it.

Source: Mitzenmacher, "How Useful Is Old Information?", IEEE Transactions on Parallel and Distributed Systems 11(1),
2000: the periodic-update model, in which a bulletin board shows the lengths of all queues and is renewed every T.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, field
from msgspec.structs import replace

from policies import Completion, Hold, LeastOutstanding, Reject, ReplicaView, Request, Route, RoutingPolicy

_LONGEST = 120
"""Requests at one replica that the theory looks at; longer queues are as good as impossible at the loads asked for."""
_STEP = 0.05
"""Of the integration, in mean service times, in which counts change at rates of about 1."""
_SETTLED, _CHANGE, _RARE = 5.0, 1e-4, 1e-14
"""Phases repeat: after so many service times, once the mean changes by so little in one. Shares below that are none."""


class StaleViews(RoutingPolicy):
    """Show `routing` the requests in flight as of the last tick of a board that is renewed every `age_s`. O(n) a tick.

    Between two ticks nobody's count changes, not even by what is sent meanwhile. All else passes through: what a policy
    counts in its own hooks, and what replicas answer to its probes, is as fresh as it always is. With an age of 0 it is
    `routing` itself.

    Source: Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000 (periodic update).
    """

    routing: RoutingPolicy = field(default_factory=LeastOutstanding)
    """Who decides."""
    age_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds from one tick to the next; what is shown is half as old on average."""

    def __post_init__(self) -> None:
        if self.routing.oracle and not self.oracle:
            raise ValueError(
                "what it wraps is an oracle; use a subclass of StaleViews that sets `oracle = True`"
            )

    def reset(self, rng: random.Random) -> None:
        self.tick = 0
        self.in_flight: dict[str, int] = {}
        """By replica, as long as it has any: now, and..."""
        self.board: dict[str, int] = {}
        """...at the last tick."""
        self.seen: Sequence[ReplicaView] | None = None
        """The candidates that `shown` was made of. None: there was a tick since."""
        self.shown: Sequence[ReplicaView] = ()
        super().reset(rng)

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        if not self.age_s:
            return self.routing.route(request, replicas, now_s)
        self._look(now_s)
        if replicas is not self.seen:
            board = self.board
            self.shown = tuple([replace(view, in_flight=board.get(view.id, 0)) for view in replicas])
            self.seen = replicas
        return self.routing.route(request, self.shown, now_s)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self._look(now_s)
        self.in_flight[replica] = self.in_flight.get(replica, 0) + 1
        super().on_dispatched(request, replica, now_s)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        self._look(now_s)
        left = self.in_flight.get(completion.replica, 1) - 1
        if left:
            self.in_flight[completion.replica] = left
        else:
            self.in_flight.pop(completion.replica, None)
        super().on_completed(completion, now_s)

    def _look(self, now_s: float) -> None:
        """Renew the board if a tick has passed. To be called before a count changes: then it is as of the tick."""
        if not self.age_s:
            return
        tick = int(now_s / self.age_s)
        if tick != self.tick:
            self.tick = tick
            self.board = self.in_flight.copy()
            self.seen = None


def random_mean(load: float) -> float:
    """Mean response time of routing at random, in mean service times: M/M/1, whatever anybody knows."""
    return 1.0 / (1.0 - load)


def supermarket_mean(load: float, choices: int = 2) -> float:
    """Mean response time of the least loaded of `choices` at random with exact counts, as replicas go to infinity.

    In mean service times: Σ load^((d^i - d) / (d - 1)) over i ≥ 1 (Mitzenmacher, "The Power of Two Choices in
    Randomized Load Balancing", IEEE TPDS 12(10), 2001, theorem 1).
    """
    if choices == 1:
        return random_mean(load)
    total, exponent = 0.0, 0.0
    while load**exponent > 1e-15:
        total += load**exponent
        exponent = exponent * choices + choices  # (d^(i+1) - d)/(d - 1) = d (d^i - d)/(d - 1) + d
    return total


def stale_two_choices_mean(load: float, age: float) -> float:
    """Mean response time of two choices on a board that is renewed every `age`, as replicas go to infinity.

    Both in mean service times. Of all replicas the share p[i, j] has i on the board and j in truth. Through a phase the
    one of two that shows less gets the request, ties at random, so each replica that shows i gets requests at the rate
    load × (S_i + S_{i+1}), where S_i is the share that shows i or more: λ (S_i² - S_{i+1}²) over S_i - S_{i+1}. So the
    shares follow a linear differential equation, here by the classical Runge-Kutta method, until the phase ends and
    what is true is shown. Phases are gone through until they repeat; the mean number of requests at a replica through
    the last one, over `load`, is the mean response time (Little).
    """
    if age <= 0.0:
        return supermarket_mean(load)
    steps = max(2, math.ceil(age / _STEP))
    length = age / steps
    numbers = np.arange(_LONGEST, dtype=float)
    # Begin as with exact counts: S_i = load^(2^i - 1).
    tails = np.array([load ** (2.0 ** min(i, 60) - 1.0) for i in range(_LONGEST + 1)])
    truth = tails[:-1] - tails[1:]
    means: list[float] = []
    while (
        len(means) < max(2.0, _SETTLED / age)
        or abs(means[-1] - means[-2]) > _CHANGE * min(1.0, age) * means[-1]
    ):
        tails = np.append(np.cumsum(truth[::-1])[::-1], 0.0)
        shown = int(np.flatnonzero(truth > _RARE)[-1]) + 1
        # A queue of the longest length takes no more.
        arrivals = load * (tails[:shown] + tails[1 : shown + 1])[:, None] * (numbers < _LONGEST - 1)
        shares = np.diag(truth)[:shown]
        held = 0.0
        for _ in range(steps):
            held += 0.5 * float(shares.sum(axis=0) @ numbers)
            shares = _runge_kutta(shares, arrivals, length)
            held += 0.5 * float(shares.sum(axis=0) @ numbers)
        truth = shares.sum(axis=0)
        means.append(held / steps / load)
    return means[-1]


def _runge_kutta(
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    arrivals: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    length: float,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The shares one step later. Each replica serves one request at a time, at rate 1."""

    def change(
        now: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        up = arrivals * now
        made = -up
        made[:, 1:] += up[:, :-1] - now[:, 1:]
        made[:, :-1] += now[:, 1:]
        return made

    first = change(shares)
    second = change(shares + 0.5 * length * first)
    third = change(shares + 0.5 * length * second)
    fourth = change(shares + length * third)
    return shares + length / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
