"""Who is in the star: Hello, leases, and which peer hosts which address.

The one thing to know: a name belongs to one process at a time, the one with the largest incarnation. A process
that was stopped, given up and replaced cannot come back and answer for its successor. With keys the name, and the
address of a host, a client or an operator, belong to the key that came with them first, also while nobody uses them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from msgspec import Struct

from fleet.messages import Message
from fleet.runtime.channel import Channel
from fleet.runtime.peers import NodeCounters, Peer, count
from fleet.runtime.rights import role_of
from fleet.runtime.security import AllowList, Owners, permits
from fleet.runtime.wire import Hello, Refused, text_of

log = logging.getLogger("fleet.transport")

MAX_NAME = 255
MAX_ADDRESSES = 256
MAX_GROUPS = 16

Refusal = tuple[str, str]
"""A word for counting, and a sentence for whoever was refused."""


class MembershipOptions(Struct, frozen=True):
    """Rhythms and bounds."""

    lease_s: float = 3.0
    """A peer that is silent for so long is lost."""
    connect_timeout_s: float = 10.0
    """How long a head may take to answer the first Hello."""
    max_lease_s: float = 10.0
    """The longest lease that a peer is given, whatever it asks for; more only where `lease_s` is more."""
    max_peers: int = 4_096
    max_peers_per_key: int = 1_024
    """Of one key, where the allow-list does not say. Without keys: of hosts, clients, operators, and those that are
    none of them yet."""


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
        self.open_to_others = False
        """Processes of other hosts can connect."""
        self._allow = allow
        self._owners = Owners()
        self._present: Counter[str] = Counter()
        """Peers that are alive, by whom they count for."""
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
                log.warning("refused %s: %s", text_of(hello.name), reason)
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
            peer.adopt(hello, key, self._most_lease_s(peer))
            return
        self._forget_routes(peer)
        if peer.alive:
            self._present[_counts_for(peer.key, peer.addresses)] -= 1
        peer.adopt(hello, key, self._most_lease_s(peer))
        for address in peer.addresses:
            self.routes[address] = peer
        self.peers[peer.name] = peer
        if not peer.is_head:
            self._present[_counts_for(key, peer.addresses)] += 1
            if key is not None:
                self._owners.claim(key, hello.name, hello.addresses)
            self.by_identity[peer.identity] = peer
            self._prune()

    def _most_lease_s(self, peer: Peer) -> float:
        return math.inf if peer.is_head else max(self.options.max_lease_s, self.options.lease_s)

    def _refusal(self, peer: Peer, before: Peer | None, hello: Hello, key: str | None) -> Refusal | None:
        """Why this Hello is not believed."""
        if not _is_sane(hello):
            what = f"{len(hello.addresses)} addresses and a lease of {hello.lease_s} s"
            return "malformed", f"a Hello of {text_of(hello.name)!r} with {what}"
        if peer.alive and peer.name != hello.name:
            return "name", f"this connection is {peer.name!r}"
        if not peer.is_head:
            denial = self._denial(hello, key) or self._change_of_side(peer, before, hello, key)
            if denial is not None:
                return denial
        if before is not None and before is not peer and hello.incarnation <= before.incarnation:
            return "stale", f"a newer incarnation of {hello.name!r} is here"
        return self._conflict(peer, before, hello)

    def _denial(self, hello: Hello, key: str | None) -> Refusal | None:
        """What it may not be called, whoever is here."""
        denial = None
        if self._allow is not None:
            rule = self._allow.rule(key)
            if rule is None or key is None:
                return "name", "this key is not on the list"
            named = (hello.name, hello.addresses)
            denial = permits(rule, *named) or self._owners.denial(key, *named)
        if denial is None and hello.name == self.name:
            denial = f"{hello.name!r} is the name of this node itself"
        if denial is not None:
            return "name", denial
        for address in hello.addresses:
            role = role_of(address)
            if role is None:
                kinds = "host/NAME, replica/NUMBER, replica/POOL/NUMBER, client/NAME and operator/NAME"
                return "address", f"{text_of(address)!r} is not for a peer to host; there are {kinds}"
            if role == "operator" and self._allow is None and self.open_to_others:
                return (
                    "address",
                    f"{text_of(address)!r} needs a key: other hosts can connect to {self.name!r}",
                )
        return None

    def _change_of_side(
        self, peer: Peer, before: Peer | None, hello: Hello, key: str | None
    ) -> Refusal | None:
        """A name passes on within its key, nobody becomes another kind of peer, and of each there are only so many."""
        if before is not None and before.key != key:
            return "name", f"{hello.name!r} belongs to another key"
        sides, now = _sides(hello.addresses), frozenset[str]()
        for known in (peer if peer.alive else None, before):
            now |= frozenset() if known is None else _sides(known.addresses)
        if now and not sides <= now:
            is_a = " and ".join(f"an {side}" if side == "operator" else f"a {side}" for side in sorted(now))
            return "name", f"{hello.name!r} is {is_a}, and stays one"
        counts_for = _counts_for(key, hello.addresses)
        same = before is not None and _counts_for(before.key, before.addresses) == counts_for
        if not same and self._present[counts_for] >= self._most_peers(key):
            whose = "this kind" if key is None else "this key"
            return "full", f"already {self._present[counts_for]} peers of {whose}"
        if before is None and len(self.peers) >= self.options.max_peers:
            return "full", f"already {len(self.peers)} peers"
        return None

    def _most_peers(self, key: str | None) -> int:
        rule = None if self._allow is None else self._allow.rule(key)
        return self.options.max_peers_per_key if rule is None or rule.peers is None else rule.peers

    def _conflict(self, peer: Peer, before: Peer | None, hello: Hello) -> Refusal | None:
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
            if not peer.is_head:
                self._present[_counts_for(peer.key, peer.addresses)] -= 1
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


def _is_sane(hello: Hello) -> bool:
    return (
        math.isfinite(hello.lease_s)
        and hello.lease_s > 0.0
        and 0 < len(hello.name) <= MAX_NAME
        and hello.name.isprintable()
        and len(hello.addresses) <= MAX_ADDRESSES
        and len(hello.groups) <= MAX_GROUPS
    )


def _sides(addresses: Iterable[str]) -> frozenset[str]:
    """A host and its replicas are on one side, clients on another, and operators on a third."""
    roles = (role_of(address) for address in addresses)
    return frozenset(role if role in ("client", "operator") else "host" for role in roles)


def _counts_for(key: str | None, addresses: Iterable[str]) -> str:
    """Whose bound on peers one counts for: its key's, or without keys that of its kind."""
    return key if key is not None else " and ".join(sorted(_sides(addresses)))
