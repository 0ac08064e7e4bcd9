"""Shortest job first, on a prediction: what has ended tells how long an answer will be."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Annotated, Literal

from msgspec import Meta

from policies.queueing.charging import payer
from policies.queueing.keyed import KeyedQueue
from policies.running_means import RunningMeans
from policies.views import Completion
from traces.schema import Request


class ShortestJobFirst(KeyedQueue):
    """The request with the shortest predicted answer goes first, first in first out among equals. O(log n).

    The prediction, made once when it is queued, is the mean so far of requests of the same tenant (or user) and model
    with about as long a prompt (lengths between the same two powers of two); where there are none, of the same model
    and length; then of the same length, of the model, and of all; before anything has ended, `prior`. Long jobs may
    wait for ever under overload.

    Source: Smith, "Various Optimizers for Single-Stage Production", Naval Research Logistics Quarterly 3, 1956
    (shortest processing time first has the least mean wait); on learned lengths as in Fu et al., "Efficient LLM
    Scheduling by Learning to Rank", NeurIPS 2024, of whose model a running mean takes the place.
    """

    job: Literal["output_tokens", "service_s"] = "output_tokens"
    """What makes a job long: tokens of its answer, or where engines answer whole requests its seconds of service."""
    prior: Annotated[float, Meta(ge=0)] = 256.0
    """Predicted before anything has ended, in tokens or seconds."""

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.means = RunningMeans()

    def key(self, request: Request, now_s: float) -> float:
        mean = self.means.mean(*_groups(request))
        return self.prior if mean is None else mean

    def on_completed(self, completion: Completion, now_s: float) -> None:
        size = completion.output_tokens if self.job == "output_tokens" else completion.service_s
        if completion.failure is None and size is not None:
            for group in _groups(completion.request):
                self.means.add(group, size)


def _groups(request: Request) -> tuple[Hashable, ...]:
    """The most alike first."""
    who, model, length = payer(request), request.model, (request.prompt_tokens or 1).bit_length()
    return (
        ("tenant", who, model, length),
        ("model and length", model, length),
        ("length", length),
        ("model", model),
        "all",
    )
