"""Every published format is read without loss, by content; what will not do is named or counted."""

import bz2
import gzip
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import Observed, Request, TraceEntry, TraceError, load_trace
from traces.readers import FORMATS
from traces.source import Source

AZURE_2023 = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    b"2023-11-16 18:15:46.6805900,374,44\r\n"
    b"2023-11-16 18:15:50.9951690,396,109\r\n"
    b"2023-11-16 18:15:51.2224670,879,55"
)
AZURE_2024 = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    b"2024-05-10 00:00:00.009930+00:00,2162,5\n"
    b"2024-05-10 02:00:01.009930+02:00,2399,6\n"
    b"2024-05-10 00:00:02Z,76,0\n"
)
BAILIAN = (
    b'{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 21, "output_length": 132, '
    b'"type": "text", "turn": 1, "hash_ids": [1089, 1090]}\n'
    b'{"chat_id": 163, "parent_chat_id": 159, "timestamp": 62.5, "input_length": 60, "output_length": 8, '
    b'"type": "search", "turn": 2, "hash_ids": [1089, 1090, 7, 8]}\n'
    b'{"chat_id": 170, "parent_chat_id": 163, "timestamp": 70.0, "input_length": 90, "output_length": 9, "turn": 3}\n'
)
MOONCAKE = (
    b'{"timestamp": 0, "input_length": 700, "output_length": 500, "hash_ids": [0, 1]}\n'
    b'{"timestamp": 3000, "input_length": 513, "output_length": 3, "hash_ids": [0, 2]}\n'
)
BURSTGPT = (
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,ChatGPT,472,18,490,Conversation log\n"
    b"45,GPT-4,1087,0,1087,API log\n"
)
BURSTGPT_2 = (
    b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5.5,s-1,2.25,ChatGPT,472,18,490,Conversation log\n"
    b"45,,,GPT-4,1087,0,1087,API log\n"
)
VIDUR = b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,10,20\n1.5,11.0,21\n"
SPLITWISE = (
    b"request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    b"0,2,0,1,1,4096,32\n1,2,0,3,1,2048,8\n"
)
MEASURED = (
    b'{"request_id": "b-0", "input_toks": 20, "output_toks": 11, "arrival_time": 1787267980.5, '
    b'"queued_ts": 100.0, "scheduled_ts": 100.25, "first_token_ts": 101.0, "last_token_ts": 103.0}\n'
    b'{"request_id": "b-1", "input_toks": 30, "output_toks": 1, "arrival_time": 1787267981.5, '
    b'"queued_ts": 101.5, "scheduled_ts": 101.5, "first_token_ts": 102.0, "last_token_ts": 102.0}\n'
    b'{"request_id": "b-2", "input_toks": 30, "output_toks": 9, "arrival_time": 1787267982.5, '
    b'"queued_ts": 102.5, "scheduled_ts": 0.0, "first_token_ts": 0.0}\n'
)
WORKLOAD = (
    b'{"input_toks": 33, "output_toks": 5, "arrival_time_ns": 46926808, "hash_ids": [0, 1], '
    b'"input_tok_ids": [7]}\n'
    b'{"session_id": "task", "arrival_time_ns": 1000000000, "sub_requests": ['
    b'{"input_toks": 14, "output_toks": 3, "tool_duration_ns": 250000000}, '
    b'{"input_toks": 20, "output_toks": 2}]}\n'
)
WORKLOAD_IDS = (
    b'{"input_toks": 35, "output_toks": 5, "arrival_time_ns": 0, "input_tok_ids": '
    + str([*range(35)]).encode()
    + b"}\n"
    b'{"session_id": "task", "arrival_time_ns": 1, "sub_requests": ['
    b'{"input_toks": 32, "output_toks": 3, "input_tok_ids": '
    + str([*range(16), *range(16)]).encode()
    + b'}, {"input_toks": 48, "output_toks": 2, "hash_ids": [7, 8, 9]}]}\n'
)
OWN = (
    b'{"fleetlab_trace":1,"header":{"source":"by hand"}}\n'
    b'{"arrived_s":0.5,"prompt_tokens":3}\n'
    b'{"arrived_s":1.0,"id":"b","kind":"batch","extra":{"x":1}}\n'
)


@pytest.fixture
def read(tmp_path):
    """Write bytes to a file whose name says nothing, and load it."""

    def load(content, **options):
        path = tmp_path / "file"
        path.write_bytes(content)
        return load_trace(path, **options)

    return load


def column(trace, name):
    return trace.column(name).to_pylist()


def test_azure_2023_has_seven_digits_and_no_newline_at_its_end(read):
    trace = read(AZURE_2023)

    assert column(trace, "arrived_s") == [0.0, 4.314579, 4.541877]
    assert column(trace, "prompt_tokens") == [374, 396, 879]
    assert column(trace, "output_tokens") == [44, 109, 55]
    assert (trace.report.format, trace.report.time_unit) == ("azure-llm", None)
    assert trace.header.offset_s == pytest.approx(1700158546.68059, abs=1e-6)


def test_azure_2024_has_zones(read):
    trace = read(AZURE_2024)

    assert column(trace, "arrived_s") == [0.0, 1.0, 1.99007]
    assert column(trace, "output_tokens") == [5, 6, 0]


def test_further_azure_columns_go_to_extra(read):
    (entry,) = read(b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 12:00:00.1,2,30,4\n")

    assert entry.request.extra == {"NumImages": "2"}


def test_bailian_has_seconds_blocks_of_16_and_sessions_that_are_chains_of_turns(read):
    first, second, third = read(BAILIAN)
    assert (first.request.id, first.request.arrived_s, first.output_tokens) == ("159", 0.0, 132)
    assert (first.request.blocks, first.request.block_tokens) == ((1089, 1090), 16)
    assert [entry.request.session for entry in (first, second, third)] == ["159"] * 3
    assert [entry.request.turn for entry in (first, second, third)] == [0, 1, 2]
    assert [entry.request.parent for entry in (first, second, third)] == [None, "159", "163"]
    assert second.request.extra == {"type": "search"}
    assert third.request.extra is None


def test_mooncake_has_milliseconds_and_blocks_of_512(read):
    first, second = read(MOONCAKE)

    assert first == TraceEntry(Request("0", 0.0, 700, (0, 1), 512), 500)
    assert (second.request.arrived_s, second.request.blocks) == (3.0, (0, 2))


@pytest.mark.parametrize("content", [BURSTGPT, BURSTGPT_2])
def test_burstgpt_s_failures_are_marked_and_have_the_answer_of_0_tokens_that_was_recorded(read, content):
    answered, failed = read(content)

    assert (answered.output_tokens, answered.observed.failed) == (18, False)
    assert (failed.output_tokens, failed.observed.failed) == (0, True)
    assert (failed.request.arrived_s, failed.request.prompt_tokens, failed.request.model) == (
        pytest.approx(40, abs=0.5),
        1087,
        "GPT-4",
    )
    assert failed.request.extra == {"log_type": "API log"}


def test_burstgpt_columns_are_found_by_name(read):
    first, second = read(BURSTGPT_2)

    assert (first.request.arrived_s, first.request.session, first.observed.e2e_s) == (0.0, "s-1", 2.25)
    assert (second.request.session, second.observed.e2e_s) == (None, None)


def test_vidur_has_seconds(read):
    assert [(e.request.arrived_s, e.request.prompt_tokens, e.output_tokens) for e in read(VIDUR)] == [
        (0.0, 10, 20),
        (1.25, 11, 21),
    ]


def test_splitwise_keeps_its_own_columns_in_extra(read):
    first, _ = read(SPLITWISE)

    assert first.request.id == "0"
    assert (first.request.arrived_s, first.request.prompt_tokens, first.output_tokens) == (0.0, 4096, 32)
    assert first.request.extra == {"application_id": 0, "batch_size": 1, "request_type": 2}


def test_a_measured_run_takes_each_duration_from_one_clock(read):
    whole, single, unfinished = read(MEASURED)

    assert [e.request.arrived_s for e in (whole, single, unfinished)] == [0.0, 1.0, 2.0]
    assert whole.observed == Observed(queue_s=0.25, ttft_s=1.0, tpot_s=0.2, e2e_s=3.0)
    assert single.observed == Observed(queue_s=0.0, ttft_s=0.5, tpot_s=None, e2e_s=0.5)
    assert unfinished.observed is None


def test_a_workload_holds_single_requests_and_sessions(read):
    single, first, second = read(WORKLOAD)

    assert single == TraceEntry(Request("0", 0.0, 33, (0, 1), 16), 5)
    assert first == TraceEntry(Request("task/0", 0.953073192, 14, session="task", turn=0), 3)
    assert second == TraceEntry(
        Request("task/1", 1.203073192, 20, session="task", turn=1, parent="task/0"), 2, think_s=0.25
    )


def test_token_ids_become_hashes_of_full_blocks_that_tell_what_comes_before_them(read):
    single, first, second = read(WORKLOAD_IDS)

    assert (single.request.blocks, single.request.block_tokens) == ((10, 11), 16)
    assert first.request.blocks == (
        10,
        12,
    )  # its second block holds what its first holds, but stands elsewhere
    assert second.request.blocks == (7, 8, 9)  # what has hashes keeps them


def test_a_session_may_take_more_than_the_first_megabyte(read):
    calls = b", ".join([b'{"input_toks": 9, "output_toks": 3, "input_tok_ids": [1, 2, 3]}'] * 30_000)
    trace = read(b'{"session_id": "task", "arrival_time_ns": 1, "sub_requests": [' + calls + b"]}")

    assert len(trace) == 30_000


def test_own_json_lines_may_leave_out_what_is_absent(read):
    first, second = read(OWN)

    assert first == TraceEntry(Request("0", 0.5, 3))
    assert second == TraceEntry(Request("b", 1.0, kind="batch", extra={"x": 1}))


def test_a_parquet_file_of_another_maker_is_read_if_its_columns_fit(tmp_path):
    table = pa.table(
        {"arrived_s": pa.array([1, 0], pa.int32()), "model": ["a", None], "extra": ['{"b":1, "a":2}', None]}
    )
    pa.parquet.write_table(table, tmp_path / "x")

    trace = load_trace(tmp_path / "x")

    assert list(trace) == [
        TraceEntry(Request("1", 0.0)),
        TraceEntry(Request("0", 1.0, model="a", extra={"a": 2, "b": 1})),
    ]
    assert trace.column("extra").to_pylist() == [None, '{"a":2,"b":1}']


ALL = {
    "azure-2023": AZURE_2023,
    "azure-2024": AZURE_2024,
    "bailian": BAILIAN,
    "mooncake": MOONCAKE,
    "burstgpt": BURSTGPT,
    "burstgpt-2": BURSTGPT_2,
    "vidur": VIDUR,
    "splitwise": SPLITWISE,
    "measured": MEASURED,
    "workload": WORKLOAD,
    "workload-ids": WORKLOAD_IDS,
    "own": OWN,
}
every_format = pytest.mark.parametrize("content", ALL.values(), ids=ALL.keys())


@every_format
def test_exactly_one_reader_recognises_a_file(tmp_path, content):
    (tmp_path / "x").write_bytes(content)

    assert sum(reader.sniff(Source(tmp_path / "x")) for reader in FORMATS) == 1


@every_format
@pytest.mark.parametrize(
    "disguise",
    [
        gzip.compress,
        bz2.compress,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        lambda content: content.rstrip(b"\r\n"),
        lambda content: content + b"\n\n",
    ],
    ids=["gzip", "bzip2", "byte-order mark", "CRLF", "no newline", "blank lines"],
)
def test_packing_and_line_ends_do_not_matter(read, content, disguise):
    assert list(read(disguise(content))) == list(read(content))


@every_format
def test_the_report_reconciles_and_row_order_does_not_matter_but_is_counted(read, content):
    lines = content.replace(b"\r\n", b"\n").strip().split(b"\n")
    rows = 0 if lines[0].startswith(b'{"i') or b'timestamp"' in lines[0] or lines[0].startswith(b'{"r') else 1
    turned = b"\n".join(lines[:rows] + lines[rows:][::-1])

    plain, back = read(content), read(turned)

    assert plain.report.reordered == 0
    assert back.report.reordered > 0
    assert back.column("arrived_s").to_pylist() == plain.column("arrived_s").to_pylist()
    assert plain.report.rows_in == plain.report.rows_kept == len(plain)


class Bad(NamedTuple):
    """A good file, made bad in one place, and what the error must say of it."""

    good: bytes
    old: bytes
    new: bytes
    line: int
    column: str
    quoted: str
    rule: str

    @property
    def content(self):
        return self.good.replace(self.old, self.new)


BAD = [
    Bad(AZURE_2023, b"396", b"many", 3, "ContextTokens", '"many" ', "is not a number"),
    Bad(AZURE_2023, b"396", b"", 3, "ContextTokens", "", "is missing"),
    Bad(AZURE_2023, b"396", b"-4", 3, "ContextTokens", "-4 ", "is negative"),
    Bad(AZURE_2023, b"396", b"4.5", 3, "ContextTokens", '"4.5" ', "is not a whole number"),
    Bad(AZURE_2023, b"396", b"1e300", 3, "ContextTokens", '"1e300" ', "is not a whole number"),
    Bad(AZURE_2023, b"396", b"nan", 3, "ContextTokens", '"nan" ', "is not a whole number"),
    Bad(AZURE_2023, b"16 18:15:50", b"31 18:15:50", 3, "TIMESTAMP", '"2023-11-31 18:15:50.9951690" ',
        "is not a time"),
    Bad(AZURE_2023, b"2023-11-16 18:15:46.6805900", b"x", 2, "TIMESTAMP", '"x" ', "is not a time"),
    Bad(AZURE_2023, b",396", b"", 3, "line", "", "has 2 cells"),
    Bad(VIDUR, b"1.5", b"-1.5", 3, "arrived_at", "-1.5 ", "is negative"),
    Bad(VIDUR, b"1.5", b"soon", 3, "arrived_at", '"soon" ', "is not a number"),
    Bad(VIDUR, b"1.5", b"inf", 3, "arrived_at", "inf ", "is not a finite number"),
    Bad(VIDUR, b"1.5", b"", 3, "arrived_at", "", "is missing"),
    Bad(BURSTGPT, b",0,", b",-1,", 3, "Response tokens", "-1 ", "is negative"),
    Bad(BURSTGPT_2, b"2.25", b"?", 2, "Elapsed time", '"?" ', "is not a number"),
    Bad(SPLITWISE, b"\n1,2", b"\n0,2", 3, "request_id", '"0" ', "is the id of an earlier row too"),
    Bad(MOONCAKE, b"513", b"-513", 2, "input_length", "-513 ", "is negative"),
    Bad(MOONCAKE, b"513", b'"many"', 2, "input_length", "", "expected int, got str"),
    Bad(MOONCAKE, b', "output_length": 3', b"", 2, "output_length", "", "is missing"),
    Bad(MOONCAKE, b'"timestamp": 0, ', b"", 1, "timestamp", "", "is missing"),
    Bad(MOONCAKE, b"3000", b"-3000", 2, "timestamp", "-3.0 ", "is negative"),
    Bad(MEASURED, b'20, "output_toks": 11', b"20", 1, "output_toks", "", "is missing"),
    Bad(MEASURED, b'"first_token_ts": 102.0', b'"first_token_ts": 90.0', 2, "observed_ttft_s", "-11.5 ",
        "is negative"),
    Bad(WORKLOAD, b'"input_toks": 33, ', b"", 1, "input_toks", "", "is missing"),
    Bad(WORKLOAD, b'"input_toks": 20', b'"input_toks": -20', 2, "input_toks", "-20 ", "is negative"),
    Bad(OWN, b'"kind":"batch"', b'"kind":"soon"', 3, "kind", "", "invalid enum value 'soon'"),
    Bad(OWN, b'"kind"', b'"kid"', 3, "kid", "", "is not a field of this format"),
    Bad(OWN, b'"arrived_s":1.0,', b"", 3, "arrived_s", "", "is missing"),
    Bad(OWN, b'"arrived_s":1.0', b'"arrived_s":-1.0', 3, "arrived_s", "-1.0 ", "is negative"),
]  # fmt: skip
each_bad_row = pytest.mark.parametrize("bad", BAD)


@each_bad_row
def test_the_first_bad_row_is_named_with_line_column_value_and_rule(read, tmp_path, bad):
    with pytest.raises(TraceError) as error:
        read(bad.content)

    place = "" if bad.column == "line" else f" column `{bad.column}`:"
    assert str(error.value).startswith(f"{tmp_path / 'file'}:{bad.line}:{place} {bad.quoted}{bad.rule}")
    assert error.value.line == bad.line


@each_bad_row
def test_dropped_rows_are_counted_by_reason_and_reconcile(read, bad):
    whole, trace = read(bad.good), read(bad.content, on_bad="drop")

    assert trace.report.dropped == {f"{bad.column} {bad.rule}": 1}
    assert trace.report.rows_in == trace.report.rows_kept + 1 == len(trace) + 1 == len(whole)


def test_a_line_that_is_not_json_is_named_and_counted(read):
    broken = MOONCAKE.replace(b"513", b"")

    with pytest.raises(TraceError, match=r"file:2: is not JSON: "):
        read(broken)
    assert sum(read(broken, on_bad="drop").report.dropped.values()) == 1


def test_an_error_says_what_would_be_right(read):
    with pytest.raises(TraceError, match=r"expected a count of tokens such as 128 "):
        read(AZURE_2023.replace(b"396", b"many"))
    with pytest.raises(TraceError, match=r"expected 3: TIMESTAMP, ContextTokens, GeneratedTokens "):
        read(AZURE_2023.replace(b",396", b""))


def test_of_several_bad_rows_the_first_line_is_named(read):
    content = AZURE_2023.replace(b"879", b"x").replace(b",109", b",-1")

    with pytest.raises(TraceError, match=r"file:3: column `GeneratedTokens`: -1 is negative"):
        read(content)
    with pytest.raises(TraceError, match=r"file:3: has 4 cells"):
        read(content.replace(b"396", b"396,1"))


CELLS = st.sampled_from(["0", "12", "-1", "", "x", "nan", "3.5", "1e9", " 7 ", "2023-11-16 18:15:46"])


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=12))
def test_whatever_the_cells_rows_in_are_rows_kept_and_dropped(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("cells") / "x"
    path.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(",".join(row) + "\n" for row in rows)
    )

    trace = load_trace(path, on_bad="drop")

    blank = sum(row in (["", ""], ["", "", ""]) for row in rows) - sum(row == ["", ""] for row in rows)
    assert trace.report.rows_in == len(rows) - blank
    assert trace.report.rows_in == len(trace) + sum(trace.report.dropped.values())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_random_bytes_are_an_error_or_a_header_alone_and_nothing_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(content)

    rows, said = 0, str(path)
    try:
        rows = len(load_trace(path))
    except TraceError as error:
        said = str(error)
    assert rows == 0
    assert str(path) in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a trace has at least a header line"),
        (b" \n\n", "is empty"),
        (b"a,b,c\n1,2,3\n", 'begins "a,b,c", which is no known format; known: fleetlab-jsonl'),
        (gzip.compress(AZURE_2023)[:-9], "is damaged"),
        (b"\x1f\x8b" + bytes(20), "is damaged"),
        (b"BZh9" + bytes(20), "is damaged"),
        (b"PAR1" + bytes(20), "is damaged"),
        (b"12 40 31\n", "holds rates, not requests; sample requests from it"),
        (b'{"faults": []}', "holds faults, not requests; read it with load_faults()"),
        (b'{"metadata": {"gap_seconds": 60}, "data": [1]}', "holds faults, not requests"),
        (b'{"fleetlab_trace":2,"header":{"source":"x"}}\n', "the heading is wrong: Invalid enum value 2"),
        (b'{"fleetlab_trace":1}\n', "the heading is wrong: Object missing required field `header`"),
        (b"TIMESTAMP,ContextTokens,ContextTokens,GeneratedTokens\n", "two columns have one name"),
        (b"arrived_at,num_prefill_tokens,num_decode_tokens\n\xff\xfe,1,2\n", "is not CSV"),
    ],
)
def test_a_file_that_is_no_trace_is_one_clear_error(read, content, message):
    with pytest.raises(TraceError) as error:
        read(content)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [AZURE_2023, VIDUR, BURSTGPT, SPLITWISE])
def test_a_header_alone_is_an_empty_trace(read, content):
    assert len(read(content.split(b"\n")[0])) == 0


def test_a_missing_file_a_folder_and_an_unknown_name_are_errors_that_help(tmp_path):
    with pytest.raises(TraceError, match="No such file or directory; give a path to a trace file"):
        load_trace(tmp_path / "nothing.csv")
    with pytest.raises(TraceError, match="Is a directory"):
        load_trace(tmp_path)
    with pytest.raises(TraceError, match="bundled traces are chat-small, demo-surge, surge-reference"):
        load_trace("surge-refrence")


def test_a_foreign_parquet_file_without_arrivals_is_an_error(tmp_path):
    for columns, message in (
        ({"a": [1]}, "column `a`: is not a column"),
        ({"model": ["m"]}, "`arrived_s`: is missing"),
    ):
        pa.parquet.write_table(pa.table(columns), tmp_path / "x")
        with pytest.raises(TraceError, match=message):
            load_trace(tmp_path / "x")


def test_a_bad_row_of_parquet_is_named_by_number(tmp_path):
    pa.parquet.write_table(pa.table({"arrived_s": [0.0, None], "extra": ["{}", None]}), tmp_path / "x")
    with pytest.raises(TraceError, match=r"x:2: column `arrived_s`: .*is missing"):
        load_trace(tmp_path / "x")
    pa.parquet.write_table(pa.table({"arrived_s": [0.0], "extra": ["[1]"]}), tmp_path / "x")
    with pytest.raises(TraceError, match=r'x:1: column `extra`: "\[1\]" is not a JSON object'):
        load_trace(tmp_path / "x")
