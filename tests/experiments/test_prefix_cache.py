"""Prefix hit rates against an LRU cache written in fifteen lines, and against published figures."""

import random
from collections import OrderedDict

import pytest

from experiments.prefix_cache import main, prefix_hits
from policies import Gdsf, Lfu, Lru, OldestFirst
from traces import Request, TraceEntry, load_trace, save_trace
from traces.trace import Trace

MOONCAKE = "mooncake/conversation_trace.jsonl"


def conversations(count: int = 400, block_tokens: int = 16) -> list[Request]:
    """Prompts that grow turn by turn, from a few common beginnings, with a popular few."""
    rng = random.Random(1)
    hashes = {}
    prompts = [(start,) for start in range(3)]
    requests = []
    for number in range(count):
        prompt = prompts[min(int(rng.expovariate(0.05)), len(prompts) - 1)]
        prompt += tuple(rng.randrange(4) for _ in range(rng.randrange(4)))
        prompts.append(prompt)
        blocks = tuple(hashes.setdefault(prompt[: end + 1], len(hashes)) for end in range(len(prompt)))
        tokens = len(blocks) * block_tokens - rng.randrange(block_tokens)
        requests.append(Request(str(number), float(number), tokens, blocks, block_tokens))
    return requests


def plain_lru(requests: list[Request], capacity: int | None) -> int:
    """Match the prefix, then touch every block in its order; the least recently touched one goes."""
    cache, hits = OrderedDict(), 0
    for request in requests:
        for block in request.blocks:
            if block not in cache:
                break
            hits += 1
        for block in request.blocks:
            cache[block] = None
            cache.move_to_end(block)
            if capacity is not None and len(cache) > capacity:
                cache.popitem(last=False)
    return hits


@pytest.mark.parametrize("capacity", [32, 40, 64, 100, 200, None])
def test_lru_finds_what_a_plain_lru_cache_finds(capacity: int | None) -> None:
    requests = conversations()
    found = prefix_hits(requests, capacity, Lru(tail_first=False))
    assert found.hits == plain_lru(requests, capacity)
    assert found.blocks == sum(len(request.blocks) for request in requests)


def test_sizes_of_the_test_above_make_a_difference() -> None:
    requests = conversations()
    hits = [plain_lru(requests, capacity) for capacity in (32, 40, 64, 100, 200, None)]
    assert hits == sorted(set(hits))
    assert max(len(request.blocks) for request in requests) <= 32


@pytest.mark.parametrize("policy", [Lru(), Lfu(), Gdsf(), OldestFirst()], ids=lambda policy: policy.name())
def test_without_a_bound_every_policy_finds_the_same_and_with_one_no_more(policy) -> None:
    requests = conversations()
    everything = plain_lru(requests, None)
    unbounded, bounded = prefix_hits(requests, None, policy), prefix_hits(requests, 64, policy)
    assert (unbounded.hits, unbounded.evictions) == (everything, 0)
    assert bounded.hits < everything
    assert bounded.evictions > 0


def test_one_pass_leaves_nothing_to_the_next() -> None:
    requests, policy = conversations(100), Lfu()
    assert prefix_hits(requests, 64, policy) == prefix_hits(requests, 64, policy)


def test_what_cannot_be_answered_is_said() -> None:
    requests = conversations(50)
    longest = max(len(request.blocks) for request in requests)
    with pytest.raises(ValueError, match=f"a prompt of {longest} blocks does not fit a cache of 2"):
        prefix_hits(requests, 2, Lru())
    with pytest.raises(ValueError, match="several sizes"):
        prefix_hits([*requests, Request("x", 0.0, 8, (1,), 8)], None, Lru())


def test_a_trace_without_hashes_has_no_hits() -> None:
    assert prefix_hits([Request("x", 0.0, 8)], None, Lru()).fraction == 0.0


def test_the_command_prints_a_row_for_each_policy(tmp_path, capsys) -> None:
    requests = conversations(50)
    path = tmp_path / "trace.jsonl"
    save_trace(Trace.from_entries([TraceEntry(request) for request in requests]), path)
    main([str(path), "--blocks", "64", "unbounded", "--policy", "lru tail_first=false", "gdsf"])
    printed = capsys.readouterr().out
    expected = prefix_hits(requests, None, Lru()).fraction
    assert "lru tail_first=false" in printed
    assert printed.count(f"{expected:.4f}") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "lruu"], "did you mean `lru`"),
        (["--policy", "lru tail_first=7"], "lru tail_first=7.tail_first"),
        (["--policy", "lru tail_first"], "a name and parameters"),
        (["--blocks", "0"], "number of blocks"),
    ],
)
def test_the_command_says_what_it_does_not_understand(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["trace.jsonl", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.traces
@pytest.mark.parametrize(
    ("capacity", "fraction"),
    [
        (1_000, 0.0445),
        (10_000, 0.2112),
        (30_000, 0.3257),
        (50_000, 0.3546),
        (100_000, 0.3637),
        (None, 0.3664),
    ],
)
def test_hit_rates_on_mooncake_are_those_of_other_simulators(shared_trace, capacity, fraction) -> None:
    requests = [entry.request for entry in load_trace(shared_trace(MOONCAKE))]
    assert round(prefix_hits(requests, capacity, Lru(tail_first=False)).fraction, 4) == fraction
