"""A scorer: the more of the prompt a replica is thought to have cached the better."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Scorer
from policies.routing.places import Numbers
from policies.routing.prefix_tree import PrefixTree
from policies.views import ReplicaView
from traces.schema import Request


class PrefixScorer(Scorer):
    """The share of the prompt's blocks that were sent to the replica before, as one prefix. O(n + blocks).

    Alone it piles the sessions that begin alike onto one replica; beside `InFlightScorer` or `KvUtilizationScorer`
    it is the cache's voice among others, as strong as its weight says. A prompt without hashes scores 0 everywhere.

    Source: Kubernetes Gateway API Inference Extension, prefix-cache scorer (an index per server, least recently used
    out first; 256 blocks matched at most, 31,250 blocks per server unless it reports the size of its cache).
    """

    max_prefix_blocks: Annotated[int, Meta(ge=1)] = 256
    """How much of a long prompt is looked at."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 31_250
    """How many blocks to remember of a replica that has not reported the size of its cache."""
    block_tokens: Annotated[int, Meta(ge=1)] = 16
    """Tokens in a block of the replicas' caches, and of a request that does not say."""

    def reset(self, rng: random.Random) -> None:
        self.tree = PrefixTree(self.max_tree_blocks)
        self.numbers = Numbers()

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        if not request.blocks:
            return [0.0] * len(replicas)
        self.tree.learn_limits(replicas, self.block_tokens, request.block_tokens or self.block_tokens)
        blocks = request.blocks[: self.max_prefix_blocks]
        self.numbers.show(replicas)
        scores = [0.0] * len(replicas)
        for depth, holders in self.tree.ends(blocks):
            share = depth / len(blocks)
            for number in self.numbers.of(self.tree.owners(holders)):
                scores[number] = share
        return scores

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if request.blocks:
            self.tree.insert(replica, request.blocks[: self.max_prefix_blocks], now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.tree.keep_only({replica.id for replica in replicas})
