"""Which plots there are of a report, by the section that they stand in. What has nothing to show is not among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from experiments.findings import Findings
from experiments.metrics import serves_tokens
from experiments.plots.classes import classes
from experiments.plots.forest import forests
from experiments.plots.latency import LABELS, latencies
from experiments.plots.load import load
from experiments.plots.plot import Plot, Runs, there
from experiments.plots.replicas import replicas
from experiments.plots.states import replica_states
from experiments.plots.timeline import timeline
from experiments.plots.versions import versions, versions_of
from fleet import Run


class Rollout(NamedTuple):
    """A model of several versions in one run."""

    candidate: str
    model: str
    run: Run
    plot: Plot


class Plots(NamedTuple):
    """All plots of a report."""

    differences: list[Plot]
    latency: list[Plot]
    load: list[Plot]
    time: list[Plot]
    classes: list[Plot]
    replicas: list[Plot]
    rollouts: list[Rollout]

    def every(self) -> list[Plot]:
        """In the order of the page."""
        plots = [plot for section in self[:-1] for plot in section]
        return [*plots, *(one.plot for one in self.rollouts)]


def plots_of(found: Findings, runs: Runs) -> Plots:
    """What there is to draw of what was found, and of the runs."""
    decisive = latency_of(found)
    return Plots(
        differences=forests(found),
        latency=latency_plots(runs),
        load=there([load(runs, decisive)]),
        time=there([timeline(runs), replica_states(runs)]),
        classes=classes(runs, decisive),
        replicas=there([replicas(runs)]),
        rollouts=list(_rollouts({name: of_one[0] for name, of_one in runs.items()})),
    )


def latency_plots(runs: Runs) -> list[Plot]:
    """Distributions of latencies; of tokens too where any run served them."""
    tokens = any(serves_tokens(run.summary) for of_one in runs.values() for run in of_one)
    return latencies(runs, tokens=tokens)


def latency_of(found: Findings) -> str:
    """The latency that the primary metric is of, else end to end."""
    column = "" if found.primary is None else found.primary.name.partition(".")[0]
    return column if column in LABELS else "e2e_s"


def _rollouts(first: Mapping[str, Run]) -> Iterator[Rollout]:
    """Of the first run of each candidate, where it has several pools."""
    for number, (name, run) in enumerate(first.items()):
        for place, model in enumerate(versions_of(run)):
            stem = re.sub(r"[^a-z0-9]+", "-", f"{name}-{model}".lower()).strip("-")[:40]
            yield Rollout(
                name, model, run, versions(run, model, f"versions-{number}-{place}-{stem}".rstrip("-"))
            )
