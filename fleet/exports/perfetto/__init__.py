"""A run as a timeline: Chrome trace event JSON, which https://ui.perfetto.dev opens.

Groups of tracks ("processes"): what the control loops saw, requests, attempts by replica, batches by replica, replicas
by state, decisions by slot, faults. The format: "Trace Event Format" (Chromium); what Perfetto makes of it:
perfetto.dev/docs, "Visualizing external trace formats" and "FAQ" (v54).

The one thing to know: Perfetto drops a slice that overlaps another of its track without lying within it. So what may
overlap is laid on lanes, as many as it takes, and times are whole microseconds, in which slices that touch do touch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from fleet.exports.perfetto.attempts import attempt_events
from fleet.exports.perfetto.events import Event, Window, window_of
from fleet.exports.perfetto.marks import batch_events, counter_events, decision_events, fault_events
from fleet.exports.perfetto.replicas import replica_events
from fleet.exports.perfetto.requests import Place, request_events
from fleet.exports.report import ExportReport, chunks
from fleet.telemetry.run import Run

NAME = "perfetto"
MOST_EVENTS = 1_000_000
"""In one file: some 150 MB, about what a browser opens in good time."""


def write(run: Run, file: BinaryIO, *, from_s: float = 0.0, first_s: float | None = None) -> ExportReport:
    """Everything of the run that lies in the window, or reaches into it.

    Raises:
        ValueError: There are more than `MOST_EVENTS`; says how many, and what stretch would do.
    """
    window = window_of(run, from_s, first_s)
    encode = msgspec.json.Encoder().encode
    count = 0
    file.write(b'{"traceEvents":[\n')
    for chunk in chunks(_events(run, window)):
        if count + len(chunk) <= MOST_EVENTS:  # beyond, they are only counted: the file will not be
            file.write((b",\n" if count else b"") + b",\n".join(map(encode, chunk)))
        count += len(chunk)
    file.write(b'\n],"displayTimeUnit":"ms","otherData":' + encode(_identity(run)) + b"}\n")
    if count > MOST_EVENTS:
        raise ValueError(_too_many(count, window))
    return ExportReport(format=NAME, written=count, left_out=window.left_out)


def _events(run: Run, window: Window) -> Iterator[Event]:
    places: dict[str, Place] = {}
    yield from counter_events(run, window)
    yield from request_events(run, window, places)
    yield from attempt_events(run, window, places)
    yield from batch_events(run, window)
    yield from replica_events(run, window)
    yield from decision_events(run, window)
    yield from fault_events(run, window)


def _identity(run: Run) -> dict[str, str]:
    manifest = run.manifest
    return {
        "digest": run.digest,
        "runtime": manifest.runtime,
        "seed": str(manifest.seed),
        "trace_sha256": manifest.trace["sha256"],
    }


def _too_many(count: int, window: Window) -> str:
    stretch_s = window.length_s * MOST_EVENTS / count
    return (
        f"{count:,} events are more than a timeline shows well ({MOST_EVENTS:,}); export a stretch of about "
        f"{stretch_s:,.3g} s: from_s= and first_s= (--from-s, --first-s)"
    )
