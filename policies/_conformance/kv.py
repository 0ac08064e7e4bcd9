"""Sequences and a paged key-value cache as iteration policies see them: small, exact, with prefixes shared by hash."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from traces.schema import Request


class FakeSequence:
    """A `SequenceView`. `held` of its leading chunks are shared under their hash, `private` blocks are its own."""

    def __init__(self, id: int, request: Request, queued_s: float, generated_tokens: int = 0) -> None:
        self.id = id
        self.request = request
        self.queued_s = queued_s
        self.prompt_tokens = request.prompt_tokens or 1
        self.generated_tokens = generated_tokens
        self.computed_tokens = 0
        self.cached_tokens = 0
        self.preemptions = 0
        self.swapped = False
        self.running = False
        self.held = 0
        self.private = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and generated."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def remaining_tokens(self) -> int:
        """Not computed yet."""
        return self.prompt_tokens + self.generated_tokens - self.computed_tokens

    @property
    def blocks(self) -> int:
        """All that it holds."""
        return self.held + self.private

    def label(self) -> str:
        """Short, for a message."""
        return f"{self.id}: {self.computed_tokens}/{self.total_tokens}"

    def __iter__(self) -> Iterator[object]:
        """Everything, so that a change can be seen."""
        return iter(vars(self).items())


class FakeKv:
    """A `KvView`, and the commands of the scheduler. Blocks that nobody holds are evicted in the order of release.

    What a policy takes and gives up while it plans is done to copies of its sequences, until `settle`: so that what it
    is shown stays as it was, and a policy that changes it can be caught.
    """

    def __init__(self, block_tokens: int, total_blocks: int, watermark_blocks: int, host_blocks: int) -> None:
        self.block_tokens = block_tokens
        self.total_blocks = total_blocks
        self.watermark_blocks = watermark_blocks
        self.host_blocks = host_blocks
        self.holders: dict[int, int] = {}
        """How many hold the block of this hash; 0: it is cached, and the first such is the first to go."""
        self.private = 0
        self._planned: dict[int, FakeSequence] = {}
        self._shown: list[tuple[str, object]] = []
        """What it was before the plan."""

    def __iter__(self) -> Iterator[object]:
        """Everything as it was before what is planned, so that a change can be seen."""
        return iter(self._shown or list(vars(self).items()))

    # --- what a policy asks, and takes ---------------------------------------------------------------------------

    @property
    def free_blocks(self) -> int:
        """Empty, or cached and held by nobody."""
        return self.total_blocks - self.private - sum(count > 0 for count in self.holders.values())

    def cached_tokens(self, sequence: FakeSequence) -> int:
        """Of one that waits, what the cache has."""
        sequence = self._planned.get(sequence.id, sequence)
        return 0 if sequence.running or sequence.swapped else self.block_tokens * len(self._hits(sequence))

    def blocks_for(self, sequence: FakeSequence, tokens: int) -> int:
        """Of the free blocks, what it takes to compute so many more."""
        sequence = self._planned.get(sequence.id, sequence)
        if sequence.running or sequence.swapped:
            return max(0, self._blocks(sequence.computed_tokens + tokens) - sequence.blocks)
        hits = self._hits(sequence)
        held = sum(self.holders[hash] > 0 for hash in hits)
        return self._blocks(len(hits) * self.block_tokens + tokens) - held

    def blocks_held_alone(self, sequence: FakeSequence) -> int:
        """What would be free if it lost its place."""
        sequence = self._planned.get(sequence.id, sequence)
        return sequence.private + sum(self.holders[hash] == 1 for hash in _hashes(sequence)[: sequence.held])

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _hits(self, sequence: FakeSequence) -> tuple[int, ...]:
        hashes = _hashes(sequence)[: (sequence.total_tokens - 1) // self.block_tokens]
        for number, hash in enumerate(hashes):
            if hash not in self.holders:
                return hashes[:number]
        return hashes

    def take(self, sequence: FakeSequence, tokens: int) -> None:
        """Admit it, if it waits, and give it blocks for so many more tokens."""
        sequence = self._copy(sequence)
        if not sequence.running:
            self.admit(sequence)
        need = self.blocks_for(sequence, tokens)
        if need > self.free_blocks:
            raise ValueError(
                f"took {need} blocks for sequence {sequence.id}, and {self.free_blocks} are free"
            )
        self.extend(sequence, tokens)

    def give_up(self, sequence: FakeSequence, *, swap: bool = False) -> None:
        """Take its blocks from it."""
        sequence = self._copy(sequence)
        if sequence.running and not (swap and self.swap_out(sequence)):
            self.release(sequence)

    def _copy(self, sequence: FakeSequence) -> FakeSequence:
        if not self._shown:
            self._shown = [(name, copy.deepcopy(value)) for name, value in vars(self).items()]
        if sequence.id not in self._planned:
            self._planned[sequence.id] = copy.copy(sequence)
        return self._planned[sequence.id]

    def settle(self, sequences: Iterable[FakeSequence]) -> None:
        """Do to these what was planned for them."""
        planned, self._planned, self._shown = self._planned, {}, []
        for sequence in sequences:
            if sequence.id in planned:
                vars(sequence).update(vars(planned[sequence.id]))

    # --- commands ----------------------------------------------------------------------------------------------

    def admit(self, sequence: FakeSequence) -> None:
        """Give it what the cache has of it, or what it has in host memory."""
        if sequence.swapped:
            sequence.private = self._blocks(sequence.computed_tokens)
            self.host_blocks += sequence.private
            self._take(sequence.private)
            sequence.swapped = False
        else:
            hits = self._hits(sequence)
            for hash in hits:
                self.holders[hash] += 1
            sequence.held = len(hits)
            sequence.computed_tokens = sequence.cached_tokens = len(hits) * self.block_tokens
        sequence.running = True

    def _take(self, count: int) -> None:
        self.private += count
        while self.private + len(self.holders) > self.total_blocks:
            cached = next((hash for hash, count in self.holders.items() if not count), None)
            if cached is None:
                return  # a swap-in for which there is no room; what is left is checked where it is extended
            del self.holders[cached]

    def extend(self, sequence: FakeSequence, tokens: int) -> None:
        """Take blocks for so many more; full ones of its prompt can be found from now on."""
        need = self.blocks_for(sequence, tokens)
        sequence.private += need
        self._take(need)
        hashes = _hashes(sequence)
        while sequence.held < min(len(hashes), (sequence.computed_tokens + tokens) // self.block_tokens):
            hash = hashes[sequence.held]
            if hash in self.holders:
                return  # another computes the same: this one keeps a copy
            self.holders[hash] = 1
            sequence.held += 1
            sequence.private -= 1
            self.private -= 1

    def release(self, sequence: FakeSequence) -> None:
        """Give up everything; what others may find stays cached."""
        computed = sequence.computed_tokens // self.block_tokens
        for number, hash in enumerate(_hashes(sequence)[: sequence.held]):
            self.holders[hash] -= 1
            if not self.holders[hash]:
                del self.holders[hash]
                if number < computed:
                    self.holders[hash] = 0  # the last in the order of release
        self.private -= sequence.private
        if sequence.swapped:
            self.host_blocks += self._blocks(sequence.computed_tokens)
        sequence.held = sequence.private = sequence.computed_tokens = 0
        sequence.running = sequence.swapped = False

    def swap_out(self, sequence: FakeSequence) -> bool:
        """Move it to host memory if there is room."""
        need, computed = self._blocks(sequence.computed_tokens), sequence.computed_tokens
        if need > self.host_blocks or not computed:
            return False
        self.release(sequence)
        self.host_blocks -= need
        sequence.computed_tokens, sequence.swapped = computed, True
        return True


def _hashes(sequence: FakeSequence) -> tuple[int, ...]:
    """Of the full chunks of its prompt."""
    return sequence.request.blocks or ()
