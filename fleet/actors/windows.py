"""What came of requests lately, for whoever chooses among versions or variants: a window that ends at a known time."""

from __future__ import annotations

from collections import deque

from policies.views import NO_LATENCIES, Latencies, Outcome

MOST = 4_096
"""Latencies of one window: the last ones, where more complete between two looks."""
MOST_RATED = 500
"""Answers that a mean quality is of: those of one window may be three, and their mean chance."""
SAID_COUNTS = 50
"""As many answers as this what its pools say of a variant's quality counts."""


class Window:
    """Of one variant: totals since ever, and figures of the requests that ended between its last two looks.

    Quality apart, which is of the last answers that were rated before the last look.
    """

    __slots__ = (
        "_attained",
        "_e2e_s",
        "_ended",
        "_failed",
        "_judged",
        "_looked_s",
        "_newest_s",
        "_ratings",
        "_ttft_s",
        "as_of_s",
        "attained",
        "completions",
        "e2e_s",
        "ended",
        "failed",
        "failures",
        "judged",
        "period_s",
        "quality",
        "rated",
        "ttft_s",
    )

    def __init__(self, period_s: float, now_s: float) -> None:
        self.period_s = period_s
        """Between two looks, at least."""
        self.as_of_s = self._looked_s = self._newest_s = now_s
        """When the last of those ended that the figures are of; with none, when it was looked at."""
        self.completions = self.failures = 0
        self.e2e_s = self.ttft_s = NO_LATENCIES
        self.ended = self.failed = self.judged = self.attained = self.rated = 0
        self.quality = 0.0
        """A sum, over the `rated` answers; likewise the others: shares are for whoever adds up several windows."""
        self._ratings: deque[float] = deque(maxlen=MOST_RATED)
        self._begin()

    def _begin(self) -> None:
        self._e2e_s: deque[float] = deque(maxlen=MOST)
        self._ttft_s: deque[float] = deque(maxlen=MOST)
        self._ended = self._failed = self._judged = self._attained = 0

    def request_ended(  # noqa: PLR0917  # called for every request
        self,
        now_s: float,
        outcome: Outcome,
        e2e_s: float,
        ttft_s: float,
        slo_met: bool | None,
        quality: float | None,
    ) -> None:
        """One more."""
        if outcome == "cancelled":
            return  # its client's own doing
        self._newest_s = now_s
        self._ended += 1
        if outcome == "completed":
            self.completions += 1
            self._e2e_s.append(e2e_s)
            self._ttft_s.append(ttft_s)
        else:
            self.failures += 1
            self._failed += 1
        if slo_met is not None:
            self._judged += 1
            self._attained += slo_met
        if quality is not None:
            self._ratings.append(quality)

    def look(self, now_s: float) -> None:
        """A look, if it is time for one: what ended since the last one is what is known from now on."""
        if now_s - self._looked_s < self.period_s:
            return
        self.e2e_s, self.ttft_s = Latencies(tuple(self._e2e_s)), Latencies(tuple(self._ttft_s))
        self.ended, self.failed = self._ended, self._failed
        self.judged, self.attained = self._judged, self._attained
        self.rated, self.quality = len(self._ratings), sum(self._ratings)
        self._looked_s = now_s
        self.as_of_s = self._newest_s if self._ended else now_s
        self._begin()
