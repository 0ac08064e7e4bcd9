"""A picker: the best score wins."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from policies.routing.parts import Picker
from policies.views import ReplicaView


class MaxScorePicker(Picker):
    """Take the replica with the largest score. O(n).

    Source: Kubernetes Gateway API Inference Extension, max-score picker.
    """

    ties: Literal["random", "first"] = "random"
    """Among equal scores: each as likely as the others, or the first in the order of the candidates."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def pick(self, replicas: Sequence[ReplicaView], scores: Sequence[float]) -> int:
        best = max(scores)
        if self.ties == "first":
            return scores.index(best)
        equals = [index for index, score in enumerate(scores) if score == best]
        return equals[int(self.random() * len(equals))]
