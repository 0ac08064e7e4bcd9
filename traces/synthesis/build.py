"""What every generator shares: its random streams, and the trace made of what it drew."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.errors import TraceError
from traces.schema import Header, Scalar, Transform
from traces.synthesis.lengths import Lengths, is_whole
from traces.trace import Trace

Array = npt.NDArray[np.float64]
Tokens = Lengths | int | None
"""A law of token counts, one count for all, or none recorded."""

_STREAMS = {"arrivals": 0, "prompt": 1, "output": 2, "turns": 3, "think": 4, "modulation": 5}


def stream(
    seed: int, purpose: Literal["arrivals", "prompt", "output", "turns", "think", "modulation"]
) -> np.random.Generator:
    """An independent generator for each purpose of one seed: PCG64, so the same on every machine."""
    if not is_whole(seed):
        raise TraceError(f"seed = {seed!r} is not possible", remedy="give a whole number from 0 on")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_STREAMS[purpose],))))


def draw(tokens: Tokens, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64] | None:
    """`n` counts, or `None` where none are wanted."""
    if tokens is None:
        return None
    if isinstance(tokens, int):
        tokens = Lengths.constant(tokens)
    if not isinstance(tokens, Lengths):
        raise TraceError(
            f"{tokens!r} is no law of token counts", remedy="give a whole number, or a `Lengths`"
        )
    return tokens.draw(rng, n)


def trace_of(
    name: str,
    arrived_s: Array,
    seed: int,
    prompt_tokens: Tokens,
    output_tokens: Tokens,
    /,
    **parameters: Scalar,
) -> Trace:
    """A synthetic trace of these arrivals, with token counts drawn for them."""
    columns: dict[str, npt.NDArray[np.generic]] = {"arrived_s": arrived_s}
    for column, tokens, rng in (
        ("prompt_tokens", prompt_tokens, stream(seed, "prompt")),
        ("output_tokens", output_tokens, stream(seed, "output")),
    ):
        counts = draw(tokens, rng, len(arrived_s))
        if counts is not None:
            columns[column] = counts
    parameters |= {"prompt_tokens": described(prompt_tokens), "output_tokens": described(output_tokens)}
    return Trace(pa.table(columns), synthetic(name, seed, parameters))


def synthetic(name: str, seed: int, parameters: dict[str, Scalar]) -> Header:
    """The header of a generated trace: how to generate it again."""
    given: dict[str, Scalar] = {key: value for key, value in parameters.items() if value is not None}
    return Header(
        source=f"synthetic: {name}", provenance="synthetic", transforms=(Transform(name, given, seed),)
    )


def described(tokens: Tokens) -> Scalar:
    """How the header records a law of token counts."""
    return tokens.name if isinstance(tokens, Lengths) else tokens


def check_finite(name: str, /, **values: float) -> None:
    """Raise `TraceError` unless every value is finite."""
    for parameter, value in values.items():
        if not math.isfinite(value):
            raise TraceError(f"{name}: {parameter} = {value} is not possible", remedy="give a finite number")


def check(name: str, /, **values: float) -> None:
    """Raise `TraceError` unless every value is finite and above 0."""
    for parameter, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise TraceError(
                f"{name}: {parameter} = {value} is not possible", remedy="give a finite number above 0"
            )
