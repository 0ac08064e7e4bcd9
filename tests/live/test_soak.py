"""Chaos, in short: random faults on random fleets, with strangers at the door. Whatever happens, the books balance.

Each seed is one live run of about five seconds. A longer soak: FLEET_SOAK=100 pytest tests/live/test_soak.py
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, replay, simulate
from fleet.messages import OUTCOMES
from fleet.runtime.transport import Node
from policies import (
    ConsecutiveFailures,
    ExponentialBackoff,
    Fixed,
    FixedSize,
    Greedy,
    LeastOutstanding,
    NoBatching,
    NoRetry,
    NoWarmPool,
    PowerOfTwoChoices,
    QueueDepth,
    RoundRobin,
    Window,
)
from tests.live.harness import children
from traces import Fault, FaultTrace, Trace, poisson

pytestmark = pytest.mark.live

SEEDS = range(int(os.environ.get("FLEET_SOAK", "3")))
BOUND_S = 30.0
"""A run of four seconds of trace has returned by then, whatever was done to it."""

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
GIGABYTE = b"\x02" + (1 << 30).to_bytes(8, "big")


def spec_of(rng: random.Random) -> FleetSpec:
    replicas = rng.randint(1, 2)
    return FleetSpec(
        engine=EmulatedEngine(
            latency=AffineLatency(base_s=rng.choice([0.002, 0.01]), per_item_s=0.0005),
            cold_start_s=rng.choice([0.0, 0.3]),
        ),
        replicas=replicas,
        max_replicas=replicas + rng.randint(0, 1),
        binding=rng.choice(["early", "late"]),
        routing=rng.choice([LeastOutstanding(), PowerOfTwoChoices(), RoundRobin()]),
        batching=rng.choice([Greedy(max_batch=8), NoBatching(), Window(max_batch=8, window_s=0.01)]),
        scaling=rng.choice([Fixed(), QueueDepth(up_at=5, down_at=1)]),
        warm_pool=rng.choice([NoWarmPool(), FixedSize(size=1)]),
        retry=rng.choice([NoRetry(), ExponentialBackoff()]),
        health=ConsecutiveFailures(failures=rng.choice([2, 3])),
        control_interval_s=0.1,
        probe_interval_s=0.1,
        probe_timeout_s=0.1,
        failed_grace_s=rng.choice([0.2, 1.0]),
        lease_s=0.8,
        deadline_s=2.0,
    )


def fault_of(rng: random.Random) -> Fault:
    kind = rng.choice(["crash", "hang", "slow", "partition", "drop", "preempt", "fail-load"])
    more = {
        "hang": {"for_s": rng.choice([None, 0.3, 1.5])},
        "slow": {"for_s": 1.0, "factor": 5.0},
        "partition": {"for_s": rng.choice([None, 0.3, 1.5])},
        "drop": {"for_s": 0.5, "probability": 0.3},
        "preempt": {"notice_s": rng.choice([0.0, 0.3])},
    }
    victim = rng.choice([None, "replica/0", "replica/1"])
    return Fault(at_s=rng.uniform(0.2, 3.0), kind=kind, replica=victim, **more.get(kind, {}))


def knock(endpoint: str, rng: random.Random) -> None:
    """One stranger: noise, half a greeting, noise as ZeroMQ frames, or a frame that announces a gigabyte."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    said = rng.choice([rng.randbytes(1_000), GREETING[: rng.randint(1, 63)],
                       GREETING + READY + b"\x00\x40" + rng.randbytes(64), GREETING + READY + GIGABYTE])  # fmt: skip
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0) as stranger:
        stranger.sendall(said)
        time.sleep(0.02)


@contextlib.contextmanager
def strangers(monkeypatch: pytest.MonkeyPatch, seed: int):
    """Somebody knocks at every port that a node opens."""
    endpoints: list[str] = []
    over = threading.Event()
    bind = Node.bind

    def noted(self: Node, endpoint: str) -> str:
        endpoints.append(bind(self, endpoint))
        return endpoints[-1]

    def go_round() -> None:
        rng = random.Random(seed)
        while not over.wait(rng.uniform(0.02, 0.2)):
            for endpoint in endpoints:
                knock(endpoint, rng)

    monkeypatch.setattr(Node, "bind", noted)
    thread = threading.Thread(target=go_round)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module", autouse=True)
def warmed_up() -> None:
    """What the first run of a process opens for good is no leak."""
    replay(poisson(rate_per_s=10, duration_s=0.2, seed=0), spec_of(random.Random(0)))


def open_descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def books_balance(run: Run, trace: Trace) -> None:
    """Every request is in the records once, with one outcome, and the summary counts the same."""
    ids = run.records["id"].to_pylist()
    assert sorted(ids) == sorted(entry.request.id for entry in trace)
    outcomes = Counter(run.records["outcome"].to_pylist())
    assert outcomes == {name: n for name in OUTCOMES if (n := getattr(run.summary, name))}
    assert run.summary.in_flight == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_done_to_a_live_fleet_every_request_ends_once_and_nothing_is_left(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    spec, trace = spec_of(rng), poisson(rate_per_s=100, duration_s=3.5, seed=seed)
    faults = FaultTrace(faults=tuple(fault_of(rng) for _ in range(rng.randint(1, 3))))
    print(f"reproduce with seed {seed}: {faults.faults}\n{spec}")
    processes, descriptors, began_s = children(), open_descriptors(), time.monotonic()

    with strangers(monkeypatch, seed):
        run = replay(trace, spec, seed=seed, faults=faults)

    assert time.monotonic() - began_s < BOUND_S
    assert children() <= processes
    assert open_descriptors() <= descriptors
    books_balance(run, trace)
    assert run.manifest.counters.get("undecodable", 0) > 0, "the strangers were heard"
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    simulated = simulate(trace, spec, seed=seed, faults=faults)
    books_balance(simulated, trace)
    assert abs(run.summary.completed - simulated.summary.completed) <= 0.1 * len(trace)
