"""The part of a report's page about pools: what each served, which version served when, what came of attempts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments import serving
from experiments.pages.blocks import Block, Details, Heading, Table, Text, figures
from experiments.plots.of_report import Rollout
from experiments.plots.plot import Runs
from experiments.plots.style import FEW
from experiments.serving import Rows
from fleet import Run
from fleet.text import one_line

ABOUT_POOLS = """Cost is of a pool's devices, busy or idle, whoever they served. Cost per 1,000 requests is what the
requests of a row cost, over those that completed: each pays for its attempts wherever they ran, by their share of the
service seconds there."""
ABOUT_TRAFFIC = """Of the requests that arrived at each time, the share that each version served, or was to serve when
they ended. Shadows are not in it."""


def pool_blocks(runs: Runs, rollouts: Sequence[Rollout]) -> list[Block]:
    """Sections about the first run of each candidate, where any has several pools or attempts."""
    first = {name: of_one[0] for name, of_one in runs.items()}
    seed = next(iter(first.values())).manifest.seed
    several = {name: run for name, run in first.items() if len(run.pools) > 1}
    counted = {name: run for name, run in first.items() if run.summary.wasted_s is not None}
    of_run = f"Of each candidate's first run (seed {seed})."
    found: list[Block] = []
    if several:
        found += [Heading("Pools"), Text(f"{of_run} {ABOUT_POOLS}", "note"), *_folded(_pools(several))]
    if rollouts:
        found += [Heading("Traffic by version"), Text(f"{of_run} {ABOUT_TRAFFIC}", "note")]
        found += _folded(_rollouts(rollouts))
    if any(len(run.attempts) for run in counted.values()):
        found += [Heading("Attempts"), Text(of_run, "note"), *_folded(_attempts(counted))]
    return found


Part = tuple[str, list[Block]]
"""What is said of one candidate."""


def _folded(parts: Iterable[Part]) -> list[Block]:
    """Each under its name, folded where there are many."""
    every = list(parts)
    if len(every) > FEW:
        return [Details(name, blocks) for name, blocks in every]
    return [block for name, blocks in every for block in (Heading(name, 3), *blocks)]


def _pools(runs: Mapping[str, Run]) -> Iterator[Part]:
    for name, run in runs.items():
        yield name, [_table(serving.pools_of(run))]


def _rollouts(rollouts: Iterable[Rollout]) -> Iterator[Part]:
    for one in rollouts:
        rows = [
            (str(number), f"{stage.time_s:,.1f}", one_line(stage.stage), one_line(stage.reason or ""))
            for number, stage in enumerate(serving.stages_of(one.run, one.model), 1)
        ]
        stages = [Table(("", "time (s)", "stage", "why"), rows, names=4)] if rows else []
        yield f"{one.candidate}: {one.model}", [*figures([one.plot]), *stages]


def _attempts(runs: Mapping[str, Run]) -> Iterator[Part]:
    for name, run in runs.items():
        yield name, [Text(f"{serving.attempts_in_short(run)}."), _table(serving.attempts_of(run))]


def _table(rows: Rows) -> Table:
    return Table(rows.headings, rows.rows, rows.names)
