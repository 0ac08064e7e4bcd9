"""Silence and loss in real processes: the same as in `tests/simulation/test_silence.py`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, replay, simulate
from policies import ConsecutiveFailures, Greedy
from tests.live.fleet_processes import ClientProcess, HeadProcess, end_all, joined, small_fleet
from traces import Fault, FaultTrace, poisson

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

SPEC = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.002)),
    replicas=2,
    batching=Greedy(max_batch=8),
    control_interval_s=0.1,
    health=ConsecutiveFailures(failures=1_000, suspect_after=1_000),
)
"""Nobody but the lease and the reports notices anything."""


@pytest.mark.parametrize("runtime", [simulate, replay])
def test_batches_that_are_lost_on_the_way_are_missed_and_tried_again(runtime) -> None:
    trace = poisson(rate_per_s=200, duration_s=3, seed=1)
    lost = FaultTrace(faults=(Fault(at_s=1.0, kind="drop", replica="replica/0", for_s=0.5),))
    run = runtime(trace, SPEC, faults=lost)
    assert run.summary.completed == len(trace)
    assert run.manifest.counters["lost_batches"] >= 1
    assert run.summary.e2e_s.max < 2.0


@pytest.mark.parametrize("runtime", [simulate, replay])
@pytest.mark.parametrize("kind", ["hang", "partition"])
def test_a_silent_replica_loses_its_lease_in_both_runtimes(runtime, kind) -> None:
    trace = poisson(rate_per_s=100, duration_s=4, seed=2)
    silent = FaultTrace(faults=(Fault(at_s=1.0, kind=kind, replica="replica/1"),))
    run = runtime(trace, SPEC.replace(lease_s=1.0), faults=silent)
    assert run.summary.completed == len(trace)
    (lost,) = [row for row in run.replicas.to_pylist() if row["state"] == "failed"]
    assert lost["replica"] == "replica/1"
    # Cut off, each side loses the other, and the replica's process may be the first to end of it.
    assert lost["detail"] in (
        "silent for 1 s",
        *(["its process ended with status 1"] if kind == "partition" else []),
    )
    assert 1.9 < lost["time_s"] < 2.7


def test_a_replica_that_comes_back_after_its_lease_ends_and_another_host_takes_its_place(
    tmp_path: Path,
) -> None:
    head = HeadProcess(small_fleet(replicas=1))
    first = joined(head.endpoint, 1)
    time.sleep(2.0)
    client = ClientProcess(poisson(rate_per_s=50, duration_s=9, seed=0), head.endpoint, tmp_path)
    time.sleep(3.0)
    os.kill(first[0].pid, signal.SIGSTOP)
    time.sleep(4.5)  # its lease is 3 s
    os.kill(first[0].pid, signal.SIGCONT)
    first[0].join(15)
    assert first[0].exitcode == 0, "it was told to drain"
    second = joined(head.endpoint, 1)
    outcomes, _ = client.result()
    report = head.stop()
    assert set(outcomes) == {"completed"}
    assert report.counters["came_back_too_late"] == 1
    end_all(head.process, *first, *second)


@pytest.mark.parametrize("runtime", [simulate, replay])
def test_a_place_is_hit_again_and_stays_out_of_order_in_both_runtimes(runtime) -> None:
    trace = poisson(rate_per_s=50, duration_s=4, seed=3)
    crashes = (
        Fault(at_s=0.5, kind="crash", replica="replica/0", for_s=1.5),
        Fault(at_s=3.0, kind="crash", replica="replica/0"),
        Fault(at_s=3.2, kind="hang", replica="place/7"),
    )
    run = runtime(trace, SPEC, faults=FaultTrace(faults=crashes))
    assert run.summary.completed == len(trace)
    counters = run.manifest.counters
    assert (counters["faults"], counters["faults_without_victim"]) == (2, 1)
    rows = run.replicas.to_pylist()
    assert [row["replica"] for row in rows if row["state"] == "failed"] == ["replica/0", "replica/2"]
    loading = [row["time_s"] for row in rows if (row["replica"], row["state"]) == ("replica/2", "loading")]
    assert 1.99 < loading[0] < 2.6
