"""Predicted latency: learn from what came of earlier choices how long this request would take at each replica."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.attempts import Attempts
from policies.routing.draws import some_of
from policies.views import Completion, ReplicaView
from traces.schema import Request

Features = tuple[float, float, float, float, float, float]
"""1, size of the request, requests in flight, their size, tokens that wait (thousands), cache that is used (0..1)."""
_FEATURES = 6
_UNKNOWN_VARIANCE = 1e3
"""Of each coefficient at first, and at most: that is next to nothing known. Of what always looks alike, or is always 0,
nothing is learnt while it is forgotten, and there would be no end to the doubt."""


class PredictedLatency(RoutingPolicy):
    """Of `choices` different replicas the one with the shortest predicted latency. O(choices).

    The prediction is linear in what is known of the request and of the replica (`Features`), by recursive least squares
    that forget: one small update with each completion. The size of a request is its prompt in thousands of tokens, or
    its work where it has none. The first `min_samples` completions are of replicas drawn at random, and later a share
    `exploration` of all, so that it goes on learning what it would not choose. An attempt that failed is learnt from
    only when it took longer than predicted: it would have taken so long at least.

    How far off the predictions that were made have been is in `mean_absolute_error_s` and `mean_relative_error`, and in
    the reason of each choice; its scores are the predictions, in seconds, so less is better. Replicas are told apart by
    their signals only: it is for pools whose replicas are alike.

    Source: llm-d, predicted latency-based scheduling, which trains gradient-boosted trees on the state of the replica
    and the request, and also assumes that replicas are alike; here the model is the classic one for learning without
    history (Ljung, "System Identification", 2nd edition, 1999, section 11.2). Numbers are of neither.
    """

    choices: Annotated[int, Meta(ge=1, le=64)] = 3
    """How many replicas to predict for."""
    target: Literal["e2e", "ttft"] = "e2e"
    """From when it is sent: to the end of the attempt, or to its first token, which there is token by token only."""
    min_samples: Annotated[int, Meta(ge=1)] = 50
    """Completions to learn from before a prediction is made."""
    exploration: Annotated[float, Meta(ge=0, le=1)] = 0.02
    """Share of the later choices that are made by chance."""
    forgetting: Annotated[float, Meta(gt=0, le=1)] = 0.999
    """Weight of each completion after one more; 0.999 remembers about the last 1,000."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.model = _LeastSquares(self.forgetting)
        self.errors = _Errors(self.forgetting)
        self.attempts: Attempts[_Attempt] = Attempts()
        self.in_flight: dict[str, tuple[int, float]] = {}
        """By replica, as long as it has any: attempts and their size."""
        self.chosen: tuple[str, str, Features, float | None] | None = None
        """The last choice: request, replica, what was seen and predicted."""

    @property
    def mean_absolute_error_s(self) -> float | None:
        """Seconds by which predictions were off, older ones for less. None: none has been put to the test."""
        return self.errors.absolute_s

    @property
    def mean_relative_error(self) -> float | None:
        """That over the mean of the latencies themselves."""
        return self.errors.relative

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        draw, count = self.random, len(replicas)
        if self.model.samples < self.min_samples or draw() < self.exploration:
            replica = replicas[int(draw() * count)]
            seen = self._features(request, replica)
            predicted_s = self._predict(seen)
            self.chosen = request.id, replica.id, seen, predicted_s
            return Route(replica.id, "explores")
        scores: dict[str, float] = {}
        best: tuple[float, str, Features] | None = None
        for number in some_of(count, self.choices, draw):
            replica = replicas[number]
            seen = self._features(request, replica)
            scores[replica.id] = seconds = max(0.0, self.model.predict(seen))
            if best is None or seconds < best[0]:
                best = seconds, replica.id, seen
        assert best is not None  # there is at least one choice
        self.chosen = request.id, best[1], best[2], best[0]
        return Route(best[1], self._reason(), scores)

    def _predict(self, seen: Features) -> float | None:
        return None if self.model.samples < self.min_samples else max(0.0, self.model.predict(seen))

    def _reason(self) -> str | None:
        error = self.errors.relative
        return None if error is None else f"predictions are off by {error:.0%}"

    def _features(self, request: Request, replica: ReplicaView) -> Features:
        signals = replica.tokens
        waiting, used = (0, 0.0) if signals is None else (signals.waiting_tokens, signals.kv_utilization)
        size = self.in_flight.get(replica.id, (0, 0.0))[1]
        return 1.0, _size(request), replica.in_flight, size, waiting / 1000.0, used

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        seen, predicted_s = None, None
        if self.chosen is not None and self.chosen[:2] == (request.id, replica):
            seen, predicted_s = self.chosen[2:]
        self.chosen = None
        size = _size(request)
        self.attempts.add(request.id, replica, _Attempt(now_s, size, seen, predicted_s))
        count, sizes = self.in_flight.get(replica, (0, 0.0))
        self.in_flight[replica] = count + 1, sizes + size

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        if self.target == "ttft":
            for attempt in self.attempts.of(request.id, replica):
                if not attempt.learnt:
                    self._learn(attempt, now_s - attempt.sent_s, at_least=False)
                    return

    def on_completed(self, completion: Completion, now_s: float) -> None:
        replica = completion.replica
        attempt = self.attempts.take(completion.request.id, replica)
        if attempt is None:
            return
        count, sizes = self.in_flight[replica]
        if count == 1:
            del self.in_flight[replica]
        else:
            self.in_flight[replica] = count - 1, sizes - attempt.size
        if not attempt.learnt and completion.failure != "refused":
            failed = completion.failure is not None or self.target == "ttft"
            self._learn(attempt, now_s - attempt.sent_s, at_least=failed)

    def _learn(self, attempt: _Attempt, took_s: float, *, at_least: bool) -> None:
        attempt.learnt = True
        if attempt.seen is None:
            return  # somebody else chose, and what was to be seen then is not known
        if at_least:
            if attempt.predicted_s is not None and took_s > attempt.predicted_s:
                self.model.learn(attempt.seen, took_s)
            return
        if attempt.predicted_s is not None:
            self.errors.add(abs(took_s - attempt.predicted_s), took_s)
        self.model.learn(attempt.seen, took_s)


class _Attempt:
    """One in flight: when it was sent, its size, and what was seen and predicted when it was placed."""

    __slots__ = ("learnt", "predicted_s", "seen", "sent_s", "size")

    def __init__(self, sent_s: float, size: float, seen: Features | None, predicted_s: float | None) -> None:
        self.sent_s = sent_s
        self.size = size
        self.seen = seen
        self.predicted_s = predicted_s
        self.learnt = False


class _LeastSquares:
    """Recursive least squares with forgetting: coefficients, and how far they are from certain. O(features²)."""

    __slots__ = ("coefficients", "covariance", "forgetting", "samples")

    def __init__(self, forgetting: float) -> None:
        size = _FEATURES
        self.forgetting = forgetting
        self.samples = 0
        self.coefficients = [0.0] * size
        self.covariance = [
            [_UNKNOWN_VARIANCE if row == column else 0.0 for column in range(size)] for row in range(size)
        ]

    def predict(self, seen: Features) -> float:
        """What is to be expected."""
        return sum([weight * value for weight, value in zip(self.coefficients, seen, strict=True)])

    def learn(self, seen: Features, took_s: float) -> None:
        """This is what came of it."""
        self.samples += 1
        pairs = self.covariance
        spread = [sum([weight * value for weight, value in zip(row, seen, strict=True)]) for row in pairs]
        forgetting = self.forgetting
        scale = forgetting + sum([value * one for value, one in zip(seen, spread, strict=True)])
        error = took_s - self.predict(seen)
        self.coefficients = [
            weight + one / scale * error for weight, one in zip(self.coefficients, spread, strict=True)
        ]
        self.covariance = [
            [(pair - one * other / scale) / forgetting for pair, other in zip(row, spread, strict=True)]
            for row, one in zip(pairs, spread, strict=True)
        ]
        for number in range(_FEATURES):
            self._bound(number)

    def _bound(self, number: int) -> None:
        """Make one coefficient no less certain than at first; its correlations with the others stay."""
        variance = self.covariance[number][number]
        if variance > _UNKNOWN_VARIANCE:
            factor = math.sqrt(_UNKNOWN_VARIANCE / variance)
            self.covariance[number] = [pair * factor for pair in self.covariance[number]]
            for row in self.covariance:
                row[number] *= factor


class _Errors:
    """How far off predictions were, the older the less it counts."""

    __slots__ = ("_count", "_errors_s", "_keep", "_latencies_s")

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._count = self._errors_s = self._latencies_s = 0.0

    def add(self, error_s: float, took_s: float) -> None:
        """One more."""
        keep = self._keep
        self._count = self._count * keep + 1.0
        self._errors_s = self._errors_s * keep + error_s
        self._latencies_s = self._latencies_s * keep + took_s

    @property
    def absolute_s(self) -> float | None:
        return self._errors_s / self._count if self._count else None

    @property
    def relative(self) -> float | None:
        return self._errors_s / self._latencies_s if self._latencies_s else None


def _size(request: Request) -> float:
    """Thousands of prompt tokens; of a request without, its work, and 1 where that is not known either."""
    if request.prompt_tokens is not None:
        return request.prompt_tokens / 1000.0
    return 1.0 if request.work is None else request.work
