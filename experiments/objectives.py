"""What a fleet must keep to be of use at a load: ``e2e_s.p99<=0.2``, one figure and its bound."""

from __future__ import annotations

import re

from msgspec import Struct

from experiments.measured import Measured
from experiments.metrics import Metric, metric
from experiments.text import plain_number
from fleet import Run
from fleet.telemetry.summary import Summary

MOSTLY = 0.99
"""Of the requests that come: what leaves more of them undone meets no objective, however fast the rest is."""

_WRITTEN = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=)\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*")


class Objective(Struct, frozen=True):
    """A figure of a run on the right side of a bound, `<=` or `>=`, in the figure's own unit (latencies: seconds)."""

    metric: Metric
    sign: str
    bound: float

    @property
    def label(self) -> str:
        """As a sentence has it: ``e2e p99 ≤ 200 ms``."""
        words, _, unit = self.metric.label.partition(" (")
        sign = "≤" if self.sign == "<=" else "≥"
        return f"{words} {sign} {plain_number(self.bound * self.metric.scale)} {unit.rstrip(')')}".rstrip()

    def met_by(self, run: Run) -> bool:
        """Whether the run has the figure on the right side, and nearly all of its requests completed."""
        return mostly_done(run.summary) and self.allows(self.metric.read(run))

    def allows(self, value: float | None) -> bool:
        """Whether this is on the right side; no value is not."""
        if value is None:
            return False
        return value <= self.bound if self.sign == "<=" else value >= self.bound


def mostly_done(counts: Summary | Measured) -> bool:
    """Whether nearly all of these requests completed."""
    return counts.completed >= MOSTLY * counts.submitted


def objective(text: str) -> Objective:
    """Read ``e2e_s.p99<=0.2``. Raises `ValueError` that says what there is to name."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no objective: write FIGURE<=VALUE or FIGURE>=VALUE, as in e2e_s.p99<=0.2; latencies are in "
            "seconds, shares from 0 to 1"
        )
    name, sign, number = found.groups()
    of = metric(name)
    if of.by:
        raise ValueError(f"{text!r}: an objective is of all requests together, not of groups of them")
    if of.better == ("higher" if sign == "<=" else "lower"):
        meant = ">=" if sign == "<=" else "<="
        raise ValueError(f"{text!r}: of {name} the {of.better} is the better; write {name}{meant}{number}")
    return Objective(of, sign, float(number))
