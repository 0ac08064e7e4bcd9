"""Replicas on the timeline: a track each, a slice for each state, a mark where it stopped or failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fleet.exports.perfetto.events import Event, Micros, Tracks, Window, micros
from fleet.telemetry.occupancy import OVER
from fleet.telemetry.run import Run

PID = 5


def replica_events(run: Run, window: Window) -> Iterator[Event]:
    """States that reach into the window; the last of a replica lasts to the end of the run, if it was not its end."""
    tracks = Tracks(PID, "replicas")
    begin_us = micros(run.replicas["time_s"])
    replicas, states, details = (run.replicas[name].to_pylist() for name in ("replica", "state", "detail"))
    end_us = _until_the_next(replicas, states, begin_us, window.end_us)
    shown = window.spanned(begin_us, end_us, "states of replicas")
    for row in np.flatnonzero(shown).tolist():
        tid = tracks.tid(replicas[row])
        args = None if details[row] is None else {"detail": details[row]}
        if states[row] in OVER:
            yield tracks.instant(tid, states[row], int(begin_us[row]), args)
        else:
            yield tracks.slice(tid, states[row], int(begin_us[row]), int(end_us[row]), args)
    yield from tracks.named()


def _until_the_next(
    replicas: list[str], states: list[str], begin_us: Micros, end_us: int
) -> Any:  # Any: an array
    """When each state ended: with the replica's next one."""
    until = np.full(len(replicas), end_us, dtype=np.int64)
    last: dict[str, int] = {}
    for row, replica in enumerate(replicas):
        if replica in last:
            until[last[replica]] = begin_us[row]
        last[replica] = row
        if states[row] in OVER:
            until[row] = begin_us[row]
            del last[replica]
    return until
