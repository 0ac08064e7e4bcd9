"""A file is read in parts, and what is read does not depend on where one part ends and the next begins."""

import pyarrow as pa
import pyarrow.parquet
import pytest

import traces.readers.parquet_rows
import traces.source
from tests.bench.reading import azure_file, peak_bytes
from tests.traces.test_readers import ALL, BAD
from tests.traces.test_trace import of
from tests.traces.writing import FOREIGN, csv, json_lines
from traces import TraceError, load_trace, save_trace

SIZES = [1, 7, 64]


@pytest.fixture(params=SIZES)
def part_bytes(request, monkeypatch):
    """Parts of some bytes, which are of one line where lines are longer."""
    monkeypatch.setattr(traces.source, "PART_BYTES", request.param)


@pytest.mark.parametrize("content", ALL.values(), ids=ALL.keys())
def test_the_parts_of_a_file_together_are_the_file(reading, monkeypatch, content):
    whole = reading(content)
    for size in SIZES:
        monkeypatch.setattr(traces.source, "PART_BYTES", size)
        parts = reading(content)

        assert parts.sha256 == whole.sha256
        assert (parts.report, parts.header.offset_s) == (whole.report, whole.header.offset_s)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_in_any_part_is_named_by_its_line_or_counted(reading, part_bytes, bad):
    with pytest.raises(TraceError, match=f":{bad.line}:"):
        reading(bad.content)
    dropped = reading(bad.content, on_bad="drop")

    assert dropped.report.dropped == {f"{bad.column} {bad.rule}": 1}
    assert dropped.report.rows_in == len(dropped) + 1


def test_blank_lines_in_front_count_as_lines(reading, part_bytes):
    with pytest.raises(TraceError, match=r":5: column `num_prefill_tokens`"):
        reading(b"\n\narrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n1,x,1\n")


def test_rows_without_an_id_have_their_number_in_the_file_whatever_was_dropped(reading, part_bytes):
    content = FOREIGN["vidur"]([0, 1, 2, 3]).replace(b"1,600", b"1,many")

    assert reading(content, on_bad="drop").column("id").to_pylist() == ["0", "2", "3"]


def test_where_some_rows_have_an_id_the_others_have_their_number_whatever_was_dropped(reading, part_bytes):
    rows = [{"timestamp": 3000 * at, "input_length": 1, "output_length": 1} for at in range(5)]
    rows[0]["request_id"] = rows[3]["request_id"] = "a"
    rows[1]["input_length"] = -1

    trace = reading(json_lines(rows), on_bad="drop")

    assert trace.column("id").to_pylist() == ["a", "2", "4"]
    assert sum(trace.report.dropped.values()) == 2


def test_an_id_that_an_earlier_part_has_is_found(reading, part_bytes):
    content = csv(
        "request_id,arrival_timestamp,prompt_size,token_size", [(at % 3, at, 1, 1) for at in range(5)]
    )

    with pytest.raises(TraceError, match=r":5: column `request_id`: \"0\" is the id of an earlier row too"):
        reading(content)
    kept = reading(content, on_bad="drop")
    assert kept.report.dropped == {"request_id is the id of an earlier row too": 2}
    assert kept.column("id").to_pylist() == ["0", "1", "2"]


def test_a_field_has_one_place_in_the_whole_file(reading, part_bytes):
    rows = [{"timestamp": 3000 * at, "input_length": 1, "output_length": 1} for at in range(6)]
    rows[1] |= {"priority": 2}
    rows[4] |= {"priority": "high"}

    trace = reading(json_lines(rows))

    assert "priority" not in trace.table.column_names
    assert trace.column("extra").to_pylist() == [
        None,
        '{"priority":2}',
        None,
        None,
        '{"priority":"high"}',
        None,
    ]
    assert trace.report.in_extra == {"priority": 2}


def test_the_size_of_a_block_is_told_by_all_parts(reading, part_bytes):
    rows = [
        {"timestamp": 3000 * at, "input_length": length, "output_length": 1, "hash_ids": [*range(count)]}
        for at, (length, count) in enumerate([(1024, 16), (100, 2), (65, 2)])
    ]  # of the first alone it may be 64 to 68, of the last alone 33 to 64

    assert reading(json_lines(rows)).column("block_tokens").to_pylist() == [64, 64, 64]
    with pytest.raises(
        TraceError, match=r":3: column `hash_ids`: 2 hashes for 65 tokens are not blocks of 65"
    ):
        reading(json_lines(rows), block_tokens=65)


def test_times_in_any_order_and_part_are_checked_and_sorted(reading, part_bytes):
    content = FOREIGN["mooncake"]([9, 0, 6, 3])

    assert reading(content).column("arrived_s").to_pylist() == [0, 3, 6, 9]
    with pytest.raises(TraceError, match="may be seconds"):
        reading(content.replace(b'"timestamp":3000', b'"timestamp":3000.5'))


def test_a_parquet_file_is_read_in_batches(tmp_path, monkeypatch):
    trace = of(0.0, 1.0, 2.0, 5.0, prompt_tokens=[1, None, 3, 4], blocks=[[1], None, [], [1, 2]])
    save_trace(trace, tmp_path / "own.parquet")
    pa.parquet.write_table(
        trace.table.replace_schema_metadata(None).drop_columns("id"), tmp_path / "other.parquet"
    )
    monkeypatch.setattr(traces.readers.parquet_rows, "BATCH_ROWS", 2)

    assert load_trace(tmp_path / "own.parquet") == trace
    assert load_trace(tmp_path / "other.parquet").sha256 == trace.sha256


# --- memory -----------------------------------------------------------------------------------------------------


def test_what_is_taken_beside_the_table_does_not_grow_with_the_file(tmp_path):
    sizes = {"few": 10, "some": 200_000, "many": 1_000_000}
    for name, rows in sizes.items():
        azure_file(tmp_path / name, rows)
    some_bytes, some_table_bytes = peak_bytes(tmp_path / "few", tmp_path / "some")
    many_bytes, many_table_bytes = peak_bytes(tmp_path / "few", tmp_path / "many")

    table_bytes = many_table_bytes - some_table_bytes
    assert table_bytes > 20e6
    assert many_bytes - some_bytes < 1.3 * table_bytes + 8e6
