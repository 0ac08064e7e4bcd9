"""What one run came to: its figures, and what identifies it, without the run, so that thousands fit in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import SupportsFloat, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from experiments.metrics import Applies, Metric, serves_tokens
from experiments.reasons import NoValue
from experiments.spread import ACROSS
from fleet import Run
from fleet.pools import DEFAULT
from fleet.telemetry.groups import OF_RUNS, group_label, grouping_columns, groups_of
from fleet.text import one_line
from traces import Trace
from traces.values import BadValue

MOST_GROUPS = 200
"""That get a figure each: more are no table, and figures `across` them say more."""


class Measured(Struct, frozen=True, kw_only=True):
    """One run's figures. Of one that failed, `error` alone says something."""

    candidate: str
    seed: int
    submitted: int = 0
    completed: int = 0
    values: dict[str, float | None] = {}
    """By `Metric.key`; of a grouped metric one for each group that the run has."""
    why: dict[str, str] = {}
    """Why a value is None, where that is known; by the grouped metric's own key where it has no groups."""
    groups: dict[str, tuple[str, ...]] = {}
    """The labels of the groups that the run has, by what is grouped by (``tenant``, ``tenant+model``)."""
    digest: str = ""
    fingerprint: str = ""
    """The digest with the seed's number left out: equal for runs that chance did not touch."""
    trace_sha256: str = ""
    error: str | None = None
    """Why there is no run: what was raised, in a line."""


def measure(run: Run, metrics: Sequence[Metric], candidate: str, seed: int) -> Measured:
    """The figures of a run. A metric that raises has no value, and says what it raised."""
    values: dict[str, float | None] = {}
    why: dict[str, str] = {}
    parts = _Parts(run)
    for item in metrics:
        try:
            read = _by_group(item, parts) if item.by else {item.key: _read(item, run)}
        except NoValue as reason:
            read = {item.key: (None, str(reason))}
        for key, (value, reason_of_one) in read.items():
            values[key] = value
            if reason_of_one:
                why[key] = reason_of_one
    return Measured(
        candidate=candidate,
        seed=seed,
        submitted=run.summary.submitted,
        completed=run.summary.completed,
        values=values,
        why=why,
        groups={"+".join(by): tuple(rows) for by, rows in parts.known.items() if len(rows) <= MOST_GROUPS},
        digest=run.digest,
        fingerprint=run.fingerprint,
        trace_sha256=run.manifest.trace["sha256"],
    )


def check_columns(metrics: Iterable[Metric], traces: Iterable[Trace]) -> None:
    """Raise `ValueError` for a metric grouped by a column that neither any of these traces nor any run has."""
    by = dict.fromkeys(column for item in metrics for column in item.by if column not in OF_RUNS)
    if not by:
        return
    tables = [trace.table for trace in {trace.sha256: trace for trace in traces}.values()]
    if all(any(column in table.column_names for table in tables) for column in by):
        return  # fields of a user's own need not be looked for, request by request
    there = dict.fromkeys(name for table in tables for name in grouping_columns(table))
    if unknown := [column for column in by if column not in there]:
        known = ", ".join([*there, *OF_RUNS])
        raise BadValue("", f"{unknown[0]!r} is nothing to group requests by; there are {known}")


def expanded(metric: Metric, measured: Iterable[Measured]) -> list[Metric]:
    """A grouped metric as one for each group that any of these has, none last; any other as it is."""
    if not metric.by or metric.across:
        return [metric]
    by = "+".join(metric.by)
    labels = dict.fromkeys(label for one in measured for label in one.groups.get(by, ()))
    return [metric.of_group(label) for label in sorted(labels, key=natural)] or [metric]


def natural(label: str) -> tuple[bool, list[tuple[int, float, str]]]:
    """To sort labels by: numbers as numbers, groups without a value last."""
    parts = re.split(r"(\d+)", label)
    pieces = [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in parts]
    return label.startswith("no "), pieces


Read: TypeAlias = tuple[float | None, str | None]
"""A value, or why there is none if that is known."""


class _Parts:
    """The parts of a run, each made when it is first asked for: of many groups they are counted before."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._made: dict[tuple[tuple[str, ...], str], Run] = {}
        self.known: dict[tuple[str, ...], dict[str, pa.Array]] = {}
        """The rows of each group, by what is grouped by and by the groups' labels."""

    def rows(self, by: tuple[str, ...]) -> dict[str, pa.Array]:
        """Those of each group, by its label. Raises `NoValue` where there is no such column."""
        if by not in self.known:
            try:
                groups = groups_of(by, self._run.records, self._run.pools)
            except ValueError as error:
                raise NoValue(str(error)) from None
            self.known[by] = {group_label(by, group): rows for group, rows in groups.items()}
        return self.known[by]

    def part(self, by: tuple[str, ...], label: str) -> Run:
        """One group of the run."""
        if (by, label) not in self._made:
            self._made[by, label] = self._run.part(self.known[by][label])
        return self._made[by, label]


def _by_group(item: Metric, parts: _Parts) -> dict[str, Read]:
    labels = parts.rows(item.by)
    if item.across is None and len(labels) > MOST_GROUPS:
        raise NoValue(f"{len(labels):,} groups are more than the {MOST_GROUPS} that are told apart")
    read = {label: _read(item, parts.part(item.by, label)) for label in labels}
    if item.across is None:
        return {item.of_group(label).key: one for label, one in read.items()}
    if (without := next((label for label, (value, _) in read.items() if value is None), None)) is not None:
        raise NoValue(f"{without} has no value of it")
    found = [value for value, _ in read.values() if value is not None]
    if not found:
        raise NoValue("there are no requests")
    return {item.key: (ACROSS[item.across].of(found), None)}


def _read(item: Metric, run: Run) -> Read:
    try:
        value = item.read(run)
    except NoValue as reason:
        return None, str(reason)
    except Exception as error:  # whatever a metric of others does
        return None, f"it raised {type(error).__name__}: {one_line(str(error))}"
    if value is None:
        return None, _why(item, run)
    return _number(value)


def _number(value: object) -> Read:
    """What a metric answered, if it is a number: a float, an int, one of numpy's."""
    if not isinstance(value, SupportsFloat) or getattr(value, "shape", ()) != ():
        return None, f"it answered {one_line(repr(value))}, which is no number"
    number = float(value)
    return (
        (number, None)
        if math.isfinite(number)
        else (None, f"it answered {number}, which is no finite number")
    )


_WITHOUT: dict[Applies, str] = {
    "prices": "no output tokens",
    "objectives": "no request has an objective",
    "quality": "no answer has a quality",
    "attempts": "it has one pool, in which a request has one attempt at a time",
}


def _why(item: Metric, run: Run) -> str | None:
    """Why this run has no value; None: that is not known."""
    if item.applies == "prices" and (unpriced := _unpriced(run)):
        return unpriced
    if not item.of_all and not run.summary.completed:
        return "nothing completed"
    if item.applies == "tokens" and not serves_tokens(run.summary):
        return "it is not served token by token"
    return _WITHOUT.get(item.applies)


def _unpriced(run: Run) -> str | None:
    """Whose price is not known; None: every pool has one."""
    if run.summary.cost is not None:
        return None
    without = run.pools.filter(pc.is_null(run.pools["cost"]))["pool"].to_pylist()
    pools = [name for name in dict.fromkeys(without) if name != DEFAULT]
    return f"no `cost_per_hour`{' of ' if pools else ''}{', '.join(pools)}"
