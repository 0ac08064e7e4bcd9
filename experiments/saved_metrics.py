"""Metrics in files: all that there is to say of them but what reads them.

The one thing to know: a metric that goes by its name is had again whole. One of the user's own has the values that were
read of it, and reads no more.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from experiments.metrics import Better, Metric, metric
from experiments.reasons import NoValue
from experiments.spread import Across
from fleet import Run


class SavedMetric(Struct, kw_only=True):
    """A metric without what reads it."""

    name: str
    unit: str
    better: Better
    scale: float
    of_all: bool
    of: Literal["requests", "fleet"]
    by: tuple[str, ...]
    across: Across | None


def saved_metric(one: Metric) -> SavedMetric:
    """What a file keeps of it."""
    return SavedMetric(**{name: getattr(one, name) for name in SavedMetric.__struct_fields__})


def restored(saved: SavedMetric) -> Metric:
    """The metric again; of one of the user's own, whose values are known, without what read them."""
    fields = {
        name: getattr(saved, name) for name in SavedMetric.__struct_fields__ if name not in ("name", "unit")
    }
    mine = Metric(saved.name, saved.unit, _not_again, **fields)
    try:
        known = metric(mine.key)
    except ValueError:
        return mine
    return known if saved_metric(known) == saved else mine


def _not_again(run: Run) -> float | None:
    raise NoValue("its values are known, and not what read them")
