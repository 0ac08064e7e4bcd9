"""What iteration policies write a step with, so that each of them reads like its paper.

The one thing to know: a `StepDraft` counts tokens, places and blocks while a policy plans, so that what it plans fits.
`MANY_STEPS` is what a policy says whose plan changes only when a sequence comes or ends, or the blocks run out.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.decisions import Step, Wait
from policies.views import KvView, SequenceView

MANY_STEPS = 1_000_000
"""`Step.repeat` of a plan that depends on nothing but who is there."""
UNLIMITED = 1 << 60
"""Tokens of a step without a bound."""


class StepDraft:
    """One step in the making. What it answers takes into account all that was planned before.

    It takes the blocks for what is planned at once (`KvView.take`), so that those who come after in the same step find
    what those before them compute, and nothing is counted that is not so. With `displaces` those that run are only
    promised their blocks, because they may still lose their places.
    """

    __slots__ = (
        "_all",
        "_block_tokens",
        "_decode",
        "_preempt",
        "_prefill",
        "_promised",
        "_running",
        "_swap",
        "_unsettled",
        "_untaken",
        "displaces",
        "kv",
        "owed_blocks",
        "places",
        "tokens_left",
    )  # fmt: skip

    def __init__(
        self,
        kv: KvView,
        running: Sequence[SequenceView],
        max_step_tokens: int = UNLIMITED,
        *,
        displaces: bool = False,
        swap: bool = False,
    ) -> None:
        self.kv = kv
        self._block_tokens = kv.block_tokens
        self.places = len(running)
        """Sequences that will have a place after this step."""
        self.tokens_left = max_step_tokens
        self.owed_blocks = 0
        """Blocks that prompts begun and not finished by this step have yet to take."""
        self._running = running
        self.displaces = displaces
        """Running ones may lose their places to one that waits."""
        self._swap = swap
        self._promised = 0
        """Blocks of `free_blocks` that those planned will take when the step is done."""
        self._untaken: Sequence[SequenceView] = ()
        """Decodes that have not taken their blocks: they do when somebody asks for room."""
        self._all: Sequence[SequenceView] = ()
        self._decode: dict[int, int] = {}
        self._prefill: dict[int, tuple[int, int]] = {}
        self._preempt: list[int] = []
        self._unsettled = False

    # --- what is left ------------------------------------------------------------------------------------------

    @property
    def preempted(self) -> bool:
        """Some sequence loses its place in this step."""
        return bool(self._preempt)

    @property
    def free_blocks(self) -> int:
        """Blocks left when all that is planned has taken its own."""
        if self._untaken:
            self._grow_decodes()
        return self.kv.free_blocks - self._promised

    @property
    def prefill_tokens(self) -> int:
        """Tokens planned for prompts."""
        return sum(tokens for tokens, _ in self._prefill.values())

    def left(self, sequence: SequenceView) -> int:
        """Tokens that have to be computed of a waiting sequence before its next output token."""
        return sequence.total_tokens - self._start(sequence)

    def _start(self, sequence: SequenceView) -> int:
        return sequence.computed_tokens or self.kv.cached_tokens(sequence)

    # --- those that run ----------------------------------------------------------------------------------------

    def decode_all(self, running: Sequence[SequenceView]) -> bool:
        """Plan a token for each in one pass; False, and nothing is planned, when some prefill, or might not fit.

        All others that run must have more than 1 token remaining.
        """
        count = len(running)
        if count > self.kv.free_blocks or count > self.tokens_left:
            return False  # each takes a token, and a block at most
        for sequence in running:
            if sequence.total_tokens - sequence.computed_tokens != 1:
                return False
        self._all = self._untaken = running
        self.tokens_left -= count
        return True

    def advance(self, sequence: SequenceView) -> int:
        """Plan what remains of a running sequence, as far as there are tokens. Answers those planned; 0: no room."""
        remaining = sequence.remaining_tokens
        if remaining == 1 and self.tokens_left > 0 and self._within_a_block(sequence):
            self._decode[sequence.id] = 0
            self._unsettled |= not sequence.generated_tokens
            self.tokens_left -= 1
            return 1
        tokens = min(remaining, self.tokens_left)
        need = self.kv.blocks_for(sequence, tokens) if tokens > 0 else 0
        if tokens < 1 or (need > 0 and need > self.free_blocks):
            return 0
        if remaining == 1:
            self._decode[sequence.id] = need
            self._unsettled |= not sequence.generated_tokens
        else:
            self._prefill[sequence.id] = tokens, need
            if tokens < remaining:
                self.owed_blocks += self.kv.blocks_for(sequence, remaining) - need
        self.tokens_left -= tokens
        self._grow(sequence, tokens)
        return tokens

    def _grow_decodes(self) -> None:
        untaken, self._untaken = self._untaken, ()
        for sequence in untaken:
            if not self._within_a_block(sequence):
                self._grow(sequence, 1)

    def _within_a_block(self, sequence: SequenceView) -> bool:
        """Its next token neither begins a block, which would have to be had, nor fills one, which others could find."""
        return 0 < sequence.computed_tokens % self._block_tokens < self._block_tokens - 1

    def _grow(self, sequence: SequenceView, tokens: int) -> None:
        if self.displaces:
            self._promised += self.kv.blocks_for(sequence, tokens)
        else:
            self.kv.take(sequence, tokens)

    def preempt(self, sequence: SequenceView) -> None:
        """Plan that it loses its place: what it alone holds is free, and what was planned for it is not any more."""
        tokens, need = self._planned(sequence)
        self._decode.pop(sequence.id, None)
        self._prefill.pop(sequence.id, None)
        self.tokens_left += tokens
        if self.displaces:
            self._grow_decodes()
            self._promised -= need
        elif self._untaken:
            self._untaken = [one for one in self._untaken if one is not sequence]
        self.kv.give_up(sequence, swap=self._swap)
        self.places -= 1
        self._preempt.append(sequence.id)

    def _planned(self, sequence: SequenceView) -> tuple[int, int]:
        """Tokens and blocks that this step was to give a running one."""
        if sequence.id in self._prefill:
            return self._prefill[sequence.id]
        if sequence.id in self._decode:
            return 1, self._decode[sequence.id]
        if self._all and sequence.remaining_tokens == 1:
            return 1, self.kv.blocks_for(sequence, 1)
        return 0, 0

    # --- those that wait ---------------------------------------------------------------------------------------

    def admit(
        self,
        sequence: SequenceView,
        at_most: int = UNLIMITED,
        *,
        watermark: bool = False,
        whole: bool = False,
        after_owed: bool = True,
    ) -> int:
        """Plan the first tokens of one that waits, as many as are left, or `at_most`. Tokens planned, 0: no room.

        Args:
            sequence: One that waits and was not preempted in this step.
            at_most: Not more tokens than this.
            watermark: Leave the cache's watermark free, unless nothing runs.
            whole: There must be room for all of it now.
            after_owed: With `whole`: beside what is owed to others, who begun before it.
        """
        most = min(at_most, self.tokens_left)
        if most < 1:
            return 0
        free = (
            self.free_blocks
        )  # before it is looked up: those that run may compute what it finds, or evict it
        left = self.left(sequence)
        tokens = min(left, most)
        need = self.kv.blocks_for(sequence, tokens)
        demand = need
        if whole:
            demand = self.kv.blocks_for(sequence, left) if tokens < left else need
            demand += self.owed_blocks if after_owed else 0
        leaving = self.kv.watermark_blocks if watermark and self.places else 0
        if demand + leaving > free:
            if not whole:
                self._blocked(sequence, tokens, most, free - leaving)
            return 0
        self._prefill[sequence.id] = tokens, need
        if whole and after_owed:
            self.owed_blocks = demand - need
        self.places += 1
        self.tokens_left -= tokens
        self.kv.take(sequence, tokens)
        return tokens

    def _blocked(self, sequence: SequenceView, tokens: int, most: int, room: int) -> None:
        """Note whether it may get room without anything ending.

        Free blocks only become fewer. But a chunk costs less when blocks that it would have found in the cache are
        evicted, because it begins earlier then.
        """
        if sequence.total_tokens > most and -(-tokens // self.kv.block_tokens) <= room:
            self._unsettled = True

    def displace(self, sequence: SequenceView, worse: list[SequenceView], max_places: int) -> bool:
        """Admit one that waits in the place and the blocks of the last of `worse`, taking those off the list.

        They are as few as will do. False, and nothing is changed, when not even all of them would.
        """
        if self.tokens_left < 1 or not worse:
            return False
        kv = self.kv
        room = self.free_blocks - kv.watermark_blocks
        start = self._start(sequence)
        left = sequence.total_tokens - start
        most = self.tokens_left
        for count, victim in enumerate(reversed(worse), 1):
            planned, need = self._planned(victim)
            room += need + kv.blocks_held_alone(victim)
            most += planned
            price = -(-(start + min(left, most)) // kv.block_tokens)
            if self.places - count < max_places and price <= room:
                for _ in range(count):
                    self.preempt(worse.pop())
                return self.admit(sequence, most, watermark=True) > 0
        self._blocked(sequence, min(left, most), most, room)
        return False

    # --- the step ----------------------------------------------------------------------------------------------

    def step(self, repeat: int = MANY_STEPS) -> Step | Wait:
        """What was planned; `Wait` when nothing was. `repeat` holds if all that is planned is decodes."""
        if not (self._prefill or self._preempt):
            if not (self._all or self._decode):
                return Wait()
            if self._all:
                if repeat > 1 and (self._unsettled or 0 in [one.generated_tokens for one in self._all]):
                    repeat = 1  # one computes the last of its prompt: a block of it may be found from then on
                return Step(decode=None, repeat=repeat)
            return Step(decode=self._decodes(), repeat=1 if self._unsettled else repeat)
        return Step(
            prefill=tuple([(id, tokens) for id, (tokens, _) in self._prefill.items()]),
            decode=None if self._all else self._decodes(),
            preempt=tuple(reversed(self._preempt)),
            swap=self._swap and bool(self._preempt),
        )

    def _decodes(self) -> tuple[int, ...]:
        """In the order of admission, as with `decode=None`, whatever the order in which they were planned."""
        return tuple([one.id for one in self._running if one.id in self._decode])


def run_in_order(draft: StepDraft, order: Sequence[SequenceView]) -> None:
    """Advance those that run, in this order.

    When one finds no block, the last in the order lose their places until it does, at worst itself; the first always
    finds one.
    """
    decodes = len(order)
    while decodes and order[decodes - 1].remaining_tokens != 1:
        decodes -= 1
    fits = draft.decode_all(order[:decodes])
    left = list(order[decodes:] if fits else order)
    index = 0
    while index < len(left) and draft.tokens_left > 0:
        sequence = left[index]
        while sequence.remaining_tokens and not draft.advance(sequence):
            loser = left.pop()
            draft.preempt(loser)
            if loser is sequence:
                return
        index += 1
