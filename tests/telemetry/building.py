"""Runs made by hand: a fleet of two versions is told of as its actors would tell, row by row."""

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.messages import Reply, Usage
from fleet.pools import PoolSpec
from fleet.spec import from_mapping
from fleet.telemetry.run import Run, finish_run
from fleet.telemetry.sink import Telemetry
from traces import Request, Trace, TraceEntry

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.0))
OLD, NEW = "replica/old/0", "replica/new/0"
PRICES = {"old": 3600.0, "new": 7200.0}
"""An hour: 1 and 2 a second."""


def two_versions(prices=PRICES, **changes) -> FleetSpec:
    """Two versions of the model `chat`, a pool of one replica each."""
    pools = {
        name: PoolSpec(model="chat", version=version, device=device, cost_per_hour=prices.get(name))
        for name, version, device in (("old", "1", "l4"), ("new", "2", "a100"))
    }
    return from_mapping({"engine": ENGINE, "pools": pools, **changes})


class Told:
    """What a run's actors say, as a test says it for them; `run()` closes the books."""

    def __init__(self, spec: FleetSpec | None = None) -> None:
        self.spec = spec or two_versions()
        self.telemetry = Telemetry(pooled=bool(self.spec.pools))
        self.entries: list[TraceEntry] = []
        self.unfinished: list[tuple[int, float]] = []
        for pool in self.spec.serving:
            self.telemetry.describe_pool(pool)

    def replica(self, address, *states):
        """`states` are (time, state)."""
        for time_s, state in states:
            self.telemetry.replica_changed(time_s, address, state)
        return self

    def request(self, outcome="completed", replica=OLD, *, arrived_s=0.0, ended_s=None, service_s=1.0, version=None,
                pool=None, quality=None, tokens=None, attempts=1, **request):  # fmt: skip
        """One more request; outcome None: it has no reply."""
        row = len(self.entries)
        self.entries.append(TraceEntry(Request(f"r{row}", arrived_s, **request)))
        if outcome is None:
            self.unfinished.append((row, arrived_s))
            return self
        if pool is None and replica is not None and self.spec.pools:
            pool = replica.split("/")[1]
            version = version or {"old": "1", "new": "2"}[pool]
        reply = Reply(
            f"r{row}", outcome, attempts, replica, batch_size=1, usage=None if tokens is None else Usage(tokens),
            service_s=service_s if outcome == "completed" else None, pool=pool, version=version,
            variant=None if pool is None else "default", quality=quality,
        )  # fmt: skip
        self.telemetry.request_ended(row, arrived_s, arrived_s + 1.0 if ended_s is None else ended_s, reply)
        return self

    def attempt(self, request, role, replica, *, end="completed", started_s=0.0, ended_s=1.0, service_s=None,
                number=1, sent_s=0.0):  # fmt: skip
        pool = replica.split("/")[1]
        version = {"old": "1", "new": "2"}[pool]
        self.telemetry.attempt_ended(
            request, role, number, pool, version, "default", replica, None, sent_s, started_s, ended_s, end, service_s,
            None,
        )  # fmt: skip
        return self

    def run(self, ended_s=10.0) -> Run:
        trace = Trace.from_entries(self.entries)
        return finish_run(
            self.telemetry,
            trace,
            self.spec,
            seed=0,
            runtime="simulated",
            ended_s=ended_s,
            unfinished=self.unfinished,
        )


def both_ready(told: Told) -> Told:
    """Both replicas are there from the beginning."""
    return told.replica(OLD, (0.0, "ready")).replica(NEW, (0.0, "ready"))
