"""The paged key-value cache as an account: how many blocks are used, cached and empty, and who shares what.

The one thing to know: only what can be shared has an identity. That is the *chunk*: one prompt hash and the blocks that
hold its tokens. Every other block of a sequence is a number. Work therefore grows with calls and with the hashed chunks
they touch, never with tokens.

What an `EvictionPolicy` calls a block is a chunk, which may be several blocks: see `fleet.tokens.chunks`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from fleet.actor import FleetError
from fleet.tokens.chunks import Chunk, Holding, Prompt, chunks_of, fits
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState
from policies.base import EvictionPolicy, PolicyError
from policies.views import SequenceView


class PagedKvCache(KvCache):
    """`total_blocks` blocks of `block_tokens` tokens each, shared by prompts with equal beginnings.

    - `admit` finds the leading chunks of a prompt and holds them.
    - `extend` takes blocks, empty ones first, then what the policy gives up. A chunk that is filled can be found from
      then on. One that is filled a second time takes over the cached one if nobody holds it, else it is a private copy.
    - `release` leaves the chunks that nobody else holds to the policy as candidates; all other blocks become empty.

    `eviction` must have been reset, and is used by this cache alone. `watermark_blocks` are only shown to policies.
    `prefix_caching=False`: no prompt shares, and nothing is kept. `host_blocks` bounds what can be swapped out.

    The public counters are for studies; tokens are counted once per sequence, when it is first admitted.
    """

    def __init__(
        self,
        total_blocks: int,
        block_tokens: int,
        eviction: EvictionPolicy,
        *,
        watermark_blocks: int = 0,
        prefix_caching: bool = True,
        host_blocks: int = 0,
    ) -> None:
        if total_blocks < 1 or block_tokens < 1:
            raise ValueError(
                f"a cache needs blocks and tokens in them, not {total_blocks} of {block_tokens} tokens"
            )
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        self.eviction = eviction
        self.watermark_blocks = watermark_blocks
        self.prefix_caching = prefix_caching
        self.host_blocks = host_blocks
        self.lookup_tokens = 0
        """Prompt tokens of admitted sequences."""
        self.hit_tokens = 0
        """Of those, found in the cache."""
        self.evictions = 0
        """Chunks that went to make room."""
        self.unshareable = 0
        """Sequences whose hashed blocks do not fit the cache's block size, so that they share nothing."""
        self._tells_shared = type(eviction).shared is not EvictionPolicy.shared
        self._used = 0
        self._cached = 0
        self._chunks: dict[int, Chunk] = {}
        self._held: dict[int, Holding] = {}
        self._in_host: dict[int, int] = {}
        self._host_used = 0
        self._looked_up: dict[int, Prompt] = {}
        """Lookups since the chunks last changed: a plan asks for the same ones several times."""

    @property
    def used_blocks(self) -> int:
        return self._used

    @property
    def cached_blocks(self) -> int:
        return self._cached

    @property
    def empty_blocks(self) -> int:
        """Without content that could be found."""
        return self.total_blocks - self._used - self._cached

    @property
    def host_used_blocks(self) -> int:
        """In host memory, swapped out."""
        return self._host_used

    # --- questions ---------------------------------------------------------------------------------------------

    def cached_tokens(self, sequence: SequenceView) -> int:
        if sequence.id in self._held or sequence.swapped:
            return 0
        prompt = self._look_up(sequence)
        return prompt.hits * prompt.chunk_tokens

    def blocks_for(self, sequence: SequenceView, tokens: int) -> int:
        holding = self._held.get(sequence.id)
        if holding is not None:
            return max(0, self._blocks_of(sequence.computed_tokens + tokens) - sequence.blocks)
        if sequence.swapped:
            return self._blocks_of(sequence.computed_tokens + tokens) - self._used_of_swapped(sequence)
        prompt = self._look_up(sequence)
        used_by_others = (prompt.hits - prompt.unheld) * (prompt.chunk_tokens // self.block_tokens)
        return self._blocks_of(prompt.hits * prompt.chunk_tokens + tokens) - used_by_others

    def blocks_held_alone(self, sequence: SequenceView) -> int:
        holding = self._held.get(sequence.id)
        if holding is None:
            return 0
        alone = sum(1 for key in holding.shared() if self._chunks[key].holders == 1)
        return holding.private_blocks + alone * holding.chunk_blocks

    def steps_that_fit(self, decodes: Sequence[SequenceState], at_most: int) -> int:
        """The largest number of steps, up to `at_most`, that fit into what is free.

        The first of them counts, and is the one that `extend` was already called for: its blocks are held while
        `computed_tokens` does not show it yet. So step k needs each sequence to hold `computed_tokens` + k tokens.
        """
        if not decodes:
            return at_most
        # Tokens beyond `computed_tokens` that each has room for. Were it the same for all, every `block_tokens` steps
        # would take a block of each; so the least and the greatest bound the answer, and it is searched between.
        room = [sequence.blocks * self.block_tokens - sequence.computed_tokens for sequence in decodes]
        whole = self.free_blocks // len(room) * self.block_tokens
        least, most = max(0, whole + min(room)), min(at_most, whole + max(room))
        if least >= at_most:
            return at_most
        fitting = bisect_right(
            range(most + 1), self.free_blocks, lo=least, key=lambda n: self._growth(room, n)
        )
        return max(0, fitting - 1)

    def used_after(self, decodes: Sequence[SequenceState], steps: int) -> int:
        """`used_blocks` once each holds `computed_tokens` + `steps` tokens.

        Counted as in `steps_that_fit`: after 1 step it is what it is now.
        """
        room = [sequence.blocks * self.block_tokens - sequence.computed_tokens for sequence in decodes]
        return self._used + self._growth(room, steps)

    def _growth(self, room: list[int], steps: int) -> int:
        """Blocks that sequences with room for so many tokens take in so many steps."""
        size = self.block_tokens
        return sum((steps - tokens + size - 1) // size for tokens in room if tokens < steps)

    # --- commands ----------------------------------------------------------------------------------------------

    def admit(self, sequence: SequenceState, now_s: float) -> None:
        if sequence.id in self._held:
            raise FleetError(f"{sequence!r} was admitted already")
        if sequence.swapped:
            self._swap_in(sequence, now_s)
            return
        prompt = self._look_up(sequence)
        holding = Holding(sequence, prompt.keys, prompt.chunk_tokens, self.block_tokens)
        for key in prompt.keys[: prompt.hits]:
            self._hold(key, self._chunks[key], now_s)
        holding.fill_to(prompt.hits)
        sequence.blocks = prompt.hits * holding.chunk_blocks
        sequence.computed_tokens = sequence.cached_tokens = prompt.hits * prompt.chunk_tokens
        self._used += prompt.unheld * holding.chunk_blocks
        self._held[sequence.id] = holding
        self._looked_up.clear()
        if not sequence.preemptions:
            self._count_lookup(sequence)

    def extend(self, sequence: SequenceState, tokens: int, now_s: float) -> None:
        holding = self._holding(sequence)
        covered = sequence.computed_tokens + tokens
        growth = -(-covered // self.block_tokens) - sequence.blocks
        if growth <= 0 and covered < holding.next_fill_tokens:
            return
        if growth > self.total_blocks - self._used:
            raise FleetError(
                f"{growth} blocks for {tokens} tokens of {sequence!r}, and {self.free_blocks} are free"
            )
        if covered >= holding.next_fill_tokens:
            # Before blocks are taken, so that chunks it is about to take over are not evicted for it.
            self._fill(holding, covered, now_s)
        if growth > 0:
            sequence.blocks += growth
            self._used += growth
            self._make_room(now_s)

    def release(self, sequence: SequenceState, now_s: float, *, keep: bool = True) -> None:
        holding = self._holding(sequence)
        del self._held[sequence.id]
        self._used -= holding.private_blocks
        candidates = []
        for number, key in enumerate(holding.keys[: holding.filled]):
            chunk = self._chunks.get(key)
            if number in holding.duplicates:
                if not keep or chunk is not None:
                    continue
                self._chunks[key] = Chunk(0, holding.chunk_blocks)  # the one that it was a copy of is gone
            else:
                assert chunk is not None
                chunk.holders -= 1
                if chunk.holders:
                    continue
                self._used -= chunk.blocks
                if not keep:
                    del self._chunks[key]
                    continue
            candidates.append(key)
        if candidates:
            self._cached += len(candidates) * holding.chunk_blocks
            self.eviction.released(candidates, now_s)
        if holding.filled:
            self._looked_up.clear()
        sequence.blocks = sequence.chunks = sequence.computed_tokens = 0

    def swap_out(self, sequence: SequenceState, now_s: float) -> bool:
        """See `KvCache`. Chunks of its prompt stay cached on the device too, where it finds them again if it can."""
        self._holding(sequence)
        computed = sequence.computed_tokens
        blocks = self._blocks_of(computed)
        if not blocks or self._host_used + blocks > self.host_blocks:
            return False
        self.release(sequence, now_s)
        self._in_host[sequence.id] = blocks
        self._host_used += blocks
        sequence.computed_tokens = computed
        sequence.swapped = True
        return True

    def forget(self, sequence: SequenceState, now_s: float) -> None:
        self._host_used -= self._in_host.pop(sequence.id, 0)
        self._looked_up.pop(sequence.id, None)
        if sequence.swapped:
            sequence.swapped = False
            sequence.computed_tokens = 0

    def _swap_in(self, sequence: SequenceState, now_s: float) -> None:
        need = self.blocks_for(sequence, 0)
        if need > self.free_blocks:
            raise FleetError(f"{need} blocks to swap in {sequence!r}, and {self.free_blocks} are free")
        holding = Holding(sequence, *self._chunks_of(sequence), self.block_tokens)
        self._fill(holding, sequence.computed_tokens, now_s, share=True)
        sequence.blocks = self._in_host.pop(sequence.id)
        self._host_used -= sequence.blocks
        sequence.swapped = False
        self._held[sequence.id] = holding
        self._used += need
        self._make_room(now_s)

    # --- chunks ------------------------------------------------------------------------------------------------

    def _look_up(self, sequence: SequenceView) -> Prompt:
        known = self._looked_up.get(sequence.id)
        if known is not None:
            return known
        keys, chunk_tokens = self._chunks_of(sequence)
        chunk_blocks = chunk_tokens // self.block_tokens
        hits = unheld = 0
        chunks = self._chunks
        for key in keys[: (sequence.total_tokens - 1) // chunk_tokens]:  # the last token is always computed
            chunk = chunks.get(key)
            if chunk is None or chunk.blocks != chunk_blocks:
                break
            hits += 1
            unheld += not chunk.holders
        self._looked_up[sequence.id] = prompt = Prompt(keys, chunk_tokens, hits, unheld)
        return prompt

    def _chunks_of(self, sequence: SequenceView) -> tuple[tuple[int, ...], int]:
        """Keys of the chunks of its prompt that can be shared, and the tokens in each."""
        if not self.prefix_caching:
            return (), self.block_tokens
        return chunks_of(sequence.request, sequence.prompt_tokens, self.block_tokens)

    def _hold(self, key: int, chunk: Chunk, now_s: float) -> None:
        """One more sequence holds a chunk that was found; the caller counts it as used."""
        if not chunk.holders:
            self._cached -= chunk.blocks
            self.eviction.reused(key, now_s)
        elif self._tells_shared:
            self.eviction.shared(key, now_s)
        chunk.holders += 1

    def _fill(self, holding: Holding, tokens: int, now_s: float, *, share: bool = False) -> None:
        """The sequence has the blocks for so many tokens: chunks that this completes can be found from now on.

        One that another sequence holds already is shared on request; else this sequence has a copy of its own.
        """
        upto = min(tokens // holding.chunk_tokens, len(holding.keys))
        for number in range(holding.filled, upto):
            key = holding.keys[number]
            chunk = self._chunks.get(key)
            if chunk is None:
                self._chunks[key] = Chunk(1, holding.chunk_blocks)
            elif chunk.blocks != holding.chunk_blocks or (chunk.holders and not share):
                holding.duplicates.add(number)
            else:
                self._hold(key, chunk, now_s)
        holding.fill_to(upto)
        self._looked_up.clear()

    def _make_room(self, now_s: float) -> None:
        """Evict until what is used and what is cached fit."""
        if self._used + self._cached <= self.total_blocks:
            return
        self._looked_up.clear()
        while self._used + self._cached > self.total_blocks:
            key = self.eviction.victim(now_s)
            chunk = self._chunks.get(key)
            if chunk is None or chunk.holders:
                raise PolicyError(f"{type(self.eviction).__name__} evicts {key!r}, which is no candidate")
            del self._chunks[key]
            self._cached -= chunk.blocks
            self.evictions += 1

    # --- small ones --------------------------------------------------------------------------------------------

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _holding(self, sequence: SequenceState) -> Holding:
        holding = self._held.get(sequence.id)
        if holding is None:
            raise FleetError(f"{sequence!r} was not admitted")
        return holding

    def _used_of_swapped(self, sequence: SequenceView) -> int:
        """Blocks on the device that a swapped sequence can share with those that hold them."""
        keys, chunk_tokens = self._chunks_of(sequence)
        blocks = chunk_tokens // self.block_tokens
        found = (self._chunks.get(key) for key in keys[: sequence.computed_tokens // chunk_tokens])
        return sum(
            blocks for chunk in found if chunk is not None and chunk.holders and chunk.blocks == blocks
        )

    def _count_lookup(self, sequence: SequenceState) -> None:
        self.lookup_tokens += sequence.prompt_tokens
        self.hit_tokens += sequence.cached_tokens
        request = sequence.request
        self.unshareable += bool(request.blocks) and not fits(request.block_tokens, self.block_tokens)

    # --- the check ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        holders = dict.fromkeys(self._chunks, 0)
        used = 0
        for holding in self._held.values():
            sequence = holding.sequence
            if holding.private_blocks < 0 or sequence.blocks < self._blocks_of(sequence.computed_tokens):
                raise FleetError(f"{sequence!r} has {holding.private_blocks} blocks that it does not share")
            used += holding.private_blocks
            for key in holding.shared():
                holders[key] = holders.get(key, 0) + 1
        known = {key: chunk.holders for key, chunk in self._chunks.items()}
        if wrong := [key for key, number in holders.items() if known.get(key) != number]:
            raise FleetError(f"the holders of chunks {wrong[:9]} are not those that have them")
        used += sum(chunk.blocks for chunk in self._chunks.values() if chunk.holders)
        unheld = [chunk.blocks for chunk in self._chunks.values() if not chunk.holders]
        _demand("used blocks", self._used, used)
        _demand("cached blocks", self._cached, sum(unheld))
        _demand("candidates of the eviction policy", len(self.eviction), len(unheld))
        _demand("blocks in host memory", self._host_used, sum(self._in_host.values()))
        if self.empty_blocks < 0 or self._host_used > self.host_blocks:
            raise FleetError(
                f"more than there is: {used} blocks used, {sum(unheld)} cached, {self._host_used} in host"
            )


def _demand(what: str, counted: object, found: object) -> None:
    if counted != found:
        raise FleetError(f"{what}: counted {counted}, and when counted anew {found}")
