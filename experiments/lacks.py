"""What has no value: which figure of which candidate, in how many of its runs, and why if that is known."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from experiments.measured import Measured
from experiments.metrics import Metric


class Lack(Struct, frozen=True, kw_only=True):
    """One figure that a candidate does not have, in some of its runs or in all."""

    metric: Metric
    candidate: str
    runs: int
    """How many have no value."""
    of: int
    """How many there are."""
    why: str | None

    @property
    def label(self) -> str:
        """The figure as tables show it, without its unit."""
        return self.metric.label.partition(" (")[0]

    @property
    def whole(self) -> bool:
        """No run has a value."""
        return self.runs == self.of


def in_words(lacks: Sequence[Lack]) -> list[str]:
    """A sentence for each figure and each reason: "No value of cost per request for a, b: no `cost_per_hour`."."""
    names: dict[tuple[str, str, str | None], list[str]] = {}
    for one in lacks:
        where = "" if one.whole else f" in {one.runs} of {one.of} seeds, which count in no mean"
        names.setdefault((one.label, where, one.why), []).append(one.candidate)
    return [
        f"No value of {label} for {', '.join(of)}{where}{f': {why}' if why else ''}."
        for (label, where, why), of in names.items()
    ]


def lack(metric: Metric, candidate: str, measured: Sequence[Measured]) -> Lack | None:
    """What is missing of this figure in these runs of the candidate; None: nothing. A failed run is not one of them."""
    there = [one for one in measured if one.error is None]
    without = [one for one in there if one.values.get(metric.key) is None]
    if not without:
        return None
    reasons = dict.fromkeys(why for one in without if (why := _why(metric, one)) is not None)
    return Lack(
        metric=metric, candidate=candidate, runs=len(without), of=len(there), why="; ".join(reasons) or None
    )


def _why(metric: Metric, one: Measured) -> str | None:
    if metric.key in one.why or not metric.group:
        return one.why.get(metric.key)
    return f"it has no request of {metric.group}"
