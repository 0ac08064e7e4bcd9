"""What ``vllm bench serve --save-result --save-detailed`` writes: a run measured from its client, as one JSON object.

One object is one run; with ``--append-result`` a file has one a line. Each run has lists of one value a request, in
seconds: ``input_lens``, ``output_lens``, ``ttfts``, ``itls`` (the gaps of each answer), ``latencies``,
``start_times``, ``queue_times``, ``errors``. Older versions have no ``start_times``, and neither have SGLang's
results of the same keys: their arrivals are drawn by the law that the caller names.

A request arrives here when it was sent, ``start_times`` on the client's monotonic clock, and all durations count from
there. What it waited in the client for ``--max-concurrency`` before that, ``queue_times``, is in `extra`.

Field names: vllm/benchmarks/serve.py of vllm-project/vllm, commit 009e6d4a1cd6, functions `benchmark` and
`main_async`.
"""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.published import header_of
from traces.readers import arrivals
from traces.readers.documents import Decoded, decode, fields, has_keys, objects
from traces.readers.found import Found, mean_gap_s, rows_of
from traces.readers.json_rows import Int64
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "vllm-bench"
TAKES = frozenset({"arrivals"})
T = TypeVar("T")


class _Run(msgspec.Struct):
    input_lens: list[Int64]
    output_lens: list[Int64] | None = None
    ttfts: list[float] | None = None
    itls: list[list[float]] | None = None
    latencies: list[float] | None = None
    start_times: list[float] | None = None
    queue_times: list[float] | None = None
    errors: list[str] | None = None
    model_id: str | None = None

    def uneven(self) -> str | None:
        """Which list has not one value for each request, in words."""
        for name in self.__struct_fields__:
            values = getattr(self, name)
            if isinstance(values, list) and len(values) != len(self.input_lens):
                return f"{len(values):,} {name} for {len(self.input_lens):,} input_lens"
        return None


def sniff(source: Source) -> bool:
    """By the figures that every result has, detailed or not."""
    return has_keys(source, "duration", "completed", "total_input_tokens", "request_throughput")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every request of every run; the figures of a run as a whole are counted, not kept.

    Raises:
        TraceError: The result has no details, or no start times and no law is told; or it has them and a law is told.
    """
    runs = _runs(source)
    found = [request for number, run in enumerate(runs.values) for request in _requests(number, run)]
    if len(runs.values) > 1:
        for request in found:
            request.others["run"] = request.of
    rows = rows_of(found, runs.rows, _CALLED)
    header = _put_arrivals(source, rows, runs.values, options)
    _leave_out(rows, runs)
    return rows, header


_CALLED = {
    "prompt_tokens": "input_lens",
    "output_tokens": "output_lens",
    "observed_ttft_s": "ttfts",
    "observed_tpot_s": "itls",
    "observed_e2e_s": "latencies",
}


def _runs(source: Source) -> Decoded[_Run]:
    texts = objects(source)
    for text in texts:
        if b'"input_lens"' not in text.json:
            remedy = "write it with --save-result --save-detailed"
            raise TraceError(
                "is missing", remedy=remedy, file=source.path, line=text.number, column="input_lens"
            )
    runs = decode(texts, _Run, source.path)
    for text, run in zip(runs.rows.lines.tolist(), runs.values, strict=True):
        if (uneven := run.uneven()) is not None:
            remedy = "each list has one value for each request"
            raise TraceError(f"has {uneven}", remedy=remedy, file=source.path, line=text)
    return runs


def _requests(number: int, run: _Run) -> list[Found]:
    return [_request(number, run, row) for row in range(len(run.input_lens))]


def _request(number: int, run: _Run, row: int) -> Found:
    error, output_tokens = _at(run.errors, row), _at(run.output_lens, row)
    ttft_s, e2e_s = (None, None) if error else _measured(run, row)  # what a failed request took means nothing
    return Found(
        of=number,
        prompt_tokens=run.input_lens[row],
        output_tokens=output_tokens,
        model=run.model_id,
        observed_ttft_s=ttft_s,
        observed_tpot_s=mean_gap_s(ttft_s, e2e_s, output_tokens),
        observed_e2e_s=e2e_s,
        observed_failed=None if error is None else bool(error),
        others={"queue_times": _at(run.queue_times, row), "error": error or None},
    )


def _measured(run: _Run, row: int) -> tuple[float | None, float | None]:
    """TTFT and end-to-end time. A TTFT of 0 means that the answer was not streamed."""
    ttft_s, e2e_s, gaps_s = _at(run.ttfts, row) or None, _at(run.latencies, row), _at(run.itls, row)
    if e2e_s is None and ttft_s is not None and gaps_s is not None:
        e2e_s = ttft_s + sum(gaps_s)
    return ttft_s, e2e_s


def _at(values: list[T] | None, row: int) -> T | None:
    return None if values is None else values[row]


def _put_arrivals(source: Source, rows: Rows, runs: list[_Run], options: ReadOptions) -> Header:
    header = header_of(source, "vLLM's benchmark")
    recorded = [start_s for run in runs for start_s in run.start_times or ()]
    if len(recorded) < len(rows) or not recorded:
        drawn, step = arrivals.drawn(len(rows), options, source.path)
        rows.put_arrivals(drawn, "s", "arrivals")
        return arrivals.derived(header, step)
    if options.arrivals is not None:
        raise TraceError(
            "has start_times of its own", remedy="leave arrivals= (--arrivals) out", file=source.path
        )
    rows.put_arrivals(np.array(recorded), "s", "start_times")
    return header


def _leave_out(rows: Rows, runs: Decoded[_Run]) -> None:
    """Count what a run says of itself as a whole under all its names together, and texts by theirs."""
    names = dict.fromkeys(chain.from_iterable(fields(text) for text in runs.texts))
    texts = [name for name in names if name == "generated_texts"]
    for name in texts:
        rows.leave_out(name, len(rows))
    whole = [name for name in names if name not in (*_Run.__struct_fields__, *texts)]
    if whole:
        rows.leave_out(f"figures of a whole run: {', '.join(whole)}", len(runs.values))
