"""One non-blocking ZeroMQ socket on an asyncio loop, without `zmq.asyncio`.

The one thing to know: a ZeroMQ descriptor tells of *edges*. It becomes readable when something changed inside
the socket, and any send or receive may swallow that news. So `EVENTS` is read again after every drain and every
send, and a turn is scheduled when messages wait. Forgetting it once is a hang that shows up a week later.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, cast

import zmq
from msgspec import Struct
from zmq.utils.monitor import parse_monitor_message

from fleet.runtime.security import ZAP_DOMAIN, Security

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Buffer: TypeAlias = bytes | bytearray | memoryview
Sent = Literal["sent", "full", "unreachable"]

# As plain integers: arithmetic on pyzmq's enums costs more than the call that it is for.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

_COPY_BELOW = 65_536
"""Sharing a smaller buffer with ZeroMQ's thread costs more than copying it."""

_HANDSHAKE_FAILURES: dict[int, str] = {
    zmq.Event.HANDSHAKE_FAILED_AUTH: "refused-key",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "broken-off",
}
_WATCHED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
for _event in _HANDSHAKE_FAILURES:
    _WATCHED |= _event


class SocketOptions(Struct, frozen=True):
    """Bounds of one socket. Every one is finite, on purpose."""

    queue_batches: int = 256
    """High-water mark, each way and for each peer, in batches."""
    max_frame_bytes: int = 64 << 20
    """A header that announces more is refused by ZeroMQ before anything is allocated."""
    heartbeat_ms: int = 1_000
    heartbeat_timeout_ms: int = 5_000
    handshake_ms: int = 5_000
    """A connection that says nothing is closed after this."""
    linger_ms: int = 500


class Channel:
    """A socket, its descriptor on the loop, and its monitor. It knows nothing of peers or messages."""

    def __init__(
        self,
        context: Context,
        kind: int,
        options: SocketOptions,
        identity: bytes,
        on_turn: Callable[[Channel], None],
    ) -> None:
        self.routes = kind == zmq.ROUTER
        """True: each message starts with the identity of the other side."""
        self.connected = self.routes
        """A DEALER takes messages without a connection too, into a queue that nobody may ever read: we hold them."""
        self.closed = False
        self.handshakes = 0
        self.socket = context.socket(kind)
        self._on_turn = on_turn
        self._on_handshake_failure: Callable[[str], None] = lambda reason: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._monitor: zmq.Socket[bytes] | None = None
        self._configure(options, identity)

    def _configure(self, options: SocketOptions, identity: bytes) -> None:
        socket = self.socket
        socket.setsockopt(zmq.SNDHWM, options.queue_batches)
        socket.setsockopt(zmq.RCVHWM, options.queue_batches)
        socket.setsockopt(zmq.MAXMSGSIZE, options.max_frame_bytes)
        socket.setsockopt(zmq.LINGER, options.linger_ms)
        socket.setsockopt(zmq.HEARTBEAT_IVL, options.heartbeat_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, options.heartbeat_timeout_ms)
        socket.setsockopt(zmq.HEARTBEAT_TTL, options.heartbeat_timeout_ms)
        socket.setsockopt(zmq.HANDSHAKE_IVL, options.handshake_ms)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        if self.routes:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        else:
            # Not IMMEDIATE, which would drop what was received and not yet read when the connection breaks.
            socket.setsockopt(zmq.ROUTING_ID, identity)

    def bind(self, endpoint: str) -> str:
        """Listen; the endpoint with the port that was chosen."""
        self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        self.socket.bind(endpoint)
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, endpoint: str) -> None:
        """Connect now, and again whenever the connection breaks."""
        self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        self.socket.connect(endpoint)

    def secure(self, security: Security) -> None:
        """Speak CURVE from now on; before bind or connect."""
        socket = self.socket
        socket.setsockopt(zmq.CURVE_PUBLICKEY, security.keys.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, security.keys.secret.encode())
        if self.routes:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        elif security.server_key is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, security.server_key.encode())

    # --- on the loop ------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Open the monitor. Before bind or connect: the first handshake must not go unseen."""
        self._monitor = self.socket.get_monitor_socket(_WATCHED)

    def start(self, loop: asyncio.AbstractEventLoop, on_handshake_failure: Callable[[str], None]) -> None:
        """Let the loop call `on_turn` whenever there may be something to do."""
        self._loop = loop
        self._on_handshake_failure = on_handshake_failure
        loop.add_reader(_descriptor(self.socket), self._turn)
        if self._monitor is not None:
            loop.add_reader(_descriptor(self._monitor), self._read_monitor)
            loop.call_soon(self._read_monitor)
        self.schedule()

    def schedule(self) -> None:
        """Take a turn at the next opportunity."""
        if not self._scheduled and self._loop is not None and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self._turn()

    def _turn(self) -> None:
        if not self.closed:
            self._on_turn(self)

    def readable(self) -> bool:
        """True when a message waits. Cheaper than a receive that finds none, which is an exception."""
        return bool(cast(int, self.socket.getsockopt(_EVENTS)) & _POLLIN)

    def recheck(self) -> None:
        """After any send or drain: schedule a turn if messages wait; the edge that told of them may be gone."""
        if (
            not self._scheduled
            and not self.closed
            and cast(int, self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN
        ):
            self.schedule()

    def _read_monitor(self) -> None:
        monitor = self._monitor
        if monitor is None or self.closed:
            return
        while True:
            try:
                event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.handshakes += 1
                self.connected = True
                self.schedule()
            elif event == zmq.Event.DISCONNECTED:
                self.connected = self.routes
            elif event in _HANDSHAKE_FAILURES:
                self._on_handshake_failure(_HANDSHAKE_FAILURES[event])

    # --- frames -----------------------------------------------------------------------------------------

    def receive(self) -> list[zmq.Frame] | None:
        """The next message, or None when there is none now. A receive is never begun that cannot finish."""
        receive = self.socket.recv
        try:
            frame = receive(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames = [frame]
        while frame.more:
            frame = receive(_NOBLOCK, copy=False)
            frames.append(frame)
        return frames

    def send(self, identity: bytes, frames: Sequence[Buffer]) -> Sent:
        """Hand one message to ZeroMQ, or say why not. It takes all frames or none."""
        if not self.connected:
            return "full"
        send = self.socket.send
        try:
            if self.routes:
                send(identity, _NOBLOCK_MORE)
            if len(frames) == 1:
                send(frames[0], _NOBLOCK, copy=len(frames[0]) < _COPY_BELOW)
            else:
                for frame in frames[:-1]:
                    send(frame, _NOBLOCK_MORE, copy=False)
                send(frames[-1], _NOBLOCK, copy=False)
        except zmq.Again:
            return "full"
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return "unreachable"
        return "sent"

    def close(self, linger_ms: int | None = None) -> None:
        """Leave the loop, then close: a descriptor must not be closed while the loop watches it."""
        if self.closed:
            return
        self.closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(_descriptor(self.socket))
            if self._monitor is not None:
                self._loop.remove_reader(_descriptor(self._monitor))
        if self._monitor is not None:
            self.socket.disable_monitor()
            self._monitor.close(linger=0)
        self.socket.close(linger_ms)


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return cast(int, socket.getsockopt(zmq.FD))
