"""A latency model from what an engine took in a live run: `run.timings` in place of a profile.

The one thing to know: all batches, or steps, of the run take by its model, together, exactly as long as they took. How
that falls on sizes and lengths is fitted, and where there are few of a kind it is the formula that speaks for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs

from fleet.engines.latency.batches.profiled import ProfiledLatency
from fleet.engines.latency.steps.base import StepShape
from fleet.engines.latency.steps.timed import TimedSteps
from fleet.engines.latency.tables.step_profile import StepPoint

FEWEST_ALIKE = 20
"""Batches of one size that say by how much this size differs from the formula."""
MOST_KNOTS = 8
"""Of each axis: with more, fewer of a kind stand behind each, and the table follows the noise."""

Floats = npt.NDArray[np.float64]


def timed_latency(timings: pa.Table) -> ProfiledLatency | TimedSteps:
    """The latency model of one engine, or of several alike, by the rows of `run.timings` that are theirs.

    Of batches a table over sizes and prompt lengths, with noise as large as what the table does not explain; of steps
    the formula that is fitted to a profile of steps too, without noise.
    """
    if not len(timings):
        raise ValueError("no timings to make a latency model of: only live runs have any (`run.timings`)")
    if pc.min(timings["service_s"]).as_py() <= 0.0:
        raise ValueError(
            "the timings have batches or steps of 0 s: what takes no time needs no latency model"
        )
    return _of_batches(timings) if timings["prefills"].null_count else _of_steps(timings)


def step_shapes(timings: pa.Table) -> list[StepShape]:
    """Of rows that are steps. Several prefills are taken to be equal: only sums over them were recorded."""
    rows = zip(*[timings[name].to_pylist() for name in timings.schema.names[-5:]], strict=True)
    return [
        StepShape(_split(prefills, tokens, before), decodes, contexts, -(-contexts // max(1, decodes)))
        for prefills, tokens, before, decodes, contexts in rows
    ]


def _split(prefills: int, tokens: int, before: int) -> tuple[tuple[int, int], ...]:
    parts = range(prefills)
    return tuple(((tokens + i) // prefills, (before + i) // prefills) for i in parts)


def _column(timings: pa.Table, name: str) -> Floats:
    values: Floats = timings[name].cast(pa.float64()).to_numpy()
    return values


# --- batches -------------------------------------------------------------------------------------------------


def _of_batches(timings: pa.Table) -> ProfiledLatency:
    sizes, tokens, took_s = (_column(timings, name) for name in ("batch_size", "tokens", "service_s"))
    weights = _formula(sizes, tokens, took_s)
    ratios = took_s / (_features(sizes, tokens) @ weights)
    points = []
    for size, ratio in _ratio_of_sizes(sizes, ratios).items():
        for count in _knots(tokens):
            seconds = float(_features(np.array([size]), np.array([count]))[0] @ weights)
            points.append((round(float(size)), round(float(count)), seconds * ratio))
    fitted = ProfiledLatency(points=tuple(points))
    expected_s = np.array([fitted.at(*one) for one in zip(sizes, tokens, strict=True)])
    scale = float(took_s.sum() / expected_s.sum())
    unexplained = took_s / (scale * expected_s)
    return ProfiledLatency(
        points=tuple((size, count, scale * seconds) for size, count, seconds in points),
        jitter_cv=float(unexplained.std() / unexplained.mean()),
    )


def _formula(sizes: Floats, tokens: Floats, took_s: Floats) -> Floats:
    """Coefficients of `_features`, none negative: least squares of relative errors over the means of those alike."""
    from scipy.optimize import nnls

    knots = _knots(tokens)
    alike: dict[tuple[float, float], list[int]] = defaultdict(list)
    for row, (size, count) in enumerate(zip(sizes, _nearest(knots, tokens), strict=True)):
        alike[float(size), float(count)].append(row)
    groups = list(alike.values())
    mean_s = np.array([took_s[rows].mean() for rows in groups])
    features = np.array([_features(sizes[rows], tokens[rows]).mean(axis=0) for rows in groups])
    trust = np.sqrt([len(rows) for rows in groups])
    relative = features / mean_s[:, None] * trust[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    weights: Floats = nnls(relative / scale, trust)[0] / scale
    return weights


def _features(sizes: Floats, tokens: Floats) -> Floats:
    """A call, each request, each token (of prompts padded to the longest), each pair of tokens of a prompt."""
    padded = sizes * tokens
    return np.stack([np.ones_like(sizes), sizes, padded, padded * tokens], axis=1)


def _ratio_of_sizes(sizes: Floats, ratios: Floats) -> dict[float, float]:
    """By how much batches of each size took longer than the formula says; of all, where there are few of a size."""
    knots = _knots(sizes)
    nearest = _nearest(knots, sizes)
    by_size = {}
    for size in knots:
        alike = ratios[nearest == size]
        by_size[float(size)] = float((alike if len(alike) >= FEWEST_ALIKE else ratios).mean())
    return by_size


def _knots(values: Floats) -> Floats:
    """Whole numbers that stand for all: the distinct ones, or as many as there may be, least and largest included."""
    distinct = np.unique(values)
    if len(distinct) <= MOST_KNOTS:
        return distinct
    spread = np.quantile(values, np.linspace(0.0, 1.0, MOST_KNOTS))
    knots: Floats = np.unique(np.rint(spread))
    return knots


def _nearest(knots: Floats, values: Floats) -> Floats:
    nearest: Floats = knots[np.abs(values[:, None] - knots[None, :]).argmin(axis=1)]
    return nearest


# --- steps ---------------------------------------------------------------------------------------------------


def _of_steps(timings: pa.Table) -> TimedSteps:
    took_s = _column(timings, "service_s")
    points = tuple(_mean_points(timings))
    fitted = TimedSteps(points=points)
    scale = float(took_s.sum() / sum(fitted.step_s(shape) for shape in step_shapes(timings)))
    return TimedSteps(points=tuple(structs.replace(point, seconds=scale * point.seconds) for point in points))


def _mean_points(timings: pa.Table) -> Iterable[StepPoint]:
    """Steps that are alike in all they compute, as one point each with the means of what they computed and took.

    A point has one prefill; so steps with several count only where there are no others.
    """
    values = np.stack(
        [_column(timings, name) for name in (*StepPoint.__struct_fields__[:-1], "service_s")], axis=1
    )
    single = _column(timings, "prefills") <= 1
    values = values[single] if single.any() else values
    keys = np.stack([_nearest(_knots(column), column) for column in values.T[:-1]], axis=1)
    for key in np.unique(keys, axis=0):
        *sizes, seconds = values[(keys == key).all(axis=1)].mean(axis=0).tolist()
        tokens, before, decodes, contexts = [round(size) for size in sizes]
        yield StepPoint(tokens, before, decodes, contexts, seconds)
