"""What a run of several pools has beside its figures, as rows of text: its pools, and what became of its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.text import plain_number
from fleet import Run
from fleet.telemetry.attempts import answers, spent_s
from policies.views import Role


class Rows(NamedTuple):
    """A table of text: its first `names` columns say what a row is of, the others are numbers."""

    headings: tuple[str, ...]
    names: int
    rows: Sequence[tuple[str, ...]]


class Shown(NamedTuple):
    """A figure of a pool: its column in `Run.by`, and how it is printed."""

    heading: str
    column: str
    scale: float = 1.0
    unit: str = ""


class Stage(NamedTuple):
    """A rollout's change of stage."""

    time_s: float
    model: str
    stage: str
    reason: str | None


class Done(NamedTuple):
    """An operation on a running fleet."""

    time_s: float
    subject: str
    """A pool, or of a rollout its model."""
    operation: str
    reason: str | None
    """What came of it, such as new bounds."""


NAMES = ("model", "version", "variant", "device")
"""What is said of a pool, where pools differ in it."""
FIGURES = (
    Shown("requests", "requests"), Shown("errors", "error_fraction", 100.0, " %"),
    Shown("objectives met", "slo_attainment", 100.0, " %"), Shown("p50 (ms)", "e2e_p50_s", 1000.0),
    Shown("p99 (ms)", "e2e_p99_s", 1000.0), Shown("quality", "quality_mean"), Shown("device s", "gpu_seconds"),
    Shown("cost", "pool_cost"), Shown("cost/1k requests", "cost_per_request", 1000.0),
)  # fmt: skip
NOTHING = "–"
"""Where there is no figure."""


def pools_of(run: Run) -> Rows:
    """Each pool, what it served, and what that came to; requests that came to no pool are in the last row."""
    pools = run.pools.to_pylist()
    told = [name for name in NAMES if len({pool[name] for pool in pools}) > 1]
    table = run.by("pool").to_pylist()
    figures = [shown for shown in FIGURES if any(row[shown.column] is not None for row in table)]
    rows = [
        (
            row["pool"] or "no pool",
            *(_said(name, [pool for pool in pools if pool["pool"] == row["pool"]]) for name in told),
            *(_number(row[shown.column], shown) for shown in figures),
        )
        for row in table
    ]
    return Rows(("pool", *told, *(shown.heading for shown in figures)), 1 + len(told), rows)


def _said(name: str, pools: list[dict[str, Any]]) -> str:  # Any: cells
    """What the pools of one name say: of one whose name was used again, all of it."""
    return ", ".join(dict.fromkeys(pool[name] for pool in pools if pool[name] is not None)) or NOTHING


def _number(value: float | None, shown: Shown) -> str:
    return NOTHING if value is None else plain_number(value * shown.scale, digits=3) + shown.unit


def stages_of(run: Run, model: str | None = None) -> list[Stage]:
    """What rollouts decided, or the one of `model`, in order."""
    rows = run.decisions.filter(pc.equal(run.decisions["slot"], "rollout")).to_pylist()
    stages = [Stage(row["time_s"], row["subject"], row["decision"], row["reason"]) for row in rows]
    return [stage for stage in stages if model in {None, stage.model}]


def operations_of(run: Run) -> list[Done]:
    """What was done to the fleet while it ran, in order."""
    rows = run.decisions.filter(pc.equal(run.decisions["slot"], "operation")).to_pylist()
    return [Done(row["time_s"], row["subject"], row["decision"], row["reason"]) for row in rows]


ANSWERED, UNUSED, UNFINISHED = "became the answer", "completed, not the answer", "unfinished"


def attempts_in_short(run: Run) -> str:
    """How many attempts there were beside and after first ones, and what was for nothing; of a run that counts them."""
    s = run.summary
    hedges, retries = s.hedges or 0, s.retries or 0
    share = f" ({hedges / s.submitted:.1%} of requests)" if hedges else ""
    wasted = "" if s.wasted_fraction is None else f", {s.wasted_fraction:.1%} of all"
    return (
        f"{hedges:,} hedge{'' if hedges == 1 else 's'}{share}, {retries:,} retr{'y' if retries == 1 else 'ies'}; "
        f"{plain_number(s.wasted_s or 0.0, digits=3)} service s for nothing{wasted}"
    )


def attempts_of(run: Run) -> Rows:
    """How many attempts of each role there were, how they ended, and the service seconds that they took."""
    every = run.every_attempt()
    answered = np.ones(len(every), dtype=np.bool_)
    answered[: len(run.attempts)] = answers(run.attempts, run.records)
    end = pc.if_else(pc.equal(every["end"], "completed"), UNUSED, every["end"])
    end = pc.if_else(pa.array(answered), ANSWERED, pc.fill_null(end, UNFINISHED))
    grouped = (
        pa.table({"role": every["role"], "end": end, "service_s": spent_s(every)})
        .group_by(["role", "end"], use_threads=False)
        .aggregate([("service_s", "count"), ("service_s", "sum")])
        .sort_by([("service_s_count", "descending"), ("end", "ascending")])
    )
    order = {role: place for place, role in enumerate(get_args(Role))}
    rows = [
        (row["role"], row["end"], f"{row['service_s_count']:,}", plain_number(row["service_s_sum"], digits=3))
        for row in sorted(grouped.to_pylist(), key=lambda row: order.get(row["role"], len(order)))
    ]
    return Rows(("attempts", "how they ended", "how many", "service s"), 2, rows)
