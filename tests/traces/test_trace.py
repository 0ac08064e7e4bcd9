"""A trace holds requests without loss, in order, and hashes their values and nothing else."""

import hashlib
import itertools
import pickle
import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.traces import strategies
from traces import (
    Header,
    Observed,
    Request,
    Slo,
    Trace,
    TraceEntry,
    TraceError,
    load_trace,
    poisson,
    save_trace,
)

HEADER = Header(source="test", provenance="recorded")


def of(*arrived_s, **columns):
    return Trace(pa.table({"arrived_s": pa.array(arrived_s, pa.float64()), **columns}), HEADER)


@strategies.few
@given(strategies.entries)
def test_entries_come_back_as_they_went_in_sorted_stably_by_arrival(entries):
    assert list(Trace.from_entries(entries)) == sorted(entries, key=lambda entry: entry.request.arrived_s)


@strategies.few
@given(strategies.traces, st.sampled_from([".jsonl", ".jsonl.gz", ".parquet"]))
def test_a_saved_trace_is_read_back_equal_with_the_same_hash(tmp_path_factory, trace, suffix):
    path = tmp_path_factory.mktemp("round") / f"trace{suffix}"

    save_trace(trace, path)
    back = load_trace(path)

    assert list(back) == list(trace)
    assert back.header == trace.header
    assert back.sha256 == trace.sha256
    assert back == trace


@strategies.few
@given(strategies.traces)
def test_saving_twice_gives_the_same_bytes(tmp_path_factory, trace):
    folder = tmp_path_factory.mktemp("bytes")
    for suffix in (".jsonl", ".jsonl.gz", ".parquet"):
        save_trace(trace, folder / f"a{suffix}")
        save_trace(pickle.loads(pickle.dumps(trace)), folder / f"b{suffix}")
        assert (folder / f"a{suffix}").read_bytes() == (folder / f"b{suffix}").read_bytes()


def test_saving_under_another_suffix_is_refused(tmp_path):
    with pytest.raises(TraceError, match=r"use \.jsonl, \.jsonl\.gz or \.parquet"):
        save_trace(of(1.0), tmp_path / "trace.txt")


@strategies.few
@given(strategies.traces, st.integers(1, 5), st.integers(0, 5))
def test_the_hash_does_not_depend_on_chunks_offsets_or_the_header(trace, chunk_rows, padding):
    batches = trace.table.to_batches(max_chunksize=chunk_rows)
    rechunked = pa.Table.from_batches(batches, schema=trace.table.schema)
    doubled = pa.concat_tables([trace.table] * (padding + 1)).slice(padding * len(trace))

    assert Trace(rechunked, Header(source="another")).sha256 == trace.sha256
    assert Trace(doubled, trace.header).sha256 == trace.sha256


def test_the_hash_does_not_see_what_lies_under_a_null():
    def with_garbage(garbage):
        values = pa.array([1, garbage, 3], pa.int64())
        mask = pa.py_buffer(bytes([0b101]))
        return pa.Array.from_buffers(pa.int64(), 3, [mask, values.buffers()[1]])

    hashes = {of(0.0, 1.0, 2.0, prompt_tokens=with_garbage(garbage)).sha256 for garbage in (0, 99)}

    assert len(hashes) == 1


@strategies.few
@given(strategies.entries.filter(bool), st.data())
def test_the_hash_changes_with_any_field(entries, data):
    row = data.draw(st.integers(0, len(entries) - 1))
    entry = entries[row]
    field = data.draw(
        st.sampled_from(["prompt_tokens", "session", "deadline_s", "blocks", "extra", "priority"])
    )
    old = getattr(entry.request, field)
    new = {
        "prompt_tokens": 7 if old != 7 else None,
        "session": "other name" if old != "other name" else None,
        "deadline_s": 0.25 if old != 0.25 else None,
        "blocks": () if old != () else None,
        "extra": {} if old != {} else None,
        "priority": 0 if old != 0 else None,
    }[field]
    changed = [*entries]
    changed[row] = replace(entry, request=replace(entry.request, **{field: new}))

    assert Trace.from_entries(changed).sha256 != Trace.from_entries(entries).sha256


def test_the_hash_is_the_documented_one():
    trace = of(0.5, 2.0, prompt_tokens=[None, 3], blocks=[[7, 8], None])
    expected = hashlib.sha256(
        b"fleetlab trace 1\n"
        + struct.pack("<q", 2)
        + b"arrived_s double\n" + bytes([0b11]) + struct.pack("<dd", 0.5, 2.0)
        + b"id string\n" + bytes([0b11]) + struct.pack("<qq", 1, 1) + b"01"
        + b"prompt_tokens int64\n" + bytes([0b10]) + struct.pack("<qq", 0, 3)
        + b"blocks list<item: int64>\n" + bytes([0b01]) + struct.pack("<qq", 2, 0) + struct.pack("<qq", 7, 8)
    )  # fmt: skip

    assert trace.sha256 == expected.hexdigest()


def test_a_column_without_any_value_is_left_out():
    trace = of(0.0, 1.0, prompt_tokens=pa.nulls(2, pa.int64()))

    assert trace.table.column_names == ["arrived_s", "id"]
    assert trace.column("prompt_tokens").to_pylist() == [None, None]


def test_an_id_defaults_to_the_row_number_before_sorting():
    assert [entry.request.id for entry in of(2.0, 1.0)] == ["1", "0"]


def test_unsorted_rows_are_sorted_and_counted():
    trace = of(1.0, 5.0, 2.0, 3.0, 6.0)

    assert trace.column("arrived_s").to_pylist() == [1.0, 2.0, 3.0, 5.0, 6.0]
    assert trace.report.reordered == 2


def test_the_duration_counts_from_time_zero_and_the_rate_from_the_first_arrival():
    trace = of(1.0, 2.0, 4.0)

    assert (trace.start_s, trace.duration_s, trace.rate_per_s, len(trace)) == (1.0, 4.0, 1.0, 3)
    assert (of().duration_s, of().rate_per_s, len(of())) == (0.0, None, 0)


def test_iterating_is_lazy():
    trace = poisson(rate_per_s=10_000, duration_s=10, seed=0)

    assert [entry.request.id for entry in itertools.islice(trace, 3)] == ["0", "1", "2"]


def test_a_million_bare_requests_take_tens_of_megabytes():
    trace = poisson(rate_per_s=100_000, duration_s=10, seed=0)

    assert len(trace) == pytest.approx(1e6, rel=0.01)
    assert trace.table.nbytes < 30e6


def test_equal_objectives_are_one_object():
    first, second = of(0.0, 1.0).with_slo(e2e_s=0.2)

    assert first.request.slo == Slo(e2e_s=0.2)
    assert first.request.slo is second.request.slo


def test_an_objective_or_observation_without_values_is_absent():
    entry = TraceEntry(Request("a", 0.0, slo=Slo()), observed=Observed())

    (back,) = Trace.from_entries([entry])

    assert (back.request.slo, back.observed) == (None, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arrived_s": [0.0, -1.0]}, "row 2: column `arrived_s`: -1.0 is negative"),
        ({"arrived_s": [float("nan")]}, "row 1: column `arrived_s`: nan is not a finite number"),
        (
            {"arrived_s": [None, 1.0]},
            "row 1: column `arrived_s`: is absent; every row needs its arrival in seconds",
        ),
        ({"arrived_s": [0.0], "prompt_tokens": [-3]}, "row 1: column `prompt_tokens`: -3 is negative"),
        ({"arrived_s": [0.0], "block_tokens": [0]}, "row 1: column `block_tokens`: 0 is less than 1"),
        (
            {"arrived_s": [0.0, 0.0], "id": ["a", "a"]},
            "row 2: column `id`: 'a' is the id of an earlier row too",
        ),
        ({"arrived_s": [0.0], "kind": ["soon"]}, "row 1: column `kind`: 'soon' is neither online nor batch"),
        ({"prompt_tokens": [1]}, "column `arrived_s`: is missing; every row needs its arrival in seconds"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_row_and_column(columns, message):
    with pytest.raises(TraceError) as error:
        Trace(pa.table(columns), HEADER)
    assert str(error.value) == message


def test_an_unknown_column_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        TraceError, match="column `colour`: is not a column of a trace; known: arrived_s, id, prompt_tokens"
    ):
        of(0.0, colour=["red"])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("a", "soon"), "row 1: column `arrived_s`: 'soon' does not fit; expected double"),
        (Request("a", 0.0, blocks=(2**63,)), "row 1: column `blocks`"),
        (
            Request("a", 0.0, extra={"x": float("inf")}),
            "row 1: column `extra`: holds a number that is not finite",
        ),
    ],
)
def test_an_entry_that_does_not_fit_is_named(request_, message):
    with pytest.raises(TraceError) as error:
        Trace.from_entries([TraceEntry(request_)])
    assert str(error.value).startswith(message)


def test_a_trace_survives_pickling():
    trace = load_trace("chat-small")

    assert pickle.loads(pickle.dumps(trace)) == trace
