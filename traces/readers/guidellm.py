"""GuideLLM's report (``benchmarks.json``): runs measured from their client, one JSON object with several benchmarks.

The requests of all benchmarks of the file are read, on the clock of the recording (Unix time), so that those of a
sweep come one benchmark after another; `extra` has the number of each one's ``benchmark``. What was cut off at the
end of a benchmark (``incomplete``) has failed here, as it has no whole answer. A request that was never sent is none.

Field names: src/guidellm/schemas/base/request_stats.py (31c74ea27242) and info.py (1053a039e573), and
src/guidellm/benchmark/schemas/generative/benchmark.py (03820eba155d) of vllm-project/guidellm: the computed fields of
`GenerativeRequestStats`. Earlier reports (`GenerativeTextResponseStats`) have ``start_time`` in its place.
"""

from __future__ import annotations

import msgspec
import numpy as np

from traces.published import header_of
from traces.readers.documents import Text, decode, elements, fields, has_keys, objects
from traces.readers.found import Found, rows_of, seconds
from traces.readers.json_rows import Int64, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "guidellm"
TAKES: frozenset[str] = frozenset()
_GROUPS = ("successful", "incomplete", "errored")
_TEXTS = ("request_args", "output", "reasoning_output", "prompt", "tool_calls")
"""Fields that hold what was asked and answered: counted, not kept."""


class _Info(msgspec.Struct):
    conversation_id: str | None = None
    turn_index: Int64 | None = None
    error: str | None = None


class _Request(msgspec.Struct):
    request_id: str | None = None
    request_start_time: float | None = None
    start_time: float | None = None
    request_latency: float | None = None
    prompt_tokens: Int64 | None = None
    output_tokens: Int64 | None = None
    time_to_first_token_ms: float | None = None
    inter_token_latency_ms: float | None = None
    info: _Info = msgspec.field(default_factory=_Info)

    def sent_s(self) -> float | None:
        """When it was sent, in Unix time."""
        return self.start_time if self.request_start_time is None else self.request_start_time


class _Place(msgspec.Struct):
    """Which benchmark a request is of, and how it ended."""

    benchmark: int
    group: str
    text: bytes


def sniff(source: Source) -> bool:
    """By its list of benchmarks, of which one has requests in groups."""
    if not has_keys(source, "benchmarks"):
        return False
    return any(group in fields(one, "requests") for one in _benchmarks(source) for group in _GROUPS)


def _benchmarks(source: Source) -> list[msgspec.Raw]:
    return [one for text in objects(source) for one in elements(fields(text.json).get("benchmarks", b""))]


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every request that a benchmark kept and sent. Requests that a report has only sampled are counted."""
    benchmarks = _benchmarks(source)
    places = [place for number, one in enumerate(benchmarks) for place in _places(number, one)]
    texts = [Text(number, place.text) for number, place in enumerate(places, start=1)]
    requests = decode(texts, _Request, source.path)
    sent = [of for of, request in enumerate(requests.values) if request.sent_s() is not None]
    kept = [places[number - 1] for number in requests.rows.lines.tolist()]
    found = [_found(of, requests.values[of], kept[of]) for of in sent]
    rows = rows_of(found, requests.rows, _CALLED)
    for _ in range(len(requests.values) - len(sent)):
        rows.without_request("never sent")
    rows.put_arrivals(
        np.array([requests.values[of].sent_s() for of in sent], dtype=float),
        "s",
        "request_start_time",
        calendar=True,
    )
    for name in _TEXTS:
        rows.leave_out(name, sum(name in fields(kept[of].text) for of in sent))
    rows.leave_out("requests that the report has no sample of", _not_sampled(benchmarks, len(places)))
    return rows, header_of(source, "GuideLLM")


_CALLED = {
    "observed_ttft_s": "time_to_first_token_ms",
    "observed_tpot_s": "inter_token_latency_ms",
    "observed_e2e_s": "request_latency",
}


def _places(number: int, benchmark: msgspec.Raw) -> list[_Place]:
    requests = fields(benchmark, "requests")
    return [
        _Place(number, group, bytes(text)) for group in _GROUPS for text in elements(requests.get(group, b""))
    ]


def _found(of: int, request: _Request, place: _Place) -> Found:
    failed = place.group != "successful"
    return Found(
        of=of,
        id=request.request_id,
        session=request.info.conversation_id,
        turn=None if request.info.conversation_id is None else request.info.turn_index,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        observed_ttft_s=seconds(request.time_to_first_token_ms),
        observed_tpot_s=seconds(request.inter_token_latency_ms),
        observed_e2e_s=None if failed else request.request_latency,
        observed_failed=failed,
        others=_others(place),
    )


def _others(place: _Place) -> dict[str, Scalar]:
    known = (*_Request.__struct_fields__, *_TEXTS)
    info = others(fields(place.text, "info"), _Info.__struct_fields__[:2])
    return others(fields(place.text), known) | info | {"benchmark": place.benchmark}


def _not_sampled(benchmarks: list[msgspec.Raw], kept: int) -> int:
    """How many requests the figures of the benchmarks count beyond those listed."""
    totals = (
        others(fields(benchmark, "metrics", "request_totals"), ()).get("total") for benchmark in benchmarks
    )
    return max(sum(total for total in totals if isinstance(total, int)) - kept, 0)
