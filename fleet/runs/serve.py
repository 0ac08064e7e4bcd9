"""A fleet across hosts: `serve` is a head that waits for others, `join` brings replicas, `drive` brings load.

The same head as in `replay`, with its own clock: a request's arrival is when the head receives it, because no
latency is computed from two hosts' clocks. The client's own records (`drive`) count from the intended arrival, on
its own clock.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

import anyio
import anyio.lowlevel
from msgspec import Struct

from fleet.actor import FleetError
from fleet.actors.load_generator import LoadGenerator
from fleet.launch.host import REJOIN_S, host
from fleet.launch.subprocess_hosts import GRACE_S
from fleet.messages import Payload, StartReplica
from fleet.runs.arguments import demand_seconds
from fleet.runs.assembly import initial_replicas
from fleet.runs.live_head import LiveHead
from fleet.runs.operator import OPERATOR, Operator
from fleet.runs.replay import machine
from fleet.runtime.live import LiveRuntime, run
from fleet.runtime.peers import Peer
from fleet.runtime.security import Security, is_loopback, read_allow_list, read_keys
from fleet.runtime.transport import Node
from fleet.spec import FleetSpec
from fleet.telemetry.run import Run, finish_run
from fleet.telemetry.sink import Telemetry
from traces import Trace
from traces.answers import answer_blocks
from traces.schema import Request

log = logging.getLogger("fleet.serve")

KEEP_ROWS = 65_536
"""The last rows of each table that a head keeps in memory."""


class ServeReport(Struct, frozen=True, kw_only=True):
    """What a head did, by its own books. Conservation holds: submitted is the sum of all outcomes."""

    served_s: float
    submitted: int
    outcomes: dict[str, int]
    counters: dict[str, int]


def server_security(keys: Path | None, allow: Path | None) -> Security | None:
    """What a head needs to speak CURVE, from files; None without keys."""
    if keys is None:
        if allow is not None:
            raise FleetError("an allow-list needs the head's own keys too (keys)")
        return None
    if allow is None:
        raise FleetError("keys need an allow-list: which public keys may connect (allow)")
    return Security(read_keys(keys), read_allow_list(allow))


def client_security(keys: Path | None, server_key: str | None) -> Security | None:
    """What the connecting side needs to speak CURVE."""
    if keys is None:
        if server_key is not None:
            raise FleetError("the head's public key alone is not enough: this side needs keys too (keys)")
        return None
    if server_key is None:
        raise FleetError("keys need the head's public key, to know that it is the head (server_key)")
    return Security(read_keys(keys), server_key=server_key)


# --- the head ----------------------------------------------------------------------------------------------


def serve(
    spec: FleetSpec,
    bind: str,
    *,
    seed: int = 0,
    local_replicas: int = 0,
    keys: Path | None = None,
    allow: Path | None = None,
    insecure: bool = False,
    for_s: float | None = None,
    allow_modules: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> ServeReport:
    """Run a head at `bind` until SIGINT, SIGTERM, or `for_s` seconds have passed.

    Replicas come from `join` on any host, and `local_replicas` host processes of this machine. `on_ready` gets the
    endpoint as soon as it listens. Binding anything but loopback without keys is refused, unless `insecure`.

    Whoever may operate it changes what it serves (`operate`), with components of installed distributions, of the
    modules that `spec` names, and of `allow_modules` with what is below them.
    """
    server = Server(
        spec, seed=seed, security=server_security(keys, allow), insecure=insecure, allow_modules=allow_modules
    )
    result: ServeReport = run(lambda: server.main(bind, local_replicas, for_s, on_ready))
    return result


class Server(LiveHead):
    """One head that runs until it is told to stop."""

    def __init__(
        self,
        spec: FleetSpec,
        *,
        seed: int,
        security: Security | None,
        insecure: bool,
        allow_modules: Sequence[str] = (),
    ) -> None:
        # Nobody reads its tables, and it may run for months.
        super().__init__(
            spec, seed=seed, stamp_arrivals=True, keep_rows=KEEP_ROWS, security=security, insecure=insecure,
            allow_modules=allow_modules,
        )  # fmt: skip

    async def main(
        self, bind: str, local_replicas: int, for_s: float | None, on_ready: Callable[[str], None] | None
    ) -> ServeReport:
        """Listen, and serve to the end."""
        if local_replicas and not is_loopback(bind):
            raise FleetError(
                "local_replicas need a loopback endpoint; on a public one, use `fleet join` with keys"
            )

        async def begin() -> None:
            await self._begin(for_s, on_ready)

        await self.run(bind, self._watch_signals, begin, most=local_replicas)
        router = self.head.router
        return ServeReport(
            served_s=self.runtime.elapsed_s,
            submitted=router.submitted,
            outcomes={str(outcome): count for outcome, count in sorted(router.ended.items())},
            counters={**dict(sorted(self.telemetry.counters.items())), **self._node_counters()},
        )

    def _node_counters(self) -> dict[str, int]:
        counters = self.node.counters
        return {
            "undecodable": sum(counters.undecodable.values()),
            "forged": counters.forged,
            "refused_messages": sum(counters.refused_messages.values()),
            "refused_hellos": sum(counters.refused.values()),
            "dropped_peers": counters.dropped_peers,
            "refused_keys": counters.refused_keys,
            "handshake_failures": sum(counters.handshake_failures.values()),
            "peers_joined": counters.peers_joined,
            "peers_lost": counters.peers_lost,
        }

    async def _begin(self, for_s: float | None, on_ready: Callable[[str], None] | None) -> None:
        await anyio.lowlevel.checkpoint()  # the runtime starts its actors first
        self.head.host(self.runtime)
        self.runtime.add(OPERATOR, Operator(self.head, self.runtime, live=True, allowed=self.modules))
        for name in initial_replicas(self.spec):
            self.launcher.on_start_replica(StartReplica(name))
        if on_ready is not None:
            on_ready(self.endpoint)
        if for_s is not None:
            await anyio.sleep(for_s)
            self._stop()

    def _stop(self) -> None:
        """End what is pending as failed, so that every client has its reply, and stop once the replies have left."""
        self.head.router.abort("the head stops")
        self.runtime.loop.call_later(0.1, self.runtime.stop)

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self._stop()
                return


# --- replicas ----------------------------------------------------------------------------------------------


def join(
    head: str,
    *,
    replicas: int = 1,
    name: str | None = None,
    keys: Path | None = None,
    server_key: str | None = None,
    insecure: bool = False,
    rejoin_s: float = REJOIN_S,
    allow_modules: Sequence[str] = (),
) -> int:
    """Offer `replicas` processes of this host to the head at `head`; answers when all have ended.

    A head that is lost has `rejoin_s` to come back, on the same address. The answer is the exit status: 0 when every
    one ended in good order. The head says what to run: from installed distributions, and from `allow_modules` (with
    what is below them), and from nowhere else.
    """
    security = client_security(keys, server_key)
    stem = name or f"{socket.gethostname()}-{secrets.token_hex(3)}"
    if replicas == 1:
        return host(
            head, stem, security=security, insecure=insecure, keep_trying=True, rejoin_s=rejoin_s,
            allow_modules=allow_modules,
        )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_host_one,
            args=(head, f"{stem}-{number}", keys, server_key, insecure, rejoin_s, tuple(allow_modules)),
        )
        for number in range(replicas)
    ]
    interrupted = False
    try:
        _start_deaf(processes)
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _end(processes)
    in_order = (0, -signal.SIGTERM) if interrupted else (0,)
    return max(0 if process.exitcode in in_order else 1 for process in processes)


def _start_deaf(processes: Sequence[SpawnProcess]) -> None:
    """Until they handle one themselves, an interrupt is not for them: they would die in the middle of an import.

    Signals that are blocked where a process is spawned are blocked in it; one that comes meanwhile comes at the end.
    """
    resource_tracker.ensure_running()  # now, since it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(processes: Sequence[SpawnProcess]) -> None:
    """End those that have not: in good order where they are far enough to know how, and soon in any case."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    until = time.monotonic() + GRACE_S
    for process in started:
        process.join(timeout=max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _host_one(  # noqa: PLR0917  # the arguments of a process are given in order
    head: str,
    name: str,
    keys: Path | None,
    server_key: str | None,
    insecure: bool,
    rejoin_s: float,
    allow_modules: Sequence[str],
) -> None:
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the host will handle it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    security = client_security(keys, server_key)
    raise SystemExit(
        host(
            head, name, security=security, insecure=insecure, keep_trying=True, rejoin_s=rejoin_s,
            allow_modules=allow_modules,
        )
    )  # fmt: skip


def _end_with_parent() -> None:
    """A parent that was killed told nobody: its children must not serve on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


# --- load --------------------------------------------------------------------------------------------------


def drive(
    trace: Trace,
    head: str,
    *,
    spec: FleetSpec | None = None,
    speed: float = 1.0,
    sessions: bool = False,
    stream: bool = False,
    keys: Path | None = None,
    server_key: str | None = None,
    insecure: bool = False,
    stall_timeout_s: float = 120.0,
    payload: Callable[[Request], Payload | None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Play `trace` against a running head, as a client of its own; answers the client's records.

    `spec` says what is served there, for the manifest and the objectives; the tables of the head (decisions, series)
    are the head's and empty here. `stream` has every output token sent as it comes, and checks that none is missing.

    When the head is lost or ends, what was sent and not answered ends as failed, and nothing more is sent: the counters
    `head_lost` and `unsent` say so. A request for which nothing is done in `stall_timeout_s`, by the head's own word,
    ends as failed too (`stalled`).
    """
    demand_seconds(stall_timeout_s=stall_timeout_s)
    if speed != 1.0:
        trace = trace.scale_rate(speed)
    client = Driver(
        trace, sessions=sessions, stream=stream, security=client_security(keys, server_key), insecure=insecure,
        stall_timeout_s=stall_timeout_s, on_progress=on_progress, payload=payload,
    )  # fmt: skip
    run(lambda: client.main(head))
    if client.problem is not None:
        raise FleetError(client.problem)
    return finish_run(
        client.telemetry, trace, spec, seed=0, runtime="live", ended_s=client.runtime.elapsed_s,
        unfinished=client.generator.unfinished(), machine=machine(),
        options={"speed": speed, "sessions": sessions, "stream": stream},
    )  # fmt: skip


class Driver:
    """The client's process."""

    def __init__(
        self,
        trace: Trace,
        *,
        sessions: bool,
        security: Security | None,
        insecure: bool,
        stall_timeout_s: float,
        on_progress: Callable[[int], None] | None,
        payload: Callable[[Request], Payload | None] | None = None,
        stream: bool = False,
    ) -> None:
        name = f"client-{secrets.token_hex(3)}"
        self.telemetry = Telemetry()
        self.node = Node(name, security=security, insecure=insecure)
        self.runtime = LiveRuntime(
            node=self.node, name=name, observers=None, on_peer_joined=self._joined, on_peer_lost=self._lost
        )
        self.generator = LoadGenerator(
            trace, telemetry=self.telemetry, on_done=self.runtime.stop, sessions=sessions, stream=stream,
            stall_timeout_s=stall_timeout_s, progress=on_progress, payload=payload, answers=answer_blocks(trace),
        )  # fmt: skip
        self._address = f"client/{name}"
        self._started = False
        self.problem: str | None = None

    async def main(self, head: str) -> None:
        """Connect, and play the trace once the head has answered."""
        try:
            self.node.connect(head)
            await self.runtime.run()
        finally:
            self.node.close()  # no-op when the runtime closed it

    def _joined(self, peer: Peer) -> None:
        if not self._started:
            self._started = True
            self.runtime.begin()
            self.runtime.add(self._address, self.generator)

    def _lost(self, peer: Peer, reason: str, expected: bool) -> None:
        if not self._started:
            self.problem = f"no head answered: {reason}"
            self.runtime.stop()
            return
        ended, unsent = self.generator.head_lost(reason)
        log.error(
            "the head is lost: %s; %d requests ended with it, %d were never sent", reason, ended, unsent
        )
