"""The paged key-value cache as an account: how many blocks are used, cached and empty, and who shares what.

The one thing to know: only what can be found has an identity. That is the *chunk*: one hash and the blocks that hold
its tokens. Every other block of a sequence is a number. Work therefore grows with calls and with the hashed chunks
they touch, never with tokens. The one exception is a sequence that loses its place: it alone finds again what it had,
and each of these blocks is a chunk from then on, until it comes back.

What an `EvictionPolicy` calls a block is a chunk, which may be several blocks: see `fleet.tokens.chunks`.

What is found, from when, and in which order blocks are taken is as in vLLM 0.19: `BlockPool.cache_full_blocks`,
`get_cached_block`, `get_new_blocks` and `free_blocks` in `vllm/v1/core/block_pool.py`,
`KVCacheManager.get_computed_blocks` and `allocate_slots` in `vllm/v1/core/kv_cache_manager.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NoReturn

from fleet.actor import FleetError
from fleet.tokens.chunks import GONE, Chunk, Found, Holding, chunks_of, fits
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState
from policies.base import EvictionPolicy, PolicyError
from policies.views import SequenceView

NUMBERED = 1 << 64
"""Ids from here on are no hashes."""


class PagedKvCache(KvCache):
    """`total_blocks` blocks of `block_tokens` tokens each, shared by sequences with equal beginnings.

    - `admit` finds the leading chunks of a sequence and holds them.
    - `extend` takes blocks, in the order that the policy says. A chunk that is filled can be found from then on, in the
      same step. One that is there already is kept all the same: there are two then.
    - `release` leaves the chunks that nobody else holds to the policy as candidates; all other blocks become empty.

    `eviction` must have been reset, and is used by this cache alone. `watermark_blocks` are only shown to policies.
    `prefix_caching=False`: nothing is shared, and nothing is kept. `host_blocks` bounds what can be swapped out.

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
        self.taken = []
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
        self._orders_empty = prefix_caching and type(eviction).empties is not EvictionPolicy.empties
        """The policy says when an empty block goes before a cached one, and so has to know of each."""
        self._left_over = 0
        """Empty blocks of the last victim: they are taken before any other."""
        self._used = 0
        self._cached = 0
        self._chunks: dict[int, Chunk] = {}
        """What is found under each hash: the oldest chunk of it."""
        self._copies: dict[int, list[Chunk]] = {}
        """Further ones of the same hash, the oldest first."""
        self._numbered: dict[int, Chunk] = {}
        """Those that go by a number and not by their hash."""
        self._own: dict[int, tuple[int, list[Chunk]]] = {}
        """Of each sequence that lost its place: its tokens in shared chunks, and its own blocks after them."""
        self._next_number = NUMBERED
        self._held: dict[int, Holding] = {}
        self._in_host: dict[int, int] = {}
        self._host_used = 0
        self._looked_up: dict[int, Found] = {}
        """Lookups since the chunks last changed: a plan asks for the same ones several times."""
        self._tell_emptied(total_blocks, 0.0)

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

    def holds(self, sequence: SequenceView) -> bool:
        return sequence.id in self._held

    def cached_tokens(self, sequence: SequenceView) -> int:
        if sequence.id in self._held or sequence.swapped:
            return 0
        return self._look_up(sequence).tokens

    def blocks_for(self, sequence: SequenceView, tokens: int) -> int:
        if sequence.id in self._held:
            return max(0, self._blocks_of(sequence.computed_tokens + tokens) - sequence.blocks)
        if sequence.swapped:
            return self._blocks_of(sequence.computed_tokens + tokens) - self._used_of_swapped(sequence)
        found = self._look_up(sequence)
        used_by_others = found.tokens // self.block_tokens - found.unheld_blocks
        return self._blocks_of(found.tokens + tokens) - used_by_others

    def blocks_held_alone(self, sequence: SequenceView) -> int:
        holding = self._held.get(sequence.id)
        if holding is None:
            return 0
        alone = sum([chunk.holders == 1 for chunk in holding.chunks])
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
        return sum([(steps - tokens + size - 1) // size for tokens in room if tokens < steps])

    # --- commands ----------------------------------------------------------------------------------------------

    def admit(self, sequence: SequenceState, now_s: float) -> None:
        if sequence.id in self._held:
            raise FleetError(f"{sequence!r} was admitted already")
        if sequence.swapped:
            self._swap_in(sequence, now_s)
            return
        found = self._look_up(sequence)
        holding = Holding(sequence, found.keys, found.chunk_tokens, self.block_tokens)
        for chunk in found.hits:
            self._hold(chunk, now_s)
        holding.chunks += found.hits
        holding.filled()
        for chunk in self._own.pop(sequence.id, (0, []))[1][: found.own]:
            # It goes on where it was, and nobody else can find these.
            self._cached -= chunk.blocks
            self.eviction.reused(chunk.id, now_s)
            self._forget_chunk(chunk)
        sequence.blocks = found.tokens // self.block_tokens
        sequence.computed_tokens = found.tokens
        sequence.cached_tokens = min(found.tokens, sequence.prompt_tokens)
        self._used += found.unheld_blocks
        self._held[sequence.id] = holding
        self._looked_up.clear()
        if not sequence.preemptions:
            self._count_lookup(sequence)

    def extend(self, sequence: SequenceState, tokens: int, now_s: float) -> None:
        covered = sequence.computed_tokens + tokens
        growth = -(-covered // self.block_tokens) - sequence.blocks
        if growth <= 0 and covered < sequence.next_fill_tokens:
            return
        holding = self._holding(sequence)
        if growth > self.total_blocks - self._used:
            raise FleetError(
                f"{growth} blocks for {tokens} tokens of {sequence!r}, and {self.free_blocks} are free"
            )
        if growth > 0:
            sequence.blocks += growth
            self._take(growth, now_s)
        if covered >= sequence.next_fill_tokens:
            self._fill(holding, min(covered, sequence.known_tokens))

    def release(
        self, sequence: SequenceState, now_s: float, *, keep: bool = True, comes_back: bool = False
    ) -> None:
        holding = self._holding(sequence)
        known = min(sequence.computed_tokens, sequence.known_tokens)
        if known >= sequence.next_fill_tokens:
            self._fill(holding, known)
        del self._held[sequence.id]
        private = holding.private_blocks
        own: list[Chunk] = []
        if comes_back and keep and self.prefix_caching:
            own = self._keep_own(holding, self._hashed(sequence))
        empty = private - len(own)
        self._used -= private
        released: list[Chunk] = []
        computed = sequence.computed_tokens // holding.chunk_tokens if keep else 0
        for number, chunk in enumerate(holding.chunks):
            chunk.holders -= 1
            if chunk.holders:
                if keep and number >= computed:
                    raise FleetError(
                        f"what {sequence!r} was to compute of its chunk {number} was found already"
                    )
                continue
            self._used -= chunk.blocks
            if number < computed:
                released.append(chunk)
            else:
                empty += chunk.blocks
                self._forget_chunk(chunk)
        released += own
        if empty:
            self._tell_emptied(empty, now_s)
        if released:
            self._cached += sum([chunk.blocks for chunk in released])
            self.eviction.released([chunk.id for chunk in released], now_s)
        if holding.chunks or own:
            self._looked_up.clear()
        sequence.released()

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
        self.moved_blocks += blocks
        sequence.computed_tokens = computed
        sequence.swapped = True
        return True

    def forget(self, sequence: SequenceState, now_s: float) -> None:
        self._host_used -= self._in_host.pop(sequence.id, 0)
        self._looked_up.pop(sequence.id, None)
        self._own.pop(sequence.id, None)  # cached until they are evicted, and found by nobody
        if sequence.swapped:
            sequence.swapped = False
            sequence.computed_tokens = 0

    def _swap_in(self, sequence: SequenceState, now_s: float) -> None:
        need = self.blocks_for(sequence, 0)
        if need > self.free_blocks:
            raise FleetError(f"{need} blocks to swap in {sequence!r}, and {self.free_blocks} are free")
        keys, chunk_tokens = self._chunks_of(sequence)
        holding = Holding(sequence, keys, chunk_tokens, self.block_tokens)
        chunks = [
            self._find(key, holding.chunk_blocks) for key in keys[: sequence.computed_tokens // chunk_tokens]
        ]
        for chunk in chunks:
            if chunk is not None:
                need -= 0 if chunk.holders else chunk.blocks
                self._used += 0 if chunk.holders else chunk.blocks
                self._hold(chunk, now_s)
        self._take(need, now_s)
        for key, chunk in zip(keys, chunks, strict=False):
            holding.chunks.append(self._new_chunk(key, holding.chunk_blocks) if chunk is None else chunk)
        holding.filled()
        sequence.blocks = self._in_host.pop(sequence.id)
        self._host_used -= sequence.blocks
        self.moved_blocks += sequence.blocks
        sequence.swapped = False
        self._held[sequence.id] = holding
        self._looked_up.clear()

    # --- what is found -----------------------------------------------------------------------------------------

    def _look_up(self, sequence: SequenceView) -> Found:
        known = self._looked_up.get(sequence.id)
        if known is not None:
            return known
        keys, chunk_tokens = self._chunks_of(sequence)
        chunk_blocks = chunk_tokens // self.block_tokens
        most = sequence.total_tokens - 1  # the last token is always computed
        hits: list[Chunk] = []
        unheld = 0
        for key in keys[: most // chunk_tokens]:
            chunk = self._find(key, chunk_blocks)
            if chunk is None:
                break
            hits.append(chunk)
            unheld += not chunk.holders
        unheld *= chunk_blocks
        tokens = len(hits) * chunk_tokens
        own = 0
        if sequence.id in self._own:
            own = self._own_left(sequence.id, tokens, most)
            unheld += own
            tokens += own * self.block_tokens
        found = self._looked_up[sequence.id] = Found(keys, chunk_tokens, hits, own, tokens, unheld)
        return found

    def _own_left(self, id: int, tokens: int, most: int) -> int:
        """Blocks of its own that a sequence finds after so many tokens in shared chunks."""
        before, chunks = self._own[id]
        if before != tokens:
            return 0
        left = 0
        for chunk in chunks[: (most - tokens) // self.block_tokens]:
            if chunk.holders == GONE:
                break
            left += 1
        return left

    def _find(self, key: int, blocks: int) -> Chunk | None:
        """The oldest chunk with this hash; a hash of another number of tokens is other content."""
        chunk = self._chunks.get(key)
        if chunk is None or chunk.blocks == blocks:
            return chunk
        return next((other for other in self._copies.get(key, ()) if other.blocks == blocks), None)

    def _chunks_of(self, sequence: SequenceView) -> tuple[tuple[int, ...], int]:
        """Keys of its chunks, and the tokens in each."""
        if not self.prefix_caching:
            return (), self.block_tokens
        assert isinstance(sequence, SequenceState)
        return chunks_of(sequence.hashes, sequence.request.block_tokens, self.block_tokens)

    def _hold(self, chunk: Chunk, now_s: float) -> None:
        """One more sequence holds a chunk that was found; the caller counts it as used."""
        if not chunk.holders:
            self._cached -= chunk.blocks
            self.eviction.reused(chunk.id, now_s)
        elif self._tells_shared:
            self.eviction.shared(chunk.id, now_s)
        chunk.holders += 1

    # --- what can be found -------------------------------------------------------------------------------------

    def _fill(self, holding: Holding, tokens: int) -> None:
        """The sequence has the blocks for so many tokens: chunks that this completes can be found from now on."""
        upto = min(tokens // holding.chunk_tokens, len(holding.keys))
        if upto <= len(holding.chunks):
            return
        known, blocks, chunks = self._chunks, holding.chunk_blocks, holding.chunks
        for key in holding.keys[len(chunks) : upto]:
            if key in known:
                chunks.append(self._new_chunk(key, blocks))
            else:
                known[key] = chunk = Chunk(key, key, blocks, 1)
                chunks.append(chunk)
        holding.filled()
        self._looked_up.clear()

    def _new_chunk(self, key: int, blocks: int) -> Chunk:
        """One that somebody holds."""
        if key not in self._chunks:
            chunk = self._chunks[key] = Chunk(key, key, blocks, 1)
            return chunk
        chunk = self._number(key, blocks, 1)
        self._copies.setdefault(key, []).append(chunk)
        return chunk

    def _number(self, key: int | None, blocks: int, holders: int) -> Chunk:
        chunk = self._numbered[self._next_number] = Chunk(self._next_number, key, blocks, holders)
        self._next_number += 1
        return chunk

    def _keep_own(self, holding: Holding, tokens: int) -> list[Chunk]:
        """Full blocks after its shared chunks: it alone finds them again."""
        shared = len(holding.chunks) * holding.chunk_tokens
        own = [self._number(None, 1, 0) for _ in range((tokens - shared) // self.block_tokens)]
        if own:
            self._own[holding.sequence.id] = shared, own
        return own

    def _hashed(self, sequence: SequenceState) -> int:
        """How many of its tokens are in blocks whose content was known when their step was planned."""
        computed = sequence.computed_tokens
        if sequence.known_tokens < sequence.total_tokens and computed > sequence.prompt_tokens:
            return computed - 1
        return computed

    def _forget_chunk(self, chunk: Chunk) -> None:
        """It cannot be found any more."""
        chunk.holders = GONE
        key = chunk.key
        if chunk.id != key:
            del self._numbered[chunk.id]
        if key is None:
            return
        copies = self._copies.get(key)
        if self._chunks[key] is not chunk:
            assert copies is not None
            copies.remove(chunk)
        elif copies:
            self._chunks[key] = copies.pop(0)
        else:
            del self._chunks[key]
        if copies is not None and not copies:
            del self._copies[key]

    # --- taking blocks -----------------------------------------------------------------------------------------

    def _take(self, count: int, now_s: float) -> None:
        """Count so many more as used, and evict where they were cached."""
        if not self._orders_empty:
            self._used += count
            while self._used + self._cached > self.total_blocks:
                self._evict(now_s)
            return
        self._used += count
        spare, empties = self._left_over, self.eviction.empties
        while count > spare:
            count -= spare
            spare = 0
            taken = empties(count, now_s)
            if taken or not self._cached:
                if not 0 < taken <= count:
                    self._blame_empties(taken, count)
                count -= taken
            else:
                spare = self._evict(now_s)
        self._left_over = spare - count
        if self._used + self._cached > self.total_blocks:
            self._blame_empties(self._used + self._cached - self.total_blocks, 0)

    def _blame_empties(self, taken: int, count: int) -> NoReturn:
        raise PolicyError(
            f"{type(self.eviction).__name__} takes {taken!r} empty blocks too many or too few where {count} are needed "
            f"and {self._cached} are cached"
        )

    def _evict(self, now_s: float) -> int:
        """Let the policy's victim go; answers its blocks, which are empty now."""
        id = self.eviction.victim(now_s)
        chunk = self._chunks.get(id)
        if chunk is None or chunk.id != id:
            chunk = self._numbered.get(id)
        if chunk is None or chunk.holders:
            raise PolicyError(f"{type(self.eviction).__name__} evicts {id!r}, which is no candidate")
        if chunk.key == id and id not in self._copies:
            chunk.holders = GONE
            del self._chunks[id]
        else:
            self._forget_chunk(chunk)
        self._looked_up.clear()
        self._cached -= chunk.blocks
        self.evictions += 1
        return chunk.blocks

    def _tell_emptied(self, count: int, now_s: float) -> None:
        if self._orders_empty:
            self.eviction.emptied(count, now_s)

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
        found = (self._find(key, blocks) for key in keys[: sequence.computed_tokens // chunk_tokens])
        return sum([blocks for chunk in found if chunk is not None and chunk.holders])

    def _count_lookup(self, sequence: SequenceState) -> None:
        self.lookup_tokens += sequence.prompt_tokens
        self.hit_tokens += sequence.cached_tokens
        request = sequence.request
        self.unshareable += bool(request.blocks) and not fits(request.block_tokens, self.block_tokens)

    # --- the check ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        used = 0
        holders: dict[int, int] = {}
        for holding in self._held.values():
            sequence = holding.sequence
            if holding.private_blocks < 0 or sequence.blocks < self._blocks_of(sequence.computed_tokens):
                raise FleetError(f"{sequence!r} has {holding.private_blocks} blocks that it does not share")
            used += holding.private_blocks
            for chunk in holding.chunks:
                holders[chunk.id] = holders.get(chunk.id, 0) + 1
        known = [*self._numbered.values(), *(one for one in self._chunks.values() if one.id == one.key)]
        if wrong := [one.id for one in known if holders.pop(one.id, 0) != one.holders] + list(holders):
            raise FleetError(f"the holders of chunks {wrong[:9]} are not those that have them")
        used += sum([chunk.blocks for chunk in known if chunk.holders])
        unheld = [chunk.blocks for chunk in known if not chunk.holders]
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
