"""Workloads that ServeGen generates, as it saves them: a CSV file with a time and lengths for each request.

Header ``request_id,timestamp,input_tokens,output_tokens``, and ``reason_ratio`` for reasoning models; times in
seconds. What ServeGen generates them from (``chunk-N-trace.csv``, ``chunk-N-dataset.json``) are rates and laws, and
no requests.

Source: tests/test_utils.py (`test_save_requests_to_csv`, commit bdf86140c29c) and examples/basic_usage.py
(3913a88767bf) of ServeGen; Xiang et al., "ServeGen: Workload Characterization and Generation of LLM Serving in
Production", arXiv 2505.09999. How multimodal workloads are saved is documented nowhere: they are not read.
"""

from __future__ import annotations

from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "servegen"
TAKES = frozenset({"time_unit"})
_KNOWN = ("request_id", "timestamp", "input_tokens", "output_tokens")


def sniff(source: Source) -> bool:
    """By exactly these columns, in this order, and at most the share of reasoning."""
    columns = source.csv_columns
    return tuple(columns[:4]) == _KNOWN and columns[4:] in ([], ["reason_ratio"])


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All columns; ``reason_ratio`` goes to `extra`."""
    table = CsvRows(source)
    rows = table.rows
    rows.put_arrivals(table.numbers("timestamp", expected=SECONDS), options.unit("s"), "timestamp")
    rows.put("id", table.texts("request_id"), "request_id")
    rows.put("prompt_tokens", table.counts("input_tokens"), "input_tokens")
    rows.put("output_tokens", table.counts("output_tokens"), "output_tokens")
    rows.put_others(table.others(*_KNOWN))
    return rows, header_of(source, "ServeGen")
