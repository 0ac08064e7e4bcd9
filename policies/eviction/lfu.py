"""Least frequently used."""

from __future__ import annotations

import random

from policies.eviction.keyed import KeyedEviction


class Lfu(KeyedEviction):
    """What the fewest prompts have used goes first, counted since it was stored; among equals as LRU. O(log n).

    Source: Aho, Denning, Ullman, "Principles of Optimal Page Replacement", Journal of the ACM 18(1), 1971 (A0, of which
    this is the estimate by counting).
    """

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.uses: dict[int, int] = {}

    def key(self, block: int) -> float:
        return self.uses.setdefault(block, 1)

    def reused(self, block: int, now_s: float) -> None:
        super().reused(block, now_s)
        self.uses[block] += 1

    def shared(self, block: int, now_s: float) -> None:
        self.uses[block] = self.uses.get(block, 1) + 1

    def evicted(self, block: int, key: float) -> None:
        del self.uses[block]
