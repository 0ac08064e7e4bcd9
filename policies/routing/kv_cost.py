"""Dynamo's KV-aware routing: one sum of what a request must still prefill and what it joins in decoding."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.attempts import Attempts
from policies.routing.places import Numbers
from policies.routing.prefix_tree import BlockHolders, PrefixTree
from policies.views import Completion, ReplicaView
from traces.schema import Request


class KvCost(RoutingPolicy):
    """Take the replica of least cost: `overlap_weight` × prefill blocks + active blocks. O(n + blocks).

    Both terms are what the replica would have with the request. *Prefill blocks*: tokens of prompts that have no
    first token yet, as far as they were not thought cached, and those of this prompt, over tokens per block. *Active
    blocks*: different blocks of all prompts in flight, counted exactly by the hooks, and those of this prompt that
    are not among them. Blocks are the request's own, of `Request.block_tokens` each. What a replica has cached is
    guessed from what was sent there, as in Dynamo without events from the engines. A long match can be outweighed by
    load in any degree, where `PrefixAffinity` has two modes. Ties go to the replica of the smaller tree, then to the
    first.

    Source: NVIDIA Dynamo, KV router, with the defaults it documents: `--router-kv-overlap-score-weight` 1,
    `--router-temperature` 0, and for `--no-router-kv-events` `--router-ttl-secs` 120 and `--router-max-tree-size`
    2^20 (there of all replicas together, and cut to 0.8 of it when exceeded; here of each, and cut at once).
    """

    overlap_weight: Annotated[float, Meta(ge=0)] = 1.0
    """Cost of a block to prefill, in active blocks. Larger favours time to first token, smaller time per token."""
    router_temperature: Annotated[float, Meta(ge=0)] = 0.0
    """0: the least cost; larger: a draw, where a cost above the least by this share of the costs' range is e times
    less likely."""
    ttl_s: Annotated[float, Meta(gt=0)] | None = 120.0
    """A block not used for so long is thought to be gone. None: only room counts."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 2**20
    """How many blocks to remember of a replica that has not reported the size of its cache."""
    block_tokens: Annotated[int, Meta(ge=1)] = 16
    """Tokens in a block of the replicas' caches, and of a request that does not say."""
    default_prompt_tokens: Annotated[int, Meta(ge=0)] = 512
    """What a request without a known prompt length counts as."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.tree = PrefixTree(self.max_tree_blocks, self.ttl_s)
        self.active = _ActiveBlocks()
        self.numbers = Numbers()
        self.attempts: Attempts[_Attempt] = Attempts()
        self.prefill_tokens: dict[str, int] = {}
        """By replica, as long as it has any."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        costs = self.costs(request, replicas, now_s)
        if self.router_temperature > 0.0:
            return Route(replicas[self._draw(costs)].id)
        least = min(costs)
        if costs.count(least) == 1:
            return Route(replicas[costs.index(least)].id)
        equals = [replica.id for cost, replica in zip(costs, replicas, strict=True) if cost == least]
        sizes = self.tree.sizes(equals)
        return Route(equals[sizes.index(min(sizes))])

    def costs(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        """The cost of each of `replicas`."""
        hashed_tokens, prompt_tokens, count = self._shape(request)
        self.tree.learn_limits(replicas, self.block_tokens, hashed_tokens)
        self.tree.expire(now_s)
        self.numbers.show(replicas)
        ids, blocks = self.numbers.ids, request.blocks or ()
        # What it would add at those that have none of it, and then at the others.
        new_tokens, new_blocks = [prompt_tokens] * len(ids), [count] * len(ids)
        for depth, holders in self.tree.ends(blocks):
            left = max(0, prompt_tokens - depth * hashed_tokens)
            for number in self.numbers.of(self.tree.owners(holders)):
                new_tokens[number] = left
        for depth, holders in self.active.ends(blocks):
            for number in self.numbers.of(self.active.owners(holders)):
                new_blocks[number] = count - depth
        prefill, active = self.prefill_tokens.get, self.active.sizes.get
        tokens = [prefill(replica, 0) + new for replica, new in zip(ids, new_tokens, strict=True)]
        sizes = [active(replica, 0) + new for replica, new in zip(ids, new_blocks, strict=True)]
        weight = self.overlap_weight
        return [weight * (own / hashed_tokens) + size for own, size in zip(tokens, sizes, strict=True)]

    def _shape(self, request: Request) -> tuple[int, int, int]:
        """Tokens per block, prompt tokens, and blocks of a request."""
        hashed_tokens, blocks = request.block_tokens or self.block_tokens, request.blocks
        prompt_tokens = request.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = len(blocks) * hashed_tokens if blocks else self.default_prompt_tokens
        return hashed_tokens, prompt_tokens, len(blocks) if blocks else -(-prompt_tokens // hashed_tokens)

    def _draw(self, costs: Sequence[float]) -> int:
        least = min(costs)
        scale = (max(costs) - least) * self.router_temperature or 1.0
        weights = [math.exp((least - cost) / scale) for cost in costs]
        left = self.random() * sum(weights)
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0.0:
                return index
        return costs.index(least)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        hashed_tokens, prompt_tokens, count = self._shape(request)
        blocks = request.blocks or ()
        [cached_blocks] = self.tree.depths(blocks, [replica])
        attempt = _Attempt(max(0, prompt_tokens - cached_blocks * hashed_tokens), blocks, count - len(blocks))
        self.attempts.add(request.id, replica, attempt)
        self._add_prefill(replica, attempt.prefill_tokens)
        self.active.join(replica, blocks, attempt.unhashed)
        self.tree.insert(replica, blocks, now_s)

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        for attempt in self.attempts.of(request.id, replica):
            if attempt.prefilling:
                attempt.prefilling = False
                self._add_prefill(replica, -attempt.prefill_tokens)
                return

    def on_completed(self, completion: Completion, now_s: float) -> None:
        replica = completion.replica
        attempt = self.attempts.take(completion.request.id, replica)
        if attempt is not None:
            if attempt.prefilling:
                self._add_prefill(replica, -attempt.prefill_tokens)
            self.active.leave(replica, attempt.blocks, attempt.unhashed)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        # What is in flight stays counted until it ends: a replica that was under suspicion comes back with it.
        self.tree.keep_only({replica.id for replica in replicas})

    def _add_prefill(self, replica: str, tokens: int) -> None:
        total = self.prefill_tokens.get(replica, 0) + tokens
        if total:
            self.prefill_tokens[replica] = total
        else:
            self.prefill_tokens.pop(replica, None)


class _Attempt:
    """One attempt in flight: what it added to its replica."""

    __slots__ = ("blocks", "prefill_tokens", "prefilling", "unhashed")

    def __init__(self, prefill_tokens: int, blocks: tuple[int, ...], unhashed: int) -> None:
        self.prefill_tokens = prefill_tokens
        self.prefilling = True
        self.blocks = blocks
        self.unhashed = unhashed


class _ActiveBlocks(BlockHolders):
    """The blocks of prompts in flight. One that several hold on the same replica counts once there."""

    def __init__(self) -> None:
        super().__init__()
        self._uses: dict[str, dict[int, int]] = {}
        """By replica and block: how many prompts in flight hold it."""
        self.sizes: dict[str, int] = {}
        """By replica, as long as it has any: its active blocks; those of prompts without hashes share nothing."""

    def size(self, replica: str) -> int:
        """Active blocks on a replica."""
        return self.sizes.get(replica, 0)

    def join(self, replica: str, blocks: Sequence[int], unhashed: int) -> None:
        """A prompt comes."""
        if blocks:
            bit, uses = self.bit(replica), self._uses.setdefault(replica, {})
            before = len(uses)
            self.add([block for block in blocks if block not in uses], bit)
            for block in blocks:
                uses[block] = uses.get(block, 0) + 1
            unhashed += len(uses) - before
        self._count(replica, unhashed)

    def leave(self, replica: str, blocks: Sequence[int], unhashed: int) -> None:
        """It goes: what `join` was told, once more."""
        if blocks:
            bit, uses = self.bit(replica), self._uses[replica]
            before, last = len(uses), []
            for block in blocks:
                left = uses[block] - 1
                if left:
                    uses[block] = left
                else:
                    del uses[block]
                    last.append(block)
            self.remove(last, bit)
            if not uses:
                del self._uses[replica]
                self.forget_bit(replica)
            unhashed += before - len(uses)
        self._count(replica, -unhashed)

    def _count(self, replica: str, blocks: int) -> None:
        total = self.sizes.get(replica, 0) + blocks
        if total:
            self.sizes[replica] = total
        else:
            self.sizes.pop(replica, None)
