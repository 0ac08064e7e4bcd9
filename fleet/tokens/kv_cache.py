"""The account of a paged key-value cache: who holds which blocks, which are kept for reuse, which are free.

Conserved at all times: total = used + cached + empty. A block is *used* while a sequence holds it, however many
hold it; *cached* when nobody does and it is kept for its content; `free_blocks` are the empty and the cached ones,
because both can be had.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fleet.tokens.sequence import SequenceState
from policies.views import SequenceView


class KvCache(ABC):
    """What the scheduler needs of a cache, and (as `policies.views.KvView`) what a policy sees of it.

    There are two: `PagedKvCache`, which is the account itself, and an adapter for engines that own a real cache. A
    contract test holds both to the same meaning.
    """

    block_tokens: int
    total_blocks: int
    watermark_blocks: int = 0
    now_s: float = 0.0
    """When the step is planned that is being planned; the scheduler's own."""
    moved_blocks: int = 0
    """Blocks swapped out and in since the scheduler last looked."""
    taken: list[SequenceState]
    """Those that got a place, or lost it, while a policy planned; the scheduler's own."""

    @property
    @abstractmethod
    def used_blocks(self) -> int:
        """Held by at least one sequence; a shared one counts once."""

    @property
    @abstractmethod
    def cached_blocks(self) -> int:
        """Held by nobody, kept for reuse."""

    @property
    def free_blocks(self) -> int:
        """Can be had now, by eviction where they are cached."""
        return self.total_blocks - self.used_blocks

    # --- questions: they change nothing ------------------------------------------------------------------------

    @abstractmethod
    def holds(self, sequence: SequenceView) -> bool:
        """It was admitted, and not released since."""

    @abstractmethod
    def cached_tokens(self, sequence: SequenceView) -> int:
        """See `policies.views.KvView`."""

    @abstractmethod
    def blocks_for(self, sequence: SequenceView, tokens: int) -> int:
        """See `policies.views.KvView`."""

    @abstractmethod
    def blocks_held_alone(self, sequence: SequenceView) -> int:
        """See `policies.views.KvView`."""

    @abstractmethod
    def steps_that_fit(self, decodes: Sequence[SequenceState], at_most: int) -> int:
        """How many steps in a row, `at_most` so many, each of `decodes` can take a token with what is free."""

    @abstractmethod
    def used_after(self, decodes: Sequence[SequenceState], steps: int) -> int:
        """What `used_blocks` will be when each of `decodes` has taken `steps` further tokens."""

    # --- what a policy may do while it plans: see `policies.views.KvView` ----------------------------------------

    def take(self, sequence: SequenceView, tokens: int) -> None:
        """See `policies.views.KvView`."""
        assert isinstance(sequence, SequenceState)
        if not self.holds(sequence):
            self.admit(sequence, self.now_s)
            self.taken.append(sequence)
        self.extend(sequence, tokens, self.now_s)

    def give_up(self, sequence: SequenceView, *, swap: bool = False) -> None:
        """See `policies.views.KvView`."""
        assert isinstance(sequence, SequenceState)
        if not self.holds(sequence):
            return
        if not (swap and self.swap_out(sequence, self.now_s)):
            self.release(sequence, self.now_s, comes_back=True)
        self.taken.append(sequence)

    # --- commands ----------------------------------------------------------------------------------------------

    @abstractmethod
    def admit(self, sequence: SequenceState, now_s: float) -> None:
        """Give a waiting sequence what the cache has of its prompt: sets `computed_tokens`, `cached_tokens`, `blocks`.

        One that was swapped out gets its blocks back instead.
        """

    @abstractmethod
    def extend(self, sequence: SequenceState, tokens: int, now_s: float) -> None:
        """Take the blocks for `tokens` more beyond `computed_tokens`, which the scheduler advances when it is done.

        Blocks that this fills can be found by others from now on. To ask for what it has already changes nothing.

        Raises `FleetError` when they cannot be had: the scheduler asked first.
        """

    @abstractmethod
    def release(
        self, sequence: SequenceState, now_s: float, *, keep: bool = True, comes_back: bool = False
    ) -> None:
        """Give up everything it holds, and set `computed_tokens` to 0.

        Full blocks that somebody could find stay cached: those with a hash, and all of them for one that comes back.
        With `keep=False` none does that it alone holds, because what is in them is not to be trusted.
        """

    @abstractmethod
    def swap_out(self, sequence: SequenceState, now_s: float) -> bool:
        """Move what it holds to host memory, where there is room.

        True, and it is `swapped` and keeps its `computed_tokens`. False: nothing was done.
        """

    @abstractmethod
    def forget(self, sequence: SequenceState, now_s: float) -> None:
        """It ends while it waits: give up what it may have in host memory."""

    @abstractmethod
    def check(self) -> None:
        """Raise `FleetError` that says what does not add up, if anything."""
