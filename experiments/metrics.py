"""What a study measures: figures of a run's summary, each with its unit, which way is better, and what it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from fleet.telemetry.occupancy import ReplicaRange
from fleet.telemetry.summary import Distribution, Summary

Better = Literal["lower", "higher", "neither"]
Applies = Literal["any", "tokens", "objectives", "prices", "quality", "attempts"]
"""The runs that a figure says something of: all of them, those that serve token by token, those with objectives, those
whose devices have a price, whose answers have a quality, whose requests may have several attempts at a time."""


class Metric(Struct, frozen=True, kw_only=True):
    """One figure of a run. `read` answers None where a run does not have it.

    `better="neither"` is for figures that describe and do not judge, such as utilization: they get an
    interval and no verdict.
    """

    name: str
    """Its path within the summary, such as ``e2e_s.p99``, or a name of your own."""
    read: Callable[[Summary], float | None]
    better: Better
    unit: str = ""
    scale: float = 1.0
    """Printed value over measured value: 1000 prints seconds as milliseconds."""
    applies: Applies = "any"
    of_all: bool = False
    """What did not complete counts in it. False: it is of completed requests, or a price of the run, and means nothing
    where hardly any completed."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name

    @property
    def label(self) -> str:
        """Name and unit as tables show them: ``e2e p99 (ms)``."""
        words = self.name.replace("_per_s", "").replace("_s.", " ").replace(".", " ").replace("_", " ")
        return f"{words} ({self.unit})" if self.unit else words


class Figure(Struct, frozen=True):
    """One line of `FIGURES`: a field of the summary, or its `parts`, each of which is a metric."""

    name: str
    better: Better
    unit: str = ""
    scale: float = 1.0
    applies: Applies = "any"
    parts: tuple[str, ...] = ()
    read: Callable[[Summary], float] | None = None
    """For what is no field of the summary."""
    of_all: bool = False
    """See `Metric`."""


LOST = "not_completed"
"""Requests that did not complete, whatever became of them."""
_DISTRIBUTION = Distribution.__struct_fields__

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
    Figure(LOST, "lower", read=lambda summary: float(summary.submitted - summary.completed), of_all=True),
    Figure("rejected", "lower", of_all=True),
    Figure("shed", "lower", of_all=True),
    Figure("expired", "lower", of_all=True),
    Figure("failed", "lower", of_all=True),
    Figure("cancelled", "neither", of_all=True),
    Figure("in_flight", "lower", of_all=True),
    Figure("gpu_seconds", "lower", "s"),
    Figure("cost", "lower", applies="prices"),
    Figure("cost_per_request", "lower", "×10⁻³", 1000.0, "prices"),
    Figure("cost_per_1k_tokens", "lower", "×10⁻³", 1000.0, "prices"),
    Figure("quality_mean", "higher", applies="quality"),
    Figure("hedges", "neither", applies="attempts"),
    Figure("retries", "lower", applies="attempts"),
    Figure("wasted_s", "lower", "s", applies="attempts"),
    Figure("wasted_fraction", "lower", "%", 100.0, "attempts"),
    Figure("utilization", "neither", "%", 100.0),
    Figure("replicas", "neither", parts=ReplicaRange.__struct_fields__),
    Figure("batch_size_mean", "neither"),
    Figure("attempts_mean", "neither"),
    Figure("duration_s", "neither", "s"),
)
"""Every figure there is. A new one of `Summary` needs a line here, and a test says so."""

_BY_NAME = {
    f"{figure.name}.{part}" if part else figure.name: figure
    for figure in FIGURES
    for part in figure.parts or ("",)
}


def metric(name: str) -> Metric:
    """The metric of this name, such as ``"e2e_s.p99"``. Raises `ValueError` that lists the names there are."""
    figure = _BY_NAME.get(name)
    if figure is None:
        raise ValueError(f"{name!r} is no figure of a run's summary; there are {known_names()}")
    return Metric(
        name=name, read=figure.read or _reader(name), better=figure.better, unit=figure.unit, scale=figure.scale,
        applies=figure.applies, of_all=figure.of_all,
    )  # fmt: skip


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
    """Metrics, given as values or by name."""
    return tuple(metric(item) if isinstance(item, str) else item for item in chosen)


def _reader(name: str) -> Callable[[Summary], float | None]:
    def read(summary: Summary) -> float | None:
        value: object = summary
        for part in name.split("."):
            value = getattr(value, part)
        return float(value) if isinstance(value, (int, float)) else None

    return read


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
"""What `compare` reports beside these where any of the runs has something of the kind."""


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
    return chosen + tuple(item for item in MORE_METRICS if any(item.read(one) is not None for one in found))


def _judged(summaries: Sequence[Summary]) -> bool:
    return any(summary.slo_attainment is not None for summary in summaries)
