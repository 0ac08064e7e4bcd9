"""A search by optuna, in generations: what is asked next follows from what earlier generations came to.

The one thing to know: a generation is asked at once, by a sampler that is seeded for it, and written down before it
runs. So neither the number of workers nor a kill has a part in what is tried, and going on asks for nothing again.

Source: Watanabe, "Tree-Structured Parzen Estimator", 2023, for the sampler, optuna's `TPESampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from experiments.sweep.judging import Candidate, Constraint, Objective
from experiments.sweep.space import Axes, Axis, Point, Range, SweepError, Values, namer, rounded
from traces.files import write_whole

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

GENERATION = 16
"""Points that are asked for at once: enough for the cores of a machine, few enough to learn from."""
ASKED = "asked"
_SEEDS_APART = 1_000_003

Asked = list[dict[str, Any]]  # Any: a number, or which of an axis's listed values


class Search:
    """`count` points, those that come again included, for the objectives within the constraints."""

    def __init__(
        self, folder: Path, axes: Axes, objectives: Sequence[Objective], constraints: Sequence[Constraint],
        *, count: int, seed: int,
    ) -> None:  # fmt: skip
        self._folder = folder / ASKED
        self._axes, self._count, self._seed = axes, count, seed
        self._objectives, self._constraints = objectives, constraints
        self._named = namer(axes)
        self._points: dict[str, Point] = {}

    def generations(self, judged: Callable[[Point], Candidate]) -> Iterator[list[Point]]:
        """The new points of each generation, to be run before the next; `judged` says what became of one."""
        optuna = _optuna()
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            directions = ["maximize" if one.best == "max" else "minimize" for one in self._objectives]
            study = optuna.create_study(directions=directions)
            for first in range(0, self._count, GENERATION):
                trials = self._asked(study, first)
                points = [self._point(trial) for trial in trials]
                yield [
                    point for trial, point in zip(trials, points, strict=True) if point.number == trial.number
                ]
                for trial, point in zip(trials, points, strict=True):
                    self._tell(study, trial, judged(point))
        finally:
            optuna.logging.set_verbosity(before)

    def _asked(self, study: Study, first: int) -> list[Trial]:
        """The trials of the generation that begins with number `first`."""
        study.sampler = _optuna().samplers.TPESampler(seed=_SEEDS_APART * self._seed + first)
        file = self._folder / f"from-{first:06}.json"
        known: Asked = msgspec.json.decode(file.read_bytes()) if file.exists() else []
        for parameters in known:
            study.enqueue_trial(parameters)
        space = {path: _distribution(axis) for path, axis in self._axes.items()}
        trials = [study.ask(space) for _ in range(min(GENERATION, self._count - first))]
        if not known:
            write_whole(file, msgspec.json.encode([trial.params for trial in trials]) + b"\n")
        return trials

    def _point(self, trial: Trial) -> Point:
        """A point that came before is that one: its runs would be the same."""
        values: Values = {path: _value(axis, trial.params[path]) for path, axis in self._axes.items()}
        name = self._named(values)
        return self._points.setdefault(name, Point(trial.number, name, values))

    def _tell(self, study: Study, trial: Trial, candidate: Candidate) -> None:
        if candidate.standing == "left out":
            study.tell(trial, state=_optuna().trial.TrialState.FAIL)
            return
        for one in self._constraints:
            trial.set_constraint(str(one), one.excess(candidate.means[one.key]))
        study.tell(trial, [candidate.means[one.key] for one in self._objectives])


def _distribution(axis: Axis) -> Any:  # Any: optuna's
    distributions = _optuna().distributions
    if not isinstance(axis, Range):
        return distributions.CategoricalDistribution(range(len(axis)))
    if axis.whole:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _value(axis: Axis, asked: Any) -> Any:  # Any: of a spec
    if not isinstance(axis, Range):
        return axis[asked]
    return asked if axis.whole else rounded(asked)


def _optuna() -> Any:  # Any: optuna may not be there
    try:
        import optuna
    except ImportError:
        raise SweepError('a search needs optuna: pip install "fleetlab[search]"') from None
    return optuna
