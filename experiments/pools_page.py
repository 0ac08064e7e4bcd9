"""The part of a report's page about pools: what each served, which version served when, what came of attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from importlib.util import find_spec

from experiments import html, serving, traffic
from experiments.plots import Runs
from experiments.serving import Rows
from fleet import Run
from fleet.text import one_line

ABOUT_POOLS = """Cost is of a pool's devices, busy or idle, whoever they served. Cost per 1,000 requests is what the
requests of a row cost, over those that completed: each pays for its attempts wherever they ran, by their share of the
service seconds there."""
ABOUT_TRAFFIC = """Of the requests that arrived at each time, the share that each version served, or was to serve when
they ended. Shadows are not in it."""


def parts(runs: Runs, seed: int) -> list[str]:
    """Sections about the runs of `seed`, the first of each candidate, where any has several pools or attempts."""
    first = {name: of_one[0] for name, of_one in runs.items()}
    several = {name: run for name, run in first.items() if len(run.pools) > 1}
    counted = {name: run for name, run in first.items() if run.summary.wasted_s is not None}
    of_run = f'<p class="note">Of the runs with seed {seed}.'
    found = []
    if several:
        found += ["<h2>Pools</h2>", f"{of_run} {escape(ABOUT_POOLS)}</p>", *_pools(several)]
    if rollouts := list(_rollouts(several)):
        found += ["<h2>Traffic by version</h2>", f"{of_run} {escape(ABOUT_TRAFFIC)}</p>", *rollouts]
    if any(len(run.attempts) for run in counted.values()):
        found += ["<h2>Attempts</h2>", f"{of_run}</p>", *_attempts(counted)]
    return found


def _pools(runs: Mapping[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        yield f"<h3>{escape(name)}</h3>"
        yield _table(serving.pools_of(run))


def _rollouts(runs: Mapping[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        for model in traffic.versions_of(run):
            yield f"<h3>{escape(name)}: {escape(model)}</h3>"
            stages = serving.stages_of(run, model)
            if find_spec("matplotlib") is not None:
                caption = "Requests by the version that served them."
                if stages:
                    caption += " Numbered: what the rollout decided, as the table below has it."
                yield html.figure(traffic.versions_over_time(run, model), caption)
            if stages:
                rows = [
                    (str(number), f"{stage.time_s:,.1f}", one_line(stage.stage), one_line(stage.reason or ""))
                    for number, stage in enumerate(stages, 1)
                ]
                yield html.table(("", "time (s)", "stage", "why"), rows)


def _attempts(runs: Mapping[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        yield f"<h3>{escape(name)}</h3><p>{escape(serving.attempts_in_short(run))}.</p>"
        yield _table(serving.attempts_of(run))


def _table(rows: Rows) -> str:
    return html.table(rows.headings, rows.rows, numbers_from=rows.names)
