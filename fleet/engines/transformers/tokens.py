"""The token ids of the sequences that a real engine serves: prompts, answers so far, and when an answer ends.

Plain state, no torch. The loop's thread makes and drops entries; a step's worker appends to those in the step.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.actor import FleetError
from fleet.engines.asked import most_output_tokens
from fleet.engines.transformers.prompts import prompt_ids
from fleet.messages import Work
from fleet.tokens.sequence import SequenceState


class _Held:
    """What is kept of one sequence, also while it waits after a preemption."""

    __slots__ = ("error", "forced", "hashes", "ids", "last_token_at", "prompt_tokens")

    def __init__(
        self, ids: list[int], prompt_tokens: int, last_token_at: int, forced: bool, error: str | None
    ) -> None:
        self.ids = ids
        """Prompt and answer so far."""
        self.prompt_tokens = prompt_tokens
        self.last_token_at = last_token_at
        """How many ids there are when the answer is complete."""
        self.forced = forced
        """The end token ends nothing."""
        self.error = error
        self.hashes: list[int] = []
        """Of the leading full blocks, as far as somebody asked; ids are only ever appended, so they stay true."""


class SequenceTokens:
    """The token ids of every sequence on the replica, by the sequence's number."""

    def __init__(
        self,
        *,
        encode: Callable[[str], list[int]] | None,
        vocabulary_size: int,
        end_ids: frozenset[int],
        max_output_tokens: int,
        context_tokens: int | None,
    ) -> None:
        """`encode` makes ids of text; None: the model has no tokenizer, and text is an error."""
        self.vocabulary_size = vocabulary_size
        self._encode = encode
        self._end_ids = end_ids
        self._max_output_tokens = max_output_tokens
        self._context_tokens = context_tokens
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def prompt_tokens(self, work: Work) -> int:
        """How many tokens its prompt has: as its request says, or else its payload.

        Raises:
            FleetError: There can be no such prompt, or its payload has fewer tokens than its request says.
        """
        found, expected = len(self._prompt(work)), work.request.prompt_tokens
        if expected is None:
            return found
        if found < expected:
            raise FleetError(_too_short(work, expected, found))
        return max(1, expected)

    def answered(self, work: Work) -> bool:
        """True when the tokens it resumes end its answer, where only they can tell: nothing recorded its length."""
        if not work.resume or work.output_tokens is not None:
            return False
        prompt_tokens = self.prompt_tokens(work)
        ended = prompt_tokens + len(work.resume) >= self._longest(work, prompt_tokens)
        return ended or work.resume[-1] in self._end_ids

    def ids(self, sequence: SequenceState) -> list[int]:
        """Its prompt and what it generated so far: not to be changed."""
        return self._of(sequence).ids

    def hashes(self, sequence: SequenceState) -> list[int]:
        """A place to keep the hashes of its leading blocks."""
        return self._of(sequence).hashes

    def check(self, number: int) -> None:
        """Raise what is wrong with this sequence, if anything."""
        held = self._held[number]
        if held.error is not None:
            raise FleetError(held.error)

    def append(self, number: int, token: int) -> bool:
        """It got this token; True when that was its last."""
        held = self._held[number]
        held.ids.append(token)
        return len(held.ids) >= held.last_token_at or (not held.forced and token in self._end_ids)

    def forget(self, number: int) -> None:
        """It is gone for good."""
        self._held.pop(number, None)

    def clear(self) -> None:
        """All are gone."""
        self._held.clear()

    # --- making one ------------------------------------------------------------------------------------------

    def _of(self, sequence: SequenceState) -> _Held:
        held = self._held.get(sequence.id)
        if held is None:
            held = self._held[sequence.id] = self._make(sequence)
        return held

    def _make(self, sequence: SequenceState) -> _Held:
        work, expected = sequence.work, sequence.prompt_tokens
        error = None
        try:
            ids = self._prompt(work)
            if len(ids) < expected:
                error = _too_short(work, expected, len(ids))
        except FleetError as failure:
            # Nobody to answer here: the step that it becomes part of fails with this.
            ids, error = [], str(failure)
        ids = ids[:expected] + [0] * (expected - len(ids)) + list(work.resume)
        if work.output_tokens is not None:
            return _Held(ids, expected, expected + work.output_tokens, True, error)
        return _Held(ids, expected, self._longest(work, expected), False, error)

    def _longest(self, work: Work, prompt_tokens: int) -> int:
        output_tokens = self._max_output_tokens
        asked = most_output_tokens(work.request)
        if asked is not None:
            output_tokens = min(output_tokens, asked)
        length = prompt_tokens + output_tokens
        return length if self._context_tokens is None else min(length, self._context_tokens)

    def _prompt(self, work: Work) -> list[int]:
        payload = work.payload
        if payload is not None and payload.tensor is not None:
            return self._given(work)
        if payload is not None and payload.data is not None:
            if self._encode is None:
                raise FleetError(
                    f"request {work.request.id} has text, and the model no tokenizer: send token ids"
                )
            return self._encode(payload.data.decode(errors="replace"))
        return prompt_ids(work.request, self.vocabulary_size)

    def _given(self, work: Work) -> list[int]:
        assert work.payload is not None
        tensor = work.payload.tensor
        assert tensor is not None
        if tensor.ndim != 1 or tensor.dtype.kind not in "iu" or not tensor.size:
            raise FleetError(
                f"request {work.request.id}: token ids are one dimension of integers, not {tensor.dtype} of shape "
                f"{tensor.shape}"
            )
        if tensor.min() < 0 or tensor.max() >= self.vocabulary_size:
            raise FleetError(
                f"request {work.request.id}: token ids go from 0 to {self.vocabulary_size - 1}, not from "
                f"{tensor.min()} to {tensor.max()}"
            )
        ids: list[int] = tensor.tolist()
        return ids


def _too_short(work: Work, expected: int, found: int) -> str:
    return f"request {work.request.id} says {expected} prompt tokens; its payload has {found}"
