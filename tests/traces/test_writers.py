"""Traces in the layouts of others: what is written, value by value, and that reading it back gives what they hold."""

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from traces import Header, Observed, Request, Slo, Trace, TraceEntry, TraceError, load_trace, save_trace
from traces.columns import COLUMNS
from traces.files import replacing
from traces.writers import LAYOUTS
from traces.writers.mooncake import HOLDS as MOONCAKE

# 2023-11-16 18:15:46 UTC, as Azure's trace of 2023 begins.
DATED = Header(source="made up", offset_s=1_700_158_546.0, provenance="synthetic")


def entry(id="0", arrived_s=0.0, prompt_tokens=600, output_tokens=9, **more):
    return TraceEntry(Request(id, arrived_s, prompt_tokens, **more), output_tokens)


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


# --- what is written -----------------------------------------------------------------------------------------


def test_azures_layout_has_seven_digits_after_the_second(tmp_path):
    trace = Trace.from_entries([entry(), entry("1", 1.3141592, 32, 0), entry("2", 60.00000004)], DATED)

    report = save_trace(trace, tmp_path / "azure.csv", format="azure")

    assert lines_of(tmp_path / "azure.csv") == [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.0000000,600,9",
        "2023-11-16 18:15:47.3141592,32,0",
        "2023-11-16 18:16:46.0000000,600,9",
    ]
    assert report.changed == {"arrived_s rounded to 100 ns": 1}
    assert not report.not_kept


def test_without_a_date_azures_layout_begins_in_1970(tmp_path):
    save_trace(Trace.from_entries([entry(arrived_s=86_400.5)]), tmp_path / "x.csv", format="azure")
    assert lines_of(tmp_path / "x.csv")[1] == "1970-01-02 00:00:00.5000000,600,9"


def test_a_time_beyond_the_calendar_is_refused(tmp_path):
    trace = Trace.from_entries([entry()], Header(source="made up", offset_s=1e10))
    with pytest.raises(TraceError, match="is no date"):
        save_trace(trace, tmp_path / "x.csv", format="azure")
    assert not list(tmp_path.iterdir())


def test_vidurs_layout_is_seconds_and_two_lengths(tmp_path):
    save_trace(Trace.from_entries([entry(), entry("1", 0.1, 32, 0)]), tmp_path / "x.csv", format="vidur")
    assert lines_of(tmp_path / "x.csv") == [
        "arrived_at,num_prefill_tokens,num_decode_tokens", "0,600,9", "0.1,32,0",
    ]  # fmt: skip


def test_mooncakes_layout_has_only_what_a_row_has(tmp_path):
    trace = Trace.from_entries(
        [entry(blocks=(7, 8), block_tokens=512), entry("1", 3.0014, 100, 0), entry("2", 3.002)]
    )
    report = save_trace(trace, tmp_path / "x.jsonl", format="mooncake")

    assert [msgspec.json.decode(line) for line in lines_of(tmp_path / "x.jsonl")] == [
        {"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [7, 8]},
        {"timestamp": 3001, "input_length": 100, "output_length": 0},
        {"timestamp": 3002, "input_length": 600, "output_length": 9},
    ]
    assert report.changed == {"arrived_s rounded to whole ms": 1}


def test_mooncakes_family_has_names_for_sessions(tmp_path):
    first = entry("a", session="s", model="chat", priority=2)
    second = TraceEntry(Request("b", 2.0, 700, session="s", parent="a"), 5, think_s=1.5)

    save_trace(Trace.from_entries([first, second]), tmp_path / "x.jsonl", format="mooncake")

    lengths = {"input_length": 600, "output_length": 9}
    assert [msgspec.json.decode(line) for line in lines_of(tmp_path / "x.jsonl")] == [
        {"timestamp": 0, **lengths, "request_id": "a", "session_id": "s", "priority": 2, "model": "chat"},
        {"timestamp": 2000, "input_length": 700, "output_length": 5, "request_id": "b", "session_id": "s",
         "delay": 1500, "wait_for": ["a"]},
    ]  # fmt: skip


def test_a_started_block_without_a_hash_is_given_one_that_nothing_shares(tmp_path):
    rows = [
        entry("0", 0.0, 40, blocks=(0, 2), block_tokens=16),
        entry("1", 1.0, 33, blocks=(0, 2), block_tokens=16),
    ]
    report = save_trace(Trace.from_entries(rows), tmp_path / "x.jsonl", format="mooncake")

    hashes = [msgspec.json.decode(line)["hash_ids"] for line in lines_of(tmp_path / "x.jsonl")]
    assert hashes == [[0, 2, 1], [0, 2, 3]]
    assert report.changed["blocks given a hash for the started block at the end, which had none"] == 2
    assert any("--block-tokens" in what for what in report.changed)
    assert load_trace(tmp_path / "x.jsonl", block_tokens=16, time_unit="ms").report.block_tokens == 16


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([entry(blocks=(1, 2, 3), block_tokens=512)], "has 3 hashes for 600 tokens in blocks of 512"),
        ([entry(blocks=(1, 2), block_tokens=512), entry("1", 1.0, blocks=(1,), block_tokens=1024)],
         "are of 512, 1024 tokens"),
    ],
)  # fmt: skip
def test_hashes_that_are_not_one_a_block_are_refused(rows, says, tmp_path):
    with pytest.raises(TraceError, match=says):
        save_trace(Trace.from_entries(rows), tmp_path / "x.jsonl", format="mooncake")


def test_csv_has_every_column_and_text_that_csv_would_lose_as_json(tmp_path):
    odd = TraceEntry(
        Request("a,b", 0.5, 7, blocks=(1, -2), block_tokens=4, tenant=" x\n", user="", session='"',
                slo=Slo(ttft_s=0.2), extra={"k": "v"}),
        3, Observed(failed=True),
    )  # fmt: skip
    plain = entry("b", 1.0, session="s 1")

    save_trace(Trace.from_entries([odd, plain]), tmp_path / "x.csv", format="csv")

    assert lines_of(tmp_path / "x.csv") == [
        "arrived_s,id,prompt_tokens,output_tokens,blocks,block_tokens,session,tenant,user,slo_ttft_s,observed_failed,extra",
        '0.5,"a,b",7,3,"[1,-2]",4,"""\\""""",""" x\\n""","""""",0.2,true,"{""k"":""v""}"',
        "1.0,b,600,9,,,s 1,,,,,",
    ]


def test_what_a_format_has_no_place_for_is_counted_by_name(tmp_path):
    rows = [entry("a", deadline_s=2.0, tenant="t"), entry("1", 1.0, tenant="t")]
    report = save_trace(Trace.from_entries(rows), tmp_path / "x.csv", format="vidur")
    assert report.not_kept == {"id": 1, "tenant": 2, "deadline_s": 1}
    assert not report.header_kept


@pytest.mark.parametrize("format", ["mooncake", "azure", "vidur"])
def test_a_row_without_a_length_is_named(format, tmp_path):
    rows = [entry("a"), entry("b", 1.0, output_tokens=None)]
    with pytest.raises(TraceError, match=r"column `output_tokens`: is absent in 1 of 2 rows, .* request 'b'"):
        save_trace(Trace.from_entries(rows), tmp_path / "x", format=format)
    assert not list(tmp_path.iterdir())


def test_a_format_that_is_none_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(TraceError, match="known: mooncake, azure, vidur, csv"):
        save_trace(Trace.from_entries([entry()]), tmp_path / "x", format="excel")


# --- and read back -------------------------------------------------------------------------------------------

LENGTHS = st.integers(0, 2**40)
TICKED = st.integers(0, 10**9)


@st.composite
def with_lengths(draw, per_s=None):
    """A trace of which each row has both lengths, and times that a clock of `per_s` ticks a second shows."""
    entries = [
        msgspec.structs.replace(
            one,
            request=msgspec.structs.replace(
                one.request, prompt_tokens=draw(LENGTHS), blocks=None, parent=None,
                arrived_s=draw(TICKED) / per_s if per_s else one.request.arrived_s,
            ),
            output_tokens=draw(LENGTHS),
            think_s=draw(TICKED) / (per_s or 1),
        )
        for one in draw(strategies.entries.filter(bool))
    ]  # fmt: skip
    return Trace.from_entries(entries)


def read_back(trace, folder, format, **told):
    save_trace(trace, folder / f"x.{format}", format=format)
    return load_trace(folder / f"x.{format}", **told)


def assert_holds(back, trace, columns):
    shifted = trace.table["arrived_s"].to_numpy() - trace.start_s
    assert np.array_equal(back.table["arrived_s"].to_numpy(), shifted)
    for name in columns - {"arrived_s"}:
        assert back.column(name).to_pylist() == trace.column(name).to_pylist(), name


@strategies.few
@given(strategies.traces)
def test_csv_gives_back_every_column_of_any_trace(tmp_path_factory, trace):
    back = read_back(trace, tmp_path_factory.mktemp("csv"), "csv")
    assert_holds(back, trace, COLUMNS.keys())


@strategies.few
@given(with_lengths())
def test_vidurs_layout_gives_back_times_and_lengths(tmp_path_factory, trace):
    back = read_back(trace, tmp_path_factory.mktemp("vidur"), "vidur")
    assert_holds(back, trace, {"arrived_s", "prompt_tokens", "output_tokens"})


@strategies.few
@given(with_lengths(per_s=1000))
def test_azures_layout_gives_back_times_and_lengths(tmp_path_factory, trace):
    dated = Trace(trace.table, DATED)
    back = read_back(dated, tmp_path_factory.mktemp("azure"), "azure")
    assert back.table["prompt_tokens"].to_pylist() == trace.table["prompt_tokens"].to_pylist()
    assert back.table["output_tokens"].to_pylist() == trace.table["output_tokens"].to_pylist()
    since_first_ms = np.rint((trace.table["arrived_s"].to_numpy() - trace.start_s) * 1e3)
    assert np.array_equal(back.table["arrived_s"].to_numpy(), since_first_ms / 1e3)
    assert back.header.offset_s == pytest.approx(DATED.offset_s + trace.start_s, abs=1e-6)


@strategies.few
@given(with_lengths(per_s=1000))
def test_mooncakes_layout_gives_back_times_and_lengths(tmp_path_factory, trace):
    back = read_back(trace, tmp_path_factory.mktemp("mooncake"), "mooncake", time_unit="ms")
    for name in ("prompt_tokens", "output_tokens", "session", "priority", "model"):
        assert back.column(name).to_pylist() == trace.column(name).to_pylist()
    since_first_ms = np.rint((trace.table["arrived_s"].to_numpy() - trace.start_s) * 1e3)
    assert np.array_equal(back.table["arrived_s"].to_numpy(), since_first_ms / 1e3)


def test_blocks_come_back_from_mooncakes_layout(tmp_path):
    trace = load_trace("chat-small").first(requests=200)
    back = read_back(trace, tmp_path, "mooncake", time_unit="ms", block_tokens=64)
    shared = [blocks[: tokens // 64] for blocks, tokens in zip(
        back.column("blocks").to_pylist(), back.column("prompt_tokens").to_pylist(), strict=True)]  # fmt: skip
    assert shared == [blocks[: tokens // 64] for blocks, tokens in zip(
        trace.column("blocks").to_pylist(), trace.column("prompt_tokens").to_pylist(), strict=True)]  # fmt: skip


@pytest.mark.traces
def test_azures_own_file_is_written_as_it_was(shared_trace, tmp_path):
    path = shared_trace("azure-llm-2023/AzureLLMInferenceTrace_conv.csv")
    trace = load_trace(path)
    back = read_back(trace, tmp_path, "azure")
    assert back.sha256 == trace.sha256
    ours, theirs = lines_of(tmp_path / "x.azure"), lines_of(path)
    assert [line.split(",")[1:] for line in ours] == [line.split(",")[1:] for line in theirs]
    assert ours[1].split(".")[0] == theirs[1].split(".")[0]


@pytest.mark.traces
def test_mooncakes_own_file_is_written_as_it_was(shared_trace, tmp_path):
    path = shared_trace("mooncake/conversation_trace.jsonl")
    save_trace(load_trace(path), tmp_path / "x.jsonl", format="mooncake")
    ours = [msgspec.json.decode(line) for line in lines_of(tmp_path / "x.jsonl")]
    assert ours == [msgspec.json.decode(line) for line in lines_of(path)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.NAME)
def test_a_name_that_ends_in_gz_is_packed_and_the_same_twice(layout, tmp_path):
    trace = Trace.from_entries([entry(), entry("1", 2.5)])
    for name in ("plain", "a.gz", "b.gz"):
        save_trace(trace, tmp_path / name, format=layout.NAME)
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == (tmp_path / "plain").read_bytes()
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("0.5,a,many", '"many" is not a number'),
        ("0.5,a,-3", "is negative"),
        ('0.5,"""a",3', "is no JSON string"),
        ("0.5,,3\n0.5,,3", None),
    ],
)
def test_a_bad_cell_of_our_csv_is_named_with_its_line(cells, says, tmp_path):
    (tmp_path / "x.csv").write_text(f"arrived_s,id,prompt_tokens\n{cells}\n")
    if says is None:  # ids that are absent are the rows' numbers
        assert [one.request.id for one in load_trace(tmp_path / "x.csv")] == ["0", "1"]
        return
    with pytest.raises(TraceError, match=rf"x.csv:2: .*{says}"):
        load_trace(tmp_path / "x.csv")


def test_mooncakes_names_cover_what_it_holds():
    assert {"session", "parent", "think_s", "priority", "model", "id"} <= MOONCAKE <= COLUMNS.keys()


# --- files that are whole or not there -----------------------------------------------------------------------


def test_what_fails_half_way_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", "no bytes"])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_name_of_the_file():
    with pytest.raises(OSError, match="No space left on device") as caught, replacing("/dev/full") as file:
        file.write(b"x" * 1_000_000)
    assert caught.value.filename == "/dev/full"


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "after"


def test_a_folder_that_is_not_there_is_told_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught, replacing(tmp_path / "no" / "x"):
        pass
    assert Path(caught.value.filename) == tmp_path / "no" / "x"
