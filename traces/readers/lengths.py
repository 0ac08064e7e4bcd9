"""Lengths of prompts and answers, and no times: a CSV file, JSON lines, or a JSON list of objects.

Any of `PROMPT` names a prompt's length in tokens, any of `OUTPUT` an answer's. A file in which anything looks like a
time is not taken for one of these, so that no arrival is lost unseen. Arrivals are drawn by the law that the caller
names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec
import pyarrow as pa

from traces.errors import TraceError
from traces.published import header_of
from traces.readers import arrivals
from traces.readers.csv_rows import CsvRows
from traces.readers.documents import decode, fields, first_keys, objects
from traces.readers.json_rows import Int64, columns_of, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "lengths"
TAKES = frozenset({"arrivals"})
PROMPT = (
    "prompt_tokens", "prompt_len", "prompt_length", "input_tokens", "input_len", "input_length", "input_toks",
    "num_prefill_tokens",
)  # fmt: skip
OUTPUT = (
    "output_tokens", "output_len", "output_length", "output_toks", "completion_tokens", "response_tokens",
    "num_decode_tokens",
)  # fmt: skip
_TIMES = re.compile(
    r"time|date|duration|arriv|stamp|start|begin|created|delay|(^|_)(ts|at)($|_)|_(s|ms|us|ns)$",
    re.IGNORECASE,
)


def sniff(source: Source) -> bool:
    """By one name of each kind, and none that looks like a time."""
    names = first_keys(source) or set(source.csv_columns)
    known = _named(PROMPT, names) is not None and _named(OUTPUT, names) is not None
    return known and not any(map(_TIMES.search, names))


def _named(meaning: Collection[str], names: Collection[str]) -> str | None:
    return next((name for name in meaning if name in names), None)


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Both lengths; all else goes to `extra`, or to the column that means the same.

    Raises:
        TraceError: A length has none of the names, or no law of arrivals is told.
    """
    names = first_keys(source)
    rows = _json(source, names) if names else _csv(source)
    arrived, step = arrivals.drawn(len(rows), options, source.path)
    rows.put_arrivals(arrived, "s", "arrivals")
    return rows, arrivals.derived(header_of(source, "lengths"), step)


def _columns(source: Source, names: Collection[str]) -> tuple[str, str]:
    prompt, output = _named(PROMPT, names), _named(OUTPUT, names)
    if prompt is None or output is None:
        wanted = PROMPT if prompt is None else OUTPUT
        problem = f"has no length of {'prompts' if prompt is None else 'answers'}"
        raise TraceError(problem, remedy=f"expected one of {', '.join(wanted)}", file=source.path)
    return prompt, output


def _csv(source: Source) -> Rows:
    table = CsvRows(source)
    prompt, output = _columns(source, table.names)
    table.rows.put("prompt_tokens", table.counts(prompt), prompt)
    table.rows.put("output_tokens", table.counts(output), output)
    table.rows.put_others(table.others(prompt, output))
    return table.rows


def _json(source: Source, names: Collection[str]) -> Rows:
    prompt, output = _columns(source, names)
    kind = msgspec.defstruct("Lengths", [(prompt, Int64), (output, Int64)])
    lengths = decode(objects(source), kind, source.path)
    for column, name in (("prompt_tokens", prompt), ("output_tokens", output)):
        values = [getattr(value, name) for value in lengths.values]
        lengths.rows.put(column, pa.array(values, pa.int64()), name)
    further = [others(fields(text), (prompt, output)) for text in lengths.texts]
    lengths.rows.put_others(columns_of(further))
    return lengths.rows
