"""What a caller says of a file that the file itself leaves open: units, block sizes, what to do with some rows."""

from __future__ import annotations

import math
from typing import Literal, get_args

from msgspec import Struct

from traces.errors import TraceError
from traces.schema import Scalar

OnBad = Literal["raise", "drop"]
OnFailed = Literal["keep", "drop"]
TimeUnit = Literal["s", "ms", "us", "ns"]

PER_S: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""How many of each unit a second has."""


class ReadOptions(Struct, frozen=True, kw_only=True):
    """The parameters of `traces.load_trace`; None leaves it to the format.

    Raises:
        TraceError: A value that is none of those possible.
    """

    on_bad: OnBad = "raise"
    failed: OnFailed | None = None
    time_unit: TimeUnit | None = None
    block_tokens: int | None = None
    arrivals: str | None = None
    chars_per_token: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("on_bad", OnBad), ("failed", OnFailed), ("time_unit", TimeUnit)):
            value = getattr(self, name)
            if value not in get_args(kind) and (value is not None or name == "on_bad"):
                raise TraceError(
                    f"{name}={value!r} is not possible", remedy=f"one of {', '.join(get_args(kind))}"
                )
        if self.block_tokens is not None and self.block_tokens < 1:
            raise TraceError(
                f"block_tokens={self.block_tokens} is not possible", remedy="give a number above 0"
            )
        if self.chars_per_token is not None and not 0 < self.chars_per_token < math.inf:
            raise TraceError(
                f"chars_per_token={self.chars_per_token} is not possible",
                remedy="give a finite number above 0",
            )

    def unit(self, usual: TimeUnit) -> TimeUnit:
        """The unit of arrivals: as told, else the format's usual one."""
        return self.time_unit or usual

    def only(self, takes: frozenset[str], format: str) -> None:
        """Raise `TraceError` if something was told that files of this format say themselves."""
        for name, why in (
            ("time_unit", "the format says the unit of its times itself"),
            ("block_tokens", "the format has no prefix hashes whose size it leaves open"),
            ("arrivals", "the format says itself when its requests came"),
            ("chars_per_token", "the format has no text whose tokens would have to be counted"),
        ):
            if getattr(self, name) is not None and name not in takes:
                flag = f"--{name.replace('_', '-')}"
                raise TraceError(f"{name}= ({flag}) does not apply to {format}: {why}", remedy="leave it out")

    def told(self) -> dict[str, Scalar]:
        """What was told of units and sizes."""
        given: dict[str, Scalar] = {"time_unit": self.time_unit, "block_tokens": self.block_tokens}
        return {name: value for name, value in given.items() if value is not None}
