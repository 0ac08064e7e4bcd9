"""Chunks: the parts of a prompt that can be shared, and who holds which.

A chunk is as large as the larger of the request's hashed block and the cache's block; one must be a multiple of the
other, or the request shares nothing. Where several hashed blocks make a chunk, the last one names it, because equal
hashes mean equal prompts up to there. Only full chunks are shared.
"""

from __future__ import annotations

import sys

from msgspec import Struct

from fleet.tokens.sequence import SequenceState
from traces.schema import Request

NEVER = sys.maxsize
"""More tokens than any sequence has."""


class Chunk(Struct, gc=False):
    """A prompt's chunk that can be found."""

    holders: int
    """Sequences that hold it; 0: it is cached, and a candidate of the eviction policy."""
    blocks: int


class Prompt(Struct, frozen=True):
    """The chunks of a sequence that waits, and what the cache has of them."""

    keys: tuple[int, ...]
    chunk_tokens: int
    hits: int
    """Leading chunks that are there."""
    unheld: int
    """Of those, the ones that nobody holds yet."""


class Holding:
    """What a running sequence holds, beyond `SequenceState.blocks`."""

    __slots__ = (
        "chunk_blocks",
        "chunk_tokens",
        "duplicates",
        "filled",
        "keys",
        "next_fill_tokens",
        "sequence",
    )

    def __init__(
        self, sequence: SequenceState, keys: tuple[int, ...], chunk_tokens: int, block_tokens: int
    ) -> None:
        self.sequence = sequence
        self.keys = keys
        """Of every full chunk of its prompt."""
        self.chunk_tokens = chunk_tokens
        self.chunk_blocks = chunk_tokens // block_tokens
        self.filled = 0
        """Leading chunks that it has all blocks of."""
        self.duplicates: set[int] = set()
        """Filled chunks, by number, that are its own, because another sequence held the same one already."""
        self.next_fill_tokens = NEVER

    def fill_to(self, chunks: int) -> None:
        self.filled = self.sequence.chunks = chunks
        self.next_fill_tokens = (chunks + 1) * self.chunk_tokens if chunks < len(self.keys) else NEVER

    @property
    def private_blocks(self) -> int:
        """Blocks that only this sequence can ever hold."""
        return self.sequence.blocks - self.chunk_blocks * (self.filled - len(self.duplicates))

    def shared(self) -> list[int]:
        """Keys of the chunks that it holds under their hash, in the order of the prompt."""
        if not self.duplicates:
            return list(self.keys[: self.filled])
        filled = enumerate(self.keys[: self.filled])
        return [key for number, key in filled if number not in self.duplicates]


def fits(hashed_tokens: int | None, block_tokens: int) -> bool:
    """Can hashes of so many tokens name blocks of `block_tokens`?"""
    if not hashed_tokens:
        return False
    return hashed_tokens % block_tokens == 0 or block_tokens % hashed_tokens == 0


def chunks_of(request: Request, prompt_tokens: int, block_tokens: int) -> tuple[tuple[int, ...], int]:
    """Keys of the full chunks of a prompt in its order, and the tokens in each."""
    if not request.blocks or not request.block_tokens or not fits(request.block_tokens, block_tokens):
        return (), block_tokens
    chunk_tokens = max(request.block_tokens, block_tokens)
    hashes = chunk_tokens // request.block_tokens
    keys = request.blocks[hashes - 1 : prompt_tokens // chunk_tokens * hashes : hashes]
    if len(set(keys)) < len(keys):  # not hashes of prefixes: from the first repeated one on they mean nothing
        keys = keys[: next(number for number, key in enumerate(keys) if key in keys[:number])]
    return keys, chunk_tokens
