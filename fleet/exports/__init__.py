"""A run in the formats of other tools: what `Run.save` keeps without loss, for those who look at it elsewhere.

The one thing to know: nothing is made up. What a format asks for and a run does not have is left out; what a run has
and the format has no place for is named in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fleet.exports import aiperf, perfetto, tables, vllm_bench
from fleet.exports.report import ExportReport
from fleet.telemetry.run import Run
from traces.files import replacing

_WRITERS: dict[str, Callable[[Run, BinaryIO], ExportReport]] = {
    "vllm-bench": vllm_bench.write,
    "aiperf": aiperf.write,
    "csv": tables.write_records,
}
FORMATS = (*_WRITERS, "perfetto")


def save_as(
    run: Run, path: str | Path, format: str, *, from_s: float = 0.0, first_s: float | None = None
) -> ExportReport:
    """Write `run` to `path`, packed with gzip where the name ends in ``.gz``; whole, or not at all.

    - ``vllm-bench``: one JSON object, as ``vllm bench serve --save-result --save-detailed`` writes.
    - ``aiperf``: JSON lines, one a request, as in AIPerf's ``profile_export.jsonl``.
    - ``csv``: the records; with a folder for `path`, every table of the run.
    - ``perfetto``: a timeline that https://ui.perfetto.dev opens, of what happens from `from_s` on and before
      `first_s`, in seconds of the run.

    Raises:
        ValueError: No such format, a run that the format cannot hold, or too long a stretch for a timeline.
        OSError: The file cannot be written; its `filename` says which.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r} to export to; known: {', '.join(FORMATS)}")
    if format != "perfetto" and (from_s or first_s is not None):
        raise ValueError(f"from_s and first_s are of perfetto; {format} has the whole run")
    path = Path(path)
    if format == "csv" and path.is_dir():
        return tables.write_all(run, path)
    with replacing(path) as file:
        if format == "perfetto":
            return perfetto.write(run, file, from_s=from_s, first_s=first_s)
        return _WRITERS[format](run, file)


__all__ = ["FORMATS", "ExportReport", "save_as"]
