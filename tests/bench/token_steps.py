"""What a step of continuous batching costs the framework: live, with an engine whose step costs nothing, and simulated.

Live, 64 sequences stream to a client, and replica, head and client are a process each. Beside it a bare loop hands 64
small messages a step through sockets of the same kinds, without looking at them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import zmq
from msgspec import Struct

from fleet import EmulatedLlmEngine, FleetSpec, simulate
from fleet.engines import KvSpec
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.engines.latency.steps.roofline import RooflineSteps
from fleet.runs.serve import drive, join, serve
from policies import KvCost, VllmTokenBudget
from tests.bench.table import Row
from tests.tokens.test_macro_steps import StepwiseLlmEngine
from traces import Request, Trace, TraceEntry, load_trace

SEQUENCES = 64
STEPS = 2_000
CONTEXT = multiprocessing.get_context("spawn")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "traces"

# --- live ----------------------------------------------------------------------------------------------------


class StepResult(Struct, frozen=True):
    """Seconds a decode step: on the clock, and of each process's CPU."""

    wall_s: float
    replica_s: float
    head_s: float
    client_s: float


def live_spec() -> FleetSpec:
    """One replica, whose engine takes no time; all that is not named is the default, and so is on."""
    engine = EmulatedLlmEngine(latency=AffineSteps(base_s=0.0), kv=KvSpec(blocks=20_000))
    return FleetSpec(engine=engine, replicas=1)


def together(sequences: int, tokens: int) -> Trace:
    """All at once, all of one length: they decode together from the first to the last."""
    return Trace.from_entries(
        TraceEntry(Request(str(number), 0.0, prompt_tokens=16), tokens) for number in range(sequences)
    )


def _serve(pipe: Connection) -> None:
    serve(live_spec(), "tcp://127.0.0.1:*", on_ready=pipe.send)


def _join(endpoint: str) -> None:
    join(endpoint)


def _drive(endpoint: str, pipe: Connection) -> None:
    """Stream answers of as many tokens as are asked for, again and again, each time as a client of its own."""
    while (tokens := pipe.recv()) is not None:
        began_s = time.process_time()
        run = drive(together(SEQUENCES, tokens), endpoint, stream=True)
        records = run.records
        assert set(records["outcome"].to_pylist()) == {"completed"}
        lost = {name: count for name, count in run.manifest.counters.items() if "token" in name}
        assert not lost, f"not all tokens were streamed: {lost}"
        first_token_s = pc.min(pc.add(records["arrived_s"], records["ttft_s"])).as_py()
        took = pc.max(records["ended_s"]).as_py() - first_token_s
        pipe.send((took, time.process_time() - began_s))


def live_steps(steps: int = STEPS, short_steps: int = 200) -> StepResult:
    """The cost of a step, by the difference of a long run and a short one: connecting and prefills are in both."""
    ours, theirs = CONTEXT.Pipe()
    head = CONTEXT.Process(target=_serve, args=(theirs,))
    head.start()
    theirs.close()
    endpoint = ours.recv()
    replica = CONTEXT.Process(target=_join, args=(endpoint,))
    play, end = CONTEXT.Pipe()
    client = CONTEXT.Process(target=_drive, args=(endpoint, end))
    replica.start()
    client.start()
    end.close()  # so that a process that dies is an error here, not silence
    try:
        _play(play, head.pid, replica.pid, short_steps // 2)
        short, long = (
            _play(play, head.pid, replica.pid, tokens) for tokens in (short_steps, short_steps + steps)
        )
    finally:
        for process in (client, head, replica):
            process.terminate()
            process.join(10)
    return StepResult(*[(end - start) / steps for start, end in zip(short, long, strict=True)])


def _play(
    client: Connection, head: int | None, replica: int | None, tokens: int
) -> tuple[float, float, float, float]:
    """Seconds on the clock, and of the CPU of replica, head and client."""
    before = _cpu_s(replica), _cpu_s(head)
    client.send(tokens)
    took, client_s = client.recv()
    return took, _cpu_s(replica) - before[0], _cpu_s(head) - before[1], client_s


def _cpu_s(process: int | None) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _source(endpoint: str, steps: int) -> None:
    """64 small messages a step, as fast as they go."""
    message = b"x" * 32
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.ROUTING_ID, b"replica")
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.connect(endpoint)
        for _ in range(SEQUENCES * steps):
            dealer.send(message)


def _relay(pipe: Connection) -> None:
    """Hand on what comes, to the client."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.SNDHWM, 0)
        router.setsockopt(zmq.RCVHWM, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        pipe.send(f"tcp://127.0.0.1:{port}")
        while True:
            _, message = router.recv_multipart()
            router.send_multipart((b"client", message))


def bare_steps(steps: int = STEPS) -> float:
    """Seconds a step in which 64 messages go from one process through a second to a third, this one."""
    ours, theirs = CONTEXT.Pipe()
    relay = CONTEXT.Process(target=_relay, args=(theirs,))
    relay.start()
    endpoint = ours.recv()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.ROUTING_ID, b"client")
        dealer.setsockopt(zmq.RCVHWM, 0)
        dealer.connect(endpoint)
        time.sleep(0.5)  # until it is known there: what comes before is dropped
        source = CONTEXT.Process(target=_source, args=(endpoint, steps))
        source.start()
        dealer.recv()
        began = time.perf_counter()
        for _ in range(SEQUENCES * steps - 1):
            dealer.recv()
        took = time.perf_counter() - began
    for process in (source, relay):
        process.terminate()
        process.join(10)
    return took / steps


def live_rows(steps: int = STEPS, short_steps: int = 200) -> Iterator[Row]:
    """A step of 64 sequences that stream, beside the bare loop, both taken in this run."""
    bare_s, step = bare_steps(steps), live_steps(steps, short_steps)
    yield Row("bare loop, 64 messages a step through three processes", f"{bare_s * 1e3:.2f} ms")
    yield Row(
        "decode step of 64 streamed sequences, all of the framework", f"{step.wall_s * 1e3:.2f} ms", "≤ 2 ms",
        step.wall_s <= 0.002,
    )  # fmt: skip
    yield Row("step ÷ bare loop", f"{step.wall_s / bare_s:.2f}")
    parts = (("replica", step.replica_s), ("head", step.head_s), ("client", step.client_s))
    yield Row("CPU a step, by process", ", ".join(f"{name} {cpu_s * 1e3:.2f} ms" for name, cpu_s in parts))


# --- simulated -----------------------------------------------------------------------------------------------


def simulated_spec(engine: type[EmulatedLlmEngine] = EmulatedLlmEngine, **changes: Any) -> FleetSpec:
    """Eight replicas of Llama-3.1-8B on an H100 each, with a prefix cache, and steps as large as vLLM takes there."""
    model: dict[str, Any] = {"model": "llama-3.1-8b", "device": "h100"}
    spec = FleetSpec(engine=engine(latency=RooflineSteps(**model), kv=KvSpec(**model)), replicas=8)
    return spec.replace(**{"iteration": VllmTokenBudget(max_step_tokens=8192), **changes})


def _cpu_of(work: Callable[[], object], rounds: int) -> float:
    """The least CPU time of the rounds."""
    times: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def macro_rows(requests: int | None = None) -> Iterator[Row]:
    """Decode steps in a row as one event, beside an event for each."""
    trace = _cut(load_trace("chat-small"), requests)
    seconds = [
        _cpu_of(lambda engine=engine: simulate(trace, simulated_spec(engine), check=False), rounds)
        for engine, rounds in ((EmulatedLlmEngine, 5), (StepwiseLlmEngine, 1))
    ]
    for name, cpu_s in zip(("macro-steps", "stepwise"), seconds, strict=True):
        yield Row(f"chat-small, {name}", f"{cpu_s:.2f} s, {len(trace) / cpu_s:,.0f} req/s")
    yield Row("macro-steps ÷ stepwise, speed", f"{seconds[1] / seconds[0]:.1f}")


def _cut(trace: Trace, requests: int | None) -> Trace:
    return trace if requests is None else trace.first(requests=requests)


def trace_rows(most: int | None = None) -> Iterator[Row]:
    """The public traces, where they are at hand. Telemetry is on; the invariant checker is for tests."""
    mooncake = "mooncake/conversation_trace.jsonl"
    small = {"iteration": VllmTokenBudget(max_step_tokens=2048)}
    for name, path, requests, changes, target_s in (
        ("Mooncake", mooncake, 1_000, {}, 0.5),
        ("Mooncake, steps of 2,048 tokens", mooncake, 1_000, small, 0.5),
        ("Mooncake, KvCost", mooncake, 1_000, {"routing": KvCost()}, 0.5),
        ("Azure 2023", "azure-llm-2023/AzureLLMInferenceTrace_conv.csv", None, {}, 6.0),
    ):
        if not (SHARED / path).exists():
            continue
        trace = _cut(_cut(load_trace(SHARED / path), requests), most)
        spec = simulated_spec(**changes)
        cpu_s = _cpu_of(lambda trace=trace, spec=spec: simulate(trace, spec, check=False), 3)
        yield Row(
            f"{name}, {len(trace):,} requests, 8 replicas", f"{cpu_s:.2f} s, {len(trace) / cpu_s:,.0f} req/s",
            f"≤ {target_s} s", cpu_s <= target_s,
        )  # fmt: skip


def simulated_rows(most: int | None = None) -> Iterator[Row]:
    """Both, of `most` requests of each trace."""
    yield from macro_rows(most)
    yield from trace_rows(most)


if __name__ == "__main__":
    for row in (*live_rows(), *simulated_rows()):
        print(f"{row.what}: {row.measured} {row.target}")
