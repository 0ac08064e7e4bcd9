"""A sequence: one attempt at one request, on a replica that serves token by token."""

from __future__ import annotations

import sys

from fleet.messages import Work
from traces.schema import Request

NEVER = sys.maxsize
"""More tokens than any sequence has."""


class SequenceState:
    """What the scheduler and the cache know of it; policies see it as `policies.views.SequenceView`.

    Three parties write here, each its own part: the scheduler the tokens, the cache what is held, the actor the times.
    """

    __slots__ = (
        "batch", "blocks", "cached_tokens", "chunks", "computed_tokens", "first_token_s", "generated_tokens", "hashes",
        "id", "itl_max_s", "last_token_s", "next_fill_tokens", "preemptions", "prefix_tokens", "prompt_tokens",
        "queued_s", "request", "running", "started_s", "swapped", "target_tokens", "total_tokens", "unknown_tokens",
        "work",
    )  # fmt: skip

    def __init__(
        self, id: int, work: Work, batch: int, now_s: float, *, prompt_tokens: int | None = None
    ) -> None:
        """`prompt_tokens` is what the engine counts; None: what the request says, at least 1."""
        request = work.request
        self.id = id
        self.work = work
        self.batch = batch
        """The `RunBatch` it came in."""
        self.request: Request = request
        self.queued_s = now_s
        self.prompt_tokens: int = prompt_tokens or max(1, request.prompt_tokens or 1)
        self.generated_tokens = len(work.resume)
        self.total_tokens = self.prompt_tokens + self.generated_tokens
        self.computed_tokens = 0
        self.running = False
        self.preemptions = 0
        self.swapped = False
        self.unknown_tokens = 0
        """Of `total_tokens`, those at the end that the step under way is still to say: 1 with a plan ahead of it."""
        self.target_tokens: int | None = None
        """How many output tokens it will have, where the engine knows; no policy sees it."""
        # What it holds; the cache's own.
        self.hashes: tuple[int, ...] = self._hashes(request, work)
        """Of the blocks of `request.block_tokens` tokens that can be full, in order: of its prompt, and of its answer
        as far as the trace has them."""
        self.blocks = 0
        self.cached_tokens = 0
        self.chunks = 0
        """Leading chunks that it has all blocks of, shared ones and copies of its own."""
        self.next_fill_tokens = NEVER
        """With so many tokens it fills the next one."""
        # The actor's, for what it reports; times are on the replica's clock.
        self.prefix_tokens = 0
        """`cached_tokens` of its first admission."""
        self.started_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.itl_max_s: float | None = None

    def _hashes(self, request: Request, work: Work) -> tuple[int, ...]:
        if not request.blocks or not request.block_tokens:
            return ()
        full = request.blocks[: self.prompt_tokens // request.block_tokens]
        goes_on = (
            work.answer_blocks
            and len(full) * request.block_tokens + request.block_tokens > self.prompt_tokens
        )
        return full + work.answer_blocks if goes_on else full

    def released(self) -> None:
        """It holds nothing any more."""
        self.blocks = self.chunks = self.computed_tokens = 0
        self.next_fill_tokens = NEVER

    @property
    def known_tokens(self) -> int:
        """Of `total_tokens`, those whose value is known."""
        return self.total_tokens - self.unknown_tokens

    @property
    def remaining_tokens(self) -> int:
        return self.total_tokens - self.computed_tokens

    @property
    def decodes(self) -> bool:
        """It runs, and its next step yields a token from one."""
        return self.running and self.total_tokens - self.computed_tokens == 1

    def __repr__(self) -> str:
        return (
            f"<sequence {self.id} of {self.request.id!r}: {self.computed_tokens}/{self.total_tokens} tokens computed, "
            f"{self.generated_tokens} generated, {self.blocks} blocks, {'running' if self.running else 'waiting'}>"
        )


class StepWork:
    """One step as the engine gets it, to be run up to `most` times over (more than once only when all decode)."""

    __slots__ = ("advanced", "decodes", "most", "moved_blocks", "number", "output", "prefills")

    def __init__(
        self,
        number: int,
        prefills: list[tuple[SequenceState, int]],
        decodes: list[SequenceState],
        *,
        most: int = 1,
        moved_blocks: int = 0,
    ) -> None:
        self.number = number
        self.prefills = prefills
        """Sequence, and how many of its tokens to compute, from `computed_tokens` on."""
        self.decodes = decodes
        """Each computes one token."""
        self.most = most
        self.advanced = 0
        """So many steps of it have been counted before they ended, to plan what comes after them."""
        self.output: list[SequenceState] = []
        """Those that get output tokens of the steps that have been counted."""
        self.moved_blocks = moved_blocks
        """Blocks to be copied between the device and the host before the step: swapped out, and in."""
