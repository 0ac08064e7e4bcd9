"""Chunks: the parts of a sequence that can be found again, and who holds which.

A chunk is as large as the larger of the request's hashed block and the cache's block; one must be a multiple of the
other, or the request shares nothing. Where several hashed blocks make a chunk, the last one names it, because equal
hashes mean equal beginnings up to there. Only full chunks are shared. What a sequence computed beyond them is found by
itself alone, when it lost its place and comes back, and that block by block.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from fleet.tokens.sequence import NEVER, SequenceState

GONE = -1
"""Holders of a chunk that was evicted."""


class Chunk(Struct, gc=False, eq=False):
    """Content that can be found. There may be several of one hash: each sequence keeps the one that it computed."""

    id: int
    """What the eviction policy knows it by: its hash, unless another chunk goes by that."""
    key: int | None
    """Its hash; None: only one sequence can find it."""
    blocks: int
    holders: int
    """Sequences that hold it; 0: it is cached, and a candidate of the eviction policy."""


class Found(Struct, frozen=True, gc=False):
    """The chunks of a sequence that waits, and what the cache has of them."""

    keys: tuple[int, ...]
    chunk_tokens: int
    hits: list[Chunk]
    """Leading chunks that are there."""
    own: int
    """Blocks after them that it computed itself, before it lost its place."""
    tokens: int
    """In both."""
    unheld_blocks: int
    """Blocks of both that nobody holds yet."""


class Holding:
    """What a running sequence holds, beyond `SequenceState.blocks`."""

    __slots__ = ("chunk_blocks", "chunk_tokens", "chunks", "keys", "sequence")

    def __init__(
        self, sequence: SequenceState, keys: tuple[int, ...], chunk_tokens: int, block_tokens: int
    ) -> None:
        self.sequence = sequence
        self.keys = keys
        """Of every full chunk of its prompt, and of its answer where the trace has them."""
        self.chunk_tokens = chunk_tokens
        self.chunk_blocks = chunk_tokens // block_tokens
        self.chunks: list[Chunk] = []
        """Its leading chunks, all blocks of which it has."""

    def filled(self) -> None:
        """Note the chunks that it has."""
        count = self.sequence.chunks = len(self.chunks)
        self.sequence.next_fill_tokens = (count + 1) * self.chunk_tokens if count < len(self.keys) else NEVER

    @property
    def private_blocks(self) -> int:
        """Blocks that only this sequence can ever hold."""
        return self.sequence.blocks - self.chunk_blocks * len(self.chunks)


def fits(hashed_tokens: int | None, block_tokens: int) -> bool:
    """Can hashes of so many tokens name blocks of `block_tokens`?"""
    if not hashed_tokens:
        return False
    return hashed_tokens % block_tokens == 0 or block_tokens % hashed_tokens == 0


def chunks_of(
    hashes: Sequence[int], hashed_tokens: int | None, block_tokens: int
) -> tuple[tuple[int, ...], int]:
    """Keys of the full chunks that hashes of `hashed_tokens` each make, in their order, and the tokens in each."""
    if not hashes or not hashed_tokens or not fits(hashed_tokens, block_tokens):
        return (), block_tokens
    chunk_tokens = max(hashed_tokens, block_tokens)
    each = chunk_tokens // hashed_tokens
    keys = tuple(hashes[each - 1 :: each])
    if len(set(keys)) < len(keys):  # not hashes of prefixes: from the first repeated one on they mean nothing
        keys = keys[: next(number for number, key in enumerate(keys) if key in keys[:number])]
    return keys, chunk_tokens
