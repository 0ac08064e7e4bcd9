"""A picker: better scores more often, never always."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Picker
from policies.views import ReplicaView


class SoftmaxPicker(Picker):
    """Take a replica with probability proportional to `exp(score / temperature)`. O(n).

    Near 0 it is the best score every time; large, it is uniform. Chance keeps routers that share one stale
    signal from all choosing the same replica.

    Source: Luce, "Individual Choice Behavior", 1959; Sutton, Barto, "Reinforcement Learning", section 2.8.
    """

    temperature: Annotated[float, Meta(gt=0)] = 0.1
    """Difference in score that makes a replica e times as likely."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def pick(self, replicas: Sequence[ReplicaView], scores: Sequence[float]) -> int:
        best = max(scores)
        cumulative = list(accumulate([math.exp((score - best) / self.temperature) for score in scores]))
        return bisect_right(cumulative, self.random() * cumulative[-1], hi=len(scores) - 1)
