"""A trace that several processes read from one file."""

import pyarrow as pa
import pytest

from traces import Trace, load_trace, poisson
from traces.columns import digest
from traces.files import write_whole
from traces.sharing import share


@pytest.mark.parametrize(
    "trace",
    [poisson(rate_per_s=5, duration_s=1, seed=0), load_trace("chat-small").first(requests=50),
     Trace.from_entries([])],
    ids=["bare", "with blocks and sessions", "empty"],
)  # fmt: skip
def test_a_shared_trace_is_the_trace_itself(trace, tmp_path):
    opened = share(trace, tmp_path).open()

    assert opened == trace
    assert digest(opened.table) == trace.sha256
    assert list(opened) == list(trace)
    assert opened.header == trace.header
    assert opened.recipe == trace.recipe


def test_its_columns_are_the_pages_of_the_file(tmp_path):
    trace = load_trace("chat-small")
    shared = share(trace, tmp_path)
    before = pa.total_allocated_bytes()
    opened = shared.open()
    assert pa.total_allocated_bytes() - before < trace.table.nbytes / 10
    assert opened.first(requests=3).sha256 == trace.first(requests=3).sha256


def test_what_is_there_is_not_written_again_and_headers_do_not_mix(tmp_path):
    one = poisson(rate_per_s=5, duration_s=1, seed=0)
    other = Trace(one.table, load_trace("chat-small").header)
    shared = share(one, tmp_path)
    made_ns = next(tmp_path.iterdir()).stat().st_mtime_ns

    assert share(other, tmp_path).open().header == other.header
    assert shared.open().header == one.header
    assert [file.stat().st_mtime_ns for file in tmp_path.iterdir()] == [made_ns]


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"is a file, not a folder.*taken"):
        write_whole(tmp_path / "taken" / "run.parquet", b"")
