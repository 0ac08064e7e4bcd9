"""What a caller says of a file that the file itself leaves open: units, block sizes, what to do with some rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Literal, get_args

from msgspec import Struct

from traces.columns import COLUMNS
from traces.errors import TraceError
from traces.schema import Scalar

OnBad = Literal["raise", "drop"]
OnFailed = Literal["keep", "drop"]
TimeUnit = Literal["s", "ms", "us", "ns"]

PER_S: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""How many of each unit a second has."""


TARGETS = tuple(name for name in COLUMNS if name != "extra")
"""The columns that one of the user's own may be; what is not mapped is `extra`."""


def columns_of(told: Mapping[str, str] | str) -> tuple[tuple[str, str], ...]:
    """A mapping, or its text: ``arrived_s=ts:ms,prompt_tokens=in``; what has a comma in it stands in double quotes.

    Raises:
        TraceError: An item is not ``TARGET=COLUMN``, or a target is given twice.
    """
    if not isinstance(told, str):
        return tuple(told.items())
    mapped: dict[str, str] = {}
    for item in next(csv.reader([told], skipinitialspace=True), []):
        target, equals, column = item.partition("=")
        if not equals or not column:
            remedy = (
                "expected TARGET=COLUMN[:UNIT], separated by commas, such as arrived_s=ts:ms,prompt_tokens=in"
            )
            raise TraceError(f"columns: {item!r} maps nothing", remedy=remedy)
        if target in mapped:
            raise TraceError(f"columns: {target} is given twice", remedy="map it once")
        mapped[target.strip()] = column
    return tuple(mapped.items())


def _written(columns: tuple[tuple[str, str], ...]) -> str:
    """The text of a mapping, which `columns_of` reads."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(f"{target}={column}" for target, column in columns)
    return text.getvalue()


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
    columns: tuple[tuple[str, str], ...] = ()
    """Of a table of the user's own: a column of the trace, and the one of the file that it is, with its unit."""

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
        for target, _ in self.columns:
            if target not in TARGETS:
                remedy = f"there are {', '.join(TARGETS)}"
                raise TraceError(f"columns: {target!r} is not a column of a trace", remedy=remedy)

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
        given: dict[str, Scalar] = {
            "time_unit": self.time_unit,
            "block_tokens": self.block_tokens,
            "columns": _written(self.columns) if self.columns else None,
        }
        return {name: value for name, value in given.items() if value is not None}
