"""Least recently used."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

from policies.base import EvictionPolicy


class Lru(EvictionPolicy):
    """What was released longest ago goes first; of one prompt its end, for which its beginning must be there. O(1).

    Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation Techniques for Storage Hierarchies", IBM Systems Journal 9(2),
    1970. The end of a prompt first: vLLM's free queue, "Automatic Prefix Caching" in its design documents, 2025.
    """

    tail_first: bool = True
    """False: the blocks of one prompt count as used in its order, its beginning longest ago, as in a plain cache."""

    def reset(self, rng: random.Random) -> None:
        # A plain dict would find its first key in O(n) once many before it are gone.
        self.candidates: OrderedDict[int, None] = OrderedDict()

    def released(self, blocks: Sequence[int], now_s: float) -> None:
        for block in reversed(blocks) if self.tail_first else blocks:
            self.candidates[block] = None

    def reused(self, block: int, now_s: float) -> None:
        del self.candidates[block]

    def victim(self, now_s: float) -> int:
        return self.candidates.popitem(last=False)[0]

    def __len__(self) -> int:
        return len(self.candidates)
