"""Scaling on the tokens that are served: work as language models count it, whatever the size of requests."""

from __future__ import annotations

import random
from collections import deque
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole
from policies.scaling.target_utilization import largest
from policies.views import Completion, PoolView


class TokensPerSecond(ScalingPolicy):
    """Ask for `tokens_per_s / target_tokens_per_s` replicas. Amortised O(1).

    Tokens are those that attempts were found to have generated when they ended, well or badly, without those of an
    earlier attempt that they resumed; with `count = "total"` also the prompt tokens of those that got as far as a first
    token. The rate is a mean over `average_s`, which should be some times the length of an answer, as an attempt's
    tokens count when it ends. Within `tolerance` of what there is nothing changes, and it goes down only to the largest
    number of `down_stabilization_s`. Where engines answer whole requests, there are no tokens to count, and nothing
    changes.

    What is served is never more than replicas can serve: a target that lies near what one of them can do at most says
    little of how many are missing. So nothing is taken away while requests wait in the queue. From none it goes to one
    as soon as a request waits, and to none only when none is in flight.

    Source: "Inference Serving" in the Language AI Handbook (scaling metrics: tokens per second across instances,
    which unlike a count of requests holds for requests of any size); the rule is that of the Kubernetes documentation,
    "Horizontal Pod Autoscaling" (`AverageValue`, tolerance, stabilization window).
    """

    target_tokens_per_s: Annotated[float, Meta(gt=0)] = 1000.0
    """Tokens a second that one replica should serve."""
    count: Literal["output", "total"] = "output"
    """Which tokens: generated ones, or prompt tokens too."""
    average_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds over which the rate is averaged."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.1
    """How far what is wanted may be from what there is, relative to it, before anything changes."""
    down_stabilization_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds over which the largest recommendation counts on the way down."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.tokens: int | None = None
        """Since the last look; None: no attempt has ever said how many it had."""
        self.rate_per_s = TimeAverage(self.average_s)
        self.highest: deque[tuple[float, int]] = deque()

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        wanted = at_work(pool, self._recommend(pool, asked))
        if wanted < asked and pool.queue_depth > 0:
            wanted = asked
        decided = max(wanted, min(asked, largest(self.highest, now_s, wanted, self.down_stabilization_s)))
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def _recommend(self, pool: PoolView, asked: int) -> int:
        if self.tokens is None:
            return asked
        if pool.interval_s <= 0.0:
            return asked
        rate_per_s = self.rate_per_s.add(self.tokens / pool.interval_s, pool.interval_s)
        self.tokens = 0
        load = rate_per_s / self.target_tokens_per_s
        return asked if asked and abs(load / asked - 1.0) <= self.tolerance else whole(load)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        if completion.output_tokens is None:
            return
        tokens = max(0, completion.output_tokens - completion.resumed_tokens)
        if self.count == "total" and completion.ttft_s is not None:
            tokens += completion.request.prompt_tokens or 0
        self.tokens = (self.tokens or 0) + tokens
