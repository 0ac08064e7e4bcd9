"""First in, first out: the null baseline."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.eviction.keyed import KeyedEviction


class OldestFirst(KeyedEviction):
    """What was stored longest ago goes first, however often it was used since; the null baseline. O(log n).

    A block counts as stored when it first becomes a candidate.

    Source: Belady, "A Study of Replacement Algorithms for a Virtual-Storage Computer", IBM Systems Journal 5(2), 1966
    (FIFO).
    """

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.stored: dict[int, int] = {}
        self.calls = 0

    def released(self, blocks: Sequence[int], now_s: float) -> None:
        self.calls += 1
        super().released(blocks, now_s)

    def key(self, block: int) -> float:
        return self.stored.setdefault(block, self.calls)

    def evicted(self, block: int, key: float) -> None:
        del self.stored[block]
