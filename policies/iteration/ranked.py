"""Mixed steps in the order of a rank: what the policies share that differ only in who goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import SequenceView

Rank = Callable[[SequenceView], float]
"""The smaller, the sooner; equal ones go in the order of arrival."""


def plan_by_rank(
    draft: StepDraft,
    waiting: Sequence[SequenceView],
    running: Sequence[SequenceView],
    rank: Rank,
    max_sequences: int,
) -> None:
    """Advance those that run, then admit those that wait, chunk by chunk, best first, up to the first that has no room.

    When blocks run out the worst lose their places. Where the draft displaces, one that waits may take the place of
    running ones that rank strictly worse.
    """
    displaces = draft.displaces
    if not draft.decode_all(running):
        run_in_order(draft, sorted(running, key=lambda one: (rank(one), one.id)))
    if draft.preempted or not waiting or (draft.places >= max_sequences and not displaces):
        return
    by_rank = sorted(running, key=lambda one: (rank(one), one.id)) if displaces else []
    for sequence in _best_first(waiting, rank):
        if draft.places < max_sequences and draft.admit(sequence, watermark=True):
            continue
        if not displaces:
            return
        own = rank(sequence)
        worse = [one for one in by_rank if rank(one) > own]
        better = by_rank[: len(by_rank) - len(worse)]
        if not draft.displace(sequence, worse, max_sequences):
            return
        by_rank = better + worse


def _best_first(waiting: Sequence[SequenceView], rank: Rank) -> Iterator[SequenceView]:
    """Most often only the first is asked for, so the rest is sorted when it is."""
    first = min(waiting, key=lambda one: (rank(one), one.id))
    yield first
    for sequence in sorted(waiting, key=lambda one: (rank(one), one.id)):
        if sequence is not first:
            yield sequence
