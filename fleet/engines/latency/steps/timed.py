"""A step latency model from steps that are given with it, as `experiments.timings` makes them of a live run."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from fleet.engines.latency.steps.base import StepLatency, StepShape
from fleet.engines.latency.tables.step_profile import StepPoint

if TYPE_CHECKING:
    from fleet.engines.latency.steps.fitted import FittedSteps


class TimedSteps(StepLatency):
    """Steps as they were timed, fitted as `ProfiledSteps` fits what `fleet profile` measured.

    What moving blocks took is in those times, and nothing is added for it.
    """

    points: Annotated[tuple[StepPoint, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        self._steps = _fitted(tuple(self.points))

    def step_s(self, shape: StepShape) -> float:
        return self._steps.step_s(shape)

    def span_s(self, shape: StepShape, steps: int) -> float:
        return self._steps.span_s(shape, steps)


@lru_cache(maxsize=16)
def _fitted(points: tuple[StepPoint, ...]) -> FittedSteps:
    """Shared by all replicas of a run."""
    from fleet.engines.latency.steps.fitted import fit_steps

    return fit_steps(points)
