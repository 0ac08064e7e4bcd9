"""SGLang's cache-aware routing: follow the longest cached prefix, until the load is too uneven."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.places import Numbers, first_of_least
from policies.routing.prefix_tree import PrefixTree
from policies.views import ReplicaView
from traces.schema import Request


class PrefixAffinity(RoutingPolicy):
    """Go where most of the prompt was sent before; to the shortest queue when loads are far apart. O(n + blocks).

    Loads are far apart when the most and the least requests in flight differ by more than `balance_abs_threshold`
    *and* by more than the factor `balance_rel_threshold`. Else, when more than `cache_threshold` of the prompt's
    blocks match, the replica of the longest match gets it; when not, the one of the smallest tree, which has the most
    room. Ties go to the fewest requests in flight, then to the first; a prompt without hashes to the shortest queue.
    It trades cache against load by switching between two modes, where `KvCost` weighs both in each decision.

    Differs from its source in that the tree is over block hashes instead of characters, and is cut to size at once
    instead of every `eviction_interval_secs` (120).

    Source: Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs", NeurIPS 2024, and
    sglang-router (`cache_aware`), with the defaults of its command line, `RouterArgs` in `router_args.py`: 0.3, 64,
    1.5 and 2^26 characters (about 2^20 blocks of 16 tokens). A `CacheAwareConfig` made in Rust has 0.5, 32 and 1.1.
    """

    cache_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Share of a prompt's blocks that must be exceeded for the match to decide."""
    balance_abs_threshold: Annotated[int, Meta(ge=0)] = 64
    """Difference in requests in flight that must be exceeded for load to decide."""
    balance_rel_threshold: Annotated[float, Meta(ge=1)] = 1.5
    """Factor between them that must be exceeded as well."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 2**20
    """How many blocks to remember of each replica; the least recently used are forgotten first."""

    def reset(self, rng: random.Random) -> None:
        self.tree = PrefixTree(self.max_tree_blocks)
        self.numbers = Numbers()

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        loads = [replica.in_flight for replica in replicas]
        least, most = min(loads), max(loads)
        uneven = most - least > self.balance_abs_threshold and most > self.balance_rel_threshold * least
        blocks = request.blocks
        if uneven or not blocks:
            return Route(replicas[loads.index(least)].id, "imbalance" if uneven else "no prefix")
        self.numbers.show(replicas)
        for depth, holders in reversed(self.tree.ends(blocks)):  # the longest match first
            if depth <= self.cache_threshold * len(blocks):
                break
            longest = self.numbers.of(self.tree.owners(holders))
            if longest:
                return Route(replicas[min([(loads[number], number) for number in longest])[1]].id, "prefix")
        sizes = self.tree.sizes(self.numbers.ids)
        return Route(replicas[first_of_least(sizes, replicas)].id, "room")

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if request.blocks:
            self.tree.insert(replica, request.blocks, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.tree.keep_only({replica.id for replica in replicas})
