"""How much work one request may be: what the wire refuses, a trace refuses too."""

from __future__ import annotations

import pyarrow as pa
import pytest

from traces import Header, Trace, TraceError


def of_work(work: float) -> Trace:
    table = pa.table({"arrived_s": [0.0], "work": [work]})
    return Trace(table, Header(source="test", provenance="synthetic"))


@pytest.mark.parametrize("work", [1e6 + 1, 1e16, 1e308])
def test_more_work_than_a_clock_can_tell_is_refused(work: float) -> None:
    with pytest.raises(TraceError, match=r"column `work`: .* is more than 1e\+06"):
        of_work(work)


def test_a_million_times_the_ordinary_is_accepted() -> None:
    assert of_work(1e6).table["work"].to_pylist() == [1e6]
