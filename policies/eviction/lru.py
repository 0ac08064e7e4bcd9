"""Least recently used."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Sequence

from policies.base import EvictionPolicy


class Lru(EvictionPolicy):
    """What was released longest ago goes first; of one prompt its end, for which its beginning must be there. O(1).

    Blocks without content stand in the same order: one that was released after a cached block is taken after it.

    Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation Techniques for Storage Hierarchies", IBM Systems Journal 9(2),
    1970. The end of a prompt first, and one order for all: vLLM 0.19, `KVCacheManager.free`, `BlockPool.free_blocks`
    and `FreeKVCacheBlockQueue`.
    """

    tail_first: bool = True
    """False: the blocks of one prompt count as used in its order, its beginning longest ago, as in a plain cache."""
    empty_first: bool = False
    """True: nothing that is cached goes while there is a block without content."""

    def reset(self, rng: random.Random) -> None:
        # A plain dict would find its first key in O(n) once many before it are gone.
        self.candidates: OrderedDict[int, int] = OrderedDict()
        """To the number of the release."""
        self.empty: deque[tuple[int, int]] = deque()
        """Blocks without content: the number of the release, and how many."""
        self.releases = 0

    def released(self, blocks: Sequence[int], now_s: float) -> None:
        self.releases = number = self.releases + 1
        for block in reversed(blocks) if self.tail_first else blocks:
            self.candidates[block] = number

    def emptied(self, count: int, now_s: float) -> None:
        if self.empty and self.empty[-1][0] == self.releases:  # nothing was cached since
            count += self.empty.pop()[1]
        self.empty.append((self.releases, count))

    def empties(self, at_most: int, now_s: float) -> int:
        if not self.empty:
            return 0
        number, count = self.empty[0]
        if not self.empty_first and self.candidates and next(iter(self.candidates.values())) <= number:
            return 0
        if count > at_most:
            self.empty[0] = number, count - at_most
            return at_most
        self.empty.popleft()
        return count

    def reused(self, block: int, now_s: float) -> None:
        del self.candidates[block]

    def victim(self, now_s: float) -> int:
        return self.candidates.popitem(last=False)[0]

    def __len__(self) -> int:
        return len(self.candidates)
