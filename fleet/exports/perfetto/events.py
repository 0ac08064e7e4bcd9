"""What a timeline is made of: events, the tracks that they are on, lanes for what overlaps, and the window shown."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from msgspec import Struct

from fleet.telemetry.run import Run
from fleet.text import escaped

Args = dict[str, Any]  # Any: JSON values
Micros: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]
US_PER_S = 1_000_000
MOST_TRACKS = 1_000_000
"""Of one group, which has no more of them than a file has events: so no two tracks of all groups have one number."""


class Event(Struct, omit_defaults=True):
    """One event, under the names of the format: `ph` is its kind, `ts` and `dur` are microseconds."""

    ph: str
    pid: int
    name: str | None = None
    tid: int | None = None
    ts: int | None = None
    dur: int | None = None
    cat: str | None = None
    id: int | None = None
    bp: str | None = None
    s: str | None = None
    args: Args | None = None


class Tracks:
    """A group of tracks. A track is there once it is asked for; `named` says what all are called, at the end."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self._name = name
        self._tids: dict[str, int] = {}

    def tid(self, name: str) -> int:
        """The number of the track of this name."""
        return self._tids.setdefault(name, self.pid * MOST_TRACKS + len(self._tids))

    def slice(self, tid: int, name: str, begin_us: int, end_us: int, args: Args | None = None) -> Event:
        """Something that lasts."""
        return Event("X", self.pid, escaped(name), tid, begin_us, end_us - begin_us, args=args)

    def instant(self, tid: int, name: str, at_us: int, args: Args | None = None) -> Event:
        """Something that happens."""
        return Event("i", self.pid, escaped(name), tid, at_us, s="t", args=args)

    def counter(self, name: str, unit: str, at_us: int, value: float) -> Event:
        """A figure from now on."""
        return Event("C", self.pid, name, ts=at_us, args={unit: value})

    def named(self) -> Iterator[Event]:
        """The names of the group and its tracks, in their order."""
        yield Event("M", self.pid, "process_name", args={"name": escaped(self._name)})
        yield Event("M", self.pid, "process_sort_index", args={"sort_index": self.pid})
        for order, (name, tid) in enumerate(self._tids.items()):
            yield Event("M", self.pid, "thread_name", tid, args={"name": escaped(name)})
            yield Event("M", self.pid, "thread_sort_index", tid, args={"sort_index": order})


class Lanes:
    """Tracks side by side for slices that may overlap; asked in the order of their beginnings."""

    def __init__(self) -> None:
        self._busy: list[tuple[int, int]] = []  # (until, lane)
        self._free: list[int] = []

    def take(self, begin_us: int, end_us: int) -> int:
        """The lowest lane that is free from `begin_us` on; it is taken until `end_us`."""
        while self._busy and self._busy[0][0] <= begin_us:
            heapq.heappush(self._free, heapq.heappop(self._busy)[1])
        lane = heapq.heappop(self._free) if self._free else len(self._busy)
        heapq.heappush(self._busy, (end_us, lane))
        return lane


class Window:
    """The stretch that is shown, and how much lies outside of it."""

    def __init__(self, from_us: int, until_us: int, end_us: int) -> None:
        self.from_us = from_us
        self.until_us = until_us
        self.end_us = end_us
        """When the run ended: what goes on then is shown up to here."""
        self.left_out: dict[str, int] = {}

    @property
    def length_s(self) -> float:
        """How long the stretch is, as far as the run goes."""
        return (min(self.until_us, self.end_us) - self.from_us) / US_PER_S

    def spanned(self, begin_us: Micros, end_us: Micros, what: str) -> Flags:
        """Which slices reach into it; the others are counted as `what`."""
        return self._counted((begin_us < self.until_us) & (end_us >= self.from_us), what)

    def holds(self, at_us: Micros, what: str) -> Flags:
        """Which instants lie in it; the others are counted as `what`."""
        return self._counted((at_us < self.until_us) & (at_us >= self.from_us), what)

    def _counted(self, shown: Flags, what: str) -> Flags:
        hidden = int(np.count_nonzero(~shown))
        if hidden:
            self.left_out[f"{what} outside the stretch"] = hidden
        return shown


def window_of(run: Run, from_s: float, first_s: float | None) -> Window:
    """What is from `from_s` on and before `first_s`; the whole run, if those say nothing."""
    end_us = round(run.summary.duration_s * US_PER_S)
    for table in (run.replicas, run.series, run.decisions, run.dispatches):
        end_us = max(end_us, int(micros(table["time_s"]).max(initial=0)))
    until_us = end_us + 1 if first_s is None else round(first_s * US_PER_S)
    from_us = round(from_s * US_PER_S)
    if from_us >= min(until_us, end_us + 1):
        ends_s = min(until_us, end_us) / US_PER_S
        raise ValueError(
            f"nothing is left from {from_s:g} s on: the stretch or the run ends at {ends_s:,.6g} s"
        )
    return Window(from_us, until_us, end_us)


def micros(seconds: pa.ChunkedArray, absent: int = 0) -> Micros:
    """Whole microseconds; `absent` where there is no value."""
    values = seconds.to_numpy()
    there = ~np.isnan(values)
    result = np.full(len(values), absent, dtype=np.int64)
    result[there] = np.rint(values[there] * US_PER_S).astype(np.int64)
    return result


def present(cells: Args) -> Args:
    """Without what is absent."""
    return {name: value for name, value in cells.items() if value is not None}


def rows_of(table: pa.Table, *columns: str) -> Iterator[Args]:
    """Rows as dictionaries of these columns, as far as the table has them."""
    names = [name for name in columns if name in table.column_names]
    cells = [table[name].to_pylist() for name in names]
    return (dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True))
