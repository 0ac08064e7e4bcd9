"""What a study measures: figures of a run's summary, each with its unit and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from fleet.telemetry.run import Distribution, Summary

Better = Literal["lower", "higher", "neither"]


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

    @property
    def label(self) -> str:
        """Name and unit as tables show them: ``e2e p99 (ms)``."""
        words = self.name.replace("_per_s", "").replace("_s.", " ").replace(".", " ").replace("_", " ")
        return f"{words} ({self.unit})" if self.unit else words


def metric(name: str) -> Metric:
    """The metric of a path within `Summary`, such as ``"e2e_s.p99"``. Raises `ValueError` for any other name."""
    head, _, tail = name.partition(".")
    known = name == LOST or head in Summary.__struct_fields__
    if head in _LATENCIES:
        known = tail in Distribution.__struct_fields__
    elif head == "replicas":
        known = tail in ("min", "max")
    elif tail:
        known = False
    if not known:
        raise ValueError(
            f"{name!r} is no figure of a run's summary; expected a path such as 'e2e_s.p99' or 'goodput_per_s'"
        )
    unit, scale = ("ms", 1000.0) if head in _LATENCIES else _UNITS.get(head, ("", 1.0))
    better: Better = "lower" if head in _LATENCIES else _BETTER.get(head, "neither")
    return Metric(name=name, read=_reader(name), better=better, unit=unit, scale=scale)


def metrics_of(chosen: Sequence[Metric | str]) -> tuple[Metric, ...]:
    """Metrics, given as values or by name."""
    return tuple(metric(item) if isinstance(item, str) else item for item in chosen)


def _reader(name: str) -> Callable[[Summary], float | None]:
    def read(summary: Summary) -> float | None:
        if name == LOST:
            return float(summary.submitted - summary.completed)
        value: object = summary
        for part in name.split("."):
            value = getattr(value, part)
        return float(value) if isinstance(value, (int, float)) else None

    return read


LOST = "not_completed"
"""Requests that did not complete, whatever became of them."""
_LATENCIES = ("e2e_s", "queue_s", "ttft_s", "tpot_s", "itl_max_s")
_UNITS = {
    "throughput_per_s": ("1/s", 1.0),
    "goodput_per_s": ("1/s", 1.0),
    "slo_attainment": ("%", 100.0),
    "utilization": ("%", 100.0),
    "cached_fraction": ("%", 100.0),
    "output_tokens_per_s": ("1/s", 1.0),
    "gpu_seconds": ("s", 1.0),
    "duration_s": ("s", 1.0),
}
_BETTER: dict[str, Better] = {
    "completed": "higher",
    LOST: "lower",
    "throughput_per_s": "higher",
    "goodput_per_s": "higher",
    "slo_attainment": "higher",
    "cached_fraction": "higher",
    "output_tokens_per_s": "higher",
    "preemptions": "lower",
    "gpu_seconds": "lower",
    "rejected": "lower",
    "shed": "lower",
    "expired": "lower",
    "failed": "lower",
    "in_flight": "lower",
}

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
"""What `compare` reports unless told otherwise; a figure that no run has is left out of its table."""
