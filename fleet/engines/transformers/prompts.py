"""Token ids for requests that bring no text: a trace has lengths and block hashes, a real model needs tokens.

The one thing to know: the tokens of a block are a function of its hash alone, so that prompts which share leading
hashes share leading tokens, and a real prefix cache hits what the trace says. They mean nothing; how long a model
takes does not depend on that.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import shake_128

import numpy as np
import numpy.typing as npt

from fleet.actor import FleetError
from traces.schema import Request

FIRST_ID = 256
"""Vocabularies have their special tokens, and single bytes, at the low end: ids below are not used."""
CACHED_BLOCKS = 4_096


def prompt_ids(request: Request, vocab_size: int, *, first_id: int = FIRST_ID) -> list[int]:
    """The prompt of a request: `max(1, prompt_tokens)` ids from `first_id` up to `vocab_size`, which is excluded.

    Block i of `block_tokens` tokens depends on `blocks[i]` alone; a partial last block has the first tokens of
    its block. What no hash covers depends on the request's id. The same on every machine and in every process.

    Raises:
        FleetError: There is no id from `first_id` up to `vocab_size`.
    """
    if not 0 <= first_id < vocab_size <= 2**32:
        raise FleetError(f"first_id={first_id} and vocab_size={vocab_size} leave no token ids to choose from")
    length = max(1, request.prompt_tokens or 1)
    pieces = []
    size = request.block_tokens or 0
    covered = 0
    for block in (request.blocks or ())[: -(-length // size)] if size else ():
        pieces.append(_block(block, size, first_id, vocab_size))
        covered += size
    if covered < length:
        pieces.append(_drawn(f"request {request.id}", length - covered, first_id, vocab_size))
    ids: list[int] = np.concatenate(pieces)[:length].tolist()
    return ids


@lru_cache(maxsize=CACHED_BLOCKS)
def _block(block: int, count: int, first_id: int, vocab_size: int) -> npt.NDArray[np.uint32]:
    return _drawn(f"block {block}", count, first_id, vocab_size)


def _drawn(key: str, count: int, first_id: int, vocab_size: int) -> npt.NDArray[np.uint32]:
    """The first `count` ids of the endless sequence that belongs to `key`."""
    numbers = np.frombuffer(shake_128(key.encode("utf-8", "surrogatepass")).digest(4 * count), dtype="<u4")
    within = numbers.astype(np.uint64) * np.uint64(vocab_size - first_id) >> np.uint64(32)
    return (within + np.uint64(first_id)).astype(np.uint32)
