"""What a study measures: figures of runs, each with its unit, which way is better, what it is of and of whom.

A metric is named by a string: ``ttft_s.p99`` is of all requests, ``ttft_s.p99@tenant`` of each tenant's,
``ttft_s.p99@tenant+model`` of each combination, ``ttft_s.p99@tenant:jain`` how fairly it is shared among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from experiments.reasons import NoValue
from experiments.spread import ACROSS, Across, busiest_over_mean, load_variation
from fleet import Run
from fleet.telemetry.attempts import AttemptFigures, attempt_figures
from fleet.telemetry.groups import group_label, groups_of
from fleet.telemetry.occupancy import ReplicaRange
from fleet.telemetry.summary import Distribution, Summary
from traces.values import BadValue

Better = Literal["lower", "higher", "neither"]
Applies = Literal["any", "tokens", "objectives", "prices", "quality", "attempts"]
"""The runs that a figure says something of: all of them, those that serve token by token, those with objectives, those
whose devices have a price, whose answers have a quality, whose requests may have several attempts at a time."""


class _Named(Struct, frozen=True):
    name: str
    """Its path within the summary, such as ``e2e_s.p99``, or a name of your own."""
    unit: str
    """As tables print it; "" where there is none."""
    read: Callable[[Run], float | None]
    """Answers None, or raises `NoValue`, where a run does not have it."""


class Metric(_Named, frozen=True, kw_only=True):
    """One figure of a run, or of each group of its requests: ``Metric("slow", "%", read, better="lower")``.

    `read` gets the whole `Run`: records, attempts, series, decisions, summary. Of a grouped metric it gets the part of
    the run (`Run.part`) that each group is.
    """

    better: Better = "neither"
    """``neither`` is for figures that describe and do not judge, such as utilization: they get an interval and no
    verdict."""
    scale: float = 1.0
    """Printed value over measured value: 1000 prints seconds as milliseconds."""
    applies: Applies = "any"
    of_all: bool = False
    """What did not complete counts in it. False: it is of completed requests, or a price of the run, and means nothing
    where hardly any completed."""
    of: Literal["requests", "fleet"] = "requests"
    """A figure of the fleet, such as the seconds of its devices, cannot be told apart by requests."""
    by: tuple[str, ...] = ()
    """The columns that requests are told apart by; none: all are together."""
    across: Across | None = None
    """One value over all groups in place of one for each."""
    group: str = ""
    """Of a grouped metric's values one is of this group: `of_group` makes it."""

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise BadValue(
                "better", f"{self.better!r} is no way; expected one of {', '.join(get_args(Better))}"
            )

    @property
    def key(self) -> str:
        """Its name with what it is grouped by: ``ttft_s.p99@tenant``, ``ttft_s.p99@tenant:jain``, or its group."""
        if self.group:
            return f"{self.name}@{self.group}"
        grouped = f"@{'+'.join(self.by)}" if self.by else ""
        return f"{self.name}{grouped}{f':{self.across}' if self.across else ''}"

    @property
    def label(self) -> str:
        """Name and unit as tables show them: ``e2e p99 (ms)``, ``ttft p99, tenant=a (ms)``."""
        words = self.name.replace("_per_s", "").replace("_s.", " ").replace(".", " ").replace("_", " ")
        if self.across:
            return f"{words}, {ACROSS[self.across].words} by {', '.join(self.by)}"
        of = self.group or (f"by {', '.join(self.by)}" if self.by else "")
        return f"{words}{f', {of}' if of else ''}{f' ({self.unit})' if self.unit else ''}"

    def grouped(self, *columns: str, across: Across | None = None) -> Metric:
        """This figure of each group of requests alike in `columns`, or one value `across` all of them.

        Raises `ValueError` for a figure of the fleet.
        """
        if self.of == "fleet":
            raise BadValue(
                "", f"{self.name} is of the whole fleet, and cannot be told apart by {'+'.join(columns)}"
            )
        if across is None:
            return replace(self, by=columns)
        return replace(self, by=columns, across=across, better=ACROSS[across].better, scale=1.0, of_all=True)

    def of_group(self, label: str) -> Metric:
        """The metric of one group's values."""
        return replace(self, by=(), group=label, read=_OfGroup(self.read, self.by, label))


class _OfGroup(Struct, frozen=True):
    """Reads a figure of one group of a run's requests."""

    read: Callable[[Run], float | None]
    by: tuple[str, ...]
    label: str

    def __call__(self, run: Run) -> float | None:
        for group, rows in groups_of(self.by, run.records, run.pools).items():
            if group_label(self.by, group) == self.label:
                return self.read(run.part(rows))
        raise NoValue(f"it has no request of {self.label}")


class Figure(Struct, frozen=True):
    """One line of `FIGURES`: a field of the summary, or its `parts`, each of which is a metric."""

    name: str
    better: Better
    unit: str = ""
    scale: float = 1.0
    applies: Applies = "any"
    parts: tuple[str, ...] = ()
    read: Callable[[Run], float | None] | None = None
    """For what is no field of the summary."""
    of_all: bool = False
    of: Literal["requests", "fleet"] = "requests"
    """See `Metric` for these two."""


LOST = "not_completed"
"""Requests that did not complete, whatever became of them."""
_DISTRIBUTION = Distribution.__struct_fields__


def not_completed(run: Run) -> float:
    """How many requests did not."""
    return float(run.summary.submitted - run.summary.completed)


def wasted_s(run: Run) -> float:
    """Service seconds of attempts that became no answer; of a fleet of one pool too, whose summary leaves it out."""
    return _waste(run).wasted_s


def wasted_fraction(run: Run) -> float | None:
    """Those over the service seconds of all attempts that ended."""
    return _waste(run).wasted_fraction


def _waste(run: Run) -> AttemptFigures:
    if not len(run.pools):
        raise NoValue("a client is not told of attempts")
    return attempt_figures(run.attempts, run.records)


FIGURES: tuple[Figure, ...] = (
    Figure("ttft_s", "lower", "ms", 1000.0, "tokens", parts=_DISTRIBUTION),
    Figure("tpot_s", "lower", "ms", 1000.0, "tokens", parts=_DISTRIBUTION),
    Figure("itl_max_s", "lower", "ms", 1000.0, "tokens", parts=_DISTRIBUTION),
    Figure("e2e_s", "lower", "ms", 1000.0, parts=_DISTRIBUTION),
    Figure("queue_s", "lower", "ms", 1000.0, parts=_DISTRIBUTION),
    Figure("output_tokens_per_s", "higher", "1/s", 1.0, "tokens", of_all=True),
    Figure("cached_fraction", "higher", "%", 100.0, "tokens"),
    Figure("preemptions", "lower", "", 1.0, "tokens"),
    Figure("slo_attainment", "higher", "%", 100.0, "objectives", of_all=True),
    Figure("goodput_per_s", "higher", "1/s", 1.0, "objectives", of_all=True),
    Figure("throughput_per_s", "higher", "1/s", of_all=True),
    Figure("submitted", "neither", of_all=True),
    Figure("completed", "higher", of_all=True),
    Figure(LOST, "lower", read=not_completed, of_all=True),
    Figure("rejected", "lower", of_all=True),
    Figure("shed", "lower", of_all=True),
    Figure("expired", "lower", of_all=True),
    Figure("failed", "lower", of_all=True),
    Figure("cancelled", "neither", of_all=True),
    Figure("in_flight", "lower", of_all=True),
    Figure("gpu_seconds", "lower", "s", of="fleet"),
    Figure("cost", "lower", applies="prices"),
    Figure("cost_per_request", "lower", "×10⁻³", 1000.0, "prices"),
    Figure("cost_per_1k_tokens", "lower", "×10⁻³", 1000.0, "prices"),
    Figure("quality_mean", "higher", applies="quality"),
    Figure("hedges", "neither", applies="attempts"),
    Figure("retries", "lower", applies="attempts"),
    Figure("wasted_s", "lower", "s", applies="attempts", read=wasted_s),
    Figure("wasted_fraction", "lower", "%", 100.0, "attempts", read=wasted_fraction),
    Figure("utilization", "neither", "%", 100.0, of="fleet"),
    Figure("replicas", "neither", parts=ReplicaRange.__struct_fields__, of="fleet"),
    Figure("load_variation", "lower", read=load_variation),
    Figure("busiest_over_mean", "lower", read=busiest_over_mean),
    Figure("batch_size_mean", "neither"),
    Figure("attempts_mean", "neither"),
    Figure("duration_s", "neither", "s", of="fleet"),
)
"""Every figure there is. A new one of `Summary` needs a line here, and a test says so."""

_BY_NAME = {
    f"{figure.name}.{part}" if part else figure.name: figure
    for figure in FIGURES
    for part in figure.parts or ("",)
}


def metric(name: str) -> Metric:
    """The metric of this name: ``e2e_s.p99``, ``e2e_s.p99@tenant``, ``goodput@tenant+model``, ``goodput@tenant:jain``.

    The unit of a name may be left out: ``goodput`` is ``goodput_per_s``. Raises `ValueError` that lists the names there
    are.
    """
    figure_name, at, grouping = name.partition("@")
    chosen = _plain(figure_name)
    if not at:
        return chosen
    columns, colon, across = grouping.partition(":")
    if colon and across not in ACROSS:
        raise BadValue("", f"{name!r}: there is no {across!r} over groups; there are {', '.join(ACROSS)}")
    named = tuple(columns.split("+"))
    if not all(named):
        raise BadValue(
            "", f"{name!r} names no column after @; ttft_s.p99@tenant and e2e_s.mean@tenant+model do"
        )
    return chosen.grouped(*named, across=across if across in ACROSS else None)


def _plain(name: str) -> Metric:
    figure = _BY_NAME.get(name)
    if figure is None:
        name = _with_unit(name) or name
        figure = _BY_NAME.get(name)
    if figure is None:
        raise BadValue("", f"{name!r} is no figure of a run; there are {known_names()}")
    return Metric(
        name, figure.unit, figure.read or _Field(name), better=figure.better, scale=figure.scale,
        applies=figure.applies, of_all=figure.of_all, of=figure.of,
    )  # fmt: skip


def _with_unit(name: str) -> str | None:
    """The one figure that is meant by a name without its unit: ``goodput``, ``ttft.p99``."""
    head, dot, part = name.partition(".")
    meant = [full for unit in ("_per_s", "_s") if (full := f"{head}{unit}{dot}{part}") in _BY_NAME]
    return meant[0] if len(meant) == 1 else None


def known_names() -> str:
    """All names in a line, those of distributions taken together: ``ttft_s, tpot_s, ... (each with .mean, ...)``."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for figure in FIGURES:
        grouped.setdefault(figure.parts, []).append(figure.name)
    return "; ".join(
        ", ".join(names) + (f" (each with .{', .'.join(parts)})" if parts else "")
        for parts, names in grouped.items()
    )


def metrics_of(chosen: Sequence[Metric | str]) -> tuple[Metric, ...]:
    """Metrics, given as values or by name, each once.

    Raises `ValueError` for what is neither, and for two different ones of one name: only one would be read.
    """
    found: dict[str, Metric] = {}
    for item in chosen:
        one = _metric_of(item)
        if found.setdefault(one.key, one) != one:
            raise BadValue("", f"two different metrics are called {one.key!r}; give one of them another name")
    return tuple(found.values())


def _metric_of(item: object) -> Metric:
    if isinstance(item, Metric):
        return item
    if isinstance(item, str):
        return metric(item)
    name = getattr(item, "__name__", None)
    hint = f'; Metric("{name}", "s", {name}) makes one of a function' if callable(item) and name else ""
    raise BadValue("", f"{item!r} is no metric: it is a name, such as 'e2e_s.p99', or a Metric{hint}")


class _Field(Struct, frozen=True):
    """Reads one field of a summary. A value, not a closure: it goes to other processes."""

    path: str

    def __call__(self, run: Run) -> float | None:
        value: object = run.summary
        for part in self.path.split("."):
            value = getattr(value, part)
        return float(value) if isinstance(value, (int, float)) else None


# --- what is shown unless told otherwise -------------------------------------------------------------------

DEFAULT_METRICS: tuple[Metric, ...] = metrics_of(
    (
        "e2e_s.mean",
        "e2e_s.p50",
        "e2e_s.p99",
        "slo_attainment",
        "goodput_per_s",
        LOST,
        "gpu_seconds",
        "utilization",
    )
)
"""What `compare` reports of whole requests; a figure that no run has is left out of its table."""

TOKEN_METRICS: tuple[Metric, ...] = metrics_of(
    (
        "ttft_s.p50",
        "ttft_s.p99",
        "tpot_s.p50",
        "tpot_s.p99",
        "itl_max_s.p99",
        "e2e_s.p50",
        "e2e_s.p99",
        "output_tokens_per_s",
        "cached_fraction",
        "preemptions",
        "slo_attainment",
        "goodput_per_s",
        LOST,
        "gpu_seconds",
    )
)
"""What `compare` reports where any of the runs serves token by token."""


MORE_METRICS: tuple[Metric, ...] = metrics_of(
    ("cost_per_request", "cost_per_1k_tokens", "quality_mean", "wasted_fraction")
)
"""What `compare` reports beside these where any of the summaries has something of the kind."""


def serves_tokens(summary: Summary) -> bool:
    """Whether this run was served token by token, and so has figures of tokens."""
    return summary.output_tokens_per_s is not None


def default_metrics(summaries: Iterable[Summary]) -> tuple[Metric, ...]:
    """What to report of these runs: of tokens, prices, quality and attempts where any run has them.

    Of objectives likewise, where tokens are.
    """
    found = list(summaries)
    chosen = DEFAULT_METRICS
    if any(map(serves_tokens, found)):
        chosen = tuple(item for item in TOKEN_METRICS if item.applies != "objectives" or _judged(found))
    had = [item for item in MORE_METRICS if any(getattr(one, item.name) is not None for one in found)]
    return (*chosen, *had)


def grouped_too(metrics: Sequence[Metric], columns: Sequence[str]) -> tuple[Metric, ...]:
    """`metrics`, and after each that is of requests the same by each of `columns`: ``tenant``, ``tenant+model``."""
    several: list[Metric] = []
    for item in metrics:
        several.append(item)
        if item.of == "requests" and not item.by:
            several += [item.grouped(*column.split("+")) for column in columns]
    return tuple(several)


def _judged(summaries: Sequence[Summary]) -> bool:
    return any(summary.slo_attainment is not None for summary in summaries)
