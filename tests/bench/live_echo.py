"""How fast messages move between processes: a raw ZeroMQ echo, and the same through nodes and trivial actors.

The raw echo is the reference: blocking sockets, one message a request, no decoding, nothing to decide. Figures of one
machine mean little; the *ratio* of two that were taken in one run does. `python -m tests.bench.live_echo` prints both.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import msgspec
import zmq

from fleet.actor import Actor, Context
from fleet.messages import BatchFinished, Message, Payload, Reply, RunBatch, Submit, Tick, Work
from fleet.runtime.live import LiveRuntime, run
from fleet.runtime.transport import Node
from traces.schema import Request

ROOT = Path(__file__).resolve().parents[2]
PAYLOAD_BYTES = 256
BATCH = 16
UNLOADED = 2_000
"""Round trips, one at a time, that the median is taken of."""


class EchoResult(msgspec.Struct, frozen=True):
    """What one path moved."""

    rate_per_s: float
    """Requests answered per second, with many under way."""
    p50_s: float
    """Median round trip of one request at a time."""


@contextmanager
def process(role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of this module's roles in a fresh interpreter; ended with the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.live_echo", role, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def first_line(child: subprocess.Popen[str]) -> str:
    """What a child says when it is ready."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


# --- the reference --------------------------------------------------------------------------------------


def raw_echo(duration_s: float = 2.0, window: int = 256, unloaded: int = UNLOADED) -> EchoResult:
    """A blocking DEALER against a blocking ROUTER in another process, `window` requests under way."""
    payload = b"x" * PAYLOAD_BYTES
    with process("raw-server") as server, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(first_line(server))
        trips = []
        for _ in range(unloaded):
            began = time.perf_counter()
            dealer.send(payload)
            dealer.recv()
            trips.append(time.perf_counter() - began)
        for _ in range(window):
            dealer.send(payload)
        began, answered = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < duration_s:
            for _ in range(100):
                dealer.recv()
                dealer.send(payload)
            answered += 100
    return EchoResult(answered / took, statistics.median(trips))


def raw_server() -> None:
    """Send back whatever comes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        print(f"tcp://127.0.0.1:{port}", flush=True)
        while True:
            router.send_multipart(router.recv_multipart())


# --- through nodes and actors ---------------------------------------------------------------------------


class EchoServer(Actor):
    """Answers at once: client and head only."""

    def handlers(self) -> dict:
        return {Submit: self.on_submit}

    def on_submit(self, message: Submit) -> None:
        self.ctx.send(message.reply_to, Reply(message.request.id, "completed", result=message.payload))


class BatchingHead(Actor):
    """The least that a head does: form batches of 16 (or what there is), spread them, answer."""

    def __init__(self, replicas: list[str]) -> None:
        self.replicas = replicas
        self.waiting: list[Submit] = []
        self.running: dict[int, list[Submit]] = {}
        self.batch = 0
        self.free = replicas * 2

    def handlers(self) -> dict:
        return {Submit: self.on_submit}

    def on_submit(self, message: Submit) -> None:
        self.waiting.append(message)
        if self.free and (len(self.waiting) >= BATCH or not self.running):
            self.dispatch()

    def on_finished(self, message: BatchFinished) -> None:
        for submit, result in zip(self.running.pop(message.batch), message.results, strict=True):
            reply = Reply(submit.request.id, "completed", 1, message.replica, BATCH, result=result)
            self.ctx.send(submit.reply_to, reply)
        self.free.append(message.replica)
        if self.waiting:
            self.dispatch()

    def dispatch(self) -> None:
        taken, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        self.batch += 1
        self.running[self.batch] = taken
        work = [Work(submit.request, 1, None, submit.payload) for submit in taken]
        self.ctx.send(self.free.pop(0), RunBatch(self.batch, work, "batcher/default"))


class Returns(Actor):
    """Where the replicas of a `BatchingHead` answer."""

    def __init__(self, head: BatchingHead) -> None:
        self.head = head

    def handlers(self) -> dict:
        return {BatchFinished: self.head.on_finished}


class InstantReplica(Actor):
    """Runs a batch in no time."""

    def handlers(self) -> dict:
        return {RunBatch: self.on_run}

    def on_run(self, message: RunBatch) -> None:
        results = [work.payload for work in message.work]
        self.ctx.send(message.reply_to, BatchFinished(self.ctx.address, message.batch, 0.0, results=results))


class LoadClient(Actor):
    """First one request at a time, then `window` under way for `duration_s`."""

    def __init__(self, runtime: LiveRuntime, to: str, duration_s: float, window: int, unloaded: int) -> None:
        self.runtime, self.to, self.duration_s = runtime, to, duration_s
        self.window, self.unloaded = window, unloaded
        self.trips: list[float] = []
        self.number = self.answered = 0
        self.began = 0.0
        self.result: EchoResult | None = None
        self.payload = Payload(b"x" * PAYLOAD_BYTES)

    def handlers(self) -> dict:
        return {Tick: self.on_tick, Reply: self.on_trip}

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        ctx.after(0.5, Tick())  # after the first Hellos

    def on_tick(self, message: Message) -> None:
        self.submit()

    def submit(self) -> None:
        self.number += 1
        self.sent = time.perf_counter()
        self.ctx.send(self.to, Submit(Request(str(self.number), 0.0), self.ctx.address, None, self.payload))

    def on_trip(self, message: Message) -> None:
        self.trips.append(time.perf_counter() - self.sent)
        if len(self.trips) < self.unloaded:
            self.submit()
            return
        self._handlers[Reply] = self.on_reply
        self.began = time.perf_counter()
        for _ in range(self.window):
            self.submit()

    def on_reply(self, message: Message) -> None:
        self.answered += 1
        took = self.sent - self.began
        if took < self.duration_s:
            self.submit()
        elif self.result is None:
            self.result = EchoResult(self.answered / took, statistics.median(self.trips))
            self.runtime.stop()


def node_echo(duration_s: float = 2.0, window: int = 256, unloaded: int = UNLOADED) -> EchoResult:
    """Two processes: a client's actor, and one that answers at once."""
    with process("server") as server:
        return _client(first_line(server), "router", duration_s, window, unloaded)


def batch_path(duration_s: float = 2.0, window: int = 256, unloaded: int = UNLOADED) -> EchoResult:
    """Four processes: client, head, two replicas; batches of 16. The path that the framework is for."""
    with ExitStack() as stack:
        endpoint = first_line(stack.enter_context(process("head")))
        for number in range(2):
            first_line(stack.enter_context(process("replica", endpoint, str(number))))
        return _client(endpoint, "router", duration_s, window, unloaded)


def _client(endpoint: str, to: str, duration_s: float, window: int, unloaded: int) -> EchoResult:
    async def main() -> EchoResult | None:
        node = Node("client")
        node.connect(endpoint)
        runtime = LiveRuntime(node=node, name="client")
        client = LoadClient(runtime, to, duration_s, window, unloaded)
        runtime.add("client/0", client)
        with anyio.fail_after(duration_s + 60):
            await runtime.run()
        return client.result

    result = run(main)
    assert result is not None
    return result


def _host(role: str, arguments: list[str]) -> None:
    async def main() -> None:
        if role == "replica":
            node = Node(f"replica-{arguments[1]}")
            node.connect(arguments[0])
            runtime = LiveRuntime(node=node, on_peer_joined=lambda peer: print("joined", flush=True))
            runtime.add(f"replica/{arguments[1]}", InstantReplica())
        else:
            node = Node("head")
            print(node.bind("tcp://127.0.0.1:*"), flush=True)
            runtime = LiveRuntime(node=node)
            head = BatchingHead(["replica/0", "replica/1"])
            runtime.add("router", EchoServer() if role == "server" else head)
            runtime.add("batcher/default", Returns(head))
        await runtime.run()

    run(main)


def main() -> None:
    """Print the table, or play a role in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", default="table")
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--duration-s", type=float, default=3.0)
    parser.add_argument("--window", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.role == "raw-server":
        raw_server()
    elif arguments.role in ("server", "head", "replica"):
        _host(arguments.role, arguments.rest)
    else:
        raw = raw_echo(arguments.duration_s, arguments.window)
        print(f"{'path':<12} {'requests/s':>11} {'x raw':>6} {'p50 ms':>8} {'x raw':>6}")
        for name, result in (
            ("raw echo", raw),
            ("node echo", node_echo(arguments.duration_s, arguments.window)),
            ("batch path", batch_path(arguments.duration_s, arguments.window)),
        ):
            print(
                f"{name:<12} {result.rate_per_s:>11,.0f} {result.rate_per_s / raw.rate_per_s:>6.2f} "
                f"{result.p50_s * 1e3:>8.3f} {result.p50_s / raw.p50_s:>6.2f}"
            )


if __name__ == "__main__":
    main()
