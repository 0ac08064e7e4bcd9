"""What happens at an instant: batches sent, decisions taken, faults; and the figures that control loops saw.

Batches are marks, for a run has no end of a batch; of engines that serve token by token, a batch is what was sent to a
replica at a time, and the steps in which it ran are not recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fleet.exports.perfetto.events import (
    US_PER_S,
    Args,
    Event,
    Lanes,
    Tracks,
    Window,
    micros,
    present,
    rows_of,
)
from fleet.telemetry.run import Run

COUNTERS_PID, BATCHES_PID, DECISIONS_PID, FAULTS_PID = 1, 4, 6, 7
POOLS_PID = 8
"""Of the second pool's figures, and so on."""
_UNITS = dict.fromkeys(("starting", "warm", "ready", "draining"), "replicas") | dict.fromkeys(
    ("queue_depth", "in_flight", "queue_depth_mean", "in_flight_mean"), "requests"
)


def batch_events(run: Run, window: Window) -> Iterator[Event]:
    """A mark for each batch on the track of its replica."""
    tracks = Tracks(BATCHES_PID, "batches")
    for at_us, row in _within(run.dispatches, window, "batches", "replica", "size", "queue_depth", "reason"):
        yield tracks.instant(tracks.tid(row["replica"]), f"batch of {row['size']}", at_us, row)
    yield from tracks.named()


def decision_events(run: Run, window: Window) -> Iterator[Event]:
    """A mark for each decision on the track of its slot."""
    tracks = Tracks(DECISIONS_PID, "decisions")
    columns = ("slot", "subject", "decision", "choice", "value", "signal_age_s", "reason", "scores")
    for at_us, row in _within(run.decisions, window, "decisions", *columns):
        what = row.get("choice", row.get("value"))
        name = row["decision"] if what is None else f"{row['decision']} {what}"
        yield tracks.instant(tracks.tid(row.pop("slot")), name, at_us, row)
    yield from tracks.named()


def counter_events(run: Run, window: Window) -> Iterator[Event]:
    """Every column of the series that has values, a group for each pool."""
    columns = [name for name in run.series.column_names if name not in {"time_s", "pool"}]
    pools: dict[str, Tracks] = {}
    for at_us, row in _within(run.series, window, "samples of the series", "pool", *columns):
        pool = row.pop("pool", "")
        if pool not in pools:
            pid = POOLS_PID + len(pools) - 1 if pools else COUNTERS_PID
            pools[pool] = Tracks(pid, f"pool {pool}" if pool else "fleet")
        for name, value in row.items():
            yield pools[pool].counter(name, _UNITS.get(name, "value"), at_us, value)
    for tracks in pools.values():
        yield from tracks.named()


def fault_events(run: Run, window: Window) -> Iterator[Event]:
    """Faults as the fault trace has them, those that found nobody too; one that lasts is a slice."""
    tracks, lanes = Tracks(FAULTS_PID, "faults"), Lanes()
    faults: list[Args] = (run.manifest.faults or {}).get("faults", [])
    for fault, begin, end in _lasting(faults, window):
        where = fault.get("replica") or "whoever has been ready longest"
        tid = tracks.tid(f"faults {lanes.take(begin, end) + 1:,}")
        args = present(fault)
        if end > begin:
            yield tracks.slice(tid, f"{fault['kind']} {where}", begin, end, args)
        else:
            yield tracks.instant(tid, f"{fault['kind']} {where}", begin, args)
    yield from tracks.named()


def _lasting(faults: list[Args], window: Window) -> Iterator[tuple[Args, int, int]]:
    """Faults with when they begin and end, as far as the run goes."""
    begin = np.array([round(fault["at_s"] * US_PER_S) for fault in faults], dtype=np.int64)
    until_s = [min(_until_s(fault), window.end_us / US_PER_S) for fault in faults]
    end = np.maximum(np.array([round(end_s * US_PER_S) for end_s in until_s], dtype=np.int64), begin)
    for row in np.flatnonzero(window.spanned(begin, end, "faults")).tolist():
        yield faults[row], int(begin[row]), int(end[row])


def _until_s(fault: Args) -> float:
    """When it is over: never, unless it says; a loss, or a load that fails, is then over at once.

    After a preemption a place is out of order from the notice on, until so long after the kill.
    """
    at_once = fault["kind"] in ("crash", "preempt", "fail-load")
    lasts_s: float | None = fault.get("for_s")
    notice_s = fault.get("notice_s", 0.0) if fault["kind"] == "preempt" else 0.0
    if lasts_s is None:
        lasts_s = 0.0 if at_once else math.inf
    return float(fault["at_s"] + notice_s + lasts_s)


def _within(table: pa.Table, window: Window, what: str, *columns: str) -> Iterator[tuple[int, Args]]:
    """The rows whose time is in the window, with what each has of these columns."""
    at_us = micros(table["time_s"])
    shown = np.flatnonzero(window.holds(at_us, what))
    rows = rows_of(table.take(pa.array(shown)), *columns)
    return ((at, present(row)) for at, row in zip(at_us[shown].tolist(), rows, strict=True))
