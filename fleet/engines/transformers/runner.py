"""The worker-thread side of `TransformersEngine`: a model, its paged cache, and one iteration at a time.

transformers' own generation loop is not used, only what it consists of: `ContinuousBatchProcessor` prepares a batch,
runs it and updates its requests, and what is in the batch is what our subclass of its `Scheduler` was told. That
interface is transformers' own business and changes: `tests/engines/test_transformers_contract.py` says what is relied
on. Only `TransformersEngine` imports this module, on its worker thread, for it loads torch and transformers.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    RequestState,
    RequestStatus,
)
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, Scheduler
from transformers.utils import logging as progress

from fleet.actor import FleetError
from fleet.engines.devices.nvml import DeviceSampler
from fleet.engines.transformers.tokens import SequenceTokens
from fleet.messages import Work

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.generation.continuous_batching.cache_allocators import CacheAllocator

TRANSFORMERS = "5.23"
"""The version whose continuous batching this module knows."""

Planned = tuple[int, int, int]
"""A sequence's number, how many of its tokens are computed, and how many to compute now."""

MAX_SEQUENCES = 1_024
"""In one forward pass: sizes the buffers for its outputs."""

_SCHEDULER = "fleetlab-planned"
_WARMUP = -1


_Base: Any = Scheduler
"""So that the type checker takes it alike whether transformers is installed or not."""


class PlannedScheduler(_Base):  # type: ignore[misc]
    """Schedules exactly the requests it was told to, in that order, with that many tokens each.

    Their blocks were taken when the step was planned (`TransformersKvCache.extend`), so nothing is refused here. What
    touches the cache's books is done under `lock`: the loop's thread may free a sequence's blocks while a step of
    others runs.
    """

    def __init__(
        self, cache: PagedAttentionCache, safety_margin: float | None, max_requests_per_batch: int
    ) -> None:
        super().__init__(cache, safety_margin or 0.0, max_requests_per_batch)
        kinds = list(cache.cache_allocators)
        if kinds != ["full_attention"]:
            raise FleetError(
                f"only models with full attention in every layer can be served, not {' and '.join(kinds)}"
            )
        self.allocator: CacheAllocator = cache.cache_allocators["full_attention"]
        self.lock = threading.Lock()
        self.batch: list[tuple[RequestState, int]] = []
        """What `schedule_batch` answers next."""
        self.adopted: list[int] = []
        """Hashes of the contents for which a sequence, having computed them, gave up its own block for the one that
        was there; since somebody last looked."""

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[FutureRequestState], bool, int, int]:
        """The library's own state transitions, for the requests in `batch`."""
        cache, query, read = self.cache, 0, 0
        fast = cache.max_blocks_per_request > 0
        scheduled = []
        for state, tokens in self.batch:
            past = state.current_len()
            if state.status == RequestStatus.DECODING:
                remaining = state.tokens_to_process
            else:
                remaining = state.remaining_prefill_tokens
            self._schedule_request(state, remaining, tokens, set())
            complete = cache.count_new_complete_blocks(state, tokens)
            scheduled.append(FutureRequestState(state, not state.remaining_prefill_tokens, complete, tokens))
            fast = fast and tokens == 1 and past < cache.max_decode_fast_path_length
            query += tokens
            read += past
        return scheduled, fast, query, read

    def admit(self, number: int, ids: list[int]) -> int:
        """Let a sequence in, with what the cache has of its tokens: answers how many. Under `lock`."""
        state = RequestState(request_id=str(number), initial_tokens=ids, max_new_tokens=None)
        self._infer_request_tokens(state, set())
        # It has its place now. Left as pending, it would look for its prefix again, and lose the blocks it has.
        state.status = RequestStatus.PREFILLING
        self.active_requests[state.request_id] = state
        return int(state.position_offset)

    def take_blocks(self, number: int, tokens: int) -> bool:
        """Give a sequence the blocks for so many tokens more. Under `lock`."""
        return bool(self.cache.can_store_request_tokens(self.state(number), tokens))

    def drop(self, number: int, *, keep: bool) -> None:
        """Let a sequence go; `keep`: its full blocks stay cached. Under `lock`."""
        self.cache.free_blocks(str(number), no_cache=not keep)
        self.active_requests.pop(str(number), None)

    def empty(self) -> None:
        """Forget every sequence, and what is cached."""
        self.cache.reset()
        self.active_requests.clear()
        self.adopted.clear()

    def state(self, number: int) -> RequestState:
        """What the library knows of a sequence that was admitted."""
        state: RequestState | None = self.active_requests.get(str(number))
        if state is None:
            raise FleetError(f"sequence {number} was not admitted")
        return state

    def blocks(self, number: int) -> list[int]:
        """The blocks that a sequence holds, in its order."""
        blocks: list[int] = self.allocator.block_table.get(str(number), [])
        return blocks


SCHEDULER_MAPPING[_SCHEDULER] = PlannedScheduler


class Parameters(Protocol):
    """What it is told: the parameters of `TransformersEngine`, which documents them."""

    model: str
    kwargs: dict[str, Any]  # Any: whatever the model's function takes
    blocks: int
    block_tokens: int
    prefix_caching: bool
    max_step_tokens: int
    max_output_tokens: int
    device: str
    dtype: Literal["float32", "float16", "bfloat16"] | None
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]
    threads: int | None
    temperature: float


class TransformersRunner:
    """A loaded model that has been warmed up. Raises `FleetError` in one line, or what the libraries raise."""

    def __init__(self, engine: Parameters, seed: int) -> None:
        _check_version()
        self._threads = engine.threads
        self._device = _device(engine.device)
        self._claim_thread()
        with _no_progress_bars():
            model, tokenizer = _load(engine)
        dtype = None if engine.dtype is None else getattr(torch, engine.dtype)
        self._model = model.to(device=self._device, dtype=dtype).eval()
        self._model.set_attn_implementation(
            "paged|eager" if engine.attention == "eager" else engine.attention
        )
        self._manager = self._model.init_continuous_batching(
            _generation_config(engine.temperature), _batching_config(engine, seed)
        )
        self._manager.warmup()
        self._processor = self._manager.batch_processor
        self._io = self._processor.inputs_and_outputs
        self.scheduler: PlannedScheduler = self._processor.scheduler
        self.total_blocks: int = self.scheduler.allocator.num_blocks
        config = self._model.config.get_text_config()
        self.tokens = SequenceTokens(
            encode=None if tokenizer is None else _chat_encoder(tokenizer),
            vocabulary_size=int(config.vocab_size), end_ids=_end_ids(self._model, tokenizer),
            max_output_tokens=engine.max_output_tokens, context_tokens=config.max_position_embeddings,
        )  # fmt: skip
        self._warm_up()

    def sampler(self) -> DeviceSampler | None:
        """What samples the device's counters; None on the CPU."""
        if self._device.type != "cuda":
            return None
        return DeviceSampler(str(torch.cuda.get_device_properties(self._device).uuid))

    def empty(self) -> None:
        """Forget every sequence, and what is cached."""
        self.scheduler.empty()
        self.tokens.clear()

    def prompt_tokens(self, work: Work) -> int:
        """How many tokens its prompt has."""
        return self.tokens.prompt_tokens(work)

    def run(self, plan: list[Planned]) -> tuple[list[tuple[int, tuple[int, ...]]], tuple[int, ...]]:
        """Compute so many tokens of each: the new output tokens, and which sequences got their last."""
        self._claim_thread()
        states = [self._state(*planned) for planned in plan]
        try:
            for batch in self._passes([(state, item[2]) for state, item in zip(states, plan, strict=True)]):
                self._forward(batch)
        except torch.OutOfMemoryError as error:
            out_of_memory = str(error)
        else:
            return self._outputs(plan, states)
        # Outside the `except`: until it is left, the traceback keeps the batch's tensors alive.
        torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(out_of_memory)

    def _state(self, number: int, computed_tokens: int, tokens: int) -> RequestState:
        self.tokens.check(number)
        state = self.scheduler.state(number)
        if state.current_len() != computed_tokens:
            raise FleetError(
                f"sequence {number} is planned with {computed_tokens} tokens computed; "
                f"the model has {state.current_len()}"
            )
        remaining = len(state.initial_tokens) + len(state.generated_tokens) - computed_tokens
        if not 1 <= tokens <= remaining:
            raise FleetError(f"sequence {number} has {remaining} tokens left, not {tokens}")
        return state

    def _passes(self, plan: list[tuple[RequestState, int]]) -> Iterator[list[tuple[RequestState, int]]]:
        """Cut a step to what the buffers hold. Each pass is run before the next is asked for."""
        cache = self.scheduler.cache
        most_sequences = self.scheduler.max_requests_per_batch
        batch: list[tuple[RequestState, int]] = []
        room, read = cache.max_batch_tokens, 0
        for state, planned in plan:
            left = planned
            while left:
                past = state.current_len()
                if batch and (
                    not room or len(batch) == most_sequences or read + past > cache.max_tokens_read
                ):
                    yield batch
                    batch, room, read = [], cache.max_batch_tokens, 0
                    continue
                taken = min(left, room)
                batch.append((state, taken))
                left, room, read = left - taken, room - taken, read + past
        yield batch

    def _forward(self, batch: list[tuple[RequestState, int]]) -> None:
        """One iteration of continuous batching."""
        scheduler = self.scheduler
        scheduler.batch = batch
        if not self._processor.prepare_next_batch():
            raise FleetError("transformers found nothing to run in the step")
        self._processor._generation_step(self._model)  # noqa: SLF001 (the library has no public way to run one step)
        with scheduler.lock:
            completed = [future for future in self._io.requests_in_batch if future.complete_blocks]
            before = [self._newest_blocks(future) for future in completed]
            self._processor.update_batch()
            for future, blocks in zip(completed, before, strict=True):
                after = self._newest_blocks(future)
                content = scheduler.allocator.ledger.block_to_hash
                scheduler.adopted += [
                    content[new] for old, new in zip(blocks, after, strict=True) if old != new
                ]

    def _newest_blocks(self, future: FutureRequestState) -> list[int]:
        """The blocks that this forward pass wrote to."""
        table = self.scheduler.allocator.block_table[future.state.request_id]
        first = future.state.position_offset - future.query_length
        return list(table[first // self.scheduler.allocator.tokens_per_page :])

    def _outputs(
        self, plan: list[Planned], states: list[RequestState]
    ) -> tuple[list[tuple[int, tuple[int, ...]]], tuple[int, ...]]:
        outputs: list[tuple[int, tuple[int, ...]]] = []
        ended: list[int] = []
        for (number, _, _), state in zip(plan, states, strict=True):
            if state.status != RequestStatus.DECODING:
                continue
            token = state.generated_tokens[-1]
            outputs.append((number, (token,)))
            if self.tokens.append(number, token):
                ended.append(number)
        return outputs, tuple(ended)

    def _warm_up(self) -> None:
        """A prefill and a decode, so that the first request does not pay for what torch does once."""
        scheduler = self.scheduler
        room = min(
            scheduler.cache.max_batch_tokens, self.total_blocks * scheduler.allocator.tokens_per_page - 1
        )
        ids = [0] * min(8, room)
        scheduler.admit(_WARMUP, ids)
        state = scheduler.state(_WARMUP)
        for tokens in (len(ids), 1):
            scheduler.take_blocks(_WARMUP, tokens)
            self._forward([(state, tokens)])
        scheduler.drop(_WARMUP, keep=False)

    def _claim_thread(self) -> None:
        """What torch keeps for each thread, for threads come and go."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        if ":" in str(self._device):
            torch.cuda.set_device(self._device)


# --- making it ------------------------------------------------------------------------------------------------


def _check_version() -> None:
    if not transformers.__version__.startswith(f"{TRANSFORMERS}."):
        raise FleetError(
            f"TransformersEngine knows the continuous batching of transformers {TRANSFORMERS}, not of "
            f"{transformers.__version__}: pip install 'fleetlab[llm]'"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        # Without it, transformers takes the host to have no memory for a cache.
        importlib.import_module("psutil")
    return torch.device(name)


def _generation_config(temperature: float) -> GenerationConfig:
    """No end token: when an answer ends is ours to say."""
    config: Callable[..., GenerationConfig] = GenerationConfig
    if temperature == 0.0:
        return config(do_sample=False, eos_token_id=-1)
    return config(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, eos_token_id=-1)


def _batching_config(engine: Parameters, seed: int) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(
        page_size=engine.block_tokens,
        num_blocks=engine.blocks,
        max_batch_tokens=engine.max_step_tokens,
        max_requests_per_batch=MAX_SEQUENCES,
        allow_block_sharing=engine.prefix_caching,
        use_async_batching=False,  # it would prepare a step before the one under way has ended
        scheduler_type=_SCHEDULER,
        seed=seed,
        auto_switch_to_flash=False,
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """A replica's output is not a terminal."""
    show: Callable[[], None] = progress.enable_progress_bar
    hide: Callable[[], None] = progress.disable_progress_bar
    shown = progress.is_progress_bar_enabled()
    hide()
    try:
        yield
    finally:
        if shown:
            show()


def _load(engine: Parameters) -> tuple[Any, Any | None]:
    """The model, and its tokenizer where there is one."""
    if engine.model == "smollm2-135m":
        from fleet.engines.transformers.smollm2 import load_smollm2

        return load_smollm2()
    if ":" in engine.model:
        made = _function(engine.model)(**engine.kwargs)
        return made if isinstance(made, tuple) else (made, None)
    folder = Path(engine.model)
    if not folder.is_dir():
        raise FleetError(
            f"no model {engine.model!r}: name smollm2-135m, a folder, or package.module:name of a function"
        )
    tokenizer = (
        AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer_config.json").is_file() else None
    )
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FleetError(f"cannot import {path}: {error}") from error
    return found


def _chat_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to token ids: as what a user says, where the model has a chat template."""

    def encode(text: str) -> list[int]:
        if tokenizer.chat_template is None:
            return list(tokenizer(text)["input_ids"])
        message = [{"role": "user", "content": text}]
        return list(tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"])

    return encode


def _end_ids(model: Any, tokenizer: Any | None) -> frozenset[int]:
    """Every token that ends an answer, as model and tokenizer say."""
    found = [
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
    ]
    found.append(getattr(tokenizer, "eos_token_id", None))
    ids: set[int] = set()
    for item in found:
        ids.update([item] if isinstance(item, int) else item or ())
    return frozenset(ids)
