"""Two contracts: that transformers is what our scheduler relies on, and that its cache means what ours means."""

import inspect
import random
import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.engines.transformers.engine import TransformersEngine
from fleet.messages import LoadFinished, Work
from fleet.tokens.paged_cache import PagedKvCache
from fleet.tokens.scheduler import StepScheduler
from fleet.tokens.sequence import SequenceState
from policies.decisions import Step
from tests.engines.contexts import ThreadContext
from tests.engines.language_models import Scripted, StepwiseReplica, lru
from traces.schema import Request

transformers = pytest.importorskip("transformers", reason="needs the extra `llm`")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
BLOCKS, BLOCK_TOKENS = 12, 8
CHANGED = (
    "transformers' continuous batching is not what fleet/engines/transformers/runner.py relies on: read its changes, "
    "adapt the runner and this list, then renew the pin"
)


# --- transformers is what we rely on --------------------------------------------------------------------------


def test_the_version_installed_is_the_one_that_is_pinned_and_known():
    from fleet.engines.transformers.runner import TRANSFORMERS

    [pinned] = re.findall(r"^transformers==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert transformers.__version__ == pinned
    assert pinned.startswith(f"{TRANSFORMERS}."), CHANGED
    assert any(re.match(r"transformers\b.*extra == .llm.", line) for line in requires("fleetlab"))


def parameters_of(function):
    return tuple(inspect.signature(function).parameters)


def test_the_functions_that_are_overridden_or_called_have_the_parameters_we_know():
    from transformers.generation.continuous_batching import (
        cache,
        cache_allocators,
        continuous_api,
        requests,
        scheduler,
    )
    from transformers.generation.continuous_batching.cache_allocators import cache_allocator, cache_pool

    paged, base = cache.PagedAttentionCache, scheduler.Scheduler
    processor, pool = continuous_api.ContinuousBatchProcessor, cache_pool.CachePool
    found = {
        name: parameters_of(function)
        for name, function in {
            "Scheduler": base.__init__,
            "schedule_batch": base.schedule_batch,
            "_infer_request_tokens": base._infer_request_tokens,
            "_schedule_request": base._schedule_request,
            "can_store_request_tokens": paged.can_store_request_tokens,
            "count_new_complete_blocks": paged.count_new_complete_blocks,
            "free_blocks": paged.free_blocks,
            "reset": paged.reset,
            "prepare_next_batch": processor.prepare_next_batch,
            "_generation_step": processor._generation_step,
            "update_batch": processor.update_batch,
            "warmup": continuous_api.ContinuousBatchingManager.warmup,
            "count_free_blocks": pool.count_free_blocks,
            "pool.free_blocks": pool.free_blocks,
            "compute_block_hash": cache_allocator.compute_block_hash,
            "FutureRequestState": requests.FutureRequestState,
        }.items()
    }

    assert found == {
        "Scheduler": ("self", "cache", "safety_margin", "max_requests_per_batch"),
        "schedule_batch": ("self", "token_budget", "cache_budget"),
        "_infer_request_tokens": ("self", "state", "request_ids_to_remove_from_waiting"),
        "_schedule_request": (
            "self",
            "state",
            "request_tokens",
            "token_budget",
            "request_ids_to_remove_from_waiting",
        ),
        "can_store_request_tokens": ("self", "state", "request_len", "dry_run"),
        "count_new_complete_blocks": ("self", "state", "request_len"),
        "free_blocks": ("self", "request_id", "no_cache"),
        "reset": ("self",),
        "prepare_next_batch": ("self",),
        "_generation_step": ("self", "model"),
        "update_batch": ("self",),
        "warmup": ("self",),
        "count_free_blocks": ("self", "index"),
        "pool.free_blocks": ("self", "index", "block_ids"),
        "compute_block_hash": ("parent_hash", "tokens"),
        "FutureRequestState": ("state", "has_new_token", "complete_blocks", "query_length"),
    }, CHANGED
    assert cache_allocators.FULL_ATTENTION == "full_attention", CHANGED
    assert base.__abstractmethods__ == {"schedule_batch"}, CHANGED


def test_the_options_and_fields_that_are_used_are_there():
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.cache_allocators.cache_allocator import BlockLedger
    from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

    options = {
        "page_size", "num_blocks", "max_batch_tokens", "max_requests_per_batch", "allow_block_sharing",
        "use_async_batching", "scheduler_type", "seed", "auto_switch_to_flash",
    }  # fmt: skip
    assert options <= set(parameters_of(ContinuousBatchingConfig)), CHANGED
    fields = {
        "initial_tokens", "generated_tokens", "tokens_to_process", "remaining_prefill_tokens", "position_offset",
        "status", "max_new_tokens",
    }  # fmt: skip
    assert fields <= set(dir(RequestState("r", [1]))), CHANGED
    ledger = {"shared_ref_counts", "hash_to_block", "block_to_hash", "cached_blocks"}
    assert ledger == set(vars(BlockLedger())), CHANGED
    assert [status.name for status in RequestStatus][:3] == ["PENDING", "PREFILLING", "DECODING"], CHANGED


def test_gguf_files_are_read_with_the_functions_we_know():
    from transformers.integrations.gguf import dequant, reader

    assert parameters_of(reader.GgufHeader.from_file) == ("gguf_path",), CHANGED
    assert parameters_of(reader.load_gguf_state_dict) == ("header",), CHANGED
    assert parameters_of(dequant.dequantize) == ("data", "ggml_type", "dtype"), CHANGED
    assert {"name", "shape", "ggml_type"} <= set(reader.TensorInfo._fields), CHANGED


def test_the_parts_of_a_loaded_engine_are_where_we_look_for_them(replica):
    runner = replica.engine._worker.runner
    scheduler, allocator = runner.scheduler, runner.scheduler.allocator
    parts = {
        scheduler: ("active_requests", "cache", "max_requests_per_batch"),
        scheduler.cache: (
            "max_batch_tokens", "max_tokens_read", "max_blocks_per_request", "max_decode_fast_path_length",
            "use_prefix_sharing",
        ),
        allocator: ("index", "block_table", "blocks_per_sector", "ledger", "num_blocks", "pool", "tokens_per_page"),
        allocator.pool: ("num_free_sectors",),
        runner._io: ("requests_in_batch",),
    }  # fmt: skip

    assert [name for part, names in parts.items() for name in names if not hasattr(part, name)] == [], CHANGED
    assert runner._processor.use_async_batching is False
    assert runner._processor.inputs_and_outputs is runner._io


# --- its cache means what ours means --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded():
    """An engine and its context; opening its cache empties it."""
    ctx = ThreadContext()
    engine = TransformersEngine(
        model="tests.engines.language_models:tiny_llama", blocks=BLOCKS, block_tokens=BLOCK_TOKENS, device="cpu",
        max_step_tokens=64, threads=1,
    )  # fmt: skip
    engine.load(ctx)
    assert ctx.receive() == LoadFinished()
    return engine, ctx


@pytest.fixture
def replica(loaded):
    return StepwiseReplica(*loaded)


class Account:
    """The account alone, given the same steps."""

    def __init__(self):
        self.cache = PagedKvCache(BLOCKS, BLOCK_TOKENS, lru(empty_first=True))
        self.policy = Scripted()
        self.scheduler = StepScheduler(self.policy, self.cache, forget=lambda sequence: None)

    def submit(self, real):
        sequence = SequenceState(real.id, Work(real.request, 1, real.work.output_tokens), real.batch, 0.0)
        self.scheduler.add(sequence)

    def step(self, step: Step, ended):
        self.policy.step = step
        self.scheduler.plan(0.0)
        for sequence in self.scheduler.ran(1, 0.0):
            if sequence.id in ended:
                self.scheduler.ended(sequence, 0.0)
        self.scheduler.check()


def numbers(scheduler):
    """Everything that a policy or a report can learn of a cache."""
    cache, running = scheduler.cache, scheduler.running
    waiting = {
        item.id: (
            cache.cached_tokens(item),
            cache.blocks_for(item, item.remaining_tokens - cache.cached_tokens(item)),
        )
        for item in scheduler.waiting
    }
    held = {
        item.id: (item.blocks, item.computed_tokens, cache.blocks_for(item, 3), cache.blocks_held_alone(item))
        for item in running
    }
    return {
        "blocks": (cache.total_blocks, cache.used_blocks, cache.cached_blocks, cache.free_blocks),
        "waiting": waiting,
        "running": held,
        "fits": cache.steps_that_fit(running, 40),
        "after": cache.used_after(running, 9),
    }


class Twins:
    """Both, given the same requests, steps and cancellations."""

    def __init__(self, replica):
        self.real, self.account = replica, Account()

    def submit(self, *hashes, tokens, output_tokens, block_tokens=BLOCK_TOKENS):
        number = len(self.real.answers) + 1
        request = Request(f"request-{number}", 0.0, tokens, hashes, block_tokens)
        sequence = self.real.submit(request=request, output_tokens=output_tokens)
        self.account.submit(sequence)
        return sequence

    def step(self, prefill=(), decode=(), preempt=()):
        ran = self.real.step(prefill, decode, preempt)
        self.account.step(self.real.policy.step, ran.ended)

    def remove(self, sequence):
        twin = self.account.scheduler.by_id[sequence.id]
        self.real.scheduler.remove(sequence, 0.0)
        self.account.scheduler.remove(twin, 0.0)

    def agree(self):
        assert numbers(self.real.scheduler) == numbers(self.account.scheduler)


def some_step(rng, twins):
    """A step that both can take: anything, but that two never compute the same block at once."""
    scheduler, cache = twins.real.scheduler, twins.real.cache
    preempt = [item for item in scheduler.running if rng.random() < 0.1]
    free = cache.free_blocks
    prefill, decode = [], []
    for item in scheduler.running:
        if item in preempt:
            continue
        tokens = rng.randint(1, item.remaining_tokens)
        if cache.blocks_for(item, tokens) <= free and (item.remaining_tokens > 1 or rng.random() < 0.8):
            free -= cache.blocks_for(item, tokens)
            (decode if item.remaining_tokens == 1 else prefill).append((item, tokens))
    if not any(item.remaining_tokens > 1 for item in scheduler.running) and scheduler.waiting:
        item = rng.choice(scheduler.waiting)
        tokens = rng.randint(1, item.remaining_tokens - cache.cached_tokens(item))
        if cache.blocks_for(item, tokens) <= free:
            prefill.append((item, tokens))
    return prefill, [item for item, _ in decode], preempt


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100_000))
def test_given_the_same_schedule_both_caches_tell_the_same(loaded, seed):
    """Where blocks have no content that only the real one knows of: prompts with hashes of one block each, that end
    within a block, and answers that do not fill it."""
    rng = random.Random(seed)
    twins = Twins(StepwiseReplica(*loaded))
    for _ in range(40):
        if len(twins.real.scheduler.by_id) < 5 and rng.random() < 0.5:
            full = rng.randint(0, 4)
            path = [rng.randint(1, 2) + 10 * level for level in range(full + 1)]
            hashes = [hash(tuple(path[: level + 1])) for level in range(full + 1)]
            twins.submit(
                *hashes, tokens=full * BLOCK_TOKENS + rng.randint(1, 3), output_tokens=rng.randint(1, 5)
            )
        if twins.real.scheduler.by_id and rng.random() < 0.05:
            twins.remove(rng.choice(list(twins.real.scheduler.by_id.values())))
        twins.agree()
        prefill, decode, preempt = some_step(rng, twins)
        if prefill or decode:
            twins.step(prefill, decode, preempt)
        twins.agree()


def test_a_failed_sequence_leaves_what_others_hold_and_nothing_else_in_both(replica, monkeypatch):
    twins = Twins(replica)
    first = twins.submit(1, 2, 3, tokens=18, output_tokens=4)
    twins.step(prefill=[(first, 18)])
    second = twins.submit(1, 2, 4, tokens=19, output_tokens=4)
    monkeypatch.setattr(replica.engine._worker.runner, "run", lambda plan: 1 / 0)
    assert "ZeroDivisionError" in replica.step(prefill=[(second, 3)]).error
    twins.account.policy.step = replica.policy.step
    twins.account.scheduler.plan(0.0)
    twins.account.scheduler.failed(0.0)

    twins.agree()
    assert (replica.cache.used_blocks, replica.cache.cached_blocks) == (3, 0)


# --- where the real one knows more -----------------------------------------------------------------------------


def test_the_real_one_shares_the_blocks_of_answers_too(replica):
    twins = Twins(replica)
    first = twins.submit(1, 2, tokens=10, output_tokens=9)
    twins.step(prefill=[(first, 10)])
    while first.id in replica.scheduler.by_id:
        twins.step(decode=[first])
    follow_up = replica.submit(
        [*replica.engine._worker.runner.tokens._prompt(first.work), *replica.answers[first.id]]
    )

    assert replica.cache.cached_tokens(follow_up) == 16
    assert (replica.cache.cached_blocks, twins.account.cache.cached_blocks) == (2, 1)


def test_the_real_one_shares_prompts_without_recorded_hashes(replica):
    replica.answer(replica.submit(range(20), output_tokens=1))

    assert replica.cache.cached_tokens(replica.submit([*range(16), 99])) == 16


def test_the_real_one_shares_single_blocks_of_a_hashed_chunk(replica):
    """A chunk of two blocks, the second of which was not reached before the sequence went."""
    twins = Twins(replica)
    first = twins.submit(1, 2, tokens=20, output_tokens=1, block_tokens=2 * BLOCK_TOKENS)
    twins.step(prefill=[(first, 9)])
    twins.remove(first)
    second = twins.submit(1, 2, tokens=20, output_tokens=1, block_tokens=2 * BLOCK_TOKENS)
    twin = twins.account.scheduler.by_id[second.id]

    assert (replica.cache.cached_tokens(second), twins.account.cache.cached_tokens(twin)) == (8, 0)


def test_of_a_block_that_two_compute_in_one_step_the_account_finds_the_first_and_the_real_one_gives_up_the_second(
    replica,
):
    twins = Twins(replica)
    first, second = (twins.submit(1, 2, tokens=10, output_tokens=4) for _ in range(2))
    twins.step(prefill=[(first, 10), (second, 10)])

    assert (first.blocks, second.blocks) == (2, 2)
    assert (replica.cache.used_blocks, twins.account.cache.used_blocks) == (3, 3)
    replica.cache.check()
