"""Files that hold no requests and are often taken for ones that do: what each is, and what to read instead."""

from __future__ import annotations

import re
from collections.abc import Callable

from traces import operations
from traces.rates import holds_rates
from traces.readers import recorded_faults
from traces.readers.documents import fields
from traces.source import Source


def _servegen_rates(source: Source) -> bool:
    """Start of a window, rate, cv, law and its two parameters, without a header."""
    cells = source.first_line.split(",")
    return len(cells) == 6 and cells[3] in ("Gamma", "Weibull", "") and cells[0].isdigit()


def _servegen_lengths(source: Source) -> bool:
    """Windows by their start, each with laws of lengths."""
    if re.match(r'\{\s*"\d+"', source.first_line) is None:
        return False
    return any("output_tokens" in fields(window) for window in fields(source.data).values())


_KINDS: tuple[tuple[Callable[[Source], bool], str, str], ...] = (
    (recorded_faults.sniff, "faults", "read it with load_faults()"),
    (operations.sniff, "operations", "read it with load_operations()"),
    (
        _servegen_rates,
        "rates and laws of a client of ServeGen",
        "generate a workload with ServeGen, and read the CSV file that it saves",
    ),
    (
        _servegen_lengths,
        "laws of lengths of a client of ServeGen",
        "generate a workload with ServeGen, and read the CSV file that it saves",
    ),
    (
        lambda source: source.has_columns("HashFunction", "Average", "Count"),
        "durations of functions",
        "invocations are in invocations_per_function_md.anon.dNN.csv of the same dataset",
    ),
    (
        lambda source: source.has_columns("HashApp", "SampleCount"),
        "memory of applications",
        "invocations are in invocations_per_function_md.anon.dNN.csv of the same dataset",
    ),
    (
        lambda source: source.first_line.startswith("trace_version:"),
        "the header of a TraceV2",
        "read the CSV file beside it",
    ),
    (holds_rates, "rates", "sample requests from it: from_rates(load_rates(path), seed=0)"),
)


def found(source: Source) -> tuple[str, str] | None:
    """What the file holds instead, and what to do; None where it is nothing that is known."""
    return next(((holds, remedy) for is_one, holds, remedy in _KINDS if is_one(source)), None)
