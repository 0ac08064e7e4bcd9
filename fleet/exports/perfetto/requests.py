"""Requests on the timeline: a slice from intended arrival to reply, in it what it waited for and what served it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fleet.exports.perfetto.events import Event, Lanes, Micros, Tracks, Window, micros, present, rows_of
from fleet.telemetry.run import Run

PID = 2
_SHOWN = (
    "id", "outcome", "detail", "replica", "attempts", "batch_size", "cold", "e2e_s", "ttft_s", "tpot_s", "slo_met",
    "prompt_tokens", "generated_tokens", "cached_tokens", "preemptions", "tenant", "model", "version", "session",
    "turn", "priority",
)  # fmt: skip


class Place(NamedTuple):
    """Where the slice of a request is."""

    tid: int
    begin_us: int
    end_us: int


def request_events(run: Run, window: Window, places: dict[str, Place]) -> Iterator[Event]:
    """One slice a request, on as many lanes as there are requests at a time; `places` is filled with where they are."""
    tracks, lanes = Tracks(PID, "requests"), Lanes()
    begin_us = micros(run.records["arrived_s"])
    end_us = np.maximum(micros(run.records["ended_s"], absent=window.end_us), begin_us)
    shown = np.flatnonzero(window.spanned(begin_us, end_us, "requests"))
    order = shown[np.argsort(begin_us[shown], kind="stable")]
    records = run.records.take(pa.array(order))
    begin_us, end_us = begin_us[order], end_us[order]
    served_us, token_us = _phases(records, begin_us, end_us)
    columns = (column.tolist() for column in (begin_us, end_us, served_us, token_us))
    for row, begin, end, served, token in zip(rows_of(records, *_SHOWN), *columns, strict=True):
        tid = tracks.tid(f"requests {lanes.take(begin, end) + 1:,}")
        places[row["id"]] = Place(tid, begin, end)
        yield tracks.slice(
            tid, row["id"], begin, end, present({**row, "outcome": row["outcome"] or "unfinished"})
        )
        if served >= 0:
            yield from _served(tracks, tid, (begin, served, token, end))
    yield from tracks.named()


def _served(tracks: Tracks, tid: int, times_us: tuple[int, int, int, int]) -> Iterator[Event]:
    """The phases of a request that completed, those of no length left out."""
    begin, served, token, end = times_us
    phases = (
        [("waits", begin, served), ("prefill", served, token), ("decode", token, end)]
        if token >= 0
        else [("waits", begin, served), ("runs", served, end)]
    )
    for name, start, stop in phases:
        if stop > start:
            yield tracks.slice(tid, name, start, stop)


def _phases(records: pa.Table, begin_us: Micros, end_us: Micros) -> tuple[Micros, Micros]:
    """When service began, and when the first of several tokens came within it; -1 where that is not known."""
    known = pc.and_(pc.is_valid(records["e2e_s"]), pc.is_valid(records["service_s"])).to_numpy()
    served_us = np.where(known, np.maximum(end_us - micros(records["service_s"]), begin_us), -1)
    streamed = pc.is_valid(records["generated_tokens"]).to_numpy()
    token_us = begin_us + micros(records["ttft_s"])
    within = known & streamed & (token_us > served_us) & (token_us < end_us)
    return served_us, np.where(within, token_us, -1)
