"""Runs as vLLM's and AIPerf's results and as CSV: the values of a tiny run, one by one."""

import csv
import io

import msgspec
import pyarrow as pa
import pyarrow.csv
import pytest

from fleet import load_run, simulate
from fleet.exports import FORMATS, save_as
from tests.simulation.building import trace_of
from tests.simulation.building_tokens import asks, serving
from tests.telemetry.building import Told


def tiny():
    """Two answers token by token, the second of one token; a refusal; one that has no answer at the end."""
    told = Told()
    told.request(arrived_s=1.0, ended_s=4.0, tokens=5, prompt_tokens=100, session="s", turn=0)
    told.request(arrived_s=2.0, ended_s=2.5, tokens=1, prompt_tokens=50, session="s", turn=1)
    told.request("rejected", None, arrived_s=3.0, ended_s=3.25, prompt_tokens=70)
    told.request(None, arrived_s=9.0, prompt_tokens=30)
    run = told.run(ended_s=10.0)
    for name, values in (("ttft_s", [1.0, 0.5, None, None]), ("tpot_s", [0.5, None, None, None])):
        place = run.records.column_names.index(name)
        run.records = run.records.set_column(place, name, pa.array(values, pa.float64()))
    return run


def exported(run, format, folder):
    report = save_as(run, folder / "out", format)
    return (folder / "out").read_bytes(), report


# --- vLLM ----------------------------------------------------------------------------------------------------


def test_vllms_result_counts_what_was_answered(tmp_path):
    data, report = exported(tiny(), "vllm-bench", tmp_path)
    result = msgspec.json.decode(data)

    assert (result["completed"], result["failed"], result["num_prompts"]) == (2, 2, 4)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (150, 6)
    assert result["duration"] == 10.0
    assert result["request_throughput"] == 0.2
    assert result["output_throughput"] == 0.6
    assert result["total_token_throughput"] == 15.6
    assert result["request_goodput"] is None  # nobody had an objective
    assert report.written == 4


def test_vllms_result_has_one_value_a_request_in_each_list(tmp_path):
    result = msgspec.json.decode(exported(tiny(), "vllm-bench", tmp_path)[0])
    assert result["input_lens"] == [100, 50, 70, 30]
    assert result["output_lens"] == [5, 1, 0, 0]
    assert result["start_times"] == [1.0, 2.0, 3.0, 9.0]
    assert result["ttfts"] == [1.0, 0.5, 0.0, 0.0]
    assert result["latencies"] == [3.0, 0.5, 0.0, 0.0]
    assert result["errors"] == ["", "", "rejected", "no answer when the run ended"]


def test_vllms_statistics_are_in_ms_and_of_what_was_answered(tmp_path):
    result = msgspec.json.decode(exported(tiny(), "vllm-bench", tmp_path)[0])
    assert (result["mean_ttft_ms"], result["median_ttft_ms"], result["std_ttft_ms"]) == (750.0, 750.0, 250.0)
    assert result["p99_ttft_ms"] == pytest.approx(995.0)
    assert result["mean_tpot_ms"] == 500.0
    assert result["mean_e2el_ms"] == 1750.0


def test_what_is_not_recorded_is_not_made_up_and_is_named(tmp_path):
    data, report = exported(tiny(), "vllm-bench", tmp_path)
    absent = {"itls", "mean_itl_ms", "generated_texts", "queue_times", "max_concurrent_requests", "date"}
    assert absent.isdisjoint(msgspec.json.decode(data))
    assert {"itls", "session", "turn", "replica"} <= set(report.not_kept)


def test_whole_answers_have_vllms_fields_for_pooling_models(tmp_path):
    run = Told().request(arrived_s=1.0, ended_s=4.0, prompt_tokens=7).run()
    result = msgspec.json.decode(exported(run, "vllm-bench", tmp_path)[0])
    assert (result["input_lens"], result["latencies"], result["total_input_tokens"]) == ([7], [3.0], 7)
    assert {"ttfts", "output_lens", "total_output_tokens", "mean_ttft_ms"}.isdisjoint(result)


def test_a_run_without_prompt_lengths_is_no_result_of_vllms(tmp_path):
    run = Told().request(prompt_tokens=7).request(arrived_s=1.0).run()
    with pytest.raises(ValueError, match="1 of 2 requests have no prompt_tokens, the first being 'r1'"):
        exported(run, "vllm-bench", tmp_path)
    assert not list(tmp_path.iterdir())


# --- AIPerf --------------------------------------------------------------------------------------------------


def test_aiperfs_records_are_of_what_is_over(tmp_path):
    data, report = exported(tiny(), "aiperf", tmp_path)
    first, second, refused = (msgspec.json.decode(line) for line in data.splitlines())

    assert first["metadata"] == {
        "session_num": 0, "x_request_id": "r0", "x_correlation_id": "s", "conversation_id": "s", "turn_index": 0,
        "request_start_ns": 1_000_000_000, "request_ack_ns": None, "request_end_ns": 4_000_000_000,
        "worker_id": "fleetlab", "record_processor_id": "fleetlab", "benchmark_phase": "profiling",
        "was_cancelled": False, "cancellation_time_ns": None,
    }  # fmt: skip
    assert first["metrics"] == {
        "input_sequence_length": {"value": 100, "unit": "tokens"},
        "output_sequence_length": {"value": 5, "unit": "tokens"},
        "time_to_first_token": {"value": 1000.0, "unit": "ms"},
        "inter_token_latency": {"value": 500.0, "unit": "ms"},
        "request_latency": {"value": 3000.0, "unit": "ms"},
    }
    assert first["error"] is None
    assert (second["metadata"]["session_num"], second["metadata"]["turn_index"]) == (0, 1)
    assert "inter_token_latency" not in second["metrics"]
    assert refused["metadata"]["session_num"] == 1
    assert refused["metrics"] == {"error_isl": {"value": 70, "unit": "tokens"}}
    assert refused["error"] == {"code": None, "type": "rejected", "message": "rejected"}
    assert report.left_out == {"no answer when the run ended": 1}


def test_aiperfs_clock_is_unix_time_where_the_trace_has_dates(tmp_path):
    run = tiny()
    run.manifest.trace["header"]["offset_s"] = 1_700_000_000.0
    data, _ = exported(run, "aiperf", tmp_path)
    assert (
        msgspec.json.decode(data.splitlines()[0])["metadata"]["request_start_ns"] == 1_700_000_001_000_000_000
    )


def test_a_cancelled_request_says_when(tmp_path):
    run = Told().request("cancelled", None, arrived_s=1.0, ended_s=2.0).run()
    metadata = msgspec.json.decode(exported(run, "aiperf", tmp_path)[0])["metadata"]
    assert (metadata["was_cancelled"], metadata["cancellation_time_ns"]) == (True, 2_000_000_000)


def test_whole_answers_have_no_first_token(tmp_path):
    run = Told().request(prompt_tokens=7).run()
    metrics = msgspec.json.decode(exported(run, "aiperf", tmp_path)[0])["metrics"]
    assert set(metrics) == {"input_sequence_length", "request_latency"}


# --- CSV -----------------------------------------------------------------------------------------------------


def test_csv_has_the_records_and_absent_is_empty(tmp_path):
    run = tiny()
    rows = list(csv.DictReader(io.StringIO(exported(run, "csv", tmp_path)[0].decode())))
    assert list(rows[0]) == run.records.column_names
    assert [row["ttft_s"] for row in rows] == ["1", "0.5", "", ""]
    assert [row["outcome"] for row in rows] == ["completed", "completed", "rejected", ""]


def test_a_folder_takes_every_table_and_numbers_come_back(tmp_path):
    run = tiny()
    report = save_as(run, tmp_path, "csv")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.csv" for name in run.tables}
    assert report.written == sum(len(table) for table in run.tables.values())
    back = pyarrow.csv.read_csv(tmp_path / "records.csv")
    assert back["arrived_s"].to_pylist() == run.records["arrived_s"].to_pylist()


# --- all of them ---------------------------------------------------------------------------------------------


def test_an_export_is_the_same_twice_packed_or_not(tmp_path):
    run = tiny()
    for format in FORMATS:
        for name in ("a.gz", "b.gz"):
            save_as(run, tmp_path / name, format)
        assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize(
    ("format", "window", "says"),
    [("excel", {}, "known: vllm-bench, aiperf, csv, perfetto"), ("csv", {"first_s": 3.0}, "are of perfetto")],
)
def test_what_cannot_be_exported_is_told(format, window, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        save_as(tiny(), tmp_path / "x", format, **window)


def test_a_saved_run_is_exported_like_the_run_itself(tmp_path):
    run = simulate(trace_of(*(asks(f"r{number}", 0.1 * number) for number in range(20))), serving())
    again = load_run(run.save(tmp_path / "run"))
    for format in FORMATS:
        save_as(run, tmp_path / "a", format)
        save_as(again, tmp_path / "b", format)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
