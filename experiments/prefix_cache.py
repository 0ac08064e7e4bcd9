"""``python -m experiments.prefix_cache TRACE``: how much of its prompts a cache finds, by size and eviction policy.

One cache, the requests of a trace one after another in the order of the file, without timing: each takes what is there,
computes the rest and leaves. What remains is the policy, so the figures can be checked against any cache simulator.
Every started block counts as full, and all of a prompt may be found.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from experiments.text import console
from fleet.messages import Work
from fleet.tokens.paged_cache import PagedKvCache
from fleet.tokens.sequence import SequenceState
from policies import EvictionPolicy, PolicyError, build
from traces import Request, load_trace

UNBOUNDED = "unbounded"
SIZES = ["1000", "10000", "30000", "50000", "100000", UNBOUNDED]
POLICIES = ["lru tail_first=false", "lru", "lfu", "gdsf", "oldest-first"]


class PrefixHits(Struct, frozen=True, kw_only=True):
    """What one pass over a trace came to."""

    blocks: int
    """Prompt blocks that were asked for."""
    hits: int
    """Of those, found as part of a prefix."""
    evictions: int

    @property
    def fraction(self) -> float:
        """Hits over blocks; 0 where no prompt has hashes."""
        return self.hits / self.blocks if self.blocks else 0.0


def prefix_hits(
    requests: Iterable[Request], total_blocks: int | None, eviction: EvictionPolicy, *, seed: int = 0
) -> PrefixHits:
    """Pass `requests` through one cache of `total_blocks` hashed blocks (None: as many as they have).

    Raises `ValueError` when their hashed blocks have several sizes, or one prompt has more than there are.
    """
    hashed = [request for request in requests if request.blocks and request.block_tokens]
    if len(sizes := sorted({request.block_tokens or 0 for request in hashed})) > 1:
        raise ValueError(f"hashed blocks of several sizes, {sizes} tokens, do not fit one cache")
    longest = max((len(request.blocks or ()) for request in hashed), default=1)
    asked = sum(len(request.blocks or ()) for request in hashed)
    if total_blocks is not None and total_blocks < longest:
        raise ValueError(f"a prompt of {longest} blocks does not fit a cache of {total_blocks}")
    eviction = eviction.fresh()
    eviction.reset(random.Random(seed))
    cache = PagedKvCache(total_blocks or max(1, asked), sizes[0] if sizes else 1, eviction)
    hits = sum(_pass(cache, number, request) for number, request in enumerate(hashed))
    return PrefixHits(blocks=asked, hits=hits, evictions=cache.evictions)


def _pass(cache: PagedKvCache, number: int, request: Request) -> int:
    """Blocks of this request that were there; afterwards all are."""
    tokens = len(request.blocks or ()) * cache.block_tokens
    # A token more, never computed: the last token of a prompt always has to be, and so its block never is a hit.
    sequence = SequenceState(
        number, Work(replace(request, prompt_tokens=tokens + 1), 1), 0, request.arrived_s
    )
    cache.admit(sequence, request.arrived_s)
    cache.extend(sequence, tokens - sequence.computed_tokens, request.arrived_s)
    sequence.computed_tokens = tokens
    cache.release(sequence, request.arrived_s)
    return sequence.cached_tokens // cache.block_tokens


def study(
    requests: Sequence[Request], sizes: Sequence[int | None], policies: Sequence[EvictionPolicy]
) -> list[list[PrefixHits]]:
    """One row for each policy, one column for each size."""
    return [[prefix_hits(requests, size, policy) for size in sizes] for policy in policies]


def _policy(text: str) -> EvictionPolicy:
    """A policy from words such as ``lru tail_first=false``."""
    name, *settings = text.split()
    if any("=" not in setting for setting in settings):
        raise argparse.ArgumentTypeError(
            f"must be a name and parameters, as in `{POLICIES[0]}`, not {text!r}"
        )
    try:
        parameters = {key: json.loads(value) for key, _, value in (item.partition("=") for item in settings)}
        return build(EvictionPolicy, {"policy": name, **parameters}, text)  # type: ignore[type-abstract]
    except (PolicyError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int | None:
    if text == UNBOUNDED:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of blocks or `{UNBOUNDED}`, not {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m experiments.prefix_cache", description=study.__doc__)
    parser.add_argument("trace", help="a file with prefix-block hashes, or the name of a bundled trace")
    parser.add_argument("--blocks", nargs="+", type=_size, default=[_size(text) for text in SIZES])
    parser.add_argument("--policy", nargs="+", type=_policy, default=[_policy(text) for text in POLICIES])
    options = parser.parse_args(arguments)
    requests = [entry.request for entry in load_trace(options.trace)]
    try:
        rows = study(requests, options.blocks, options.policy)
    except ValueError as error:
        parser.error(str(error))
    table = Table(title=f"prefix hits, fraction of {rows[0][0].blocks:,} blocks of {options.trace}")
    table.add_column("eviction")
    for size in options.blocks:
        table.add_column(UNBOUNDED if size is None else f"{size:,}", justify="right")
    for policy, row in zip(options.policy, rows, strict=True):
        settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in policy.parameters().items())
        table.add_row(" ".join((policy.name(), settings)), *(f"{hits.fraction:.4f}" for hits in row))
    console().print(table)


if __name__ == "__main__":
    main()
