"""The same inputs give the same bytes: in every process, under any PYTHONHASHSEED, on a busy machine or an idle one."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import FleetSpec, load_run, simulate
from policies import Random
from tests.conftest import ROOT
from tests.simulation.building import engine
from traces import Fault, FaultTrace, poisson

BUSY = "while True: pass"
SCENARIO = """
import sys
from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel, simulate
from policies import *
from traces import Fault, FaultTrace, Lengths, sessions

trace = sessions(2.0, 20.0, seed=3, turns=3.0, think_s=1.0, prompt_tokens=Lengths.uniform(10, 500), output_tokens=50)
spec = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.05, jitter_cv=0.3), cold_start_s=0.5),
    replicas=3, min_replicas=1, max_replicas=5, binding=sys.argv[2],
    routing=Composed(scorers=[(1.0, InFlightScorer()), (0.5, BusyScorer())], picker=SoftmaxPicker()),
    queueing=ShortestPrompt(), batching=Window(max_batch=4, window_s=0.02),
    scaling=QueueDepth(up_at=1.0, down_at=0.2), warm_pool=FixedSize(size=1), deadline_s=3.0,
    network=NetworkModel(delay_s=0.001, jitter_s=0.002, loss=0.01, reorder=True),
)
faults = FaultTrace(faults=(
    Fault(at_s=4.0, kind="crash"), Fault(at_s=6.0, kind="hang", for_s=2.0),
    Fault(at_s=9.0, kind="drop", for_s=3.0, probability=0.3), Fault(at_s=11.0, kind="slow", factor=3.0, for_s=4.0),
    Fault(at_s=12.0, kind="preempt", notice_s=0.2),
))
run = simulate(trace, spec, seed=7, faults=faults, sessions=True)
assert run.summary.completed > 50 and run.manifest.counters["retries"] > 0
run.save(sys.argv[1])
print(run.digest)
"""
"""Everything that draws a random number, or keeps a set or a dict, at once."""


def files_of(folder: Path) -> dict[str, str]:
    """All but the one that says where the run was made."""
    files = [path for path in sorted(folder.iterdir()) if path.name != "origin.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def in_fresh_process(folder: Path, binding: str, *, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, folder, binding], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("binding", ["early", "late"])
def test_two_processes_write_identical_bytes_whatever_their_hash_seed_and_the_machines_load(
    tmp_path, binding
):
    calm = in_fresh_process(tmp_path / "calm", binding, hash_seed="1")
    loads = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        loaded = in_fresh_process(tmp_path / "loaded", binding, hash_seed="4242")
    finally:
        for load in loads:
            load.kill()
            load.wait()

    assert calm == loaded
    assert files_of(tmp_path / "calm") == files_of(tmp_path / "loaded")
    assert load_run(tmp_path / "calm").digest == calm


TRACE = poisson(30.0, 5.0, seed=1)
SPEC = FleetSpec(engine=engine(0.05), replicas=3, routing=Random())


def test_another_seed_gives_another_digest():
    assert simulate(TRACE, SPEC, seed=0).digest != simulate(TRACE, SPEC, seed=1).digest


def test_another_trace_spec_or_fault_gives_another_digest():
    fault = FaultTrace(faults=(Fault(at_s=1.0, kind="slow", factor=2.0, for_s=1.0),))

    digests = [
        simulate(TRACE, SPEC).digest,
        simulate(TRACE.first(requests=100), SPEC).digest,
        simulate(TRACE, SPEC.replace(probe_interval_s=0.9)).digest,
        simulate(TRACE, SPEC, faults=fault).digest,
    ]

    assert len(set(digests)) == len(digests)


def test_a_spec_can_be_run_again_because_its_policies_keep_nothing():
    assert simulate(TRACE, SPEC, seed=3).digest == simulate(TRACE, SPEC, seed=3).digest


def test_the_order_in_which_a_spec_was_written_down_does_not_matter():
    fields = {
        "replicas": 3,
        "weights": (1.0, 2.0),
        "routing": {"policy": "weighted-random", "weights": {"a": 1, "b": 2}},
    }
    there = FleetSpec(engine=engine(0.05), **fields)
    back = FleetSpec(
        **dict(reversed(fields.items()))
        | {"routing": {"policy": "weighted-random", "weights": {"b": 2, "a": 1}}},
        engine=engine(0.05),
    )

    assert simulate(TRACE, there).digest == simulate(TRACE, back).digest


def test_watching_a_run_does_not_change_it():
    watched, seen = [], simulate(TRACE, SPEC)

    again = simulate(TRACE, SPEC, on_progress=watched.append, check=False)

    assert again.digest == seen.digest


def test_requests_of_one_instant_keep_the_order_of_the_trace():
    trace = poisson(200.0, 1.0, seed=2).scale_time(1e-9)

    run = simulate(
        trace, FleetSpec(engine=engine(0.01), batching={"policy": "no-batching"}, max_inflight_batches=1)
    )

    ended = run.records["ended_s"].to_pylist()
    assert ended == sorted(ended)
