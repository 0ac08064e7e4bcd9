"""Simulating, piece by piece: `make bench`."""

import pytest

from tests.bench.simulation import ours, simpys, workload

REQUESTS = 10_000


@pytest.fixture(scope="module")
def trace():
    return workload(REQUESTS)


@pytest.mark.parametrize("replicas", [8, 64])
def test_speed_of_simulation(benchmark, replicas):
    trace = workload(REQUESTS, replicas)
    run = benchmark(ours, trace, replicas)
    assert run.summary.completed == len(trace)


def test_speed_of_simpy_reference(benchmark, trace):
    latencies = benchmark(simpys, trace.table["arrived_s"].to_pylist())
    assert len(latencies) == len(trace)


def test_speed_of_reading_a_trace(benchmark, trace):
    assert benchmark(lambda: sum(1 for _ in trace)) == len(trace)


def test_speed_of_digest(benchmark, trace):
    run = ours(trace)
    assert len(benchmark(lambda: run.digest)) == 64
