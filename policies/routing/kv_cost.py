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
        self.attempts: Attempts[_Attempt] = Attempts()
        self.prefill_tokens: dict[str, int] = {}
        """By replica, as long as it has any."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        costs = self.costs(request, replicas, now_s)
        if self.router_temperature > 0.0:
            return Route(replicas[self._draw(costs)].id)
        ranks = [(cost, self.tree.size(replica.id)) for cost, replica in zip(costs, replicas, strict=True)]
        return Route(replicas[ranks.index(min(ranks))].id)

    def costs(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        """The cost of each of `replicas`."""
        hashed_tokens, prompt_tokens, count = self._shape(request)
        self.tree.learn_limits(replicas, self.block_tokens, hashed_tokens)
        self.tree.expire(now_s)
        ids, blocks = [replica.id for replica in replicas], request.blocks or ()
        cached, shared = self.tree.depths(blocks, ids), self.active.depths(blocks, ids)
        costs = []
        for replica, cached_blocks, shared_blocks in zip(ids, cached, shared, strict=True):
            new_tokens = max(0, prompt_tokens - cached_blocks * hashed_tokens)
            prefill_blocks = (self.prefill_tokens.get(replica, 0) + new_tokens) / hashed_tokens
            active_blocks = self.active.size(replica) + count - shared_blocks
            costs.append(self.overlap_weight * prefill_blocks + active_blocks)
        return costs

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
        self._unhashed: dict[str, int] = {}
        """By replica: blocks of prompts without hashes, which share nothing."""

    def size(self, replica: str) -> int:
        """Active blocks on a replica."""
        return len(self._uses.get(replica, ())) + self._unhashed.get(replica, 0)

    def join(self, replica: str, blocks: Sequence[int], unhashed: int) -> None:
        """A prompt comes."""
        if blocks:
            bit, uses = self.bit(replica), self._uses.setdefault(replica, {})
            self.add([block for block in blocks if block not in uses], bit)
            for block in blocks:
                uses[block] = uses.get(block, 0) + 1
        if unhashed:
            self._unhashed[replica] = self._unhashed.get(replica, 0) + unhashed

    def leave(self, replica: str, blocks: Sequence[int], unhashed: int) -> None:
        """It goes: what `join` was told, once more."""
        if blocks:
            bit, uses = self.bit(replica), self._uses[replica]
            last = []
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
        if unhashed:
            self._unhashed[replica] -= unhashed
            if not self._unhashed[replica]:
                del self._unhashed[replica]
