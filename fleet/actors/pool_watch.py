"""What the control loop sees: from reports that count up, the view of a pool over the time since it last looked.

Everything is a difference between two looks, or a mean over all that was said between them. So it does not matter how
the periods of the loop, of the reports and of the load lie to each other, nor that a report is lost.
"""

from __future__ import annotations

from msgspec import Struct

from fleet.actors.registrar import Heard, Signals
from fleet.messages import DemandReport, PoolReport, ReplicaReported
from fleet.pools import Pool
from policies.views import Latencies, PoolView, ReplicaState, ReplicaView, Trust

NOTHING = DemandReport(
    queue_depth=0, oldest_wait_s=0.0, in_flight=0, arrived=0, ended=0, completed=0, judged=0, met=0,
    in_flight_s=0.0, queue_s=0.0,
)  # fmt: skip
"""Before the run."""


class Known(Struct):
    """What is known of one replica."""

    state: ReplicaState
    requested: ReplicaState
    """Where it was told to go: `ready`, `warm` or `stopped`."""
    trust: Trust = "healthy"
    failed_s: float = 0.0
    since_s: float = 0.0
    """When it was asked for, or first heard of."""
    held: bool = False
    """No place is in order for it to start at."""
    looked_s: float = 0.0
    """When the loop last looked, or when it became ready since, and its engine seconds then."""
    looked_busy_s: float = 0.0
    busy_fraction: float | None = None
    """Between the last two looks."""

    @property
    def counts(self) -> bool:
        """Part of the capacity that is there or on its way."""
        return self.trust != "failed" and self.requested != "stopped"

    def enter(self, state: ReplicaState, busy_s: float, now_s: float) -> None:
        """It says that it is in this state, and for how long its engine has run so far."""
        if state == "ready" and self.state != "ready":
            self.looked_s, self.looked_busy_s = now_s, busy_s
        self.state = state

    def look(self, busy_s: float | None, now_s: float) -> tuple[float, float]:
        """Its engine seconds, and all seconds, since the last look or since it became ready."""
        span_s = now_s - self.looked_s
        if busy_s is None or span_s <= 0.0:
            return 0.0, 0.0
        ran_s = min(max(0.0, busy_s - self.looked_busy_s), span_s)
        self.looked_s, self.looked_busy_s = now_s, busy_s
        self.busy_fraction = ran_s / span_s
        return ran_s, span_s

    def view(self, name: str, heard: Heard | None, pool: Pool) -> ReplicaView:
        if heard is None or heard.report is None:
            return ReplicaView(
                id=name, state=self.state, trust=self.trust, pool=pool.name, device=pool.device,
                cost_per_hour=pool.cost_per_hour, zone=pool.zone,
            )  # fmt: skip
        report = heard.report
        return ReplicaView(
            id=name, state=self.state, trust=self.trust, in_flight=report.batches, as_of_s=heard.reported_s,
            weight=report.weight, busy_fraction=self.busy_fraction, gpu_utilization=report.gpu_utilization,
            memory_used_bytes=report.memory_used_bytes, memory_total_bytes=report.memory_total_bytes,
            tokens=report.tokens, pool=pool.name, device=pool.device, cost_per_hour=pool.cost_per_hour, zone=pool.zone,
        )  # fmt: skip


class PoolWatch:
    """Remembers the last look."""

    def __init__(self, signals: Signals, pool: Pool) -> None:
        self._signals, self._pool = signals, pool
        self.bounds = pool.bounds
        """The fewest and the most replicas."""
        self._before = NOTHING
        self._looked_s = 0.0

    def look(self, report: PoolReport, known: dict[str, Known], now_s: float) -> PoolView:
        """The pool now, and over the time since the last look."""
        counting = [item for item in known.values() if item.counts]
        ready = {name: item for name, item in known.items() if item.counts and item.state == "ready"}
        said = [heard for name in ready if (heard := self._signals.get(name)) is not None]
        reports = [heard.report for heard in said if heard.report is not None]
        demand, before = report.demand, self._before
        interval_s = now_s - self._looked_s
        per_s = 1.0 / interval_s if interval_s > 0.0 else 0.0
        judged = demand.judged - before.judged
        if interval_s > 0.0:  # else what came at this very instant is of the interval that begins
            self._before, self._looked_s = demand, now_s
        heard_of = [heard for name in known if (heard := self._signals.get(name)) is not None]
        waiting = [(heard.waiting.last or 0.0, heard.waiting.take() or 0.0) for heard in heard_of]
        spans = [item.look(report.engines.get(name), now_s) for name, item in ready.items()]
        ran_s, ready_s = (sum(part) for part in zip(*spans, strict=True)) if spans else (0.0, 0.0)
        low, high = self.bounds
        return PoolView(
            name=self._pool.name,
            interval_s=interval_s,
            ready=len(ready),
            warm=sum(item.state == "warm" for item in counting),
            starting=sum(item.state in {"provisioning", "loading"} for item in counting),
            draining=len(known) - len(counting),
            requested=len(counting),
            min_replicas=low,
            max_replicas=high,
            queue_depth=demand.queue_depth + round(sum(last for last, _ in waiting)),
            oldest_wait_s=demand.oldest_wait_s,
            in_flight=demand.in_flight,
            queue_depth_mean=max(0.0, (demand.queue_s - before.queue_s) * per_s)
            + (sum(mean for _, mean in waiting) if interval_s > 0.0 else 0.0),
            in_flight_mean=max(0.0, (demand.in_flight_s - before.in_flight_s) * per_s),
            arrivals_per_s=(demand.arrived - before.arrived) * per_s,
            completions_per_s=(demand.completed - before.completed) * per_s,
            ends_per_s=(demand.ended - before.ended) * per_s,
            ttft_s=Latencies(demand.ttft_s),
            e2e_s=Latencies(demand.e2e_s),
            attainment=(demand.met - before.met) / judged if judged else None,
            busy_fraction=ran_s / ready_s if ready_s > 0.0 else None,
            gpu_utilization=_mean([heard.gpu.take() for heard in said]),
            memory_used_fraction=_mean([_memory_fraction(item) for item in reports]),
            kv_utilization=_mean(
                [None if item.tokens is None else item.tokens.kv_utilization for item in reports]
            ),
            kv_utilization_mean=_mean([heard.kv.take() for heard in said]),
            as_of_s=min((heard.reported_s for heard in said), default=now_s),
            replicas=tuple(
                item.view(name, self._signals.get(name), self._pool) for name, item in known.items()
            ),
        )


def _memory_fraction(report: ReplicaReported) -> float | None:
    if report.memory_used_bytes is None or not report.memory_total_bytes:
        return None
    return report.memory_used_bytes / report.memory_total_bytes


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
