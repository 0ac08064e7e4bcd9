"""What a node receives: frames become envelopes for its actors, or news of its peers.

The one thing to know: nothing that arrives is trusted. What does not decode, who has not said Hello, who speaks for an
actor that it does not host, and what its sender may not send (`rights.py`) is counted, logged with its sender, and
dropped. Whoever sends what no honest node does is not listened to any more.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from operator import itemgetter
from typing import Protocol

import zmq

from fleet.messages import BatchFinished, Message, Operate, Submit
from fleet.runtime.channel import Channel
from fleet.runtime.membership import Membership
from fleet.runtime.outbox import Faults, Outbox
from fleet.runtime.peers import NodeCounters, Peer, count
from fleet.runtime.rights import RIGHTS, refusal
from fleet.runtime.wire import HEAVY, NODE, Bye, Codec, Envelope, Hello, Refused, Returned, WireError, text_of
from traces.schema import Request

log = logging.getLogger("fleet.transport")

Frames = list[zmq.Frame]

_sender_of = itemgetter(1)

DEAF_TO = 4_096
"""Connections that are not listened to; of more, the oldest is forgotten."""


class Receiver(Protocol):
    """Whom a node reports to. All are called on the loop; none may block."""

    def deliver(self, envelopes: list[Envelope]) -> None:
        """A batch arrived."""

    def on_undeliverable(self, to: str, sender: str, message: Message, reason: str) -> None:
        """`reason` is one of those of `Undeliverable`; after a colon it has a detail."""

    def on_peer_joined(self, peer: Peer) -> None:
        """It said Hello for the first time, or again after it was lost."""

    def on_peer_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """It left, fell silent, or was replaced."""

    def on_refused(self, peer: Peer, reason: str) -> None:
        """A head does not want us."""

    def on_error(self, error: Exception) -> None:
        """A defect: the node cannot go on."""


class LimitedLog:
    """A log that says each kind of thing at most once a second; the counters have them all."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def warn(self, what: str, text: str, *arguments: object) -> None:
        """Say `text`, unless a `what` was just said."""
        now = time.monotonic()
        if now - self._said_s.get(what, -1.0) >= 1.0:
            self._said_s[what] = now
            log.warning(text, *arguments)


class Inbox:
    """The incoming half of a node."""

    def __init__(
        self,
        codec: Codec,
        membership: Membership,
        outbox: Outbox,
        *,
        counters: NodeCounters,
        faults: Faults,
        limited: LimitedLog,
        secure: bool,
    ) -> None:
        self.receiver: Receiver | None = None
        """Set when the node starts."""
        self._codec = codec
        self._membership = membership
        self._outbox = outbox
        self._counters = counters
        self._faults = faults
        self._log = limited
        self._secure = secure
        self._deaf_to: OrderedDict[bytes, None] = OrderedDict()

    def take(
        self, channel: Channel, identity: bytes, peer: Peer | None, frames: Frames, now_s: float
    ) -> None:
        """One ZeroMQ message from `identity`, which is `peer` if it has said Hello before."""
        if self._deaf_to and identity in self._deaf_to:
            return
        counters = self._counters
        counters.batches_in += 1
        counters.bytes_in += len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        if peer is not None and self._faults.active and self._faults.strike(peer):
            return
        try:
            envelopes = self._codec.decode(frames)
        except WireError as error:
            self._on_undecodable(error, identity, peer)
            if error.reason == HEAVY and channel.routes:
                self._drop(peer or self._membership.stranger(channel, identity, now_s), identity, str(error))
            return
        if not envelopes:
            return
        if envelopes[0][0] == NODE:
            peer = peer or self._membership.stranger(channel, identity, now_s)
            peer.last_heard_s = now_s
            if len(envelopes) == 1:
                self._on_control(peer, envelopes[0][2], frames[0])
            else:
                self._on_forged(peer)
        elif peer is None or not peer.alive:
            self._on_stranger(peer or self._membership.stranger(channel, identity, now_s))
        elif channel.routes and not peer.addresses.issuperset(map(_sender_of, envelopes)):
            self._on_forged(peer)
        else:
            peer.last_heard_s = now_s
            counters.messages_in += len(envelopes)
            if self.receiver is not None:
                self.receiver.deliver(self._admitted(peer, envelopes))

    def _on_undecodable(self, error: WireError, identity: bytes, peer: Peer | None) -> None:
        who = peer.name if peer is not None else text_of(identity)
        count(self._counters.undecodable, error.reason)
        self._counters.last_undecodable_from = who
        self._log.warn("undecodable", "dropped a message from %s: %s", who, error)

    def _drop(self, peer: Peer, identity: bytes, reason: str) -> None:
        """Hear nothing more from this connection, and say so once."""
        self._counters.dropped_peers += 1
        self._deaf_to[identity] = None
        if len(self._deaf_to) > DEAF_TO:
            self._deaf_to.popitem(last=False)
        if peer.alive:
            self._membership.lose(peer, reason, expected=False)
        self._outbox.control(peer, Refused(reason))

    def _admitted(self, peer: Peer, envelopes: list[Envelope]) -> list[Envelope]:
        """Those that their sender may send, and that hold what can be."""
        admitted, roles, head = [], peer.roles, peer.is_head
        for envelope in envelopes:
            to, sender, message = envelope
            why = refusal("head" if head else roles[sender], sender, to, message)
            if why is None:
                admitted.append(envelope)
            else:
                self._on_refused(peer, envelope, why)
        return admitted

    def _on_refused(self, peer: Peer, envelope: Envelope, why: str) -> None:
        to, sender, message = envelope
        kind = type(message).__name__
        count(self._counters.refused_messages, kind)
        self._log.warn(
            f"refused {kind}",
            "refused a %s from %s (%s) to %s: %s",
            kind,
            text_of(sender),
            peer,
            text_of(to),
            why,
        )
        known_by = _known_by(message)
        if known_by is not None and peer.roles.get(sender) == RIGHTS[type(message)].sender:
            self._outbox.control(peer, Returned(to, sender, f"refused: {why}", known_by))

    def _on_stranger(self, peer: Peer) -> None:
        """It was given up, or we are new: it must say Hello before we listen."""
        self._counters.strangers += 1
        self._log.warn("stranger", "dropped a message from %s: no Hello", text_of(peer.identity))
        self._outbox.control(peer, self._membership.hello(answer=True))

    def _on_forged(self, peer: Peer) -> None:
        if peer.disowned:  # it may not know yet that it is not who it was
            self._counters.strangers += 1
            return
        self._counters.forged += 1
        self._log.warn("forged", "%s sent in the name of an actor that it does not host", peer)

    def _on_control(self, peer: Peer, message: Message, body: zmq.Frame) -> None:
        if isinstance(message, Hello):
            if self._faults.active and self._faults.strike(peer, message):
                return
            self._membership.on_hello(peer, message, _key_of(body) if self._secure else None)
        elif isinstance(message, Refused) and peer.is_head:
            if self.receiver is not None:
                self.receiver.on_refused(peer, message.reason)
        elif not peer.alive:
            self._on_stranger(peer)
        elif isinstance(message, Bye):
            # What became of a head is told where it runs; to those it leaves it has ended.
            expected = message.in_order or peer.is_head
            self._membership.lose(peer, f"said goodbye: {text_of(message.reason, 300)}", expected=expected)
        elif not isinstance(message, Returned) or not peer.is_head:
            self._on_forged(peer)  # only a head refuses peers, and gives back what came to it
        elif self.receiver is not None:
            self.receiver.on_undeliverable(message.to, message.sender, message.message, message.reason)


def _known_by(message: Message) -> Message | None:
    """As much of a refused message as its sender needs to end what it is about; None where nothing waits for it."""
    if isinstance(message, Submit):
        return Submit(Request(message.request.id, 0.0), message.reply_to)
    if isinstance(message, Operate):
        return Operate(message.id, b"", message.reply_to)
    if isinstance(message, BatchFinished):
        error = None if message.error is None else text_of(message.error)
        return BatchFinished(message.replica, message.batch, 0.0, error=error, tickets=message.tickets)
    return None


def _key_of(frame: zmq.Frame) -> str | None:
    """The public key that the authenticator saw on this connection."""
    try:
        value = frame.get("User-Id")
    except zmq.ZMQError:
        return None
    return value if isinstance(value, str) else None
