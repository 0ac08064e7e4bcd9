"""Measure an engine step by step: the table that `fleet profile` writes of it and `ProfiledSteps` reads.

The engine runs alone, with real sequences in its own cache, as a replica would drive it: a prompt's chunk alone, after
a context, sequences that decode, and both together. All kinds of steps are run once, then all of them again, and so on:
so a machine that is busy for a second spoils one run of many kinds, and not all runs of one.

Prompts of one place share their leading blocks, so that an engine with a prefix cache does not compute again what it
computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

from fleet.actor import FleetError
from fleet.engines.base import StepEngine
from fleet.engines.bounds import Count
from fleet.engines.latency.tables.step_profile import StepPoint, StepProfile
from fleet.engines.profiling.bench import Bench, machine, versions
from fleet.messages import StepRan, Work
from fleet.tokens.sequence import SequenceState, StepWork
from policies.eviction.lru import Lru
from traces.schema import Request

Context = Annotated[int, Meta(ge=0)]

ENDLESS = 1 << 30
"""Output tokens of every sequence: none ends before it is told to."""
_HASHES = 1 << 20
"""Block hashes of one place: more than any prompt has blocks."""


class StepGrid(Struct, frozen=True, kw_only=True):
    """Which steps are measured; those for which the cache is too small are left out."""

    chunks: tuple[Count, ...] = (1, 8, 16, 32, 64, 128, 256)
    """Prompt tokens computed in a step."""
    contexts: tuple[Context, ...] = (0, 128, 512)
    """Tokens of the prompt computed before, and of each sequence that decodes (at least 1)."""
    decodes: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Sequences that decode."""
    mixed_chunks: tuple[Count, ...] = (8, 64, 256)
    """Chunks that are measured beside `decodes` too."""

    def steps(self) -> int:
        """How many points there are, where the cache holds them all."""
        each = len(self.chunks) + len(self.decodes) * (1 + len(self.mixed_chunks))
        return len(self.contexts) * each


def profile_step_engine(
    engine: StepEngine,
    grid: StepGrid = StepGrid(),  # noqa: B008 (frozen)
    *,
    repeats: int = 5,
    warmup: int = 1,
    on_run: Callable[[StepPoint], None] = lambda run: None,
) -> StepProfile:
    """Run a fresh `engine` through every kind of step of `grid`, `repeats` times after `warmup`.

    `on_run` is told of every single one. Raises `FleetError` when the engine fails to load or to run, or when not one
    kind of step fits into its cache.
    """
    bench = Bench(engine)
    rounds: list[list[StepPoint]] = []
    try:
        stepper = _Stepper(bench, grid)
        for _ in range(warmup + repeats):
            rounds.append([])
            for run in stepper.round():
                rounds[-1].append(run)
                on_run(run)
    finally:
        bench.engine.unload()
    points = [_median(runs) for runs in zip(*rounds[warmup:], strict=True)]
    if not points:
        raise FleetError("the engine's cache is too small for any of the steps to measure")
    return StepProfile(
        engine=msgspec.to_builtins(engine),
        repeats=repeats,
        load_s=bench.load_s,
        machine=machine(),
        versions=versions(),
        points=tuple(points),
    )


def _median(runs: Sequence[StepPoint]) -> StepPoint:
    """Of runs of one kind of step."""
    return structs.replace(runs[0], seconds=median([run.seconds for run in runs]))


class _Stepper:
    """Runs single steps of a loaded engine, and keeps its cache's account as a replica's scheduler does."""

    def __init__(self, bench: Bench[StepEngine], grid: StepGrid) -> None:
        self._bench, self._engine, self._grid = bench, bench.engine, grid
        eviction = Lru()
        eviction.reset(bench.rng)
        self._cache = bench.engine.open_cache(eviction)
        self._made = 0
        self._steps = 0

    def round(self) -> Iterator[StepPoint]:
        """Every kind of step once."""
        for context in sorted(set(self._grid.contexts)):
            yield from self._chunks(context)
            yield from self._decodes(max(1, context))

    # --- the grid ----------------------------------------------------------------------------------------------

    def _chunks(self, context: int) -> Iterator[StepPoint]:
        """A prompt's last chunk, alone."""
        for chunk in self._grid.chunks:
            if self._room(context + chunk):
                yield self._one_chunk(context, chunk, ())

    def _decodes(self, context: int) -> Iterator[StepPoint]:
        """As many sequences as fit, of which more and more decode: alone, then with a whole prompt beside them."""
        # Each takes a token in each of its steps.
        steps = (1 + len(self._grid.mixed_chunks)) * len(self._grid.decodes)
        length = context + steps + 1
        sizes = [count for count in sorted(set(self._grid.decodes)) if self._room(*[length] * count)]
        running: list[SequenceState] = []
        for count in sizes:
            while len(running) < count:
                running.append(self._prefilled(context, place=len(running) + 1))
            yield self._step([], running)
            for chunk in self._grid.mixed_chunks:
                if self._room(chunk):
                    yield self._one_chunk(0, chunk, running)
        for sequence in running:
            self._let_go(sequence)

    # --- sequences ---------------------------------------------------------------------------------------------

    def _room(self, *lengths: int) -> bool:
        """Could sequences of so many tokens be added to those that run?"""
        size = self._cache.block_tokens
        return sum([-(-length // size) for length in lengths]) <= self._cache.free_blocks

    def _sequence(self, context: int, more: int, place: int) -> SequenceState:
        """One that waits, with a prompt of `context` tokens that those of its place share and `more` of its own."""
        self._made += 1
        size = self._cache.block_tokens
        shared = [place * _HASHES + i for i in range(context // size)]
        request = Request(
            f"profile-{self._made}",
            0.0,
            prompt_tokens=context + more,
            blocks=tuple(shared),
            block_tokens=size,
        )
        return SequenceState(self._made, Work(request, 1, output_tokens=ENDLESS), self._made, self._bench.now)

    def _prefilled(self, context: int, place: int) -> SequenceState:
        """One that decodes, with `context` tokens computed, or a few more."""
        sequence = self._sequence(context, 0, place)
        self._compute(sequence, context)
        return sequence

    def _compute(self, sequence: SequenceState, tokens: int) -> None:
        """Compute it up to so many tokens, in chunks no larger than those that are measured."""
        most = max(self._grid.chunks, default=64)
        self._admit(sequence)
        while sequence.computed_tokens < tokens:
            self._step([(sequence, min(most, tokens - sequence.computed_tokens))], ())

    def _one_chunk(self, context: int, chunk: int, decoding: Sequence[SequenceState]) -> StepPoint:
        """The last `chunk` tokens of a prompt, beside others that decode."""
        sequence = self._sequence(context, chunk, place=0)
        self._compute(sequence, context)
        try:
            return self._step([(sequence, chunk)], decoding)
        finally:
            self._let_go(sequence)

    def _admit(self, sequence: SequenceState) -> None:
        self._cache.admit(sequence, self._bench.now)
        sequence.running = True

    def _let_go(self, sequence: SequenceState) -> None:
        self._cache.release(sequence, self._bench.now)
        sequence.running = False
        self._engine.forget(sequence)

    # --- steps -------------------------------------------------------------------------------------------------

    def _step(
        self, prefills: list[tuple[SequenceState, int]], decoding: Sequence[SequenceState]
    ) -> StepPoint:
        """Run it once."""
        now = self._bench.now
        for sequence in decoding:
            self._cache.extend(sequence, 1, now)
        for sequence, tokens in prefills:
            self._cache.extend(sequence, tokens, now)
        self._steps += 1
        self._engine.run_step(StepWork(self._steps, prefills, list(decoding)))
        ran = self._bench.next(StepRan)
        if ran.error is not None:
            raise FleetError(f"the engine failed in a {ran.error}")
        point = StepPoint(
            prefill_tokens=sum([tokens for _, tokens in prefills]),
            prefill_context_tokens=sum([sequence.computed_tokens for sequence, _ in prefills]),
            decodes=len(decoding),
            decode_context_tokens=sum([sequence.computed_tokens for sequence in decoding]),
            seconds=ran.service_s,
        )
        for sequence, tokens in [*prefills, *[(sequence, 1) for sequence in decoding]]:
            sequence.computed_tokens += tokens
            if sequence.computed_tokens == sequence.total_tokens:
                sequence.total_tokens += 1
                sequence.generated_tokens += 1
        return point
