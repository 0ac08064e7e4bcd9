"""What a request would have taken at each replica, estimated from the log: a line through what others took there.

The one thing to know: this is a model, and of one request alone. It reckons with the queue that was seen, not with what
the decision does to the requests that come later; `forcing` finds that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from msgspec import Struct

from policies.views import ReplicaView

LEAST_REQUESTS = 10
"""Fewer say nothing of a line."""
LEAST_EXPLAINED = 0.1
"""A line that explains less of the variance, or that falls, tells nothing: no estimate is made of it."""

Kind = tuple[str, str | None, float, float | None]
"""Replicas that should take alike: pool, device, weight, and what a request takes it alone."""


def kind_of(view: ReplicaView) -> Kind:
    """Which replicas this one is like."""
    return view.pool, view.device, view.weight, view.expected_service_s


class Line(Struct, frozen=True, kw_only=True):
    """What requests took at replicas of one kind: `alone_s`, and `each_s` more for each one in flight before them.

    Fitted by least squares. For a server that takes one request after the other in `each_s` it is exact.
    """

    pool: str
    device: str | None
    weight: float
    requests: int
    alone_s: float
    each_s: float
    explained: float
    """R squared: which part of the variance the number in flight explains."""

    @property
    def tells(self) -> bool:
        """Estimates may be made of it."""
        return self.each_s > 0.0 and self.explained >= LEAST_EXPLAINED

    @property
    def label(self) -> str:
        """`default`, `default on a100`, `default on a100 of weight 0.5`."""
        device = "" if self.device is None else f" on {self.device}"
        return f"{self.pool}{device}" + ("" if self.weight == 1.0 else f" of weight {self.weight:g}")

    def __call__(self, in_flight: int) -> float:
        return self.alone_s + self.each_s * in_flight


def lines_through(sent: Iterable[tuple[ReplicaView, float]]) -> dict[Kind, Line]:
    """A line for each kind of replica, from the views of those that requests were sent to and what these then took.

    None for a kind of which there are too few, or all of one queue.
    """
    seen: dict[Kind, list[tuple[int, float]]] = {}
    for view, took_s in sent:
        seen.setdefault(kind_of(view), []).append((view.in_flight, took_s))
    fitted = {kind: _line(kind, pairs) for kind, pairs in seen.items()}
    return {kind: line for kind, line in fitted.items() if line is not None}


def _line(kind: Kind, pairs: list[tuple[int, float]]) -> Line | None:
    in_flight, took_s = np.asarray(pairs, dtype=float).T
    if len(pairs) < LEAST_REQUESTS or np.ptp(in_flight) == 0.0:
        return None
    each_s, alone_s = np.polyfit(in_flight, took_s, 1)
    left = took_s - (alone_s + each_s * in_flight)
    variance = float(np.var(took_s))
    explained = 1.0 - float(np.mean(left**2)) / variance if variance else 1.0
    pool, device, weight, _ = kind
    return Line(
        pool=pool, device=device, weight=weight, requests=len(pairs), alone_s=float(alone_s), each_s=float(each_s),
        explained=explained,
    )  # fmt: skip


def alike(one: ReplicaView | None, other: ReplicaView | None) -> bool:
    """Both are of one kind, and have as many requests in flight."""
    if one is None or other is None:
        return False
    return one.in_flight == other.in_flight and kind_of(one) == kind_of(other)


def difference_s(
    lines: dict[Kind, Line], logged: ReplicaView | None, other: ReplicaView | None
) -> float | None:
    """How much longer the request takes where it was sent than at the other one; None where no line tells."""
    if logged is None or other is None:
        return None
    here, there = lines.get(kind_of(logged)), lines.get(kind_of(other))
    if here is None or there is None or not (here.tells and there.tells):
        return None
    return here(logged.in_flight) - there(other.in_flight)
