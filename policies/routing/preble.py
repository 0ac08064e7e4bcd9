"""Preble's E2: exploit the replica that has most of the prompt, or explore for the one that it costs least."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Annotated, TypeVar

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.places import Numbers, first_of_least
from policies.routing.prefix_tree import PrefixTree
from policies.views import Completion, ReplicaView
from traces.schema import Request

K = TypeVar("K", int, str)
_LENGTHS = 200
"""Answers that the time for an output token and their number are the mean of: as many as the source keeps."""


class Preble(RoutingPolicy):
    """Where more of the prompt is cached than is not, exploit; else explore for the least cost. O(n + blocks).

    *Exploit*: the replica with the longest match; of several the one with the least load. *Explore*: the least sum of
    three times. *Load*: of all requests sent there within `window_s`, the prefill of what was not cached and the decode
    of as many tokens as answers have on average. *Eviction*: what it takes to prefill again the blocks that would have
    to go, each as often as requests of the window used it. *Prefill*: of what is not cached of this prompt. Exploiting
    stops for a replica whose load is above `rebalance_factor` times the least; its request goes to whoever has that. A
    prompt without hashes explores. Ties go to the fewest requests in flight, then to the first.

    What a replica has cached is guessed from what was sent there, over block hashes instead of tokens. Left out of the
    source: more replicas for one prefix when its time to first token doubles, and the priorities of its local
    scheduler.

    Source: Srivatsa et al., "Preble: Efficient Distributed Prompt Scheduling for LLM Serving", ICLR 2025, section 3 and
    algorithm 2; defaults of its code: a window of 3 minutes, 0.15 s for each output token until one has been measured,
    a factor of 15 (`HIGH_LOAD_THRESHOLD`), 45 output tokens, prefill as fitted to Mistral-7B on an A6000.
    """

    window_s: Annotated[float, Meta(gt=0)] = 180.0
    """Seconds for which what was sent to a replica counts as its load."""
    prefill_s_per_token: Annotated[float, Meta(gt=0)] = 0.000182
    """Seconds that a token that is not cached takes to prefill."""
    decode_s_per_token: Annotated[float, Meta(gt=0)] = 0.15
    """Seconds for an output token, before any was measured."""
    rebalance_factor: Annotated[float, Meta(ge=1)] | None = 15.0
    """How many times the least load a replica may have and still be exploited. None: any number of times."""
    default_output_tokens: Annotated[int, Meta(ge=0)] = 45
    """Expected of an answer, before any has come."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 12_400
    """How many blocks to remember of a replica that has not reported the size of its cache: the source's 198,516
    tokens."""
    block_tokens: Annotated[int, Meta(ge=1)] = 16
    """Tokens in a block of the replicas' caches, and of a request that does not say."""
    default_prompt_tokens: Annotated[int, Meta(ge=0)] = 512
    """What a request without a known prompt length counts as."""

    def reset(self, rng: random.Random) -> None:
        self.tree = PrefixTree(self.max_tree_blocks)
        self.numbers = Numbers()
        self.window: deque[_Sent] = deque()
        """What was sent within `window_s`, the oldest first."""
        self.uses: dict[int, int] = {}
        """By block: how many requests of the window have it."""
        self.missed_tokens: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        """By replica, of the window: tokens to prefill, and how many requests. Gone are those that have none."""
        self.outputs: deque[tuple[int, float]] = deque(maxlen=_LENGTHS)
        """Of the last answers: tokens, and seconds for each after the first."""
        self.output_tokens, self.output_s = float(self.default_output_tokens), self.decode_s_per_token
        """Their means."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        self._forget(now_s)
        hashed_tokens, prompt_tokens = self._shape(request)
        self.tree.learn_limits(replicas, self.block_tokens, hashed_tokens)
        self.numbers.show(replicas)
        blocks, ids = request.blocks or (), self.numbers.ids
        matches = [
            (depth, self.numbers.of(self.tree.owners(holders))) for depth, holders in self.tree.ends(blocks)
        ]
        loads = self.loads_s(ids)
        longest, holders = next(((depth, those) for depth, those in reversed(matches) if those), (0, []))
        matched = min(longest * hashed_tokens, prompt_tokens)
        if matched > prompt_tokens - matched:
            load, _, chosen = min([(loads[number], replicas[number].in_flight, number) for number in holders])
            # One without any load counts as if it had this request: all others would be endless times as busy.
            unit = max(min(loads), prompt_tokens * self.prefill_s_per_token)
            if self.rebalance_factor is None or load <= self.rebalance_factor * unit:
                return Route(ids[chosen], "exploits")
            return Route(ids[first_of_least(loads, replicas)], "rebalances")
        tokens = self._tokens(prompt_tokens, len(blocks), matches, hashed_tokens)
        prefill_s = self.prefill_s_per_token
        costs = [load + count * prefill_s for load, count in zip(loads, tokens, strict=True)]
        return Route(ids[first_of_least(costs, replicas)], "explores")

    def loads_s(self, replicas: Sequence[str]) -> list[float]:
        """Seconds of work that was sent to each of these within the window."""
        missed, requests = self.missed_tokens.get, self.requests.get
        prefill_s, decode_s = self.prefill_s_per_token, self.output_tokens * self.output_s
        return [missed(replica, 0) * prefill_s + requests(replica, 0) * decode_s for replica in replicas]

    def _tokens(
        self,
        prompt_tokens: int,
        blocks: int,
        matches: Sequence[tuple[int, Sequence[int]]],
        hashed_tokens: int,
    ) -> list[float]:
        """Tokens that each candidate would prefill for this prompt, and later for what would have to go."""
        tokens: list[float] = [prompt_tokens] * len(self.numbers.ids)
        new_blocks = [blocks] * len(tokens)
        for depth, holders in matches:
            left = max(0, prompt_tokens - depth * hashed_tokens)
            for number in holders:
                tokens[number], new_blocks[number] = left, blocks - depth
        rooms = self.tree.room(self.numbers.ids)
        if min(rooms) < blocks:
            for number, (new, room) in enumerate(zip(new_blocks, rooms, strict=True)):
                if new > room:
                    tokens[number] += self._evicted_tokens(self.numbers.ids[number], new, hashed_tokens)
        return tokens

    def _evicted_tokens(self, replica: str, new_blocks: int, hashed_tokens: int) -> float:
        """Tokens to compute anew for what would have to go, each as often as a request needs it."""
        if not self.window:
            return 0.0
        uses = sum([self.uses.get(block, 0) for block in self.tree.victims(replica, new_blocks)])
        return uses * hashed_tokens / len(self.window)

    def _shape(self, request: Request) -> tuple[int, int]:
        """Tokens per block, and of the prompt."""
        hashed_tokens, blocks = request.block_tokens or self.block_tokens, request.blocks
        if request.prompt_tokens is not None:
            return hashed_tokens, request.prompt_tokens
        return hashed_tokens, len(blocks) * hashed_tokens if blocks else self.default_prompt_tokens

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self._forget(now_s)
        hashed_tokens, prompt_tokens = self._shape(request)
        blocks = request.blocks or ()
        [depth] = self.tree.depths(blocks, [replica])
        sent = _Sent(now_s, replica, max(0, prompt_tokens - depth * hashed_tokens), blocks)
        self.window.append(sent)
        self._count(sent, 1)
        self.tree.insert(replica, blocks, now_s)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        tokens = completion.output_tokens
        if completion.failure is not None or tokens is None:
            return
        each_s, own = self.output_s, tokens - completion.resumed_tokens
        if completion.e2e_s is not None and completion.ttft_s is not None and own > 1:
            each_s = max(0.0, completion.e2e_s - completion.ttft_s) / (own - 1)
        self.outputs.append((tokens, each_s))
        self.output_tokens = sum([count for count, _ in self.outputs]) / len(self.outputs)
        self.output_s = sum([each for _, each in self.outputs]) / len(self.outputs)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        # What was sent stays counted until it is old: a replica that was under suspicion comes back with it.
        self.tree.keep_only({replica.id for replica in replicas})

    def _forget(self, now_s: float) -> None:
        since_s = now_s - self.window_s
        while self.window and self.window[0].at_s < since_s:
            self._count(self.window.popleft(), -1)

    def _count(self, sent: _Sent, sign: int) -> None:
        _add(self.missed_tokens, sent.replica, sign * sent.missed_tokens)
        _add(self.requests, sent.replica, sign)
        for block in sent.blocks:
            _add(self.uses, block, sign)


class _Sent:
    """One request that was sent to a replica."""

    __slots__ = ("at_s", "blocks", "missed_tokens", "replica")

    def __init__(self, at_s: float, replica: str, missed_tokens: int, blocks: tuple[int, ...]) -> None:
        self.at_s = at_s
        self.replica = replica
        self.missed_tokens = missed_tokens
        self.blocks = blocks


def _add(counts: dict[K, int], key: K, number: int) -> None:
    """Add to what is counted; what has come to nothing has no entry."""
    total = counts.get(key, 0) + number
    if total:
        counts[key] = total
    else:
        counts.pop(key, None)
