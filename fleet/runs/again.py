"""`again`: a finished run made anew, from what its manifest says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fleet.actor import FleetError
from fleet.runs.simulate import simulate
from fleet.telemetry.run import Run
from traces import Trace


def again(
    run: Run,
    *,
    trace: Trace | str | Path | None = None,
    allow_changed: bool = False,
    check: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Simulate the inputs of `run` once more; its digest is that of `run`, unless code or versions have changed.

    `trace` and `allow_changed` are those of `Run.rebuild`, which says what it raises; `check` and `on_progress` those
    of `simulate`. Raises `FleetError` for a live run: real processes take the time they take, and no two runs of them
    are the same.
    """
    if run.manifest.runtime == "live":
        raise FleetError(
            "a live run cannot be made again: real processes take other times each time; replay its inputs, or "
            "simulate them: simulate(**run.rebuild().arguments)"
        )
    built = run.rebuild(trace=trace, allow_changed=allow_changed)
    return simulate(**built.arguments, check=check, on_progress=on_progress)
