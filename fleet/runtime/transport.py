"""One `Node` per process: everything that crosses a process boundary goes through it.

A star: the head binds a ROUTER; everyone else connects outward with a DEALER, to every head. A node says `Hello`
several times a lease with the addresses that it hosts, which is how others know where to send; a peer that is silent
for a lease is lost. What a node does not know goes to its head.

The one thing to know: messages to a peer are *coalesced*. They are encoded into the peer's open batch when they are
sent, and the batch leaves when the loop's turn ends, or when it is full. A busy node so pays ZeroMQ once for many
messages; an idle one waits for nothing.

A message that `send` accepts is handed to ZeroMQ, or reported to the receiver as undeliverable. Handed over is not
received: what was under way to a process that dies is lost, and the lease tells of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Protocol

import zmq
from msgspec import Struct

from fleet.actor import FleetError
from fleet.messages import Message
from fleet.runtime.channel import Channel, SocketOptions
from fleet.runtime.peers import Fault, NodeCounters, Peer, count
from fleet.runtime.security import Authenticator, Security, permits, require_keys
from fleet.runtime.wire import (
    NODE,
    SENDABLE,
    Bye,
    Codec,
    Envelope,
    Hello,
    Refused,
    Returned,
    TooLargeError,
    WireError,
    text_of,
)  # fmt: skip

log = logging.getLogger("fleet.transport")

_sender_of = itemgetter(1)


class NodeOptions(Struct, frozen=True):
    """Bounds and rhythms. No queue is unbounded."""

    lease_s: float = 3.0
    """A peer that is silent for so long is lost."""
    connect_timeout_s: float = 10.0
    """How long a head may take to answer the first Hello."""
    max_message_bytes: int = 32 << 20
    flush_bytes: int = 65_536
    """A batch leaves early when it has grown to this."""
    outbox_messages: int = 20_000
    """Beyond either bound, what a peer cannot take is `overloaded`."""
    outbox_bytes: int = 64 << 20
    turn_batches: int = 64
    """Received in one turn of the loop, before others have theirs."""
    turn_s: float = 0.004
    max_peers: int = 4_096
    socket: SocketOptions = SocketOptions()


class Receiver(Protocol):
    """Whom a node reports to. All are called on the loop, none may block."""

    def deliver(self, envelopes: list[Envelope]) -> None:
        """A batch arrived."""

    def on_undeliverable(self, to: str, sender: str, message: Message, reason: str) -> None:
        """`reason` is "unreachable" or "overloaded"."""

    def on_peer_joined(self, peer: Peer) -> None:
        """It said Hello for the first time (or again after it was lost)."""

    def on_peer_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """It left, fell silent, or was replaced."""

    def on_refused(self, peer: Peer, reason: str) -> None:
        """A head does not want us."""

    def on_error(self, error: Exception) -> None:
        """A defect: the node cannot go on."""


class Node:
    """This process's place in the fleet."""

    def __init__(
        self,
        name: str,
        *,
        options: NodeOptions = NodeOptions(),
        security: Security | None = None,
        insecure: bool = False,
        incarnation: int | None = None,
    ) -> None:
        if not name:
            raise FleetError("a node needs a name")
        self.name = name
        self.options = options
        self.incarnation = time.time_ns() if incarnation is None else incarnation
        # Whoever knows an identity can take over its connection (ROUTER_HANDOVER), so it must not be guessable.
        self.identity = f"{name[:200]}~{secrets.token_hex(16)}".encode()
        self.counters = NodeCounters()
        self.peers: dict[str, Peer] = {}
        """By name; those that are alive."""
        self._security = security
        self._insecure = insecure
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator: Authenticator | None = None
        self._codec = Codec(options.max_message_bytes)
        self._router: Channel | None = None
        self._links: list[Peer] = []
        self._by_channel: dict[Channel, Peer] = {}
        self._by_identity: dict[bytes, Peer] = {}
        self._routes: dict[str, Peer] = {}
        self._hosted: dict[str, None] = {}
        self._groups: dict[str, None] = {}
        self._dirty: list[Peer] = []
        self._faults: dict[str, Fault] = {}
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_turn = False
        self._flush_scheduled = False
        self._announce = False
        self._retry: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._beat_due_s = 0.0
        self._logged: dict[str, float] = {}
        self.closed = False

    # --- wiring ------------------------------------------------------------------------------------------

    def bind(self, endpoint: str) -> str:
        """Listen, as a head does; the endpoint with the port that was chosen."""
        require_keys(endpoint, self._security, insecure=self._insecure)
        if self._router is not None:
            raise FleetError(f"{self.name} listens already")
        if self._security is not None and self._authenticator is None:
            self._authenticator = Authenticator(self._context, self._security.allow)
        channel = self._open(zmq.ROUTER, serve=True)
        try:
            bound = channel.bind(endpoint)
        except zmq.ZMQError as error:
            channel.close()
            raise FleetError(f"cannot listen on {endpoint}: {error}") from None
        self._router = channel
        return bound

    def connect(self, endpoint: str, *, server_key: str | None = None) -> None:
        """Join the head at `endpoint`, now or whenever it comes up."""
        security = self._security
        require_keys(endpoint, security, insecure=self._insecure)
        if security is not None and server_key is not None:
            security = Security(security.keys, security.allow, server_key)
        if security is not None and security.server_key is None:
            raise FleetError(
                f"the public key of the head at {endpoint} is needed to know that it is the head"
            )
        channel = self._open(zmq.DEALER, serve=False, security=security)
        try:
            channel.connect(endpoint)
        except zmq.ZMQError as error:
            channel.close()
            raise FleetError(f"cannot connect to {endpoint}: {error}") from None
        peer = Peer(channel, b"", endpoint, self.options.connect_timeout_s, time.monotonic())
        self._links.append(peer)
        self._by_channel[channel] = peer
        self._control(peer, self._hello(answer=True))

    def _open(self, kind: int, *, serve: bool, security: Security | None = None) -> Channel:
        options = self.options.socket
        bound = self.options.max_message_bytes + 2 * self.options.flush_bytes
        if options.max_frame_bytes < bound:
            raise FleetError(
                f"max_frame_bytes must be at least {bound}, or peers would refuse what we may send"
            )
        channel = Channel(self._context, kind, options, self.identity, self._turn)
        security = security or self._security
        if security is not None:
            channel.secure(security, serve=serve)
        channel.watch()
        if self._loop is not None:
            channel.start(self._loop, self._on_handshake_failure)
        return channel

    def start(self, receiver: Receiver) -> None:
        """Begin to receive, on the running loop."""
        self._receiver = receiver
        self._loop = loop = asyncio.get_running_loop()
        now = time.monotonic()
        for peer in self._links:
            peer.last_heard_s = now
        for channel in self._channels():
            channel.start(loop, self._on_handshake_failure)
        self._beat_due_s = now
        self._on_beat()

    def _channels(self) -> list[Channel]:
        return [*([self._router] if self._router else []), *(peer.channel for peer in self._links)]

    def host(self, address: str) -> None:
        """Tell the others that messages to `address` come here."""
        self._hosted[address] = None
        self._announce_soon()

    def unhost(self, address: str) -> None:
        """No longer."""
        self._hosted.pop(address, None)
        self._announce_soon()

    def host_group(self, group: str) -> None:
        """Tell the others that this node fans out messages to `group`."""
        self._groups[group] = None
        self._announce_soon()

    def _announce_soon(self) -> None:
        self._announce = True
        self._schedule_flush()

    # --- sending -----------------------------------------------------------------------------------------

    def send(self, to: str, sender: str, message: Message) -> None:
        """Hand `message` to the peer that hosts `to`, or to the head when nobody is known to.

        It leaves at the end of the turn. What cannot be handed over is reported, not raised; a message that no
        process may send, or that cannot be encoded, is the sender's defect and raises `FleetError`.
        """
        peer = self._routes.get(to)
        if peer is None:
            heads = self._heads_of(to)
            if not heads:
                self._report(to, sender, message, "unreachable")
                return
            for head in heads:
                self._enqueue(head, to, sender, message)
            return
        self._enqueue(peer, to, sender, message)

    def relay(self, to: str, sender: str, message: Message) -> None:
        """Hand on a message that came from another node; only a head does, and only to where `to` is known to be."""
        peer = self._routes.get(to)
        if peer is None or self._router is None:
            self._report(to, sender, message, "unreachable")
        else:
            self._enqueue(peer, to, sender, message)

    def _heads_of(self, to: str) -> list[Peer]:
        """Every head that fans out this group, else the first."""
        return [peer for peer in self._links if to in peer.groups] or self._links[:1]

    def _enqueue(self, peer: Peer, to: str, sender: str, message: Message) -> None:
        if type(message) not in SENDABLE:
            raise FleetError(
                f"{sender} sent {type(message).__name__} to {to}, but it may not leave its process"
            )
        options = self.options
        if peer.sealed and (
            peer.waiting_messages + peer.open.count >= options.outbox_messages
            or peer.waiting_bytes + peer.open.size_bytes >= options.outbox_bytes
        ):
            self._report(to, sender, message, "overloaded")
            return
        batch = peer.open
        try:
            self._codec.append(batch, to, sender, message)
        except TooLargeError as error:
            self._say("too large", logging.ERROR, "%s", error)
            self._report(to, sender, message, "overloaded")
            return
        if len(batch.buffer) + batch.tensor_bytes >= options.flush_bytes:
            peer.seal()
            self._flush_peer(peer)
        if not peer.dirty:
            peer.dirty = True
            self._dirty.append(peer)
            if not self._in_turn:
                self._schedule_flush()

    def _control(self, peer: Peer, message: Message) -> None:
        """A message from node to node, alone in its batch."""
        peer.seal()
        self._codec.append(peer.open, NODE, self.name, message)
        peer.seal()
        if not peer.dirty:
            peer.dirty = True
            self._dirty.append(peer)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._loop is not None and not self.closed:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        if not self.closed:
            self._guarded(self.flush)

    def flush(self) -> None:
        """Send what waits, as far as ZeroMQ takes it."""
        if self._announce:
            self._announce = False
            for peer in self.peers.values():
                self._control(peer, self._hello())
        dirty, self._dirty = self._dirty, []
        blocked = False
        for peer in dirty:
            peer.seal()
            self._flush_peer(peer)
            peer.dirty = bool(peer.sealed)
            if peer.sealed:
                self._dirty.append(peer)
                blocked = True
        for channel in {peer.channel for peer in dirty}:
            channel.recheck()
        if blocked and self._retry is None and self._loop is not None:
            # The descriptor tells when a peer takes more; the timer is there for the edge that was swallowed.
            self._retry = self._loop.call_later(0.01, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        if not self.closed:
            self._guarded(self.flush)

    def _flush_peer(self, peer: Peer) -> None:
        counters = self.counters
        while peer.sealed:
            batch = peer.sealed[0]
            if self._faults and self._struck(peer):
                peer.pop()
                continue
            sent = peer.channel.send(peer.identity, batch.seal())
            if sent == "full":
                return
            peer.pop()
            if sent == "unreachable":
                self._give_back(self._codec.decode(batch.seal()), "unreachable")
                continue
            counters.batches_out += 1
            counters.messages_out += batch.count
            counters.bytes_out += batch.size_bytes

    def _give_back(self, envelopes: Sequence[Envelope], reason: str) -> None:
        for to, sender, message in envelopes:
            if to != NODE:
                self._report(to, sender, message, reason)

    def _report(self, to: str, sender: str, message: Message, reason: str) -> None:
        """To the sender: it is here, or with a peer whose message we relayed."""
        count(self.counters.undeliverable, reason)
        self._say(
            f"undeliverable {reason}", logging.WARNING, "%s to %s: %s", type(message).__name__, to, reason
        )
        origin = self._routes.get(sender)
        if sender not in self._hosted and origin is not None and origin.alive and to != NODE:
            self._control(origin, Returned(to, sender, reason, message))
        elif self._receiver is not None:
            self._receiver.on_undeliverable(to, sender, message, reason)

    # --- receiving ---------------------------------------------------------------------------------------

    def _guarded(self, step: object, *arguments: object) -> None:
        """A defect on the loop must end the run; asyncio alone would log it and go on."""
        try:
            step(*arguments)  # type: ignore[operator]
        except Exception as error:
            if self._receiver is None:
                raise
            self._receiver.on_error(error)

    def _turn(self, channel: Channel) -> None:
        self._in_turn = True
        try:
            self._drain(channel)
            self.flush()
            channel.recheck()
        except Exception as error:
            if self._receiver is None:
                raise
            self._receiver.on_error(error)
        finally:
            self._in_turn = False

    def _drain(self, channel: Channel) -> None:
        now = time.monotonic()
        until = now + self.options.turn_s
        for _ in range(self.options.turn_batches):
            frames = channel.receive()
            if frames is None or self.closed:
                return
            if channel.routes:
                identity = frames.pop(0).bytes
                self._on_frames(channel, identity, self._by_identity.get(identity), frames, now)
            else:
                self._on_frames(channel, b"", self._by_channel[channel], frames, now)
            if time.monotonic() > until:
                break
        channel.schedule()

    def _on_frames(
        self, channel: Channel, identity: bytes, peer: Peer | None, frames: list[zmq.Frame], now_s: float
    ) -> None:
        counters = self.counters
        counters.batches_in += 1
        counters.bytes_in += sum(map(len, frames))
        try:
            envelopes = self._codec.decode(frames)
        except WireError as error:
            self._on_undecodable(error, identity, peer)
            return
        if peer is not None:
            if self._faults and self._struck(peer):
                return
            peer.last_heard_s = now_s
        if not envelopes:
            return
        if envelopes[0][0] == NODE:
            self._on_control(channel, identity, peer, envelopes[0][2], frames[0], now_s)
        elif peer is None or not peer.alive:
            self._on_stranger(channel, identity, peer, now_s)
        elif channel.routes and not peer.addresses.issuperset(map(_sender_of, envelopes)):
            counters.forged += 1
            self._say(
                "forged", logging.WARNING, "%s sent in the name of an actor that it does not host", peer
            )
        else:
            counters.messages_in += len(envelopes)
            assert self._receiver is not None
            self._receiver.deliver(envelopes)

    def _on_undecodable(self, error: WireError, identity: bytes, peer: Peer | None) -> None:
        who = peer.name if peer is not None else text_of(identity)
        count(self.counters.undecodable, error.reason)
        self.counters.last_undecodable_from = who
        self._say("undecodable", logging.WARNING, "dropped a message from %s: %s", who, error)

    def _on_stranger(self, channel: Channel, identity: bytes, peer: Peer | None, now_s: float) -> None:
        """It was given up, or we are new: it must say Hello before we listen."""
        self.counters.strangers += 1
        self._say("stranger", logging.WARNING, "dropped a message from %s: no Hello", text_of(identity))
        stranger = peer or Peer(channel, identity, "", 0.0, now_s)
        self._control(stranger, self._hello(answer=True))

    # --- peers -------------------------------------------------------------------------------------------

    def _hello(self, *, answer: bool = False) -> Hello:
        return Hello(
            self.name,
            self.incarnation,
            tuple(self._hosted),
            tuple(self._groups),
            self.options.lease_s,
            answer,
        )

    def _on_control(
        self,
        channel: Channel,
        identity: bytes,
        peer: Peer | None,
        message: Message,
        body: zmq.Frame,
        now_s: float,
    ) -> None:
        assert self._receiver is not None
        if isinstance(message, Hello):
            self._on_hello(channel, identity, peer, message, body, now_s)
        elif peer is None or (not peer.alive and not isinstance(message, Refused)):
            self._on_stranger(channel, identity, peer, now_s)
        elif isinstance(message, Bye):
            self._lose(peer, f"said goodbye: {message.reason}", expected=True)
        elif isinstance(message, Refused) and not channel.routes:
            self._receiver.on_refused(peer, message.reason)
        elif isinstance(message, Returned):
            self._receiver.on_undeliverable(message.to, message.sender, message.message, message.reason)

    def _on_hello(
        self,
        channel: Channel,
        identity: bytes,
        peer: Peer | None,
        hello: Hello,
        body: zmq.Frame,
        now_s: float,
    ) -> None:
        key = _key_of(body) if self._security is not None else None
        if peer is None:
            peer = Peer(channel, identity, hello.name, hello.lease_s, now_s)
        before = self.peers.get(hello.name)
        refusal = self._refusal(peer, before, hello, key)
        if refusal is not None:
            kind, reason = refusal
            count(self.counters.refused, kind)
            self._say(f"refused {kind}", logging.WARNING, "refused %s: %s", hello.name, reason)
            self._control(peer, Refused(reason))
            return
        if before is not None and before is not peer:
            self.counters.handovers += 1
            self._lose(before, "replaced by a newer incarnation", expected=False)
        if peer.alive and peer.incarnation != hello.incarnation:
            self._lose(peer, "restarted", expected=False)
        news = not peer.alive
        for address in peer.addresses:
            self._routes.pop(address, None)
        peer.adopt(hello, key)
        for address in peer.addresses:
            self._routes[address] = peer
        self.peers[peer.name] = peer
        if channel.routes:
            self._by_identity[identity] = peer
        if news:
            self.counters.peers_joined += 1
            log.info("%s joined with %s", peer.name, sorted(peer.addresses))
        if news or hello.answer:
            self._control(peer, self._hello())
        if news and self._receiver is not None:
            self._receiver.on_peer_joined(peer)

    def _refusal(
        self, peer: Peer, before: Peer | None, hello: Hello, key: str | None
    ) -> tuple[str, str] | None:
        """Why this Hello is not believed: (word for counting, sentence for its sender)."""
        if not hello.name or NODE in hello.addresses or not hello.lease_s > 0:
            return "malformed", "a name, addresses and a lease are needed"
        if peer.channel.routes and self._security is not None:
            rule = self._security.allow.rule(key)
            denial = (
                "this key is not on the list" if rule is None else permits(rule, hello.name, hello.addresses)
            )
            if denial is not None:
                return "name", denial
        if before is None and len(self.peers) >= self.options.max_peers:
            return "full", f"already {len(self.peers)} peers"
        if before is not None and before is not peer and hello.incarnation <= before.incarnation:
            return "stale", f"a newer incarnation of {hello.name!r} is here"
        for address in hello.addresses:
            owner = self._routes.get(address)
            if address in self._hosted or (owner is not None and owner is not peer and owner is not before):
                return "address", f"{address!r} is hosted by {owner.name if owner else self.name!r}"
        return None

    def _lose(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """Forget where it was, give back what waited for it, and tell."""
        was_alive, peer.alive = peer.alive, False
        for address in peer.addresses:
            if self._routes.get(address) is peer:
                del self._routes[address]
        if self.peers.get(peer.name) is peer:
            del self.peers[peer.name]
        self._by_identity.pop(peer.identity, None)
        waiting = peer.take_back(self._codec)
        self._give_back(waiting, "unreachable")
        if was_alive:
            self.counters.peers_lost += 1
        log.log(logging.INFO if expected else logging.WARNING, "lost %s: %s", peer.name, reason)
        if self._receiver is not None:
            self._receiver.on_peer_lost(peer, reason, expected=expected)

    def _on_beat(self) -> None:
        """Several times a lease: say Hello, and look for peers that have not."""
        if self.closed or self._loop is None:
            return
        beat_s = self.options.lease_s / 4
        now = time.monotonic()
        late_s = now - self._beat_due_s
        self._guarded(self._beat_once, now, late_s, beat_s)
        self._beat_due_s = now + beat_s
        self._beat = self._loop.call_later(beat_s, self._on_beat)

    def _beat_once(self, now_s: float, late_s: float, beat_s: float) -> None:
        for peer in {id(peer): peer for peer in (*self.peers.values(), *self._links)}.values():
            if late_s > beat_s:
                # This process itself was stopped: what the others said in the meantime is still in the queue.
                peer.last_heard_s += late_s
            if now_s - peer.last_heard_s > peer.lease_s:
                if peer.alive or peer in self._links:
                    peer.last_heard_s = now_s
                    self._lose(peer, f"silent for {peer.lease_s:g} s", expected=False)
            if (peer.alive or peer in self._links) and not peer.sealed:
                self._control(peer, self._hello(answer=not peer.alive))
        if self._authenticator is not None:
            self.counters.refused_keys = self._authenticator.refused
        self.counters.reconnects = sum(max(0, peer.channel.handshakes - 1) for peer in self._links)

    def _on_handshake_failure(self, reason: str) -> None:
        count(self.counters.handshake_failures, reason)
        if self._authenticator is not None:
            self.counters.refused_keys = self._authenticator.refused
        self._say(f"handshake {reason}", logging.WARNING, "a connection failed before it began: %s", reason)

    # --- faults, logging, end ----------------------------------------------------------------------------

    def partition(self, peer: str, cut: bool = True) -> None:
        """Lose everything to and from the peer of this name, or join it again."""
        self.drop(peer, 1.0 if cut else 0.0)

    def drop(self, peer: str, probability: float, rng: random.Random | None = None) -> None:
        """Lose batches to and from this peer with this probability; 0 ends it."""
        if probability > 0.0:
            self._faults[peer] = Fault(probability, rng if probability < 1.0 else None)
        else:
            self._faults.pop(peer, None)

    def _struck(self, peer: Peer) -> bool:
        fault = self._faults.get(peer.name)
        if fault is None or not fault.strikes():
            return False
        self.counters.dropped_by_fault += 1
        return True

    def _say(self, what: str, level: int, text: str, *arguments: object) -> None:
        """Log, at most once a second for each kind of event; the counters have them all."""
        now = time.monotonic()
        if now - self._logged.get(what, -1.0) >= 1.0:
            self._logged[what] = now
            log.log(level, text, *arguments)

    async def aclose(self, reason: str = "done") -> None:
        """Say Bye, give ZeroMQ a bounded time to send what it has, and close."""
        if self.closed:
            return
        for peer in list(self.peers.values()):
            self._control(peer, Bye(reason))
        until = time.monotonic() + self.options.socket.linger_ms / 1000
        self._guarded(self.flush)
        while self._dirty and time.monotonic() < until:
            await asyncio.sleep(0.005)
        self.closed = True
        for handle in (self._retry, self._beat):
            if handle is not None:
                handle.cancel()
        for peer in self._dirty:
            self._give_back(peer.take_back(self._codec), "unreachable")
        for channel in self._channels():
            channel.close()
        if self._authenticator is not None:
            await asyncio.to_thread(self._authenticator.stop)
        await asyncio.to_thread(self._context.term)

    def close(self) -> None:
        """Close a node that was never started (or whose loop is gone); nothing is said."""
        if not self.closed:
            self.closed = True
            for channel in self._channels():
                channel.socket.setsockopt(zmq.LINGER, 0)
                channel.close()
            if self._authenticator is not None:
                self._authenticator.stop()
            self._context.term()


def _key_of(frame: zmq.Frame) -> str | None:
    """The public key that the authenticator saw on this connection."""
    try:
        value = frame.get("User-Id")
    except zmq.ZMQError:
        return None
    return value if isinstance(value, str) else None
