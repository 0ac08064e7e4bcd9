"""Arrivals for files that record none: drawn by a law that the caller names, with a seed, and put on record.

The one thing to know: nothing is drawn unasked. A file without times is refused until the caller says how its
requests come; the law and the seed are then a step in the header, which is derived.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from traces.errors import TraceError
from traces.readers.options import ReadOptions
from traces.schema import Header, Scalar, Transform
from traces.synthesis.build import check, stream

Floats = npt.NDArray[np.float64]
AT_ONCE = "at-once"
_PARAMETERS = {"poisson": ("rate_per_s",), "gamma": ("rate_per_s", "cv"), "constant": ("rate_per_s",)}
"""What each law takes, in the order in which its text has it."""
_HOW = (
    'say how they come with arrivals="poisson:4" (--arrivals poisson:4): poisson:RATE_PER_S, '
    f"gamma:RATE_PER_S:CV, constant:RATE_PER_S, or {AT_ONCE}"
)


def drawn(count: int, options: ReadOptions, file: Path, what: str = "requests") -> tuple[Floats, Transform]:
    """Arrivals of `count` requests (or sessions), in seconds, the first at 0; and the step that says how.

    The gaps between them are independent: exponential of mean ``1 / rate`` (poisson), gamma of that mean and of
    coefficient of variation `cv` (gamma), all equal (constant) or 0 (at-once).

    Raises:
        TraceError: No law is told, or one that is none.
    """
    if options.arrivals is None:
        raise TraceError(f"does not say when its {what} came", remedy=_HOW, file=file)
    kind, parameters = _parsed(options.arrivals)
    gaps = _gaps(kind, parameters, max(count - 1, 0), options.seed)
    step: dict[str, Scalar] = {"law": options.arrivals, "of": what}
    return np.concatenate([[0.0], np.cumsum(gaps)])[:count], Transform("arrivals", step, options.seed)


def _parsed(law: str) -> tuple[str, list[float]]:
    kind, *given = law.split(":")
    names = () if kind == AT_ONCE else _PARAMETERS.get(kind)
    if names is None or len(given) != len(names):
        raise TraceError(f"{law!r} is no law of arrivals", remedy=_HOW)
    try:
        numbers = [float(text) for text in given]
    except ValueError:
        raise TraceError(f"{law!r} is no law of arrivals", remedy=_HOW) from None
    check(law, **dict(zip(names, numbers, strict=True)))
    return kind, numbers


def _gaps(kind: str, parameters: list[float], count: int, seed: int) -> Floats:
    rng = stream(seed, "arrivals")
    if kind == AT_ONCE:
        return np.zeros(count)
    mean_s = 1 / parameters[0]
    if kind == "constant":
        return np.full(count, mean_s)
    if kind == "poisson":
        return rng.exponential(mean_s, count)
    shape = 1 / parameters[1] ** 2
    return rng.gamma(shape, mean_s / shape, count)


def derived(header: Header, *steps: Transform) -> Header:
    """The header of what these steps made of a file."""
    return replace(header, provenance="derived", transforms=(*header.transforms, *steps))
