"""What the transport tests share: a receiver that records, and peers in processes of their own."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from fleet.actor import Actor
from fleet.messages import BatchFinished, Message, Payload, Reply, RunBatch, Submit, Work
from fleet.runtime.channel import SocketOptions
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.transport import Node, NodeOptions
from fleet.runtime.wire import Envelope
from tests.conftest import ROOT
from traces.schema import Request

QUICK = NodeOptions(
    membership=MembershipOptions(lease_s=0.8, connect_timeout_s=5.0),
    socket=SocketOptions(linger_ms=200, heartbeat_ms=200, heartbeat_timeout_ms=600, handshake_ms=500),
)


def submit(number: int, sender: str = "client/0", size: int = 8) -> Submit:
    return Submit(Request(f"r{number}", float(number)), sender, None, Payload(b"x" * size))


def order(number: int, size: int = 0) -> RunBatch:
    """What a head sends to a replica."""
    work = [Work(Request("r", 0.0), 1, None, Payload(b"x" * size))] if size else []
    return RunBatch(number, work, "batcher/default")


def finished(number: int, replica: str = "replica/0", **fields: object) -> BatchFinished:
    """What a replica sends to its head's batcher."""
    return BatchFinished(replica, number, 0.0, **fields)


class Recorder:
    """A node's receiver that keeps what it is told."""

    def __init__(self, node: Node | None = None, echo: bool = False) -> None:
        self.node = node
        self.echo = echo
        self.delivered: list[Envelope] = []
        self.undeliverable: list[tuple[str, str, Message, str]] = []
        self.joined: list[str] = []
        self.lost: list[tuple[str, str, bool]] = []
        self.refused: list[str] = []
        self.errors: list[Exception] = []

    def deliver(self, envelopes: list[Envelope]) -> None:
        self.delivered += envelopes
        if self.echo:
            for to, _, message in envelopes:
                self.node.send("router", to, submit(int(message.request_id), to))

    def on_undeliverable(self, to: str, sender: str, message: Message, reason: str) -> None:
        self.undeliverable.append((to, sender, message, reason))

    def on_peer_joined(self, peer: Peer) -> None:
        self.joined.append(peer.name)

    def on_peer_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        self.lost.append((peer.name, reason, expected))

    def on_refused(self, peer: Peer, reason: str) -> None:
        self.refused.append(reason)

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)


class Fleet:
    """A head and some peers in this process, each with its recorder; closed together."""

    def __init__(self) -> None:
        self.recorders: dict[Node, Recorder] = {}
        self.endpoint = ""

    def start(self, node: Node, *addresses: str, echo: bool = False) -> Recorder:
        for address in addresses:
            node.host(address)
        self.recorders[node] = recorder = Recorder(node, echo)
        node.start(recorder)
        return recorder

    def head(self, *addresses: str, options: NodeOptions = QUICK, **kwargs: object) -> tuple[Node, Recorder]:
        node = Node("head", options=options, **kwargs)
        self.endpoint = node.bind("tcp://127.0.0.1:*")
        return node, self.start(node, *addresses)

    def peer(
        self, name: str, *addresses: str, options: NodeOptions = QUICK, echo: bool = False, **kwargs: object
    ) -> tuple[Node, Recorder]:
        node = Node(name, options=options, **kwargs)
        node.connect(self.endpoint)
        return node, self.start(node, *addresses, echo=echo)

    async def aclose(self) -> None:
        for node in reversed(self.recorders):
            await node.aclose()
        errors = [error for recorder in self.recorders.values() for error in recorder.errors]
        if errors:
            raise errors[0]


def run_with_fleet(main: Callable[[Fleet], object], timeout_s: float = 30.0) -> None:
    """Run an async test with a fleet that is closed whatever happens."""

    async def wrapped() -> None:
        fleet = Fleet()
        try:
            await asyncio.wait_for(main(fleet), timeout_s)
        finally:
            await fleet.aclose()

    asyncio.run(wrapped())


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until `condition()` holds, or fail saying which it was."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, (
            f"never held: {condition.__code__.co_filename}:{condition.__code__.co_firstlineno}"
        )
        await asyncio.sleep(0.01)


def children() -> set[int]:
    """Processes that this one has started and not reaped."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread may end while we look
            found.update(map(int, (task / "children").read_text().split()))
    return found


@contextlib.contextmanager
def raw_dealer(endpoint, identity=b"raw", **options):
    """A plain ZeroMQ socket that says whatever the test wants."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.ROUTING_ID, identity)
        dealer.setsockopt(zmq.LINGER, 0)
        for option, value in options.items():
            dealer.setsockopt(getattr(zmq, option), value)
        dealer.connect(endpoint)
        yield dealer


class EchoActor(Actor):
    """Answers every request, or every batch, at once."""

    def handlers(self) -> dict:
        return {Submit: self.on_submit, RunBatch: self.on_run_batch}

    def on_run_batch(self, message: RunBatch) -> None:
        self.ctx.send(message.reply_to, BatchFinished(self.ctx.address, message.batch, 0.0))

    def on_submit(self, message: Submit) -> None:
        self.ctx.send(message.reply_to, Reply(message.request.id, "completed", replica=self.ctx.address))


@contextlib.contextmanager
def peer_process(
    endpoint: str, name: str, address: str, *options: str, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen]:
    """A process that hosts an echo under `address`; killed, if need be, at the end."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.live.peer_process", endpoint, name, address, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate(timeout=10)
