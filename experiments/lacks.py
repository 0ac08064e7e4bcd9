"""What has no value: which figure of which candidate, in how many of its runs, and why if that is known."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc
from msgspec import Struct

from experiments.metrics import Applies, Metric, serves_tokens
from fleet import Run
from fleet.pools import DEFAULT


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


def lack(metric: Metric, candidate: str, runs: Sequence[Run]) -> Lack | None:
    """What is missing of this figure in these runs of the candidate; None: nothing."""
    without = [run for run in runs if metric.read(run.summary) is None]
    if not without:
        return None
    return Lack(
        metric=metric, candidate=candidate, runs=len(without), of=len(runs), why=_why(metric, without)
    )


_WITHOUT: dict[Applies, str] = {
    "prices": "no output tokens",
    "objectives": "no request has an objective",
    "quality": "no answer has a quality",
    "attempts": "it has one pool, in which a request has one attempt at a time",
}


def _why(metric: Metric, runs: Sequence[Run]) -> str | None:
    """Why these runs have no value of `metric`; None: that is not known."""
    if metric.applies == "prices" and (unpriced := _unpriced(runs)):
        return unpriced
    if not metric.of_all and not any(run.summary.completed for run in runs):
        return "nothing completed"
    if metric.applies == "tokens" and not any(serves_tokens(run.summary) for run in runs):
        return "it is not served token by token"
    return _WITHOUT.get(metric.applies)


def _unpriced(runs: Sequence[Run]) -> str | None:
    """Whose price is not known; None: every pool has one."""
    if all(run.summary.cost is not None for run in runs):
        return None
    named: dict[str, None] = {}
    for run in runs:
        named.update(dict.fromkeys(run.pools.filter(pc.is_null(run.pools["cost"]))["pool"].to_pylist()))
    pools = [name for name in named if name != DEFAULT]
    return f"no `cost_per_hour`{' of ' if pools else ''}{', '.join(pools)}"
