"""The parts of a composed router: what a filter, a scorer and a picker are.

A part is a policy of its own, with parameters, state and hooks; `Composed` puts them together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from policies.base import OF_HEAD, Policy
from policies.views import ReplicaView
from traces.schema import Request


class Filter(Policy):
    """Narrow the candidates."""

    slot = "filter"
    hears = OF_HEAD

    @abstractmethod
    def keep(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[ReplicaView]:
        """Those of `replicas` that may serve `request`, in the same order; maybe none."""


class Scorer(Policy):
    """Rate the candidates."""

    slot = "scorer"
    hears = OF_HEAD

    @abstractmethod
    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[float]:
        """One number in 0..1 for each of `replicas`, in their order; larger is better."""


class Picker(Policy):
    """Take one of the candidates."""

    slot = "picker"
    hears = OF_HEAD

    @abstractmethod
    def pick(self, replicas: Sequence[ReplicaView], scores: Sequence[float]) -> int:
        """The index of the replica to use; there is at least one."""


def within_bounds(scores: list[float]) -> list[float]:
    """What is below 0 is 0, what is above 1 is 1. O(n)."""
    if min(scores) >= 0.0 and max(scores) <= 1.0:  # always, unless a replica reports what cannot be
        return scores
    return [min(1.0, max(0.0, score)) for score in scores]
