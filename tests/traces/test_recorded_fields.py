"""Nothing that a file says is lost in silence: fields, failures, lines without requests, and where it comes from."""

import gzip
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.test_trace import of
from tests.traces.writing import FOREIGN, csv, json_lines, mooncake
from traces import Header, Observed, Trace, TraceError, describe, load_trace, merge, save_trace
from traces.published import PUBLISHED
from traces.readers.further import SAME

every_format = pytest.mark.parametrize("name", FOREIGN)


def column(trace, name):
    return trace.column(name).to_pylist()


def widened(content, **more):
    """The same file, with a further field or column in every row."""
    if not content.startswith(b"{"):
        header, *rows = content.decode().splitlines()
        return csv(",".join([header, *more]), [[row, *more.values()] for row in rows])
    return json_lines(msgspec.json.decode(line) | more for line in content.splitlines())


# --- fields ---------------------------------------------------------------------------------------------------


@every_format
def test_fields_that_mean_what_a_column_means_are_that_column(reading, name):
    trace = reading(widened(FOREIGN[name]([0, 3]), session_id="s1", priority=2, tenant="t"))

    assert (column(trace, "session"), column(trace, "priority"), column(trace, "tenant")) in (
        (["s1"] * 2, [2] * 2, ["t"] * 2),
        (["0", "1"], [2] * 2, ["t"] * 2),  # Bailian has sessions of its own
    )
    kept = trace.report.in_extra
    assert set(kept) <= {"session_id", "log_type"}
    assert ("session_id" in kept) == (name == "bailian")


@every_format
def test_other_fields_go_to_extra_and_are_named(reading, name):
    entries = [*reading(widened(FOREIGN[name]([0, 3]), delay=250, region="eu"))]
    report = reading(widened(FOREIGN[name]([0, 3]), delay=250, region="eu")).report

    number = (
        250 if msgspec.json.encode(entries[0].request.extra).find(b'"250"') < 0 else "250"
    )  # CSV has text
    assert all(entry.request.extra.items() >= {"delay": number, "region": "eu"}.items() for entry in entries)
    assert (report.in_extra["delay"], report.in_extra["region"]) == (2, 2)


def test_another_tool_s_fields_in_mooncake_keys_are_kept(reading):
    trace = reading(mooncake([0, 4], session_id="s0", delay=3500, priority=1, model="m0"))

    (first, _) = trace
    assert (first.request.session, first.request.priority, first.request.model) == ("s0", 1, "m0")
    assert first.request.extra == {"delay": 3500}
    assert (trace.report.in_extra, trace.report.not_kept) == ({"delay": 1}, {})
    assert column(trace, "think_s") == [None, 3.5]  # of the second turn it is a column


def test_vidur_s_further_columns_are_kept(reading):
    trace = reading(
        b"arrived_at,num_prefill_tokens,num_decode_tokens,session_id,block_hash_ids,pd_ratio\n"
        b'0.0,100,10,s1,"[1,2]",10\n'
        b"0.5,200,10,,,20\n"
    )

    assert column(trace, "session") == ["s1", None]
    assert [e.request.extra for e in trace] == [
        {"block_hash_ids": "[1,2]", "pd_ratio": "10"},
        {"pd_ratio": "20"},
    ]
    assert trace.report.in_extra == {"block_hash_ids": 1, "pd_ratio": 2}


def test_what_does_not_fit_a_column_stays_in_extra(reading):
    trace = reading(mooncake([0], priority="high", session_id=7, user=["a"], tenant=True, model=1.5))

    (entry,) = trace
    assert entry.request.session == "7"
    assert entry.request.user == '["a"]'  # a list is kept as the text that it is
    assert entry.request.extra == {"priority": "high", "tenant": True, "model": 1.5}


def test_true_one_and_one_point_nought_are_three_values(reading):
    trace = reading(b"".join(mooncake([3 * n], x=value) for n, value in enumerate([1, True, 1.0, False, 0])))

    assert column(trace, "extra") == ['{"x":1}', '{"x":true}', '{"x":1.0}', '{"x":false}', '{"x":0}']


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda name: name not in {"timestamp", "input_length", "output_length", "hash_ids", *SAME}
)


@strategies.few
@given(st.lists(st.dictionaries(NAMES, JSON, max_size=3), min_size=1, max_size=4))
def test_whatever_a_row_has_besides_is_in_extra_or_absent(reading, tmp_path_factory, rows):
    base = {"timestamp": 0, "input_length": 1, "output_length": 1}
    content = b"".join(json.dumps(base | row).encode() + b"\n" for row in rows)
    trace = reading(content)

    for row, entry in zip(rows, trace, strict=True):
        extra = entry.request.extra or {}
        present = {name: value for name, value in row.items() if value is not None}
        columns = [name for name in present if name.lower().replace(" ", "_") in SAME]
        assert set(extra) >= set(present) - set(columns)
        for name in set(present) & set(extra):
            plain = extra[name] == present[name] and type(extra[name]) is type(present[name])
            assert plain or json.loads(extra[name]) == present[name]
    path = tmp_path_factory.mktemp("besides") / "x.jsonl"
    save_trace(trace, path)
    assert load_trace(path) == trace


def test_token_ids_are_not_kept_and_counted(reading):
    trace = reading(
        b'{"input_toks": 2, "output_toks": 1, "arrival_time_ns": 0, "input_tok_ids": [1, 2], "output_tok_ids": [3]}\n'
        b'{"session_id": "s", "arrival_time_ns": 5, "task": "fix", "sub_requests": ['
        b'{"input_toks": 2, "output_toks": 1, "output_tok_ids": [3], "tool": "grep"}, '
        b'{"input_toks": 3, "output_toks": 1, "task": "test"}]}\n'
    )

    assert trace.report.not_kept == {"input_tok_ids": 1, "output_tok_ids": 2}
    assert [e.request.extra for e in trace] == [None, {"task": "fix", "tool": "grep"}, {"task": "test"}]


def test_burstgpt_s_totals_are_kept_where_they_are_not_the_sum(reading):
    trace = reading(
        csv(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens",
            [(0, "m", 5, 4, 9), (1, "m", 5, 4, 0), (2, "m", 5, 4, "")],
        )
    )

    assert [e.request.extra for e in trace] == [None, {"Total tokens": "0"}, None]


def test_what_a_turn_does_not_say_of_its_conversation_stays_absent(reading):
    base = {"timestamp": 0, "input_length": 9, "output_length": 4}
    rows = [
        {"chat_id": 1},
        {"chat_id": 2},
        {"chat_id": 3, "parent_chat_id": 2},
        {"chat_id": 4, "parent_chat_id": -1, "turn": 1},
    ]
    trace = reading(json_lines(base | row for row in rows))

    assert column(trace, "session") == [None, "2", "2", "4"]
    assert column(trace, "turn") == [None, None, None, 0]
    assert column(trace, "parent") == [None, None, "2", None]


def test_a_call_that_does_not_say_how_long_its_tool_took_has_no_think_time(reading):
    call = {"input_toks": 2, "output_toks": 1}
    line = {"arrival_time_ns": 5, "sub_requests": [call, call | {"tool_duration_ns": 0}, call]}

    assert column(reading(json_lines([line])), "think_s") == [None, None, 0.0]


# --- failures -------------------------------------------------------------------------------------------------

BURST = csv(
    "Timestamp,Model,Request tokens,Response tokens",
    [(10, "m", 100, 20), (11, "m", 100, 0), (12, "m", 100, 30), (13, "m", 100, 0)],
)


def test_failed_requests_are_kept_as_recorded_and_counted(reading):
    for options in ({}, {"failed": "keep"}):
        trace = reading(BURST, **options)

        assert column(trace, "output_tokens") == [20, 0, 30, 0]
        assert [e.observed for e in trace] == [Observed(failed=failed) for failed in (False, True) * 2]
        assert (trace.report.failed, describe(trace).failed) == (2, 2)
        assert (trace.report.rows_in, trace.report.rows_kept, trace.report.dropped) == (4, 4, {})


def test_failed_requests_are_left_out_where_it_is_asked_for_and_the_header_says_so(reading, tmp_path):
    trace = reading(BURST, failed="drop")

    assert column(trace, "output_tokens") == [20, 30]
    assert (trace.report.failed, trace.report.dropped) == (2, {"failed when recorded": 2})
    (step,) = trace.header.transforms
    assert (step.name, step.parameters) == ("read", {"failed": "drop", "failed_rows": 2})
    save_trace(trace, tmp_path / "x.parquet")
    assert load_trace(tmp_path / "x.parquet") == trace


def test_failures_in_our_own_formats_are_left_out_too(reading, tmp_path):
    save_trace(reading(BURST), tmp_path / "x.jsonl")

    assert load_trace(tmp_path / "x.jsonl").report.failed == 2
    assert len(load_trace(tmp_path / "x.jsonl", failed="drop")) == 2


@every_format
def test_an_answer_of_no_tokens_is_recorded_as_that(reading, name):
    (entry,) = reading(FOREIGN[name]([0]).replace(b"9", b"0", 1) if name == "mooncake" else zeroed(name))

    assert entry.output_tokens == 0


def zeroed(name):
    """One request that was answered with no tokens."""
    content = FOREIGN[name]([0])
    return content.replace(b":9", b":0") if content.startswith(b"{") else content.replace(b"600,9", b"600,0")


def test_an_absent_length_stays_absent(tmp_path):
    save_trace(of(0.0, 1.0, output_tokens=[None, 0]), tmp_path / "x.jsonl")

    assert column(load_trace(tmp_path / "x.jsonl"), "output_tokens") == [None, 0]


# --- rows -----------------------------------------------------------------------------------------------------


def test_a_session_without_a_call_is_counted(reading):
    trace = reading(
        b'{"session_id": "a", "arrival_time_ns": 1000, "sub_requests": [{"input_toks": 64, "output_toks": 8}]}\n'
        b'{"session_id": "b", "arrival_time_ns": 2000, "sub_requests": []}\n'
        b'{"input_toks": 10, "output_toks": 5, "arrival_time_ns": 3000}\n'
    )

    assert (trace.report.rows_in, trace.report.rows_kept) == (3, 2)
    assert trace.report.dropped == {"sub_requests is empty": 1}
    assert trace.header.transforms == ()  # no request was left out


CALLS = st.lists(st.sampled_from([{"input_toks": 1, "output_toks": 1}, {"input_toks": -1, "output_toks": 1}]))


@strategies.few
@given(st.lists(CALLS | st.sampled_from(["single", "broken", "negative"]), min_size=1, max_size=8))
def test_rows_in_are_rows_kept_and_dropped_whatever_a_workload_holds(reading, lines):
    text = {
        "single": b'{"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0}',
        "negative": b'{"input_toks": -1, "output_toks": 1, "arrival_time_ns": 0}',
        "broken": b'{"input_toks": ',
    }
    content = [
        text[line]
        if isinstance(line, str)
        else msgspec.json.encode({"session_id": f"{n}", "arrival_time_ns": 5, "sub_requests": line})
        for n, line in enumerate(lines)
    ]
    report = reading(text["single"] + b"\n" + b"\n".join(content), on_bad="drop").report

    assert report.rows_in == 1 + sum(1 if isinstance(line, str) else max(1, len(line)) for line in lines)
    assert report.rows_in == report.rows_kept + sum(report.dropped.values())
    assert report.dropped.get("sub_requests is empty", 0) == lines.count([])


# --- where it comes from --------------------------------------------------------------------------------------


@every_format
def test_a_file_that_is_not_a_published_one_has_no_licence(reading, tmp_path, name):
    trace = reading(FOREIGN[name]([0, 3]))
    save_trace(trace.first(requests=1), tmp_path / "x.jsonl")

    for header in (trace.header, load_trace(tmp_path / "x.jsonl").header):
        assert (header.licence, header.citation, header.provenance) == (None, None, "unknown")
        assert header.source.startswith("unknown source in ")


def test_an_unmarked_parquet_file_and_a_bare_heading_say_nothing_of_a_recording(reading, tmp_path):
    save_trace(of(5.0, 6.0), tmp_path / "x.parquet")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "x.parquet").replace_schema_metadata(None)
    pyarrow.parquet.write_table(table, tmp_path / "y.parquet")
    foreign = load_trace(tmp_path / "y.parquet")

    assert (foreign.header.provenance, foreign.header.offset_s, foreign.start_s) == ("unknown", 5.0, 0.0)
    bare = reading(b'{"fleetlab_trace":1,"header":{"source":"by hand"}}\n{"arrived_s":0.5}\n')
    assert bare.header.provenance == "unknown"


@pytest.mark.traces
@pytest.mark.parametrize(
    ("name", "licence", "provenance"),
    [
        ("mooncake/conversation_trace.jsonl", "Apache-2.0", "recorded"),
        ("azure-llm-2023/AzureLLMInferenceTrace_conv.csv", "CC-BY-4.0", "recorded"),
        ("splitwise/test_trace.csv", "MIT", "synthetic"),
        ("llmservingsim/rtx4090-llama-3.1-8b/measured/requests.jsonl", "MIT", "recorded"),
        ("llmservingsim/sharegpt-llama-3.1-8b-300-sps10.lengths.jsonl.gz", "MIT", "derived"),
    ],
)
def test_a_published_file_is_known_packed_or_not_and_a_cut_of_it_is_not(
    shared_trace, reading, name, licence, provenance
):
    content = shared_trace(name).read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content

    for packed in (content, gzip.compress(content, compresslevel=1)):
        header = reading(packed).header
        assert (header.licence, header.provenance) == (licence, provenance)
        assert header.citation
    cut = b"\n".join(content.split(b"\n")[:3])
    assert (reading(cut).header.licence, reading(cut).header.provenance) == (None, "unknown")


def test_every_published_file_has_a_hash_a_licence_and_a_citation():
    for sha256, header in PUBLISHED.items():
        assert (len(sha256), header.licence is None, header.citation is None) == (64, False, False)
        assert int(sha256, 16)


def test_a_part_of_a_recording_is_derived_from_it(monkeypatch, reading):
    import hashlib

    known = Header(source="a recording", licence="MIT", provenance="recorded")
    monkeypatch.setitem(PUBLISHED, hashlib.sha256(BURST).hexdigest(), known)

    assert reading(BURST).header.provenance == reading(BURST, failed="keep").header.provenance == "recorded"
    part = reading(BURST, failed="drop").header
    assert (part.provenance, part.licence, part.source) == ("derived", "MIT", "a recording")


def test_a_merge_claims_only_what_holds_for_all_of_it():
    known = Header(source="a", licence="MIT", citation="A", provenance="recorded")
    a, b = Trace(of(0.0).table, known), Trace(of(1.0).table, Header(source="b"))

    header = merge(a, b).header

    assert (header.licence, header.citation, header.provenance) == (None, "A", "unknown")


def test_two_unknown_files_of_one_name_do_not_share_prefixes(tmp_path):
    for folder, length in (("a", 5), ("b", 6)):
        (tmp_path / folder).mkdir()
        line = {"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": [0]}
        (tmp_path / folder / "x.jsonl").write_bytes(json_lines([line]))
    a, b = (load_trace(tmp_path / folder / "x.jsonl") for folder in "ab")

    assert column(merge(a, b), "blocks") == [[0], [1]]
    assert column(merge(a, a.first(requests=1)), "blocks") == [[0], [0]]


# --- errors ---------------------------------------------------------------------------------------------------


def test_an_error_names_the_format_that_was_assumed_and_how_to_say_another(reading):
    content = mooncake([0, 3]).replace(b"600", b"-1", 1)

    with pytest.raises(
        TraceError, match=r"\(read as mooncake; format= or --format names another\)$"
    ) as error:
        reading(content)
    assert error.value.format == "mooncake"


def test_a_format_may_be_told(reading):
    both = widened(
        FOREIGN["vidur"]([5, 8]), TIMESTAMP="2023-11-16 18:15:46", ContextTokens=7, GeneratedTokens=2
    )

    with pytest.raises(TraceError, match=r"may be azure-llm or vidur; say which with format= \(--format\)"):
        reading(both)
    told = reading(both, format="vidur")
    assert (told.report.format, column(told, "prompt_tokens")) == ("vidur", [600, 600])
    with pytest.raises(TraceError, match=r"there is no format 'vidor'; known: fleetlab-jsonl, "):
        reading(both, format="vidor")
    with pytest.raises(
        TraceError, match=r"column `arrival_timestamp`: is missing; there are arrived_at, .*splitwise"
    ):
        reading(both, format="splitwise")
