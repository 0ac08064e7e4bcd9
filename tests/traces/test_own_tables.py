"""A table of one's own becomes a trace by saying which of its columns is which, and by nothing else."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from traces import Observed, Request, TraceEntry, TraceError, load_trace, save_trace
from traces.readers.options import ReadOptions, columns_of
from traces.rebuilding import rebuilt

CSV = b"ts,in,out,who,region\n1000,10,5,alice,eu\n2500,20,,bob,\n"
COLUMNS = {"arrived_s": "ts:ms", "prompt_tokens": "in", "output_tokens": "out", "user": "who"}
EXPECTED = [
    TraceEntry(Request("0", 0.0, 10, user="alice", extra={"region": "eu"}), 5),
    TraceEntry(Request("1", 1.5, 20, user="bob")),
]


def column(trace, name):
    return trace.column(name).to_pylist()


def parquet(table, path):
    pa.parquet.write_table(pa.table(table), path)
    return path


# --- kinds of files -------------------------------------------------------------------------------------------


def test_a_csv_file_is_read_by_a_mapping_or_its_text(reading):
    text = "arrived_s=ts:ms,prompt_tokens=in,output_tokens=out,user=who"

    for columns in (COLUMNS, text):
        trace = reading(CSV, columns=columns)

        assert list(trace) == EXPECTED
        assert (trace.report.format, trace.report.time_unit) == ("columns", "ms")
        assert (trace.report.in_extra, trace.header.offset_s) == ({"region": 1}, 1.0)
        (step,) = trace.header.transforms
        assert (step.name, step.parameters) == ("read", {"columns": text})
        assert (trace.header.provenance, trace.header.licence) == ("unknown", None)
        assert trace.header.source.startswith("unknown source: file")


def test_json_lines_are_read_and_keep_the_kinds_of_what_is_not_mapped(reading):
    lines = [
        {"ts": 1000, "in": 10, "out": 5, "who": "alice", "region": "eu", "hot": True, "depth": 2},
        {"ts": 2500, "in": 20, "who": "bob", "tags": [1, "a"]},
    ]
    trace = reading(b"".join(json.dumps(line).encode() + b"\n" for line in lines), columns=COLUMNS)

    assert [entry.request.extra for entry in trace] == [
        {"region": "eu", "hot": True, "depth": 2},
        {"tags": '[1, "a"]'},
    ]
    assert column(trace, "user") == ["alice", "bob"]
    assert column(trace, "output_tokens") == [5, None]


def test_a_parquet_file_is_read_with_the_types_that_it_has(tmp_path):
    first = datetime(2024, 5, 10, tzinfo=UTC)
    table = {
        "when": pa.array([first, first + timedelta(milliseconds=1500)], pa.timestamp("us", "UTC")),
        "in": pa.array([10, 7], pa.uint16()),
        "prefix": [[7, 8], [7]],
        "failed": [False, True],
        "score": [0.5, float("nan")],
        "day": [first.date(), None],
    }
    columns = "arrived_s=when,prompt_tokens=in,blocks=prefix,observed_failed=failed"
    trace = load_trace(parquet(table, tmp_path / "x"), columns=columns, block_tokens=8, failed="keep")

    assert list(trace) == [
        TraceEntry(
            Request("0", 0.0, 10, (7, 8), 8, extra={"day": "2024-05-10", "score": 0.5}),
            observed=Observed(failed=False),
        ),
        TraceEntry(Request("1", 1.5, 7, (7,), 8, extra={"score": "nan"}), observed=Observed(failed=True)),
    ]
    assert trace.header.offset_s == first.timestamp()


# --- times ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ts_ms", "ms"),
        ("ts (us)", "us"),
        ("arrival.ns", "ns"),
        ("t seconds", "s"),
        ("MS", "ms"),
        ("arrived_s", "s"),
    ],
)
def test_a_name_may_say_the_unit(reading, name, unit):
    trace = reading(f"{name},in\n3,1\n5,1\n".encode(), columns={"arrived_s": name})

    assert trace.report.time_unit == unit
    assert column(trace, "arrived_s") == [0.0, 2 / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]]


def test_the_mapping_says_the_unit_before_the_name_does_and_the_option_last(reading):
    content = b"ts_ms,in\n3,1\n5,1\n"

    assert reading(content, columns={"arrived_s": "ts_ms:s"}).duration_s == 2.0
    assert reading(content, columns={"arrived_s": "ts_ms"}, time_unit="s").duration_s == 0.002
    assert reading(content.replace(b"_ms", b""), columns={"arrived_s": "ts"}, time_unit="s").duration_s == 2.0


def test_numbers_of_no_said_unit_are_refused(reading):
    with pytest.raises(TraceError) as error:
        reading(CSV, columns={"arrived_s": "ts"})
    assert "column `ts`: has numbers, and nothing says their unit; say it, as in arrived_s=ts:ms" in str(
        error.value
    )
    with pytest.raises(TraceError, match=r"column `out`: has numbers, and nothing says .* think_s=out:ms"):
        reading(CSV, columns={"arrived_s": "ts:ms", "think_s": "out"})


def test_calendar_times_are_recognised_and_a_unix_time_in_ns_is_exact(reading):
    stamps = b"when,in\n2024-05-10T00:00:00+02:00,1\n2024-05-10 00:00:01.5Z,1\n"
    exact = b"t,in\n1700000000000000001,1\n1700000000000000003,1\n"

    assert column(reading(stamps, columns={"arrived_s": "when"}), "arrived_s") == [0.0, 7201.5]
    assert reading(stamps, columns={"arrived_s": "when:iso"}).report.time_unit is None
    assert column(reading(exact, columns={"arrived_s": "t:ns"}), "arrived_s") == [0.0, 2e-9]
    with pytest.raises(TraceError, match=r':3: column `when`: "soon" is not a time'):
        reading(b"when,in\n2024-05-10,1\nsoon,1\n", columns={"arrived_s": "when"})


def test_durations_have_units_too(reading):
    content = b"t_s,ttft_ms,limit\n0,250,3\n1,,4\n"
    trace = reading(
        content, columns={"arrived_s": "t_s", "observed_ttft_s": "ttft_ms", "deadline_s": "limit:s"}
    )

    assert column(trace, "observed_ttft_s") == [0.25, None]
    assert column(trace, "deadline_s") == [3.0, 4.0]


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arrived_s": "time:ms"}, "column `time`: is missing; there are ts, in, out, who, region"),
        ({"arrived_s": "ts:min"}, "column `ts:min`: is missing; there are ts, in, out, who, region"),
        (
            {"arrivd_s": "ts:ms"},
            "columns: 'arrivd_s' is not a column of a trace; there are arrived_s, id, prompt",
        ),
        ({"arrived_s": "ts:ms", "extra": "in"}, "columns: 'extra' is not a column of a trace"),
        ({"prompt_tokens": "in"}, "no column is mapped to arrived_s; map one, as in arrived_s=COLUMN:ms"),
        ({"arrived_s": "ts:ms", "prompt_tokens": "in:ms"}, "prompt_tokens is no time, and has no unit"),
        ({"arrived_s": "ts:ms", "think_s": "in:iso"}, "think_s is a duration, and no calendar time"),
        ({"arrived_s": "ts:ms", "prompt_tokens": "who"}, ':2: column `who`: "alice" is not a number'),
        ({"arrived_s": "ts:ms", "blocks": "in"}, "blocks are mapped, and not how many tokens each has"),
        ("arrived_s=ts:ms,in", "columns: 'in' maps nothing; expected TARGET=COLUMN[:UNIT]"),
        ("arrived_s=ts:ms,arrived_s=in:s", "columns: arrived_s is given twice"),
    ],
)
def test_a_mapping_that_cannot_be_is_an_error_that_says_what_there_is(reading, columns, message):
    with pytest.raises(TraceError) as error:
        reading(CSV, columns=columns)
    assert message in str(error.value)


def test_a_column_that_no_line_of_json_has_is_missing_and_one_that_some_have_is_not(reading):
    content = b'{"ts": 0}\n' * 30 + b'{"ts": 1, "late": 4}\n'

    assert column(reading(content, columns="arrived_s=ts:s,prompt_tokens=late"), "prompt_tokens")[-1] == 4
    with pytest.raises(TraceError, match=r"column `in`: is missing; there are ts, late"):
        reading(content, columns="arrived_s=ts:s,prompt_tokens=in")


def test_a_mapping_and_a_format_exclude_each_other(reading):
    with pytest.raises(
        TraceError, match=r"columns= \(--columns\) is of a table of your own, .*; give one of them"
    ):
        reading(CSV, columns=COLUMNS, format="vidur")


def test_an_unknown_table_says_how_to_read_it(reading, tmp_path):
    with pytest.raises(TraceError, match=r"a table of your own is read with columns= \(--columns\)"):
        reading(CSV)
    with pytest.raises(TraceError, match=r"a table of your own is read with columns= \(--columns\)"):
        load_trace(parquet({"ts": [1]}, tmp_path / "x"))


# --- the text of a mapping ------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(str.strip)


@strategies.few
@given(NAMES, NAMES)
def test_the_text_of_a_mapping_says_all_of_it(reading, first, second):
    options = ReadOptions(columns=(("arrived_s", first), ("model", second)))

    assert columns_of(options.told()["columns"]) == options.columns


def test_a_name_with_a_comma_or_a_colon_is_a_name(reading):
    content = b'"t,0:s",a:ms\n0,x\n5,y\n'

    trace = reading(content, columns='"arrived_s=t,0:s:s",model=a:ms')

    assert (column(trace, "arrived_s"), column(trace, "model")) == ([0.0, 5.0], ["x", "y"])


def test_what_was_mapped_survives_our_own_formats(reading, tmp_path):
    trace = reading(CSV, columns=COLUMNS)
    save_trace(trace, tmp_path / "x.jsonl")

    assert load_trace(tmp_path / "x.jsonl") == trace
    assert rebuilt(trace.recipe, trace.sha256, trace.header) == trace
