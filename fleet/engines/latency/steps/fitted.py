"""A formula for the time of a step, fitted to steps that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct
from scipy.optimize import nnls

from fleet.engines.latency.steps.base import StepShape
from fleet.engines.latency.tables.step_profile import StepPoint

_KNOTS = 12
"""At most so many corners of the curve over tokens: more would follow the noise."""
_APART = 1.25
"""One is so many times the one before: else they would follow the noise too."""


class FittedSteps(Struct, frozen=True, kw_only=True):
    """Seconds of a step, as a sum of parts none of which is negative.

    - `curve_s` over the tokens computed in it: straight between `curve_tokens`, level below the first, going on beyond
      the last: products that are bound by reading the weights, then by arithmetic;
    - `prefill_s` where there is a prefill, `pair_s` for each of its tokens and each token that this one attends to, and
      `prefill_context_s` for each token computed before;
    - `decode_s` for each sequence that decodes, and `context_s` for each token of their contexts;
    - `cross_s` for each token computed and each key that the step reads, whichever sequence it is of: an engine without
      a kernel for paged attention computes one product over all of them, and masks what does not belong together.
    """

    curve_tokens: list[int]
    curve_s: list[float]
    prefill_s: float
    pair_s: float
    decode_s: float
    context_s: float
    prefill_context_s: float = 0.0
    cross_s: float = 0.0
    errors: list[float]
    """Of each point: fitted over measured, less 1."""
    block_move_s: float | None = None
    """Not measured."""

    def step_s(self, shape: StepShape) -> float:
        """See `StepLatency`; of several prefills, the fixed part counts once."""
        tokens, pairs, contexts = shape.decodes, 0.0, 0
        for count, context in shape.prefills:
            tokens += count
            contexts += context
            pairs += _pairs(count, context)
        seconds = self.decode_s * shape.decodes + self.context_s * shape.decode_context_tokens
        if shape.prefills:
            seconds += self.prefill_s + self.pair_s * pairs + self.prefill_context_s * contexts
        keys = tokens + contexts + shape.decode_context_tokens
        return self._curve_at(tokens) + seconds + self.cross_s * tokens * keys

    def span_s(self, shape: StepShape, steps: int) -> float:
        """See `StepLatency`: only the contexts grow, by one token a sequence and step."""
        decodes = shape.decodes
        contexts = steps * shape.decode_context_tokens + decodes * (steps * (steps - 1) // 2)
        each_s = self._curve_at(decodes) + self.decode_s * decodes + self.cross_s * decodes * decodes
        return steps * each_s + (self.context_s + self.cross_s * decodes) * contexts

    def _curve_at(self, tokens: int) -> float:
        knots, values = self.curve_tokens, self.curve_s
        if tokens <= knots[0] or len(knots) == 1:
            return values[0]
        i = 1
        while i < len(knots) - 1 and tokens > knots[i]:
            i += 1
        slope = (values[i] - values[i - 1]) / (knots[i] - knots[i - 1])
        return values[i - 1] + slope * (tokens - knots[i - 1])


def fit_steps(points: Sequence[StepPoint]) -> FittedSteps:
    """The formula's coefficients, none negative, for which the sum of squared relative errors is least."""
    knots = _curve_knots(sorted({point.prefill_tokens + point.decodes for point in points}))
    features = np.array([_features(point, knots) for point in points])
    seconds = np.array([point.seconds for point in points])
    relative = features / seconds[:, None]
    # Columns are of very different size; scaled to the same, the solver's tolerance means the same for each.
    scale = np.maximum(relative.max(axis=0), 1e-300)
    weights = nnls(relative / scale, np.ones(len(points)))[0] / scale
    curve = np.cumsum(weights[: len(knots)])
    prefill_s, pair_s, prefill_context_s, decode_s, context_s, cross_s = weights[len(knots) :].tolist()
    return FittedSteps(
        curve_tokens=knots, curve_s=curve.tolist(), prefill_s=prefill_s, pair_s=pair_s,
        prefill_context_s=prefill_context_s, decode_s=decode_s, context_s=context_s, cross_s=cross_s,
        errors=(relative @ weights - 1.0).tolist(),
    )  # fmt: skip


def _curve_knots(tokens: list[int]) -> list[int]:
    """Of the sizes that were measured, ascending, the first and the last and those apart from one another."""
    apart = tokens[:1]
    for count in tokens[1:-1]:
        if count >= _APART * apart[-1] and _APART * count <= tokens[-1]:
            apart.append(count)
    if len(tokens) > 1:
        apart.append(tokens[-1])
    if len(apart) <= _KNOTS:
        return apart
    return [apart[round(i * (len(apart) - 1) / (_KNOTS - 1))] for i in range(_KNOTS)]


def _features(point: StepPoint, knots: list[int]) -> list[float]:
    tokens = point.prefill_tokens + point.decodes
    ramps = [max(0.0, (tokens - low) / (high - low)) for low, high in pairwise(knots)]
    ramps = [min(1.0, ramp) for ramp in ramps]  # no point lies beyond the last knot
    prefills = 1.0 if point.prefill_tokens else 0.0
    pairs = _pairs(point.prefill_tokens, point.prefill_context_tokens)
    before, contexts = float(point.prefill_context_tokens), float(point.decode_context_tokens)
    cross = tokens * (tokens + before + contexts)
    return [1.0, *ramps, prefills, pairs, before, float(point.decodes), contexts, cross]


def _pairs(tokens: int, context: int) -> float:
    """A token attends to all before it and itself."""
    return tokens * (context + 0.5 * (tokens + 1))
