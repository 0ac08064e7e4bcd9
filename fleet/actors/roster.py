"""The replicas as one observer knows them: their reports, the verdicts on them, and which of them may be chosen."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from msgspec.structs import force_setattr

from fleet.messages import ReplicaReported, replica_number
from fleet.pools import Pool
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


def view_of(report: ReplicaReported, pool: Pool | None = None, capacity: int = 1) -> ReplicaView:
    """A new view of a replica, with what is known of it from its pool; its signals are still to come."""
    if pool is None:
        return ReplicaView(id=report.replica, state=report.state, weight=report.weight, capacity=capacity)
    expected_s = pool.expected_service_s
    return ReplicaView(
        id=report.replica, state=report.state, weight=report.weight, capacity=capacity, pool=pool.name,
        device=pool.device, cost_per_hour=pool.cost_per_hour, zone=pool.zone,
        expected_service_s=None if expected_s is None else expected_s * pool.slowness(replica_number(report.replica)),
    )  # fmt: skip


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
        self._pools: dict[str, int] = {}
        """The place of each pool in the order of candidates."""
        self.views: dict[str, ReplicaView] = {}
        self.candidates: tuple[ReplicaView, ...] = ()
        """Ready and trusted."""
        self.chosen: dict[str, ReplicaView] = {}
        """The candidates by id."""
        self._reports = Reports()

    def reported(self, message: ReplicaReported, now_s: float, pool: Pool | None = None) -> bool:
        """Take in a report; True when the candidates changed. `pool` is the one that the replica is of."""
        if not self._reports.believe(message):
            return False
        view = self.views.get(message.replica)
        if view is None:
            view = view_of(message, pool, message.max_inflight_batches)
            self._pools.setdefault(view.pool, len(self._pools))
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
        insort(candidates, view, key=self._place)
        self.candidates = tuple(candidates)
        return True

    def _place(self, view: ReplicaView) -> tuple[int, int]:
        return self._pools[view.pool], replica_number(view.id)

    def forget_pool(self, pool: str) -> bool:
        """Nobody may choose its replicas any more; True when the candidates changed."""
        gone = [view.id for view in self.views.values() if view.pool == pool]
        changed = [self.exited(replica) for replica in gone]
        return any(changed)

    def _leave(self, replica: str) -> bool:
        if self.chosen.pop(replica, None) is None:
            return False
        self.candidates = tuple(view for view in self.candidates if view.id != replica)
        return True
