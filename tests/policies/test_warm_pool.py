"""How many spares."""

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import FixedSize, KedaQueueLength, NoWarmPool, Request, ScaleToZero, Warm
from tests.policies.makers import pool
from traces import Trace, TraceEntry


def test_no_warm_pool_is_empty() -> None:
    assert NoWarmPool().desired(pool(4, queue_depth=1000), 0.0) == Warm(0)


def test_a_fixed_size_is_kept_whatever_the_load() -> None:
    assert {FixedSize(size=2).desired(pool(ready), 0.0) for ready in range(5)} == {Warm(2)}


def test_the_last_replica_becomes_the_spare_and_no_other_is_loaded() -> None:
    requests = [TraceEntry(Request(id=f"r{n}", arrived_s=20.0 * n)) for n in range(5)]
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0), cold_start_s=5.0),
        min_replicas=0, max_replicas=2, scaling=KedaQueueLength(cooldown_period_s=1.0, polling_interval_s=1.0),
        warm_pool=ScaleToZero(keep_alive_s=60.0),
    )  # fmt: skip

    run = simulate(Trace.from_entries(requests), spec)

    assert run.summary.completed == 5
    assert run.summary.gpu_seconds < 1.01 * run.summary.duration_s
    assert set(run.records["replica"].to_pylist()) == {"replica/0"}
    assert max(run.records["e2e_s"].to_pylist()) < 1.5
