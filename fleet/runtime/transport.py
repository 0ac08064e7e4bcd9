"""One `Node` per process: everything that crosses a process boundary goes through it.

A star: the head binds a ROUTER; everyone else connects outward with a DEALER, to every head. A node says `Hello`
several times a lease with the addresses that it hosts, which is how others know where to send; a peer that is
silent for a lease is lost. What a node does not know goes to its head.

The one thing to know: messages to a peer are *coalesced*. They are encoded into the peer's open batch as they are
sent, and the batch leaves when the loop's turn ends, or when it is full. So a busy node pays ZeroMQ once for many
messages, and an idle one waits for nothing.

A message that `send` accepts is handed to ZeroMQ, or reported to the receiver as undeliverable. Handed over is not
received: what was under way to a process that dies is lost, and the lease tells of it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable

import zmq
from msgspec import Struct

from fleet.actor import FleetError
from fleet.messages import Message
from fleet.runtime.channel import Channel, SocketOptions
from fleet.runtime.inbox import Inbox, LimitedLog, Receiver
from fleet.runtime.membership import Membership, MembershipOptions
from fleet.runtime.outbox import Faults, Outbox, OutboxOptions
from fleet.runtime.peers import NodeCounters, Peer, count
from fleet.runtime.security import Authenticator, Security, is_loopback, require_keys
from fleet.runtime.wire import Bye, Codec, Returned, text_of


class NodeOptions(Struct, frozen=True):
    """Bounds and rhythms. No queue is unbounded."""

    membership: MembershipOptions = MembershipOptions()
    socket: SocketOptions = SocketOptions()
    outbox: OutboxOptions = OutboxOptions()
    turn_batches: int = 64
    """Received in one turn of the loop, before others have theirs."""
    turn_s: float = 0.004


DEFAULTS = NodeOptions()


class Node:
    """This process's place in the fleet."""

    def __init__(
        self,
        name: str,
        *,
        options: NodeOptions = DEFAULTS,
        security: Security | None = None,
        insecure: bool = False,
        incarnation: int | None = None,
    ) -> None:
        if not name:
            raise FleetError("a node needs a name")
        if options.socket.max_frame_bytes < options.outbox.max_message_bytes + options.outbox.flush_bytes:
            raise FleetError(
                "max_frame_bytes must hold one message and one batch, or peers would refuse what we send"
            )
        self.name = name
        self.options = options
        self.counters = NodeCounters()
        self.closed = False
        self._security = security
        self._insecure = insecure
        # Whoever knows an identity can take over its connection (ROUTER_HANDOVER): it must not be guessable.
        self._identity = f"{name[:100]}~{secrets.token_hex(16)}".encode()[-255:]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator: Authenticator | None = None
        codec = Codec(options.outbox.max_message_bytes)
        self._log = LimitedLog()
        self._faults = Faults(self.counters)
        self._outbox = Outbox(
            name,
            options.outbox,
            codec,
            counters=self.counters,
            faults=self._faults,
            report=self._report,
        )
        self._membership = Membership(
            name,
            time.time_ns() if incarnation is None else incarnation,
            options=options.membership,
            allow=security.allow if security is not None else None,
            counters=self.counters,
            events=self,
        )
        self._routes = self._membership.routes
        self._inbox = Inbox(
            codec,
            self._membership,
            self._outbox,
            counters=self.counters,
            faults=self._faults,
            limited=self._log,
            secure=security is not None,
        )
        self._router: Channel | None = None
        self._head_of: dict[Channel, Peer] = {}
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_turn = False
        self._flush_scheduled = False
        self._announce = False
        self._retry: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._beat_due_s = 0.0

    # --- wiring -----------------------------------------------------------------------------------------

    @property
    def peers(self) -> dict[str, Peer]:
        """Those that are alive, by name."""
        return self._membership.peers

    def bind(self, endpoint: str) -> str:
        """Listen, as a head does; the endpoint with the port that was chosen."""
        require_keys(endpoint, self._security, insecure=self._insecure)
        if self._router is not None:
            raise FleetError(f"{self.name} listens already")
        if self._security is not None:
            self._authenticator = Authenticator(self._context, self._security.allow)
        channel = self._open(zmq.ROUTER, self._security)
        try:
            bound = channel.bind(endpoint)
        except zmq.ZMQError as error:
            channel.close()
            raise FleetError(f"cannot listen on {endpoint}: {error}") from None
        self._router = channel
        self._membership.open_to_others = not is_loopback(endpoint)
        return bound

    def connect(self, endpoint: str, *, server_key: str | None = None) -> None:
        """Join the head at `endpoint`, now or whenever it comes up."""
        require_keys(endpoint, self._security, insecure=self._insecure)
        security = self._security
        if security is not None:
            security = Security(security.keys, security.allow, server_key or security.server_key)
            if security.server_key is None:
                raise FleetError(
                    f"the public key of the head at {endpoint} is needed to know that it is the head"
                )
        channel = self._open(zmq.DEALER, security)
        try:
            channel.connect(endpoint)
        except zmq.ZMQError as error:
            channel.close()
            raise FleetError(f"cannot connect to {endpoint}: {error}") from None
        peer = Peer(channel, b"", endpoint, self.options.membership.connect_timeout_s, time.monotonic())
        self._membership.heads.append(peer)
        self._head_of[channel] = peer
        if self._loop is not None:
            self.control(peer, self._membership.hello(answer=True))

    def _open(self, kind: int, security: Security | None) -> Channel:
        channel = Channel(self._context, kind, self.options.socket, self._identity, self._turn)
        if security is not None:
            channel.secure(security)
        channel.watch()
        if self._loop is not None:
            channel.start(self._loop, self._on_handshake_failure)
        return channel

    def _channels(self) -> list[Channel]:
        return [*([self._router] if self._router else []), *self._head_of]

    def start(self, receiver: Receiver) -> None:
        """Begin to receive, on the running loop."""
        self._receiver = self._inbox.receiver = receiver
        self._loop = asyncio.get_running_loop()
        now = time.monotonic()
        for head in self._membership.heads:
            head.last_heard_s = now
            self.control(head, self._membership.hello(answer=True))
        for channel in self._channels():
            channel.start(self._loop, self._on_handshake_failure)
        self._beat_due_s = now
        self._on_beat()
        self._schedule_flush()

    def host(self, address: str) -> None:
        """Tell the others that messages to `address` come here."""
        self._membership.hosted[address] = None
        # Now, not at the end of the turn: the Hello must be ahead of anything that is sent from `address`.
        for peer in self.peers.values():
            self.control(peer, self._membership.hello())

    def unhost(self, address: str) -> None:
        """No longer."""
        self._membership.hosted.pop(address, None)
        self._announce_soon()

    def host_group(self, group: str) -> None:
        """Tell the others that this node fans out messages to `group`."""
        self._membership.groups[group] = None
        self._announce_soon()

    def _announce_soon(self) -> None:
        if self._loop is not None:
            self._announce = True
            self._schedule_flush()

    def _tell_all(self) -> None:
        self._announce = False
        hello = self._membership.hello()
        for peer in self._membership.everyone():
            self.control(peer, hello)

    # --- sending ----------------------------------------------------------------------------------------

    def send(self, to: str, sender: str, message: Message) -> None:
        """Hand `message` to the peer that hosts `to`, or to the head when nobody is known to.

        It leaves at the end of the turn. What cannot be handed over is reported, not raised; a message that no
        process may send, or that cannot be encoded, is the sender's defect and raises `FleetError`.
        """
        peer = self._routes.get(to)
        if peer is not None:
            self._enqueue(peer, to, sender, message)
            return
        heads = self._membership.heads_for(to)
        for head in heads:
            self._enqueue(head, to, sender, message)
        if not heads:
            self._report(to, sender, message, "unreachable")

    def give_back(self, to: str, sender: str, message: Message) -> None:
        """What came from another node is for an address that nobody has here. Nothing is handed on: it goes back."""
        self._report(to, sender, message, "unreachable")

    def _enqueue(self, peer: Peer, to: str, sender: str, message: Message) -> None:
        if self._announce:
            self._tell_all()  # first: a sender that its peer does not know of would pass for a forgery
        self._outbox.append(peer, to, sender, message)
        if not self._in_turn:
            self._schedule_flush()

    def control(self, peer: Peer, message: Message) -> None:
        """Send a message from node to node."""
        self._outbox.control(peer, message)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._loop is not None and not self.closed:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        if not self.closed:
            self._guarded(self.flush)

    def flush(self, during: Channel | None = None) -> None:
        """Send what waits, as far as ZeroMQ takes it; `during` is the channel whose turn it is."""
        if self._announce:
            self._tell_all()
        if (
            self._outbox.dirty
            and not self._outbox.flush(during)
            and self._retry is None
            and self._loop is not None
        ):
            # The descriptor tells when a peer takes more; this is for the edge that something else swallowed.
            self._retry = self._loop.call_later(0.01, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        if not self.closed:
            self._guarded(self.flush)

    def _report(self, to: str, sender: str, message: Message, reason: str) -> None:
        """Tell the sender: it is here, or it is the peer that the message came from."""
        kind = reason.partition(":")[0]
        count(self.counters.undeliverable, kind)
        self._log.warn(f"undeliverable {kind}", "%s to %s: %s", type(message).__name__, text_of(to), reason)
        origin = self._routes.get(sender)
        if origin is not None and not origin.is_head:
            self.control(origin, Returned(to, sender, reason, message))
        elif self._receiver is not None:
            self._receiver.on_undeliverable(to, sender, message, reason)

    # --- receiving --------------------------------------------------------------------------------------

    def _guarded(self, step: Callable[[], None]) -> None:
        """A defect on the loop must end the run; asyncio alone would log it and go on."""
        try:
            step()
        except Exception as error:
            if self._receiver is None:
                raise
            self._receiver.on_error(error)

    def _turn(self, channel: Channel) -> None:
        self._in_turn = True
        try:
            self._drain(channel)
        except Exception as error:
            if self._receiver is None:
                raise
            self._receiver.on_error(error)
        finally:
            self._in_turn = False

    def _drain(self, channel: Channel) -> None:
        """Receive for a while, then send what came of it."""
        now = time.monotonic()
        until = now + self.options.turn_s
        for _ in range(self.options.turn_batches):
            frames = channel.receive()
            if frames is None:
                break
            if channel.routes:
                identity = frames.pop(0).bytes
                self._inbox.take(channel, identity, self._membership.by_identity.get(identity), frames, now)
            else:
                self._inbox.take(channel, b"", self._head_of[channel], frames, now)
            if self.closed or not channel.readable() or time.monotonic() > until:
                break
        if not self.closed:
            self.flush(during=channel)
            channel.recheck()

    # --- peers ------------------------------------------------------------------------------------------

    def on_joined(self, peer: Peer) -> None:
        """Membership found one."""
        if self._receiver is not None:
            self._receiver.on_peer_joined(peer)

    def on_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """Membership lost one: what waits for it goes back to its senders."""
        self._outbox.take_back(peer)
        if self._receiver is not None:
            self._receiver.on_peer_lost(peer, reason, expected=expected)

    def give_up(self, name: str, reason: str, *, expected: bool) -> bool:
        """Its process was seen to end: lose the peer now, not when its lease runs out. False when it is not a peer."""
        peer = self.peers.get(name)
        if peer is not None:
            self._membership.lose(peer, reason, expected=expected)
        return peer is not None

    def disown(self, peer: Peer, addresses: Iterable[str]) -> None:
        """Whatever this peer says, these addresses are not its own any more."""
        self._membership.disown(peer, addresses)

    def _on_beat(self) -> None:
        if self.closed or self._loop is None:
            return
        options = self.options.membership
        # A head grants no more than `max_lease_s`, whatever was asked for.
        now, beat_s = time.monotonic(), min(options.lease_s, options.max_lease_s) / 4
        late_s = now - self._beat_due_s
        self._guarded(lambda: self._membership.beat(now, late_s))
        self._count_connections()
        self._beat_due_s = now + beat_s
        self._beat = self._loop.call_later(beat_s, self._on_beat)

    def _count_connections(self) -> None:
        if self._authenticator is not None:
            self.counters.refused_keys = self._authenticator.refused
        self.counters.reconnects = sum(max(0, head.channel.handshakes - 1) for head in self._membership.heads)

    def _on_handshake_failure(self, reason: str) -> None:
        count(self.counters.handshake_failures, reason)
        self._count_connections()
        self._log.warn(f"handshake {reason}", "a connection failed before it began: %s", reason)

    # --- faults, end ------------------------------------------------------------------------------------

    def partition(self, peer: str, cut: bool = True) -> None:
        """Lose everything to and from a peer, by its name or an address that it hosts; or join it again."""
        self.drop(peer, 1.0 if cut else 0.0)

    def drop(self, peer: str, probability: float, rng: random.Random | None = None) -> None:
        """Lose batches to and from a peer with this probability; 0 ends it."""
        self._faults.drop(peer, probability, rng)

    async def aclose(self, reason: str = "done", *, in_order: bool = True) -> None:
        """Say Bye, give ZeroMQ a bounded time to take what waits, give back the rest, and close."""
        if self.closed:
            return
        for peer in list(self.peers.values()):
            self.control(peer, Bye(reason, in_order))
        until = time.monotonic() + self.options.socket.linger_ms / 1000
        self._guarded(self.flush)
        # ZeroMQ has no event for "all is sent".
        while any(peer.alive for peer in self._outbox.dirty) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for peer in self._outbox.dirty:
            self._outbox.take_back(peer)
        self._count_connections()
        self._shut()
        if self._authenticator is not None:
            await asyncio.to_thread(self._authenticator.stop)
        await asyncio.to_thread(self._context.term)

    def close(self) -> None:
        """Close a node that never ran; nothing is said."""
        if self.closed:
            return
        self._shut(linger_ms=0)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()

    def _shut(self, linger_ms: int | None = None) -> None:
        self.closed = True
        for handle in (self._retry, self._beat):
            if handle is not None:
                handle.cancel()
        for channel in self._channels():
            channel.close(linger_ms)
