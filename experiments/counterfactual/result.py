"""`Regret`: what asking another policy came to, as figures, a table to read, and plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from experiments.counterfactual.forcing import Saved
from experiments.counterfactual.waiting import Line
from experiments.paired import paired_difference
from experiments.text import as_text, plain_number, signed_number

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

BLOCKS = 20
"""Decisions that follow one another depend on one another; means of so many blocks of time hardly do."""
LEAST_IN_BLOCK = 10


class Decision(Struct, frozen=True, kw_only=True):
    """One in which the policies differ."""

    pool: str
    """The first of those that were chosen among."""
    nth: int
    """Of the decisions there, from 0."""
    time_s: float
    request: str
    logged: str
    """``Route``, ``Hold`` or ``Reject``; so is `other`."""
    replica: str | None
    other: str
    other_replica: str | None
    alike: bool = False
    """Both replicas are of one kind and had as many requests in flight: for many policies a matter of order."""
    estimate_s: float | None = None
    """What the request took longer where it was sent, by a line through the log; None: no line tells."""
    exact: Saved | None = None
    """What all requests took longer, as a simulation of the other decision has it; None: it was not tried."""


class Mean(Struct, frozen=True):
    """A mean over decisions, with its 95 % interval where there is one to give."""

    mean_s: float
    low_s: float | None
    high_s: float | None


class Estimated(Struct, frozen=True, kw_only=True):
    """The estimate, over the decisions that differ and have one."""

    decisions: int
    without: int
    """Decisions that differ and have none."""
    each: Mean | None
    """Of one decision; the interval is Student's over means of consecutive blocks of them. None: there are none."""
    total_s: float
    lines: tuple[Line, ...]


class Exact(Struct, frozen=True, kw_only=True):
    """The decisions that were tried: a random sample of those in which the other policy sends the request elsewhere."""

    tried: int
    of: int
    each: Mean
    """The interval is Student's, for a mean of all `of` decisions, and narrows to nothing where all were tried. It owes
    nothing to their independence: they were drawn at random."""
    total_s: float
    """`of` times the mean: what all of these decisions would come to if each were alone."""
    better: int
    """Of those tried, in how many the other decision took less; in `worse` it took more."""
    worse: int
    other_outcomes: int
    """In how many other requests completed."""
    estimate_s: float | None
    """The mean estimate of the same decisions, where all have one."""
    correlation: float | None
    """Of estimate and exact figure over them; None for fewer than three, or without spread."""


class Regret(Struct, frozen=True, kw_only=True):
    """What the decisions of a run cost beside those of another policy: above zero the other's were the better ones."""

    policy: str
    logged: str
    metric: str
    asked: int
    agreed: int
    decisions: tuple[Decision, ...]
    """Those in which the two differ, in order."""
    estimated: Estimated | None
    exact: Exact | None
    whole: Saved | None
    """What the whole run took longer than one with the other policy."""
    caveats: tuple[str, ...]

    @property
    def agreement(self) -> float:
        """Share of the decisions in which the two say the same."""
        return self.agreed / self.asked

    @property
    def in_short(self) -> str:
        """Who was asked, and how often they differ."""
        alike = sum(one.alike for one in self.decisions)
        of_them = f", {alike:,} of them between replicas that looked alike" if self.decisions else ""
        return (
            f"Regret of {self.logged} beside {self.policy}, {self.metric}: {len(self.decisions):,} of {self.asked:,} "
            f"decisions differ ({1 - self.agreement:.1%}){of_them}."
        )

    def to_table(self) -> pa.Table:
        """One row for each decision in which the two differ."""
        rows = [
            {
                **{name: getattr(one, name) for name in Decision.__struct_fields__ if name != "exact"},
                "exact_s": None if one.exact is None else one.exact.total_s,
                "same_outcomes": None if one.exact is None else one.exact.same_outcomes,
            }
            for one in self.decisions
        ]
        return pa.Table.from_pylist(rows, schema=DECISIONS)

    def to_dict(self) -> dict[str, object]:
        """Its figures as plain values, without the single decisions."""
        said = {name: getattr(self, name) for name in self.__struct_fields__ if name != "decisions"}
        values: dict[str, object] = msgspec.to_builtins({**said, "agreement": self.agreement})
        return values

    # --- to read -------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The rich table of what the decisions that differ come to."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD)
        table.add_column("regret")
        for heading in ("of", "a decision (ms)", "95 % interval", "in all (s)"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self._rows():
            table.add_row(*row)
        return table

    def _rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        found = self.estimated
        if found is not None and found.each is not None:
            of = f"{found.decisions:,} decisions"
            yield ("estimated, of the request alone", of, *_cells(found.each, found.total_s))
        if self.exact is not None:
            sample = f"{self.exact.tried:,} of {self.exact.of:,} tried"
            yield ("exact, with all that follows", sample, *_cells(self.exact.each, self.exact.total_s))
        if self.whole is not None:
            total = signed_number(self.whole.total_s)
            yield ("the whole run with the other policy", "1 run", "", "", total)

    def _lines(self) -> Iterator[str]:
        if self.estimated is not None:
            yield from map(_of_line, self.estimated.lines)
        if self.exact is not None:
            yield self._of_sample(self.exact)

    def _of_sample(self, exact: Exact) -> str:
        alone = ""
        if exact.estimate_s is not None:
            alone = f" The estimate of the same decisions is {signed_number(1e3 * exact.estimate_s)} ms"
            alone += "." if exact.correlation is None else f", correlation {exact.correlation:.2f}."
        return (
            f"Of {exact.tried:,} decisions tried the other one was better in {exact.better:,}, worse in "
            f"{exact.worse:,}.{alone}"
        )

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        lines = [*self._lines(), *(f"· {caveat}" for caveat in self.caveats)]
        table = self.table()
        shown = (table,) if table.row_count else ()
        return Group(Text(self.in_short), *shown, *(Text(line) for line in lines))

    def __str__(self) -> str:
        return as_text(self.__rich__())


DECISIONS = pa.schema([
    ("pool", pa.string()), ("nth", pa.int64()), ("time_s", pa.float64()), ("request", pa.string()),
    ("logged", pa.string()), ("replica", pa.string()), ("other", pa.string()), ("other_replica", pa.string()),
    ("alike", pa.bool_()),
    ("estimate_s", pa.float64()), ("exact_s", pa.float64()), ("same_outcomes", pa.bool_()),
])  # fmt: skip


def _of_line(line: Line) -> str:
    seen = f"{line.requests:,} requests, R² {line.explained:.2f}"
    if not line.tells:
        return f"On {line.label} the number in flight tells nothing of what a request takes ({seen}): no estimate."
    alone_ms, each_ms = (plain_number(1e3 * value) for value in (line.alone_s, line.each_s))
    return f"On {line.label} a request takes {alone_ms} ms, and {each_ms} ms for each one in flight ({seen})."


def _cells(mean: Mean, total_s: float) -> tuple[str, str, str]:
    interval = "–"
    if mean.low_s is not None and mean.high_s is not None:
        interval = f"{signed_number(1e3 * mean.low_s)} to {signed_number(1e3 * mean.high_s)}"
    return signed_number(1e3 * mean.mean_s), interval, signed_number(total_s)


# --- from decisions to figures -------------------------------------------------------------------------------


def estimated_of(decisions: Sequence[Decision], lines: Iterable[Line]) -> Estimated | None:
    """What the estimates come to; None where there is no decision to estimate."""
    if not decisions:
        return None
    values = [one.estimate_s for one in decisions if one.estimate_s is not None]
    return Estimated(
        decisions=len(values), without=len(decisions) - len(values), each=_over_blocks(values) if values else None,
        total_s=math.fsum(values), lines=tuple(lines),
    )  # fmt: skip


def _over_blocks(values: Sequence[float]) -> Mean:
    """The mean of a series whose neighbours depend on each other: its interval is that of the means of blocks.

    Source: the method of batch means, as in Law, *Simulation Modeling and Analysis*, chapter 9.
    """
    blocks = min(BLOCKS, len(values) // LEAST_IN_BLOCK)
    means = [float(block.mean()) for block in np.array_split(np.asarray(values), blocks)] if blocks else []
    found = paired_difference(means, distinct=blocks) if blocks > 1 else None
    mean_s = float(np.mean(values))
    return Mean(mean_s, None, None) if found is None else Mean(mean_s, found.low, found.high)


def exact_of(decisions: Sequence[Decision]) -> Exact | None:
    """What those that were tried come to; None where none was."""
    tried = [(one, one.exact) for one in decisions if one.exact is not None]
    if not tried:
        return None
    of = sum(one.other_replica is not None for one in decisions)
    values = [found.total_s for _, found in tried]
    each = _of_sample(values, of)
    estimates = [one.estimate_s for one, _ in tried if one.estimate_s is not None]
    known = len(estimates) == len(values)
    return Exact(
        tried=len(values), of=of, each=each, total_s=of * each.mean_s,
        better=sum(value > 0 for value in values), worse=sum(value < 0 for value in values),
        other_outcomes=sum(not found.same_outcomes for _, found in tried),
        estimate_s=math.fsum(estimates) / len(estimates) if known else None,
        correlation=_correlation(estimates, values) if known else None,
    )  # fmt: skip


def _of_sample(values: Sequence[float], of: int) -> Mean:
    """The mean of all `of` values, from so many that were drawn at random without putting any back.

    Source: Cochran, *Sampling Techniques*, chapter 2: the finite population correction.
    """
    from scipy import stats

    n, mean_s = len(values), math.fsum(values) / len(values)
    if n == of:
        return Mean(mean_s, mean_s, mean_s)
    if n < 2:
        return Mean(mean_s, None, None)
    error_s = float(np.std(values, ddof=1)) * math.sqrt((1 - n / of) / n)
    reach_s = float(stats.t.ppf(0.975, n - 1)) * error_s
    return Mean(mean_s, mean_s - reach_s, mean_s + reach_s)


def _correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    if len(left) < 3 or np.ptp(left) == 0.0 or np.ptp(right) == 0.0:
        return None
    return float(np.corrcoef(left, right)[0, 1])
