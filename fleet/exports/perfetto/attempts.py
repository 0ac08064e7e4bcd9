"""Attempts on the timeline, by the replica that they were at; an arrow leads to each from the request that it is of.

A request's only attempt, if it completed, is known from its record: its service ends when the client has the answer.
Arrows lead only to attempts that a run writes down one by one, which are those with something to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from fleet.exports.perfetto.events import Args, Event, Lanes, Micros, Tracks, Window, micros, present, rows_of
from fleet.exports.perfetto.requests import PID as REQUESTS_PID
from fleet.exports.perfetto.requests import Place
from fleet.telemetry.run import Run

PID = 3
NOWHERE = "sent to no replica"
_SHOWN = (
    "request", "role", "attempt", "pool", "version", "variant", "replica", "device", "sent_s", "end", "service_s",
    "tokens",
)  # fmt: skip


def attempt_events(run: Run, window: Window, places: dict[str, Place]) -> Iterator[Event]:
    """One slice an attempt, from when a replica was given it, or else from when it was sent."""
    tracks = Tracks(PID, "attempts")
    attempts = run.every_attempt()
    begin_us, end_us = _spans(attempts, window.end_us)
    shown = np.flatnonzero(window.spanned(begin_us, end_us, "attempts"))
    order = shown[np.argsort(begin_us[shown], kind="stable")]
    spans = zip(begin_us[order].tolist(), end_us[order].tolist(), strict=True)
    rows = list(rows_of(attempts.take(pa.array(order)), *_SHOWN))
    laid = list(_on_lanes(rows, spans))
    for name in _tracks_in_order(laid):
        tracks.tid(name)
    for number, (row, begin, end, lane) in enumerate(laid):
        tid = tracks.tid(_track(row, lane))
        yield tracks.slice(
            tid, row["request"], begin, end, present({**row, "end": row["end"] or "unfinished"})
        )
        if row["sent_s"] is not None and row["request"] in places:
            yield from _arrow(number, tracks, tid, begin, places[row["request"]])
    yield from tracks.named()


def _spans(attempts: pa.Table, end_us: int) -> tuple[Micros, Micros]:
    ended = micros(attempts["ended_s"], absent=end_us)
    served = ended - micros(attempts["service_s"])
    sent = micros(attempts["sent_s"], absent=-1)
    begin = micros(attempts["started_s"], absent=-1)
    begin = np.where(begin >= 0, begin, np.where(sent >= 0, sent, served))
    return np.minimum(begin, ended), ended


def _on_lanes(rows: list[Args], spans: Any) -> Iterator[tuple[Args, int, int, int]]:  # Any: pairs of numbers
    lanes: dict[str | None, Lanes] = {}
    for row, (begin, end) in zip(rows, spans, strict=True):
        yield row, begin, end, lanes.setdefault(row["replica"], Lanes()).take(begin, end)


def _tracks_in_order(laid: list[tuple[Args, int, int, int]]) -> list[str]:
    """The lanes of each replica together, replicas as they first had something."""
    firsts: dict[str | None, int] = {}
    lanes: dict[str, tuple[int, int]] = {}
    for row, _, _, lane in laid:
        place = firsts.setdefault(row["replica"], len(firsts))
        lanes.setdefault(_track(row, lane), (place, lane))
    return sorted(lanes, key=lanes.__getitem__)


def _track(row: Args, lane: int) -> str:
    name = row["replica"] or NOWHERE
    return f"{name} ({lane + 1})" if lane else name


def _arrow(number: int, tracks: Tracks, tid: int, begin_us: int, request: Place) -> Iterator[Event]:
    """From where the request is when the attempt begins; a shadow may begin when it is answered already."""
    from_us = max(request.begin_us, min(begin_us, request.end_us))
    yield Event("s", REQUESTS_PID, "attempt", request.tid, from_us, cat="attempt", id=number)
    yield Event("f", tracks.pid, "attempt", tid, begin_us, cat="attempt", id=number, bp="e")
