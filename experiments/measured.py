"""`Measured`: what a study keeps of one run, small enough to keep of a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from experiments.metrics import Metric
from fleet import Run


class Measured(Struct, frozen=True, kw_only=True):
    """The figures of one run, or why there are none."""

    candidate: str
    seed: int
    submitted: int = 0
    completed: int = 0
    values: dict[str, float | None] = {}
    """By the metric's name; None where the run has no value of it."""
    why: dict[str, str] = {}
    """Why there is none, by the metric's name, where that is known."""
    groups: dict[str, tuple[str, ...]] = {}
    digest: str = ""
    fingerprint: str = ""
    trace_sha256: str = ""
    error: str | None = None
    """In a line, of a run that did not come to an end; it has no figures."""


def measure(run: Run, metrics: Sequence[Metric], candidate: str, seed: int) -> Measured:
    """The figures of `run`. A metric that raises has no value, and says why."""
    values: dict[str, float | None] = {}
    why: dict[str, str] = {}
    for item in metrics:
        try:
            values[item.name] = item.read(run.summary)
        except Exception as error:
            values[item.name], why[item.name] = None, f"{type(error).__name__}: {error}"
    return Measured(
        candidate=candidate, seed=seed, submitted=run.summary.submitted, completed=run.summary.completed,
        values=values, why=why, digest=run.digest, fingerprint=run.digest,
        trace_sha256=run.manifest.trace["sha256"],
    )  # fmt: skip
