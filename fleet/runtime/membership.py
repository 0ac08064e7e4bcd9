"""Who is in the star: Hello, leases, and which peer hosts which address.

The one thing to know: a name belongs to one process at a time, the one with the largest incarnation. A process
that was stopped, given up and replaced cannot come back and answer for its successor.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Protocol

from msgspec import Struct

from fleet.messages import Message
from fleet.runtime.channel import Channel
from fleet.runtime.peers import NodeCounters, Peer, count
from fleet.runtime.security import AllowList, permits
from fleet.runtime.wire import NODE, Hello, Refused

log = logging.getLogger("fleet.transport")

MAX_LEASE_S = 3_600.0
MAX_ADDRESSES = 4_096


class MembershipOptions(Struct, frozen=True):
    """Rhythms and bounds."""

    lease_s: float = 3.0
    """A peer that is silent for so long is lost."""
    connect_timeout_s: float = 10.0
    """How long a head may take to answer the first Hello."""
    max_peers: int = 4_096


class Events(Protocol):
    """What membership asks of its node."""

    def control(self, peer: Peer, message: Message) -> None:
        """Send a message from node to node."""

    def on_joined(self, peer: Peer) -> None:
        """A peer came, or came back."""

    def on_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """A peer is gone; what waits for it must be given back."""


class Membership:
    """The table of peers of one node."""

    def __init__(
        self,
        name: str,
        incarnation: int,
        *,
        options: MembershipOptions,
        allow: AllowList | None,
        counters: NodeCounters,
        events: Events,
    ) -> None:
        self.name = name
        self.incarnation = incarnation
        self.options = options
        self.peers: dict[str, Peer] = {}
        """Those that are alive, by name."""
        self.heads: list[Peer] = []
        """Those that we connected to, alive or not."""
        self.routes: dict[str, Peer] = {}
        """Where an address is hosted."""
        self.by_identity: dict[bytes, Peer] = {}
        """Those that connected to us; the lost stay for a while, so that they are known when they come back."""
        self.hosted: dict[str, None] = {}
        self.groups: dict[str, None] = {}
        self._allow = allow
        self._counters = counters
        self._events = events

    def hello(self, *, answer: bool = False) -> Hello:
        """Who we are now."""
        return Hello(
            self.name, self.incarnation, tuple(self.hosted), tuple(self.groups), self.options.lease_s, answer
        )

    def heads_for(self, address: str) -> list[Peer]:
        """Where to send what nobody is known to host: every head that fans out this group, else one head."""
        heads = [head for head in self.heads if address in head.groups]
        if not heads and self.heads:
            heads = [next((head for head in self.heads if head.alive), self.heads[0])]
        return heads

    # --- coming -----------------------------------------------------------------------------------------

    def on_hello(self, peer: Peer, hello: Hello, key: str | None) -> None:
        """Believe it and learn its addresses, or refuse it."""
        before = self.peers.get(hello.name)
        refusal = self._refusal(peer, before, hello, key)
        if refusal is not None:
            kind, reason = refusal
            if count(self._counters.refused, kind) == 1:
                log.warning("refused %s: %s", hello.name, reason)
            if not peer.is_head:
                self._events.control(peer, Refused(reason))
            return
        if before is not None and before is not peer:
            self._counters.handovers += 1
            self.lose(before, "replaced by a newer incarnation", expected=False)
        if peer.alive and peer.incarnation != hello.incarnation:
            self.lose(peer, "restarted", expected=False)
        news = not peer.alive
        self._learn(peer, hello, key)
        if news or hello.answer:
            self._events.control(peer, self.hello())
        if news:
            self._counters.peers_joined += 1
            log.info("%s joined with %s", peer.name, sorted(peer.addresses))
            self._events.on_joined(peer)

    def _learn(self, peer: Peer, hello: Hello, key: str | None) -> None:
        known = peer.alive and peer.name == hello.name
        if known and peer.addresses == frozenset(hello.addresses) - peer.disowned:
            peer.adopt(hello, key)
            return
        self._forget_routes(peer)
        peer.adopt(hello, key)
        for address in peer.addresses:
            self.routes[address] = peer
        self.peers[peer.name] = peer
        if not peer.is_head:
            self.by_identity[peer.identity] = peer
            self._prune()

    def _refusal(
        self, peer: Peer, before: Peer | None, hello: Hello, key: str | None
    ) -> tuple[str, str] | None:
        """Why this Hello is not believed: a word for counting, and a sentence for its sender."""
        lease_is_sane = math.isfinite(hello.lease_s) and 0.0 < hello.lease_s <= MAX_LEASE_S
        if (
            not lease_is_sane
            or not hello.name
            or NODE in hello.addresses
            or len(hello.addresses) > MAX_ADDRESSES
        ):
            return "malformed", f"a Hello of {hello.name!r} with a lease of {hello.lease_s} s"
        if peer.alive and peer.name != hello.name:
            return "name", f"this connection is {peer.name!r}"
        if not peer.is_head and self._allow is not None:
            rule = self._allow.rule(key)
            denial = (
                "this key is not on the list" if rule is None else permits(rule, hello.name, hello.addresses)
            )
            if denial is not None:
                return "name", denial
        if before is None and len(self.peers) >= self.options.max_peers:
            return "full", f"already {len(self.peers)} peers"
        if before is not None and before is not peer and hello.incarnation <= before.incarnation:
            return "stale", f"a newer incarnation of {hello.name!r} is here"
        return self._conflict(peer, before, hello)

    def _conflict(self, peer: Peer, before: Peer | None, hello: Hello) -> tuple[str, str] | None:
        for address in [item for item in hello.addresses if item not in peer.disowned]:
            owner = self.routes.get(address)
            if address in self.hosted:
                return "address", f"{address!r} is hosted by {self.name!r}"
            if owner is not None and owner is not peer and owner is not before:
                return "address", f"{address!r} is hosted by {owner.name!r}"
        return None

    def _prune(self) -> None:
        """Forget the oldest of those that are gone; their number is bounded like that of the living."""
        if len(self.by_identity) > 2 * self.options.max_peers:
            for identity in [key for key, peer in self.by_identity.items() if not peer.alive][:64]:
                del self.by_identity[identity]

    # --- going ------------------------------------------------------------------------------------------

    def lose(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """Forget where it was, and tell."""
        was_alive, peer.alive, peer.lost = peer.alive, False, True
        self._forget_routes(peer)
        if self.peers.get(peer.name) is peer:
            del self.peers[peer.name]
        if peer.is_head:
            peer.lease_s = self.options.connect_timeout_s
        if was_alive:
            self._counters.peers_lost += 1
        log.log(logging.INFO if expected else logging.WARNING, "lost %s: %s", peer.name, reason)
        self._events.on_lost(peer, reason, expected=expected)

    def disown(self, peer: Peer, addresses: Iterable[str]) -> None:
        """Whatever it says, these are not its own any more: others may host them."""
        self._forget_routes(peer)
        peer.disowned |= frozenset(addresses)
        peer.addresses -= peer.disowned
        for address in peer.addresses:
            self.routes[address] = peer

    def _forget_routes(self, peer: Peer) -> None:
        for address in peer.addresses:
            if self.routes.get(address) is peer:
                del self.routes[address]

    def beat(self, now_s: float, late_s: float) -> None:
        """Several times a lease: give up those that are silent, and say Hello to the others.

        `late_s` is how late this call is. If this process itself stood still, what its peers said in the
        meantime has not been read yet, and their silence is ours.
        """
        stood_still = late_s > self.options.lease_s / 4
        for peer in list(self.everyone()):
            if stood_still:
                peer.last_heard_s += late_s
            if now_s - peer.last_heard_s > peer.lease_s:
                peer.last_heard_s = now_s
                what = "silent" if peer.alive else "no answer"
                self.lose(peer, f"{what} for {peer.lease_s:g} s", expected=False)
            # When something waits already, the other side is not reading, and one more Hello would not help.
            if (peer.alive or peer.is_head) and not peer.sealed:
                self._events.control(peer, self.hello(answer=not peer.alive))

    def everyone(self) -> Iterator[Peer]:
        """Those that we listen to, and the heads that we hope for."""
        yield from (peer for peer in self.peers.values() if not peer.is_head)
        yield from self.heads

    def stranger(self, channel: Channel, identity: bytes, now_s: float) -> Peer:
        """Someone who has not said Hello; not in the table until it has."""
        return Peer(channel, identity, "", self.options.lease_s, now_s)
