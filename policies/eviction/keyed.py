"""Eviction by a number per block: what Lfu, Gdsf and OldestFirst share."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from policies.base import EvictionPolicy


class KeyedEviction(EvictionPolicy):
    """The smallest `key` goes first; among equals what was released longest ago, and of one prompt its end. O(log n).

    A subclass defines `key`, which is asked once, when a block becomes a candidate, and `evicted`, which forgets it.
    What it remembers of a block it keeps while the block is held, and until it is evicted.
    """

    @abstractmethod
    def key(self, block: int) -> float:
        """Smaller goes sooner."""

    @abstractmethod
    def evicted(self, block: int, key: float) -> None:
        """It went: forget it. `key` is what it went with."""

    def reset(self, rng: random.Random) -> None:
        self.heap: list[tuple[float, int, int]] = []
        self.candidates: dict[int, int] = {}
        """Block to the number of its release, which tells its entry of the heap from stale ones."""
        self.releases = 0

    def released(self, blocks: Sequence[int], now_s: float) -> None:
        for block in reversed(blocks):
            self.releases += 1
            self.candidates[block] = self.releases
            heappush(self.heap, (self.key(block), self.releases, block))

    def reused(self, block: int, now_s: float) -> None:
        del self.candidates[block]
        if len(self.heap) > 2 * len(self.candidates) + 64:  # so that what was reused does not pile up
            self.heap = [entry for entry in self.heap if self.candidates.get(entry[2]) == entry[1]]
            heapify(self.heap)

    def victim(self, now_s: float) -> int:
        while True:
            key, number, block = heappop(self.heap)
            if self.candidates.get(block) == number:
                del self.candidates[block]
                self.evicted(block, key)
                return block

    def __len__(self) -> int:
        return len(self.candidates)
