"""Greedy-dual size frequency: frequency with aging."""

from __future__ import annotations

import random

from policies.eviction.lfu import Lfu


class Gdsf(Lfu):
    """The least clock + uses goes first, where the clock is what the last victim had: old fame wears off. O(log n).

    Blocks have one size and one cost, so size and cost drop out of the published priority, clock + uses · cost / size.
    A block is rated when it is released, which is when its last use ended.

    Source: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy",
    HP Laboratories report HPL-98-69R1, 1998.
    """

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.clock = 0.0

    def key(self, block: int) -> float:
        return self.clock + super().key(block)

    def evicted(self, block: int, key: float) -> None:
        super().evicted(block, key)
        self.clock = key
