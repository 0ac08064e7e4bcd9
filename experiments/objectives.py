"""What a fleet must keep to be of use at a load: ``e2e_s.p99<=0.2``, one figure and its bound."""

from __future__ import annotations

from experiments.measured import Measured
from experiments.sweep.judging import Constraint, constraints_of
from experiments.text import plain_number
from fleet import Run
from fleet.telemetry.summary import Summary

MOSTLY = 0.99
"""Of the requests that come: what leaves more of them undone meets no objective, however fast the rest is."""


class Objective(Constraint, frozen=True):
    """A constraint that only a fleet which does nearly all of its work can keep."""

    @property
    def label(self) -> str:
        """As a sentence has it: ``e2e p99 ≤ 200 ms``."""
        words, _, unit = self.metric.label.partition(" (")
        sign = self.sign.replace("<=", "≤").replace(">=", "≥")
        return f"{words} {sign} {plain_number(self.bound * self.metric.scale)} {unit.rstrip(')')}".rstrip()

    def met_by(self, run: Run) -> bool:
        """Whether the run has the figure within the bound, and nearly all of its requests completed."""
        return mostly_done(run.summary) and self.allows(self.metric.read(run))

    def allows(self, value: float | None) -> bool:
        """Whether this is within the bound; no value is not."""
        return value is not None and self.kept(value)


def mostly_done(counts: Summary | Measured) -> bool:
    """Whether nearly all of these requests completed."""
    return counts.completed >= MOSTLY * counts.submitted


def objective(text: str) -> Objective:
    """Read ``e2e_s.p99<=0.2``. Raises `ValueError` that says what would be right."""
    (found,) = constraints_of([text])
    if found.metric.by:
        raise ValueError(f"{text!r}: an objective is of all requests together, not of groups of them")
    if found.metric.better == ("higher" if found.sign.startswith("<") else "lower"):
        meant = found.sign.translate(str.maketrans("<>", "><"))
        raise ValueError(
            f"{text!r}: of {found.key} the {found.metric.better} is the better; write "
            f"{found.key}{meant}{found.bound:g}"
        )
    return Objective(found.metric, found.sign, found.bound)
