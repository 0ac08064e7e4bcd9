"""What a replica measured of its engine, until its next answer takes that along.

Only live replicas keep it: what a simulated engine takes is what its latency model says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fleet.messages import Timing, Work
from fleet.tokens.sequence import StepWork

MOST = 1_024
"""Kept between two answers, the latest: an answer must not grow too large to be sent."""
_Shape = tuple[int | None, ...]
"""The fields of `Timing` that say how large it was, in order."""


class Timings:
    """Batches or steps of one engine that ended since the last answer."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float, _Shape]] = deque(maxlen=MOST)
        """When each ended, how long it took, and its shape."""
        self._step: _Shape = ()

    def batch_ended(self, now_s: float, work: Sequence[Work], service_s: float) -> None:
        longest = max([item.request.prompt_tokens or 0 for item in work], default=0)
        self._ended.append((now_s, service_s, (len(work), longest)))

    def step_begins(self, work: StepWork) -> None:
        """Its shape is taken now: when it has ended, its tokens may be counted as computed."""
        self._step = (
            None, None, len(work.prefills),
            sum([tokens for _, tokens in work.prefills]),
            sum([sequence.computed_tokens for sequence, _ in work.prefills]),
            len(work.decodes),
            sum([sequence.computed_tokens for sequence in work.decodes]),
        )  # fmt: skip

    def step_ended(self, now_s: float, service_s: float) -> None:
        """Of several steps that were run as one, the first is meant: its shape is the one that was taken."""
        self._ended.append((now_s, service_s, self._step))

    def take(self, now_s: float) -> list[Timing]:
        """All of them; they are here no longer."""
        taken = [Timing(now_s - ended_s, service_s, *shape) for ended_s, service_s, shape in self._ended]
        self._ended.clear()
        return taken
