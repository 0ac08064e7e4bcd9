"""What a node sends: one open batch for each peer, sealed when it leaves, kept in line while ZeroMQ takes no more.

Every message ends in one of two ways: ZeroMQ took it, or it was reported. Both bounds of the line are finite; what
does not fit any more is `overloaded` at once, while what waits keeps its order.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from msgspec import Struct

from fleet.actor import FleetError
from fleet.messages import Message, Streamed, TokensGenerated
from fleet.runtime.channel import Channel
from fleet.runtime.peers import NodeCounters, Peer
from fleet.runtime.wire import FLUSH_BYTES, NODE, SENDABLE, Batch, Codec, Envelope, Hello, TooLargeError

log = logging.getLogger("fleet.transport")

Report = Callable[[str, str, Message, str], None]
"""(to, sender, message, reason): a message could not be handed over. After a colon the reason has a detail."""


class OutboxOptions(Struct, frozen=True):
    """Bounds of what waits for one peer."""

    max_message_bytes: int = 32 << 20
    """Of one message, and of each tensor."""
    flush_bytes: int = FLUSH_BYTES
    """A batch leaves early when it has grown to this."""
    messages: int = 20_000
    bytes: int = 64 << 20
    """Beyond either of the two, what the peer's connection cannot take is `overloaded`."""


class Faults:
    """Injected network faults. A fault names a peer, or an address that a peer hosts."""

    def __init__(self, counters: NodeCounters) -> None:
        self.active: dict[str, tuple[float, random.Random]] = {}
        self._counters = counters

    def drop(self, peer: str, probability: float, rng: random.Random | None) -> None:
        """Lose batches to and from `peer` with this probability; 0 ends it."""
        if probability > 0.0:
            self.active[peer] = (probability, rng or random.Random())
        else:
            self.active.pop(peer, None)

    def strike(self, peer: Peer, hello: Hello | None = None) -> bool:
        """Whether this batch is lost. A peer that is not known yet is known by its Hello."""
        names = {peer.name, *peer.addresses, *((hello.name, *hello.addresses) if hello is not None else ())}
        for name, (probability, rng) in self.active.items():
            if name in names and (probability >= 1.0 or rng.random() < probability):
                self._counters.dropped_by_fault += 1
                return True
        return False


class Outbox:
    """The outgoing half of a node."""

    def __init__(
        self,
        name: str,
        options: OutboxOptions,
        codec: Codec,
        *,
        counters: NodeCounters,
        faults: Faults,
        report: Report,
    ) -> None:
        self.dirty: list[Peer] = []
        """Those for whom something waits."""
        self._name = name
        self._options = options
        self._codec = codec
        self._counters = counters
        self._faults = faults
        self._report = report

    def append(self, peer: Peer, to: str, sender: str, message: Message) -> None:
        """Put a message into the peer's open batch, or report it; a defect of the sender raises `FleetError`."""
        if type(message) not in SENDABLE:
            raise FleetError(
                f"{sender} sent {type(message).__name__} to {to}, but it may not leave its process"
            )
        if peer.lost:
            self._report(to, sender, message, "unreachable")
            return
        if peer.sealed and self._is_full(peer, message):
            self._report(to, sender, message, "overloaded")
            return
        batch = peer.open
        try:
            self._codec.append(batch, to, sender, message)
        except TooLargeError as error:
            log.error("%s to %s: %s", sender, to, error)
            self._report(to, sender, message, f"too-large: {error}")
            return
        if len(batch.buffer) + batch.tensor_bytes >= self._options.flush_bytes:
            self._send(peer)
        if not peer.dirty:
            peer.dirty = True
            self.dirty.append(peer)

    def _is_full(self, peer: Peer, message: Message) -> bool:
        """Streamed tokens get half of the line: the answer that makes up for lost ones must find room."""
        share = 2 if isinstance(message, Streamed | TokensGenerated) else 1
        return peer.is_full(self._options.messages // share, self._options.bytes // share)

    def control(self, peer: Peer, message: Message) -> None:
        """Put a message from node to node in line, alone in its batch."""
        if peer.is_full(self._options.messages, self._options.bytes):
            return
        peer.seal()
        self._codec.append(peer.open, NODE, self._name, message)
        peer.seal()
        if not peer.dirty:
            peer.dirty = True
            self.dirty.append(peer)

    def flush(self, during: Channel | None) -> bool:
        """Send what waits, as far as ZeroMQ takes it; False when something still waits.

        A send may swallow the news of what came in, so each channel is looked at again, except the one whose turn
        it is: that looks after itself.
        """
        dirty, self.dirty = self.dirty, []
        for peer in dirty:
            peer.dirty = False
            self._send(peer)
            if peer.sealed:
                peer.dirty = True
                self.dirty.append(peer)
            if peer.channel is not during:
                peer.channel.recheck()
        return not self.dirty

    def _send(self, peer: Peer) -> None:
        if not peer.sealed and not self._faults.active and peer.open.count:
            # Nearly always: nothing is in line, and the open batch leaves as it is.
            batch = peer.open
            if peer.channel.send(peer.identity, batch.seal()) == "sent":
                peer.open = Batch()
                self._count(batch)
                return
        peer.seal()
        while peer.sealed:
            batch = peer.sealed[0]
            if self._faults.active and not batch.spared and self._faults.strike(peer):
                peer.pop()
                continue
            batch.spared = True
            sent = peer.channel.send(peer.identity, batch.seal())
            if sent == "full":
                return
            peer.pop()
            if sent == "unreachable":
                self._give_back(self._returned(batch))
            else:
                self._count(batch)

    def _count(self, batch: Batch) -> None:
        counters = self._counters
        counters.batches_out += 1
        counters.messages_out += batch.count
        counters.bytes_out += batch.size_bytes

    def take_back(self, peer: Peer) -> None:
        """Report all that waits for a peer that is gone, oldest first; nothing waits afterwards."""
        peer.seal()
        envelopes: list[Envelope] = []
        while peer.sealed:
            envelopes.extend(self._returned(peer.sealed[0]))
            peer.pop()
        self._give_back(envelopes)

    def _returned(self, batch: Batch) -> list[Envelope]:
        """What actors sent in a batch. Decoding it again is rare; keeping every message would not be."""
        return [envelope for envelope in self._codec.decode(batch.seal()) if envelope[0] != NODE]

    def _give_back(self, envelopes: list[Envelope]) -> None:
        for to, sender, message in envelopes:
            self._report(to, sender, message, "unreachable")
