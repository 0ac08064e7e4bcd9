"""The live fleet in four processes (client, head, two replicas): its rate when saturated, its latency when idle.

Every mechanism is on. The engine costs nothing, so what is measured is the framework: two hops over ZeroMQ each
way, admission, routing, queueing, batching, health, scaling, records.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from msgspec import Struct

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.messages import Payload
from fleet.runs.serve import drive, join, serve
from policies import Greedy, PowerOfTwoChoices
from tests.bench.live_echo import UNLOADED, batch_path, raw_echo
from tests.bench.table import Row
from traces import Trace
from traces.schema import Header, Request, TraceEntry

PAYLOAD = Payload(data=bytes(256))


class FleetResult(Struct, frozen=True):
    """Requests per second when saturated, and the unloaded median round trip."""

    rate_per_s: float
    unloaded_p50_s: float
    requests: int


def spec() -> FleetSpec:
    """Two replicas, batches of up to 16, an engine that takes no time."""
    return FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.0)),
        replicas=2,
        routing=PowerOfTwoChoices(),
        batching=Greedy(max_batch=16),
        queue_capacity=1_000_000,
    )


def _serve(pipe: Connection) -> None:
    serve(spec(), "tcp://127.0.0.1:*", on_ready=pipe.send)


def _join(endpoint: str) -> None:
    join(endpoint)


def _drive(endpoint: str, pipe: Connection) -> None:
    """Play the traces that come, one after the other, each as a client of its own."""
    while (trace := pipe.recv()) is not None:
        records = drive(trace, endpoint, sessions=True, payload=lambda request: PAYLOAD).records
        pipe.send(tuple(records[name].to_pylist() for name in ("ended_s", "arrived_s", "outcome")))


def burst(requests: int) -> Trace:
    """All at once: the fleet is saturated from the first to the last."""
    entries = [TraceEntry(Request(str(number), 0.0)) for number in range(requests)]
    return Trace.from_entries(entries, Header(source="burst", provenance="synthetic"))


def one_at_a_time(requests: int) -> Trace:
    """Each is sent when the one before it is answered, as the echo's are: the fleet is idle but for that one."""
    entries = [
        TraceEntry(Request(str(number), 0.0, parent=str(number - 1) if number else None), think_s=0.0)
        for number in range(requests)
    ]
    return Trace.from_entries(entries, Header(source="one at a time", provenance="synthetic"))


def live_fleet(requests: int = 50_000, unloaded: int = UNLOADED) -> FleetResult:
    """Measure both, in processes of their own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    head = context.Process(target=_serve, args=(theirs,))
    head.start()
    theirs.close()
    endpoint = ours.recv()
    replicas = [context.Process(target=_join, args=(endpoint,)) for _ in range(2)]
    play, end = context.Pipe()
    client = context.Process(target=_drive, args=(endpoint, end))
    for process in (*replicas, client):
        process.start()
    end.close()  # so that a process that dies is an error here, not silence
    try:
        _play(play, burst(min(2_000, requests)))
        ended, _, outcomes = _play(play, burst(requests))
        assert outcomes.count("completed") == requests, {name: outcomes.count(name) for name in set(outcomes)}
        ended.sort()
        # From the first percentile to the last reply: the burst's own encoding is not the fleet's rate.
        rate = (requests * 0.98) / (ended[int(requests * 0.99)] - ended[int(requests * 0.01)])
        replied, arrived, _ = _play(play, one_at_a_time(unloaded))
        latencies = sorted(end - start for end, start in zip(replied, arrived, strict=True))
    finally:
        for process in (client, head, *replicas):
            process.terminate()
            process.join(10)
    return FleetResult(rate, latencies[len(latencies) // 2], requests)


def _play(client: Connection, trace: Trace) -> tuple[list[float], list[float], list[str]]:
    client.send(trace)
    result: tuple[list[float], list[float], list[str]] = client.recv()
    return result


def rows(requests: int = 50_000, duration_s: float = 2.0, unloaded: int = UNLOADED) -> Iterator[Row]:
    """Ours beside the raw echo and a chain of as many hops that only hands on, all taken in this run."""
    echo = raw_echo(duration_s, unloaded=unloaded)
    fleet = live_fleet(requests, unloaded)
    chain = batch_path(duration_s, unloaded=unloaded)
    rate, p50 = fleet.rate_per_s / echo.rate_per_s, fleet.unloaded_p50_s / echo.p50_s
    yield Row(
        "raw ROUTER echo, one hop there and back",
        f"{echo.rate_per_s:,.0f} req/s, p50 {echo.p50_s * 1e3:.2f} ms",
    )
    yield Row(
        "the same path with actors that only hand on",
        f"{chain.rate_per_s:,.0f} req/s, p50 {chain.p50_s * 1e3:.2f} ms",
    )
    yield Row(
        "fleet, every mechanism on", f"{fleet.rate_per_s:,.0f} req/s, p50 {fleet.unloaded_p50_s * 1e3:.2f} ms"
    )
    yield Row("fleet ÷ echo, rate", f"{rate:.2f}", "≥ 0.30", rate >= 0.30)
    yield Row("fleet ÷ echo, unloaded p50", f"{p50:.2f}", "≤ 2.5", p50 <= 2.5)
    yield Row("fleet ÷ handing on, unloaded p50", f"{fleet.unloaded_p50_s / chain.p50_s:.2f}")


if __name__ == "__main__":
    began = time.perf_counter()
    print(live_fleet(), f"{time.perf_counter() - began:.1f} s")
