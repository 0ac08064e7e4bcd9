"""What a node knows of one other node: who it is, whom it hosts, when it last spoke, what waits to go to it."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from fleet.runtime.channel import Channel
from fleet.runtime.rights import role_of
from fleet.runtime.wire import Batch, Hello


class NodeCounters(Struct):
    """What one node has seen. An envelope is a message; a batch is one ZeroMQ message that carries many."""

    messages_in: int = 0
    messages_out: int = 0
    batches_in: int = 0
    batches_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    undecodable: dict[str, int] = {}
    """Batches dropped, by reason."""
    last_undecodable_from: str | None = None
    undeliverable: dict[str, int] = {}
    """Messages that could not be handed over, by reason."""
    strangers: int = 0
    """Batches from someone who never said Hello, or was given up."""
    forged: int = 0
    """Batches with a sender that their peer does not host."""
    refused: dict[str, int] = {}
    """Hellos refused, by reason."""
    refused_messages: dict[str, int] = {}
    """Messages refused, by type: their sender may not send them, or they held what cannot be."""
    dropped_peers: int = 0
    """Connections that are not listened to any more."""
    handshake_failures: dict[str, int] = {}
    """Connections that failed, by reason: a refused key, or bytes that are no ZeroMQ."""
    refused_keys: int = 0
    dropped_by_fault: int = 0
    """Batches dropped by an injected partition or drop."""
    peers_joined: int = 0
    peers_lost: int = 0
    handovers: int = 0
    """A newer incarnation took the place of a process that had not been given up."""
    reconnects: int = 0


def count(counter: dict[str, int], reason: str) -> int:
    """Add one to a counter by reason; the new value."""
    counter[reason] = value = counter.get(reason, 0) + 1
    return value


class Peer:
    """The other end. `open` is the batch being filled; in `sealed` are those that ZeroMQ has not taken yet."""

    __slots__ = (
        "addresses", "alive", "channel", "dirty", "disowned", "groups", "identity", "incarnation", "is_head", "key",
        "last_heard_s", "lease_s", "lost", "name", "open", "roles", "sealed", "waiting_bytes", "waiting_messages",
    )  # fmt: skip

    def __init__(self, channel: Channel, identity: bytes, name: str, lease_s: float, now_s: float) -> None:
        self.channel = channel
        self.identity = identity
        self.is_head = not channel.routes
        """We connected to it, rather than it to us."""
        self.name = name
        self.incarnation = 0
        self.addresses: frozenset[str] = frozenset()
        self.groups: frozenset[str] = frozenset()
        self.disowned: frozenset[str] = frozenset()
        """Addresses that it says it hosts, and that are not its own any more."""
        self.key: str | None = None
        """Its CURVE public key."""
        self.roles: dict[str, str] = {}
        """What it speaks as, by the address that it speaks from."""
        self.lease_s = lease_s
        self.last_heard_s = now_s
        self.alive = False
        """It said Hello and has not been lost."""
        self.lost = False
        """It was alive, or should have come, and is not here."""
        self.open = Batch()
        self.sealed: deque[Batch] = deque()
        self.waiting_messages = 0
        self.waiting_bytes = 0
        """Both of `sealed` only."""
        self.dirty = False
        """It is on its node's list of peers to flush."""

    def __repr__(self) -> str:
        return f"Peer({self.name!r}, {sorted(self.addresses)})"

    def adopt(self, hello: Hello, key: str | None, most_lease_s: float) -> None:
        """Believe what it says of itself; it gets no longer lease than `most_lease_s`."""
        self.name = hello.name
        self.incarnation = hello.incarnation
        self.addresses = frozenset(hello.addresses) - self.disowned
        self.roles = {address: role_of(address) or "" for address in self.addresses}
        self.groups = frozenset(hello.groups)
        self.lease_s = min(hello.lease_s, most_lease_s)
        self.key = key
        self.alive = True
        self.lost = False

    def is_full(self, messages: int, size_bytes: int) -> bool:
        """True when ZeroMQ takes no more and what waits here has reached its bound."""
        return bool(self.sealed) and (
            self.waiting_messages + self.open.count >= messages
            or self.waiting_bytes + self.open.size_bytes >= size_bytes
        )

    def seal(self) -> None:
        """Close the open batch and put it in line."""
        batch = self.open
        if batch.count:
            self.sealed.append(batch)
            self.waiting_messages += batch.count
            self.waiting_bytes += batch.size_bytes
            self.open = Batch()

    def pop(self) -> None:
        """Take the first sealed batch out of line."""
        batch = self.sealed.popleft()
        self.waiting_messages -= batch.count
        self.waiting_bytes -= batch.size_bytes
