"""Where chance comes from: one stream for each (run seed, address), the same in every process and runtime."""

from __future__ import annotations

import hashlib
import random


def seed_for(seed: int, address: str) -> int:
    """A 64-bit seed for the actor at `address`.

    `hash()` would differ from process to process (PYTHONHASHSEED), and `seed + index` would give run 1's
    second actor the stream of run 2's first; a digest does neither.
    """
    digest = hashlib.blake2b(f"{seed}\0{address}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def stream_of(base: int, what: str) -> random.Random:
    """One of several streams of an actor, which drew `base` for all of them: of one pool's policy in a slot."""
    return random.Random(f"{base}/{what}")


def rng_for(seed: int, address: str) -> random.Random:
    """The random stream of the actor at `address`."""
    return random.Random(seed_for(seed, address))
