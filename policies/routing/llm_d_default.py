"""What llm-d's router does when nobody configures it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from policies.routing.composed import Composed
from policies.routing.kv_utilization_scorer import KvUtilizationScorer
from policies.routing.parts import Scorer
from policies.routing.prefix_scorer import PrefixScorer
from policies.routing.queue_scorer import QueueScorer


def _scorers() -> list[tuple[float, Scorer]]:
    return [(2.0, QueueScorer()), (2.0, KvUtilizationScorer()), (3.0, PrefixScorer())]


class LlmDDefault(Composed):
    """Waiting requests with weight 2, spare cache with 2, prefix with 3; the best sum, ties by chance. O(n + blocks).

    A `Composed` like any other, under a name of its own because it is what others are compared with. It has no filter,
    and no scorer that counts for itself: between two reports everything that has no prefix yet goes to whoever was best
    at the last one.

    Source: llm-d router, the profile that is loaded without a configuration (`loadDefaultConfig`: `queue-scorer` 2,
    `kv-cache-utilization-scorer` 2, `prefix-cache-scorer` 3, `max-score-picker`), which had been that of the Kubernetes
    Gateway API Inference Extension.
    """

    scorers: list[tuple[Annotated[float, Meta(ge=0)], Scorer]] = field(default_factory=_scorers)
    """Each with the weight of its score."""
