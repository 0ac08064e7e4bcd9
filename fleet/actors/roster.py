"""The replicas as one observer knows them: their reports, the verdicts on them, and which of them may be chosen."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from msgspec.structs import force_setattr

from fleet.messages import ReplicaReported, replica_number
from policies.views import ReplicaView, Trust

REMEMBERED = 4_096
"""Ended replicas whose late reports are known to be late. Those of older ones cannot be under way any more."""


def take_signals(view: ReplicaView, report: ReplicaReported, now_s: float) -> None:
    """Bring a view's signals up to date. Most reports come from devices without counters, so those go last."""
    force_setattr(view, "as_of_s", now_s)
    force_setattr(view, "busy_fraction", report.busy_fraction)
    force_setattr(view, "tokens", report.tokens)
    if view.weight != report.weight:
        force_setattr(view, "weight", report.weight)
    if report.memory_total_bytes is not view.memory_total_bytes or report.gpu_utilization is not None:
        for name in ("gpu_utilization", "memory_used_bytes", "memory_total_bytes"):
            force_setattr(view, name, getattr(report, name))


class Reports:
    """Which reports to believe: none that a later one overtook, and none of a replica that has ended."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._gone: dict[str, None] = {}
        """In the order they ended."""

    def believe(self, message: ReplicaReported) -> bool:
        """True unless the report is late."""
        replica, number = message.replica, message.number
        if replica in self._gone or number < self._newest.get(replica, 0):
            return False
        self._newest[replica] = number
        return True

    def ended(self, replica: str) -> None:
        """Believe nothing more of it."""
        self._newest.pop(replica, None)
        self._gone[replica] = None
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def has_ended(self, replica: str) -> bool:
        return replica in self._gone


class Roster:
    """Views by id, kept up to date in place, and the candidates among them in the order of their numbers."""

    def __init__(self, follow: Callable[[ReplicaView], None] | None = None) -> None:
        """`follow` is told of each view that is new: whoever keeps its signals up to date between reports."""
        self._follow = follow
        self.views: dict[str, ReplicaView] = {}
        self.candidates: tuple[ReplicaView, ...] = ()
        """Ready and trusted."""
        self.chosen: dict[str, ReplicaView] = {}
        """The candidates by id."""
        self._reports = Reports()

    def reported(self, message: ReplicaReported, now_s: float) -> bool:
        """Take in a report; True when the candidates changed."""
        if not self._reports.believe(message):
            return False
        view = self.views.get(message.replica)
        if view is None:
            view = ReplicaView(id=message.replica, state=message.state, weight=message.weight)
            self.views[message.replica] = view
            if self._follow is not None:
                self._follow(view)
            before = None
        else:
            before = view.state
        if message.state == "ready" and before != "ready":
            force_setattr(view, "ready_since_s", now_s)
        take_signals(view, message, now_s)
        if message.state == before:
            return False
        force_setattr(view, "state", message.state)
        if message.state in ("stopped", "failed"):
            return self.exited(message.replica)
        return self._choose(view)

    def judged(self, replica: str, trust: Trust) -> bool:
        """Take in a verdict; True when the candidates changed."""
        view = self.views.get(replica)
        if view is None:
            return False
        force_setattr(view, "trust", trust)
        return self._choose(view)

    def exited(self, replica: str) -> bool:
        """Forget a replica for good; True when the candidates changed."""
        self._reports.ended(replica)
        self.views.pop(replica, None)
        return self._leave(replica)

    def _choose(self, view: ReplicaView) -> bool:
        """Put one replica among the candidates or take it out: one of many changes at a time, so nothing is sorted."""
        if view.state != "ready" or view.trust != "healthy":
            return self._leave(view.id)
        if view.id in self.chosen:
            return False
        self.chosen[view.id] = view
        candidates = list(self.candidates)
        insort(candidates, view, key=lambda view: replica_number(view.id))
        self.candidates = tuple(candidates)
        return True

    def _leave(self, replica: str) -> bool:
        if self.chosen.pop(replica, None) is None:
            return False
        self.candidates = tuple(view for view in self.candidates if view.id != replica)
        return True
