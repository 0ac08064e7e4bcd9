"""transformers' paged cache as the account that a scheduler keeps, and as what a policy sees of it.

The one thing to know: nothing is counted twice. Every answer is read off the library's own books (its block tables, its
pool of free blocks, its ledger of content hashes), and every command is one of the library's own operations. Only
which cached block goes when room is needed is decided elsewhere: by the eviction policy, block by block, where the
library by itself drops all of them at once.

It means the same as `PagedKvCache`, except that it knows what blocks contain: every full block is shared by its
content, those of answers and of prompts without recorded hashes included, one block at a time; and a block that turns
out equal to another when it has been computed is given up for that one.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers.generation.continuous_batching.cache_allocators.cache_allocator import compute_block_hash

from fleet.actor import FleetError
from fleet.engines.transformers.runner import PlannedScheduler
from fleet.engines.transformers.tokens import SequenceTokens
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState
from policies.base import EvictionPolicy, PolicyError
from policies.views import SequenceView


class TransformersKvCache(KvCache):
    """The account of a real cache. Commands come from the loop's thread, also while a step of others runs."""

    def __init__(
        self,
        scheduler: PlannedScheduler,
        tokens: SequenceTokens,
        eviction: EvictionPolicy,
        *,
        watermark_blocks: int,
    ) -> None:
        self._scheduler = scheduler
        self.taken = []
        self._allocator = scheduler.allocator
        self._ledger = scheduler.allocator.ledger
        self._pool = scheduler.allocator.pool
        self._lock = scheduler.lock
        self._tokens = tokens
        self._eviction = eviction
        self._candidates: set[int] = set()
        """Blocks that the eviction policy was told of, by the hash of their content, which is what it knows them by;
        only ever asked for membership."""
        self._settled_s = 0.0
        self._sequences: dict[int, SequenceState] = {}
        """Admitted ones."""
        self.block_tokens = scheduler.allocator.tokens_per_page
        self.total_blocks = scheduler.allocator.num_blocks
        self.watermark_blocks = watermark_blocks

    @property
    def used_blocks(self) -> int:
        return int(self.total_blocks - self._empty_blocks() - len(self._ledger.cached_blocks))

    @property
    def cached_blocks(self) -> int:
        return len(self._ledger.cached_blocks)

    def _empty_blocks(self) -> int:
        allocator = self._allocator
        empty: int = self._pool.count_free_blocks(allocator.index)
        return empty + int(self._pool.num_free_sectors) * int(allocator.blocks_per_sector)

    # --- questions ---------------------------------------------------------------------------------------------

    def holds(self, sequence: SequenceView) -> bool:
        return sequence.id in self._sequences

    def cached_tokens(self, sequence: SequenceView) -> int:
        if sequence.id in self._sequences:
            return 0
        return len(self._found(sequence)) * self.block_tokens

    def blocks_for(self, sequence: SequenceView, tokens: int) -> int:
        if sequence.id in self._sequences:
            return max(0, -(-(sequence.computed_tokens + tokens) // self.block_tokens) - sequence.blocks)
        found = self._found(sequence)
        unheld = sum([block in self._ledger.cached_blocks for block in found])
        return -(-tokens // self.block_tokens) + unheld

    def blocks_held_alone(self, sequence: SequenceView) -> int:
        shared = self._ledger.shared_ref_counts
        return sum([block not in shared for block in self._scheduler.blocks(sequence.id)])

    def steps_that_fit(self, decodes: Sequence[SequenceState], at_most: int) -> int:
        free = self.free_blocks
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            if self._blocks_more(decodes, middle) <= free:
                low = middle
            else:
                high = middle - 1
        return low

    def used_after(self, decodes: Sequence[SequenceState], steps: int) -> int:
        return self.used_blocks + self._blocks_more(decodes, steps)

    def _blocks_more(self, decodes: Sequence[SequenceState], steps: int) -> int:
        size = self.block_tokens
        return sum([max(0, -(-(item.computed_tokens + steps) // size) - item.blocks) for item in decodes])

    def _found(self, sequence: SequenceView) -> list[int]:
        """The blocks that have the sequence's leading tokens; its last token is always computed."""
        assert isinstance(sequence, SequenceState)
        if not self._scheduler.cache.use_prefix_sharing:
            return []
        ids, hashes = self._tokens.ids(sequence), self._tokens.hashes(sequence)
        block_of, size = self._ledger.hash_to_block, self.block_tokens
        found: list[int] = []
        for i in range((len(ids) - 1) // size):
            if i == len(hashes):
                hashes.append(compute_block_hash(hashes[-1] if i else None, ids[i * size : (i + 1) * size]))
            block = block_of.get(hashes[i])
            if block is None:
                break
            found.append(block)
        return found

    # --- commands ----------------------------------------------------------------------------------------------

    def admit(self, sequence: SequenceState, now_s: float) -> None:
        ids = self._tokens.ids(sequence)
        if len(ids) != sequence.total_tokens:
            raise FleetError(f"{sequence} comes with {len(ids)} token ids")
        if sequence.id in self._sequences:
            raise FleetError(f"{sequence} is admitted twice")
        with self._lock:
            self._settle(now_s)
            hits = self._scheduler.admit(sequence.id, list(ids))
            self._sequences[sequence.id] = sequence
            blocks = self._scheduler.blocks(sequence.id)
            for block in blocks:
                self._found_again(self._ledger.block_to_hash[block], now_s)
        sequence.blocks = len(blocks)
        sequence.computed_tokens = hits
        sequence.cached_tokens = min(hits, sequence.prompt_tokens)

    def extend(self, sequence: SequenceState, tokens: int, now_s: float) -> None:
        needed = self.blocks_for(sequence, tokens)
        if not needed:
            return
        with self._lock:
            self._settle(now_s)
            if needed > self.free_blocks:
                raise FleetError(
                    f"{sequence} takes {needed} blocks for {tokens} tokens; {self.free_blocks} are free"
                )
            self._make_room(needed, now_s)
            if not self._scheduler.take_blocks(sequence.id, tokens):
                raise FleetError(f"transformers has no {needed} blocks for {sequence}, and should have")
            sequence.blocks = len(self._scheduler.blocks(sequence.id))

    def release(
        self, sequence: SequenceState, now_s: float, *, keep: bool = True, comes_back: bool = False
    ) -> None:
        with self._lock:
            self._settle(now_s)
            blocks = list(self._scheduler.blocks(sequence.id))
            self._scheduler.drop(sequence.id, keep=keep)
            del self._sequences[sequence.id]
            cached = self._ledger.cached_blocks
            candidates = [self._ledger.block_to_hash[block] for block in blocks if block in cached]
            if candidates:
                self._candidates.update(candidates)
                self._eviction.released(candidates, now_s)
        sequence.blocks = 0
        sequence.computed_tokens = 0

    def swap_out(self, sequence: SequenceState, now_s: float) -> bool:
        """Never: what a preempted sequence computed is found again as long as it is cached, and else computed anew."""
        return False

    def forget(self, sequence: SequenceState, now_s: float) -> None:
        """There is nothing in host memory."""

    def _make_room(self, needed: int, now_s: float) -> None:
        """Evict until so many blocks are empty."""
        ledger, allocator = self._ledger, self._allocator
        for _ in range(needed - self._empty_blocks()):
            content = self._eviction.victim(now_s)
            if content not in self._candidates:
                raise PolicyError(
                    f"{type(self._eviction).__name__} evicts {content!r}, which is no candidate"
                )
            self._candidates.remove(content)
            block = ledger.hash_to_block.pop(content)
            del ledger.block_to_hash[block]
            del ledger.cached_blocks[block]
            self._pool.free_blocks(allocator.index, [block])

    def _found_again(self, content: int, now_s: float) -> None:
        if content in self._candidates:
            self._candidates.remove(content)
            self._eviction.reused(content, now_s)
        else:
            self._eviction.shared(content, now_s)

    def _settle(self, now_s: float) -> None:
        """Tell the eviction policy of blocks that sequences took in place of their own in the steps since."""
        self._settled_s = now_s
        adopted = self._scheduler.adopted
        if adopted:
            for content in adopted:
                self._found_again(content, now_s)
            adopted.clear()

    # --- checks ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        with self._lock:
            self._settle(self._settled_s)
            holders: dict[int, int] = {}
            for number, sequence in self._sequences.items():
                blocks = self._scheduler.blocks(number)
                if len(blocks) != sequence.blocks:
                    raise FleetError(f"{sequence} holds {len(blocks)} blocks")
                for block in blocks:
                    holders[block] = holders.get(block, 0) + 1
            self._check_against(holders)

    def _check_against(self, holders: dict[int, int]) -> None:
        ledger, cached = self._ledger, set(self._ledger.cached_blocks)
        if len(holders) + len(cached) + self._empty_blocks() != self.total_blocks:
            raise FleetError(
                f"{len(holders)} held, {len(cached)} cached and {self._empty_blocks()} empty blocks are not "
                f"{self.total_blocks}"
            )
        if cached & holders.keys():
            raise FleetError(
                f"blocks {sorted(cached & holders.keys())} are held, and cached as if they were not"
            )
        if {block: count for block, count in holders.items() if count > 1} != ledger.shared_ref_counts:
            raise FleetError("the ledger counts other holders than the block tables show")
        if {ledger.block_to_hash[block] for block in cached} != self._candidates or len(
            self._eviction
        ) != len(cached):
            raise FleetError(
                f"{len(cached)} blocks are cached; the eviction policy knows {len(self._eviction)}"
            )
