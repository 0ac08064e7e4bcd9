"""Series of rates: what a service published instead of its requests. Requests are sampled from them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from traces.errors import TraceError
from traces.recipe import Recipe, recorded
from traces.source import Source

Array = npt.NDArray[np.float64]

GAP_STEPS = 60
"""A run of zeros this long in a recorded series is taken for the collector's absence, not for silence."""


@dataclass(frozen=True, eq=False)
class RateSeries:
    """Requests a second in consecutive steps of `step_s` seconds; NaN where nothing was recorded (a gap)."""

    per_s: Array
    step_s: float = 1.0
    source: str = "in memory"
    recipe: Recipe | None = None
    """How it came to be; None where that is not on record."""

    def __len__(self) -> int:
        return len(self.per_s)

    @property
    def duration_s(self) -> float:
        """Seconds covered, gaps included."""
        return len(self.per_s) * self.step_s

    @property
    def gap_s(self) -> float:
        """Seconds in which nothing was recorded."""
        return float(np.isnan(self.per_s).sum() * self.step_s)

    @property
    def mean_per_s(self) -> float:
        """Mean rate outside the gaps."""
        recorded = self.per_s[~np.isnan(self.per_s)]
        return float(recorded.mean()) if len(recorded) else 0.0

    @recorded("RateSeries.slice")
    def slice(self, start_s: float, end_s: float) -> RateSeries:
        """The steps from `start_s` until before `end_s`, both rounded down to whole steps."""
        low, high = (max(0, int(at_s / self.step_s)) for at_s in (start_s, end_s))
        return RateSeries(self.per_s[low:high], self.step_s, self.source)

    @recorded("RateSeries.without_gaps")
    def without_gaps(self) -> RateSeries:
        """The recorded steps, moved together."""
        return RateSeries(self.per_s[~np.isnan(self.per_s)], self.step_s, self.source)

    def made_by(self, recipe: Recipe | None) -> RateSeries:
        """The same with this recipe."""
        return replace(self, recipe=recipe)


@recorded("load_rates")
def load_rates(
    path: str | Path, *, step_s: float = 1.0, gaps: Literal["mask", "keep"] = "mask"
) -> RateSeries:
    """Read numbers separated by white space, one a step.

    Args:
        path: The file: plain or packed (`traces.packing`), or a tar of which the first file is read.
        step_s: Seconds that each number stands for.
        gaps: "mask" turns every run of `GAP_STEPS` or more zeros into a gap; "keep" takes zeros as silence.

    Raises:
        TraceError: No such file, no numbers in it, or one that is negative or infinite.
    """
    source = Source(Path(path))
    try:
        per_s = np.array(_text(source.data).split(), dtype=np.float64)
    except ValueError as error:
        raise TraceError(f"is not a series of rates: {error}", remedy=_REMEDY, file=path) from None
    wrong = ~(np.isfinite(per_s) & (per_s >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise TraceError(
            f"number {at + 1} is {per_s[at]}", remedy="a rate is finite and not negative", file=path
        )
    if gaps == "mask":
        per_s[_long_zeros(per_s)] = np.nan
    return RateSeries(per_s, step_s, source.path.name)


_REMEDY = "expected numbers separated by spaces, one a second"


def holds_rates(source: Source) -> bool:
    """Whether a file begins as a series of rates does."""
    start = _text(source.head, 400).rsplit(maxsplit=1)[:1]
    try:
        return bool(np.array(b" ".join(start).split(), dtype=np.float64).size)
    except ValueError:
        return False


def _text(data: bytes, most: int = -1) -> bytes:
    """The contents, out of their tar archive if they are in one; `most` bytes of them, unless it is below 0."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    return file.read(most)
    except tarfile.TarError:
        pass
    return data if most < 0 else data[:most]


def _long_zeros(per_s: Array) -> npt.NDArray[np.bool_]:
    edges = np.diff(np.concatenate([[0], (per_s == 0).astype(int), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    long = ends - starts >= GAP_STEPS
    depth = np.zeros(len(per_s) + 1, dtype=int)
    np.add.at(depth, starts[long], 1)
    np.add.at(depth, ends[long], -1)
    return np.cumsum(depth[:-1]) > 0
