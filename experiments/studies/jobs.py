"""Many simulations that have nothing to do with one another, in as many processes as are wanted, and their figures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, TypeVar

from experiments.executor import results
from experiments.paired import Scale
from experiments.progress import progress_bar
from experiments.studies.result import Figure, Measure, judged, paired_figures
from experiments.studies.study import Options

K = TypeVar("K", bound=Hashable)
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[R_co]):
    """A piece of work that can be sent to another process."""

    def run(self) -> R_co: ...


def run_all(what: str, jobs: Mapping[K, Job[R_co]], options: Options) -> dict[K, R_co]:
    """What came of each job, in the order of `jobs`; `what` is what a progress bar calls them."""
    with progress_bar(what, len(jobs), shown=options.progress) as advance:
        done = results(_run, list(jobs.values()), options.workers, advance=advance)
    return dict(zip(jobs, done, strict=True))


def _run(job: Job[R_co]) -> R_co:
    return job.run()


def figures_by(
    values: Mapping[tuple[float, str, int], Mapping[str, float]],
    measures: Sequence[Measure],
    baseline: str,
    *,
    scale: Scale = "difference",
) -> tuple[Figure, ...]:
    """The figures of a study from its measures by setting, candidate and seed, judged together.

    A candidate, though not the baseline, may be without some of the measures: it has no figure of those. A measure
    that no candidate has at a setting has none there.
    """
    names: dict[float, dict[str, list[Mapping[str, float]]]] = {}
    for (at, candidate, _), of_one in values.items():
        names.setdefault(at, {}).setdefault(candidate, []).append(of_one)
    figures: list[Figure] = []
    for at, by_candidate in names.items():
        for measure in measures:
            if not any(measure.name in one for found in by_candidate.values() for one in found):
                continue
            by_seed = {
                name: [one[measure.name] for one in found]
                for name, found in by_candidate.items()
                if measure.name in found[0]
            }
            figures += paired_figures(at, measure.name, by_seed, baseline, scale=scale)
    return judged(figures, {measure.name: measure.better for measure in measures})
