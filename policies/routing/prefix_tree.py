"""Which replica is thought to have which prompt blocks: the index that cache-aware routers share.

The one thing to know: a block's hash stands for the whole prefix that ends with it, so the radix tree over prompts
needs no edges. A dict from hash to holders is the tree; a path is walked by looking up one hash after the other.
Holders are the bits of an integer, so one step of a walk serves all replicas at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from heapq import heappop, heappush
from itertools import compress, islice

from policies.views import ReplicaView

_DIGITS = bytes.maketrans(b"01", b"\0\1")


class BlockHolders:
    """Who holds each block. Matching costs O(blocks matched + replicas), however large the index is."""

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}
        """By block: the bits of the replicas that hold it; a block that nobody holds has no entry."""
        self._bits: dict[str, int] = {}
        self._free: list[int] = []
        self._owners: list[str] = []
        """Whose the bits are, from the lowest on; of one that is free, whose it was."""

    def bit(self, replica: str) -> int:
        """The bit of a replica, given to it at the first call. Those of forgotten ones are used again."""
        bit = self._bits.get(replica)
        if bit is None:
            if self._free:
                bit = self._free.pop()
                self._owners[bit.bit_length() - 1] = replica
            else:
                bit = 1 << len(self._bits)
                self._owners.append(replica)
            self._bits[replica] = bit
        return bit

    def add(self, blocks: Iterable[int], bit: int) -> None:
        """The replica with this bit has these blocks."""
        holders = self.holders
        for block in blocks:
            holders[block] = holders.get(block, 0) | bit

    def remove(self, blocks: Iterable[int], bit: int) -> None:
        """It has them no more."""
        holders, others = self.holders, ~bit
        for block in blocks:
            left = holders[block] & others
            if left:
                holders[block] = left
            else:
                del holders[block]

    def forget_bit(self, replica: str) -> None:
        """Give the bit of a replica that holds nothing to the next that comes."""
        bit = self._bits.pop(replica, None)
        if bit is not None:
            self._free.append(bit)

    def ends(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        """How many of the leading `blocks` are held, and the bits of those that hold so many and not the next one.

        The shortest match comes first. O(blocks matched).
        """
        ends, find = [], self.holders.get
        alive, depth = find(blocks[0], 0) if blocks else 0, 0
        while alive:
            depth += 1
            still = alive & find(blocks[depth], 0) if depth < len(blocks) else 0
            if still != alive:
                ends.append((depth, alive ^ still))
                alive = still
        return ends

    def owners(self, bits: int) -> list[str]:
        """Whose these bits are. O(replicas that have a bit), a few nanoseconds each."""
        lowest_first = bin(bits)[:1:-1].encode()
        return list(compress(self._owners, lowest_first.translate(_DIGITS)))

    def depths(self, blocks: Sequence[int], replicas: Iterable[str]) -> list[int]:
        """For each of `replicas`, how many of the leading `blocks` it holds."""
        bits = [self._bits.get(replica, 0) for replica in replicas]
        alive, depth, find = 0, 0, self.holders.get
        for bit in bits:
            alive |= bit
        depth_of: dict[int, int] = {}  # of those that hold none it has no entry: they may be many
        for block in blocks:
            still = find(block, 0) & alive
            if still != alive:
                if depth:
                    _note(depth_of, alive ^ still, depth)
                alive = still
            if not alive:
                break
            depth += 1
        if depth:
            _note(depth_of, alive, depth)
        return [depth_of.get(bit, 0) for bit in bits]


def _note(depth_of: dict[int, int], mask: int, depth: int) -> None:
    while mask:
        lowest = mask & -mask
        depth_of[lowest] = depth
        mask ^= lowest


class PrefixTree(BlockHolders):
    """A guess at every replica's prefix cache: what was sent there lately, least recently used out first.

    Of a prompt the last block counts as the least recent. A block is thus never kept longer than the one before it,
    and what a replica holds is a tree of whole prefixes at all times. Adding a prompt costs O(its blocks).
    """

    def __init__(self, max_blocks: int, ttl_s: float | None = None) -> None:
        super().__init__()
        self.max_blocks = max_blocks
        """How many blocks to remember of a replica without a limit of its own."""
        self.ttl_s = ttl_s
        """Forget a block that was not used for so long. None: never."""
        self._limits: dict[str, int] = {}
        self._told: tuple[list[str], int, int] | None = None
        """Whose limits are all known, and for blocks of how many tokens."""
        self._due: list[tuple[float, str]] = []
        """A heap, for `expire`: the least recent use of a block of each replica that has any, or a time before it."""
        self._used: dict[str, OrderedDict[int, float]] = {}
        """By replica: when each of its blocks was last used, the least recent first."""

    def size(self, replica: str) -> int:
        """How many blocks the replica is thought to have."""
        used = self._used.get(replica)
        return 0 if used is None else len(used)

    def learn_limits(self, replicas: Iterable[ReplicaView], block_tokens: int, hashed_tokens: int) -> None:
        """Bound each replica that has reported the size of its cache by that.

        The cache counts blocks of `block_tokens` tokens, the index hashes of `hashed_tokens` each. The sizes of caches
        do not change: replicas are asked until all of them have told.
        """
        asked = [replica.id for replica in replicas], block_tokens, hashed_tokens
        if asked == self._told:
            return
        signals = [replica.tokens for replica in replicas]
        if not any(signals):  # they serve whole requests
            return
        told = 0
        for replica, signal in zip(asked[0], signals, strict=True):
            if signal is not None and signal.total_blocks:
                size = signal.total_blocks * (signal.block_tokens or block_tokens)
                self._limits[replica] = max(1, size // hashed_tokens)
                told += 1
        self._told = asked if told == len(signals) else None

    def insert(self, replica: str, blocks: Sequence[int], now_s: float) -> None:
        """The replica gets a prompt of these blocks."""
        limit = self._limits.get(replica, self.max_blocks)
        if not blocks:
            return
        bit, used = self.bit(replica), self._used.get(replica)
        if used is None:
            used = self._used[replica] = OrderedDict()
            if self.ttl_s is not None:
                heappush(self._due, (now_s, replica))
        new = []
        for block in reversed(blocks[:limit]):
            if block in used:
                used.move_to_end(block)
            else:
                new.append(block)
            used[block] = now_s
        self.add(new, bit)
        if len(used) > limit:
            self.remove([used.popitem(last=False)[0] for _ in range(len(used) - limit)], bit)

    def sizes(self, replicas: Iterable[str]) -> list[int]:
        """How many blocks each of these is thought to have."""
        used = self._used.get
        return [len(used(replica, ())) for replica in replicas]

    def room(self, replicas: Iterable[str]) -> list[int]:
        """For each of `replicas`, how many blocks it could take before others are forgotten."""
        limit, used, most = self._limits.get, self._used.get, self.max_blocks
        return [limit(replica, most) - len(used(replica, ())) for replica in replicas]

    def victims(self, replica: str, count: int) -> list[int]:
        """The blocks that would be forgotten if the replica got so many that it does not have. O(those)."""
        used = self._used.get(replica)
        over = 0 if used is None else len(used) + count - self._limits.get(replica, self.max_blocks)
        return list(islice(used, over)) if used is not None and over > 0 else []

    def expire(self, now_s: float) -> None:
        """Forget what was not used for `ttl_s`. O(blocks forgotten), and O(log replicas) where there may be any."""
        if self.ttl_s is None:
            return
        before_s = now_s - self.ttl_s
        while self._due and self._due[0][0] < before_s:
            replica = heappop(self._due)[1]
            used, old = self._used.get(replica), []
            if used is None:
                continue
            for block, used_s in used.items():
                if used_s >= before_s:
                    heappush(self._due, (used_s, replica))
                    break
                old.append(block)
            else:
                del self._used[replica]
            for block in old:
                del used[block]
            if old:
                self.remove(old, self._bits[replica])

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget all about every replica that is not among these. O(blocks forgotten)."""
        for gone in [replica for replica in self._bits if replica not in replicas]:
            self.remove(self._used.pop(gone, ()), self._bits[gone])
            self.forget_bit(gone)
        for gone in [replica for replica in self._limits if replica not in replicas]:
            del self._limits[gone]
        self._told = None
