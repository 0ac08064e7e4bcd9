"""Runs that benchmark clients measured: arrivals when requests were sent, and what was observed of each."""

import msgspec
import pytest

from tests.traces.samples import AIPERF, GUIDELLM, RECORDS, REPORT, RUN, VLLM, pretty
from tests.traces.writing import json_lines
from traces import Observed, TraceError

# --- vllm bench serve ------------------------------------------------------------------------------------------


def test_a_vllm_run_has_the_requests_as_they_were_sent(reading):
    trace = reading(VLLM)
    first, second, third = trace

    assert [entry.request.arrived_s for entry in trace] == [0.0, 0.5, 2.0]
    assert (trace.header.offset_s, trace.report.format) == (5000.5, "vllm-bench")
    assert [(entry.request.prompt_tokens, entry.output_tokens) for entry in trace] == [
        (10, 3),
        (20, 1),
        (30, 0),
    ]
    assert first.observed == Observed(ttft_s=0.5, tpot_s=0.25, e2e_s=1.0, failed=False)
    assert second.observed == Observed(ttft_s=0.25, e2e_s=0.25, failed=False)
    assert third.observed == Observed(failed=True)
    assert {entry.request.model for entry in trace} == {"llama"}
    assert second.request.extra == {"queue_times": 0.5}
    assert third.request.extra == {"queue_times": 0.25, "error": "Connection refused"}


def test_what_a_vllm_run_says_of_itself_as_a_whole_is_named_and_not_kept(reading):
    texts, figures = sorted(reading(VLLM).report.not_kept.items(), reverse=True)

    assert texts == ("generated_texts", 3)
    assert figures == (
        "figures of a whole run: date, backend, num_prompts, request_rate, max_concurrency, duration, completed, "
        "failed, total_input_tokens, request_throughput, mean_ttft_ms",
        1,
    )


def test_a_vllm_run_may_be_written_over_many_lines_and_several_may_be_appended(reading):
    later = RUN | {"start_times": [6000.0, 6001.0, 6002.0]}
    both = reading(json_lines([RUN, later]))

    assert list(reading(pretty(RUN))) == list(reading(VLLM))
    assert [entry.request.extra["run"] for entry in both] == [0, 0, 0, 1, 1, 1]
    assert [entry.request.arrived_s for entry in both][3:] == [999.5, 1000.5, 1001.5]


def test_where_vllm_wrote_no_latencies_the_gaps_say_when_the_answer_ended(reading):
    trace = reading(msgspec.json.encode({name: value for name, value in RUN.items() if name != "latencies"}))

    assert [entry.observed.e2e_s for entry in trace] == [1.0, 0.25, None]


def test_a_vllm_run_without_start_times_needs_a_law_of_arrivals(reading):
    older = msgspec.json.encode({name: value for name, value in RUN.items() if name != "start_times"})

    with pytest.raises(TraceError, match=r'does not say when its requests came; .* arrivals="poisson:4"'):
        reading(older)
    trace = reading(older, arrivals="constant:2")
    assert [entry.request.arrived_s for entry in trace] == [0.0, 0.5, 1.0]
    assert trace.header.provenance == "derived"
    with pytest.raises(TraceError, match="has start_times of its own; leave arrivals="):
        reading(VLLM, arrivals="constant:2")


def test_a_vllm_result_without_details_is_named_as_one(reading):
    short = {name: value for name, value in RUN.items() if name not in ("input_lens", "output_lens", "ttfts")}

    with pytest.raises(TraceError, match=r"column `input_lens`: is missing; write it with .*--save-detailed"):
        reading(msgspec.json.encode(short))


def test_lists_of_a_vllm_run_that_do_not_match_are_an_error(reading):
    with pytest.raises(TraceError, match=r":1: has 1 ttfts for 3 input_lens; each list has one value"):
        reading(msgspec.json.encode(RUN | {"ttfts": [0.5]}))


# --- AIPerf ----------------------------------------------------------------------------------------------------


def test_aiperf_records_have_units_and_sessions(reading):
    trace = reading(AIPERF)
    first, second = trace

    assert [entry.request.arrived_s for entry in trace] == [0.0, 2.0]
    assert (trace.header.offset_s, trace.report.format) == (1_759_813_207.5, "aiperf-records")
    assert (first.request.id, first.request.prompt_tokens, first.output_tokens) == ("r-1", 550, 9)
    assert first.observed == Observed(ttft_s=0.25, tpot_s=0.0625, e2e_s=1.0, failed=False)
    assert (second.request.prompt_tokens, second.output_tokens, second.observed) == (
        600,
        None,
        Observed(failed=True),
    )
    assert [(e.request.session, e.request.turn, e.request.parent) for e in trace] == [
        ("user-1", 0, None),
        ("user-1", 1, "r-1"),
    ]


def test_what_else_aiperf_says_is_kept_or_counted(reading):
    trace = reading(AIPERF)
    first, second = trace

    assert first.request.extra == {
        "session_num": 0,
        "conversation_id": "talk",
        "credit_issued_ns": 1_759_813_207_000_000_000,
        "request_end_ns": 1_759_813_208_500_000_000,
        "benchmark_phase": "profiling",
        "time_to_second_token (ms)": 62.5,
    }
    assert second.request.extra["error"] == '{"code":499,"type":"RequestCancellationError"}'
    assert trace.report.not_kept == {"metrics.inter_chunk_latency": 1}


def test_a_duration_in_no_unit_of_time_is_a_bad_record(reading):
    metrics = RECORDS[0]["metrics"] | {"request_latency": {"value": 3, "unit": "tokens"}}
    content = json_lines([RECORDS[0] | {"metrics": metrics}, RECORDS[1]])

    complaint = r":1: column `metrics.request_latency.unit`: invalid enum value 'tokens'"
    with pytest.raises(TraceError, match=complaint):
        reading(content)
    assert len(reading(content, on_bad="drop")) == 1


# --- GuideLLM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [GUIDELLM, pretty(REPORT)], ids=["one line", "many lines"])
def test_guidellm_has_the_requests_of_all_benchmarks_that_were_sent(reading, content):
    trace = reading(content)
    first, cut, later = trace

    assert trace.report.format == "guidellm"
    assert [(e.request.id, e.request.arrived_s) for e in trace] == [("g-1", 0.0), ("g-2", 0.5), ("g-4", 14.5)]
    assert (first.request.prompt_tokens, first.output_tokens) == (512, 5)
    assert first.observed == Observed(ttft_s=0.5, tpot_s=0.375, e2e_s=2.0, failed=False)
    assert cut.observed == Observed(ttft_s=0.5, tpot_s=0.375, failed=True)
    assert [entry.request.extra["benchmark"] for entry in trace] == [0, 0, 1]
    assert (first.request.session, first.request.turn, cut.request.session) == ("c", 0, None)
    assert later.observed.failed


def test_requests_that_guidellm_never_sent_or_did_not_sample_are_counted(reading):
    report = reading(GUIDELLM).report

    assert (report.rows_in, report.rows_kept, report.dropped) == (4, 3, {"never sent": 1})
    assert report.not_kept == {"output": 3, "request_args": 3, "requests that the report has no sample of": 2}
