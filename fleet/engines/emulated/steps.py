"""An engine that serves token by token in the time a model would take, and does nothing else.

It acts through `ctx.after` alone, so one class serves virtual time and real time. Steps in a row that only decode are
one event: it ends when the first sequence does, or, when something interrupts it, with the step that runs then.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fleet.actor import Context, Timer
from fleet.engines.asked import most_output_tokens
from fleet.engines.base import StepEngine
from fleet.engines.devices.kv_spec import KvSpec
from fleet.engines.latency.steps.base import StepLatency, StepShape
from fleet.messages import LoadFinished, StepRan, Work
from fleet.tokens.paged_cache import PagedKvCache
from fleet.tokens.sequence import SequenceState, StepWork
from policies.base import EvictionPolicy, IterationPolicy


class EmulatedLlmEngine(StepEngine):
    """Load takes `cold_start_s`; a step takes what `latency` says of its shape, and reports that.

    A sequence ends with the recorded number of output tokens; with none, when its prompt is computed. Its tokens are
    numbers that count up from 0, and are given only where they are streamed: so a stream can be checked for repeated
    and missing ones.
    """

    latency: StepLatency
    kv: KvSpec
    cold_start_s: Annotated[float, Meta(ge=0)] = 0.0
    default_output_tokens: Annotated[int, Meta(ge=1)] = 128
    """For requests whose output length nobody knows."""
    async_scheduling: bool | None = None
    """Plan each step while the one before it runs, so that no time passes between two: what comes during step N is
    computed in step N+2, and places and blocks that step N frees are taken in step N+2. None: as the system does whose
    scheduler the iteration policy is (vLLM: yes; the others: no)."""
    fail_load: bool = False
    """The load ends in an error, after `cold_start_s`."""

    def __post_init__(self) -> None:
        self._work: StepWork | None = None
        self._timer: Timer | None = None
        self._steps = 0

    def load(self, ctx: Context) -> None:
        error = "the load was told to fail (fail_load=True)" if self.fail_load else None
        self._ctx = ctx
        ctx.after(self.cold_start_s, LoadFinished(error))

    def open_cache(self, eviction: EvictionPolicy) -> PagedKvCache:
        kv = self.kv
        total = kv.total_blocks()
        return PagedKvCache(
            total, kv.block_tokens, eviction, watermark_blocks=int(total * kv.watermark),
            prefix_caching=kv.prefix_caching, host_blocks=kv.host_blocks,
        )  # fmt: skip

    # --- steps -------------------------------------------------------------------------------------------------

    def run_step(self, work: StepWork) -> None:
        prefills: list[tuple[int, int]] = []
        outputs: list[SequenceState] = []
        for sequence, tokens in work.prefills:
            if sequence.target_tokens is None:
                sequence.target_tokens = self.output_tokens(sequence.work)
            prefills.append((tokens, sequence.computed_tokens))
            if sequence.total_tokens - sequence.computed_tokens == tokens:
                outputs.append(sequence)
        outputs += work.decodes
        contexts = [sequence.computed_tokens for sequence in work.decodes]
        self._work, self._outputs, self._started_s = work, outputs, self._ctx.now
        self._shape = StepShape(
            tuple(prefills), len(contexts), sum(contexts), max(contexts) if contexts else 0, len(outputs),
            work.moved_blocks,
        )  # fmt: skip
        self._first_s = self.latency.step_s(self._shape)
        self._end_after(work, self._most(work))

    def _most(self, work: StepWork) -> int:
        """Steps until the first of its sequences ends."""
        if work.most == 1:
            return 1
        return min(work.most, *[(item.target_tokens or 0) - item.generated_tokens for item in work.decodes])

    def answered(self, work: Work) -> bool:
        return bool(work.resume) and self.output_tokens(work) <= len(work.resume)

    def output_tokens(self, work: Work) -> int:
        if work.output_tokens is not None:
            return work.output_tokens
        asked = most_output_tokens(work.request)
        return self.default_output_tokens if asked is None else min(self.default_output_tokens, asked)

    def _end_after(self, work: StepWork, steps: int) -> None:
        """Let the work under way end with this step of it."""
        self._steps = steps
        total_s = last_s = self._first_s
        if steps > 1:
            total_s = self.latency.span_s(self._shape, steps)
            last_s = self.latency.step_s(self._shape.after(steps - 1))
        ended = [
            item.id for item in self._outputs if (item.target_tokens or 0) - item.generated_tokens <= steps
        ]
        tokens: list[tuple[int, tuple[int, ...]]] | None = None
        if steps == 1:  # those that are streamed are given one at a time
            streamed = [item for item in self._outputs if item.work.stream and item.target_tokens]
            tokens = [(item.id, (item.generated_tokens,)) for item in streamed]
        ran = StepRan(
            work.number, steps, total_s, self._first_s, last_s, tuple(sorted(ended)), None, tokens or None
        )
        self._last_began_s = self._started_s + total_s - last_s
        self._timer = self._ctx.after(max(0.0, self._started_s + total_s - self._ctx.now), ran)

    def interrupt(self) -> None:
        if self._work is None or self._steps == 1 or self._timer is None:
            return
        steps = self.steps_done() + 1
        if steps < self._steps:
            self._timer.cancel()
            self._end_after(self._work, steps)

    # --- asynchronous scheduling ---------------------------------------------------------------------------------

    def plans_ahead(self, policy: IterationPolicy) -> bool:
        return policy.async_scheduling if self.async_scheduling is None else self.async_scheduling

    def last_step(self) -> tuple[int, float]:
        self.interrupt()
        return self._steps, self._last_began_s

    def steps_left(self) -> int:
        return self._steps - self.steps_done() - 1

    def prolong(self) -> None:
        if self._work is None or self._timer is None:
            return
        self._timer.cancel()
        self._end_after(self._work, self._most(self._work))

    # --- how far it is -------------------------------------------------------------------------------------------

    def steps_done(self) -> int:
        elapsed_s = self._ctx.now - self._started_s
        if self._steps == 1 or elapsed_s < self._first_s:
            return 0
        return self._done_in(elapsed_s)

    def _done_in(self, elapsed_s: float) -> int:
        """The largest number of steps, less than all, that take at most `elapsed_s`.

        No step is shorter than the one before it. So the first bounds the number from above, and where so many take
        too long, the last of them bounds how many there are too many.
        """
        done = self._steps - 1
        if self._first_s > 0.0:
            done = min(done, int(elapsed_s / self._first_s))
        while done > 0:
            over_s = self.latency.span_s(self._shape, done) - elapsed_s
            if over_s <= 0.0:
                break
            done -= max(1, int(over_s / self.latency.step_s(self._shape.after(done - 1))))
        return max(0, done)

    def forget(self, sequence: SequenceState) -> None:
        """It keeps nothing of a sequence."""

    def unload(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
