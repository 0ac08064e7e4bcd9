"""Requests that servers and tracers recorded, and workloads that others generated, value by value."""

import msgspec
import pytest

from tests.traces.samples import (
    BLIS,
    BLIS_COLUMNS,
    BLIS_ROWS,
    DYNAMO,
    EVENTS,
    OLD_EVENT,
    OTLP,
    RESOURCE,
    SERVEGEN_CSV,
    SESSION,
    SPANS,
    WEKA,
    call,
    span,
)
from tests.traces.writing import json_lines
from traces import Observed, Slo, TraceError


def changed(event, **request):
    """An event with these fields of its request changed; None takes one out."""
    fields = {name: value for name, value in (event["request"] | request).items() if value is not None}
    return event | {"request": fields}


# --- Dynamo ----------------------------------------------------------------------------------------------------


def test_a_dynamo_request_came_when_it_was_received(reading):
    trace = reading(DYNAMO)
    first, second = trace

    assert [(e.request.id, e.request.arrived_s) for e in trace] == [("d-1", 0.0), ("d-2", 2.5)]
    assert (trace.header.offset_s, trace.report.format) == (1_777_312_801.0, "dynamo-request-trace")
    assert (first.request.model, first.request.prompt_tokens, first.output_tokens) == ("m", 130, 16)
    assert first.observed == Observed(queue_s=0.125, ttft_s=0.5, tpot_s=0.1, e2e_s=2.0)
    assert (second.request.prompt_tokens, second.output_tokens, second.observed) == (
        50,
        4,
        Observed(e2e_s=1.5),
    )


def test_dynamo_hashes_of_64_bits_without_sign_keep_their_bits_and_their_blocks_size(reading):
    first, second = reading(DYNAMO)

    assert first.request.blocks == (14_879_255_164_371_896_291 - 2**64, 7, 8)
    assert (first.request.block_tokens, second.request.blocks, second.request.block_tokens) == (
        64,
        None,
        None,
    )


def test_a_chain_of_an_agents_calls_is_a_session_and_all_else_is_kept(reading):
    first, second = reading(DYNAMO)

    assert (first.request.session, second.request.session) == ("run:researcher", "run:planner")
    assert first.request.extra == {
        "cached_tokens": 64,
        "event_source": "dynamo",
        "parent_session_id": "run:planner",
        "worker": '{"decode_worker_id":3}',
        "x_request_id": "call-1",
    }
    assert second.request.extra == {"session_id": "run", "session_type_id": "research"}


def test_dynamos_events_of_tools_hold_no_request_and_are_counted(reading):
    report = reading(DYNAMO).report

    assert (report.rows_in, report.rows_kept, report.dropped) == (3, 2, {"event tool_end": 1})


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (
            changed(EVENTS[0], request_received_ms=None, total_time_ms=None),
            "`request.request_received_ms`: is missing",
        ),
        (changed(EVENTS[0], request_id=None), "column `request.request_id`: is missing"),
        (changed(EVENTS[0], output_tokens=-1), "column `request.output_tokens`: -1 is negative"),
        (changed(EVENTS[0], output_tokens="x"), "column `request.output_tokens`: expected int"),
        (
            changed(EVENTS[0], replay=EVENTS[0]["request"]["replay"] | {"input_sequence_hashes": [1]}),
            '"1 hashes for 130 tokens" do not fit blocks of the size that is said',
        ),
    ],
)
def test_a_bad_dynamo_record_is_named_or_dropped(reading, event, complaint):
    content = json_lines([OLD_EVENT, event])

    with pytest.raises(TraceError) as error:
        reading(content)
    assert ":2: " in str(error.value)
    assert complaint in str(error.value)
    assert len(reading(content, on_bad="drop")) == 1


# --- WEKA ------------------------------------------------------------------------------------------------------


def test_the_calls_of_an_agents_session_follow_each_other(reading):
    trace = reading(WEKA)

    assert [(e.request.id, e.request.arrived_s, e.request.parent, e.think_s) for e in trace] == [
        ("s/0", 0.0, None, None),
        ("s/0:agent_001/0", 3.5, "s/0", 1.5),
        ("s/0:agent_001/1", 5.0, "s/0:agent_001/0", 0.5),
        ("s/1", 10.0, "s/0", 8.0),
    ]
    assert [(e.request.session, e.request.turn) for e in trace] == [
        ("s", 0),
        ("s/0:agent_001", 0),
        ("s/0:agent_001", 1),
        ("s", 1),
    ]
    assert (trace.header.offset_s, trace.header.provenance) == (10.0, "unknown")


def test_a_weka_call_has_its_lengths_blocks_and_what_was_observed(reading):
    first, *_, last = reading(WEKA)

    assert (first.request.prompt_tokens, first.output_tokens, first.request.model) == (128, 8, "m")
    assert (first.request.block_tokens, first.observed) == (64, Observed(ttft_s=0.5, e2e_s=2.0))
    assert first.request.extra == {"input_types": '["text"]', "stop": "tool_use", "type": "s"}
    assert last.request.extra == {"type": "n", "think_time": 99.0}
    assert last.request.blocks[:2] == first.request.blocks


def test_what_a_weka_session_and_its_subagents_say_of_themselves_is_counted(reading):
    assert reading(WEKA).report.not_kept == {
        "models (of a session)": 1,
        "models (of a subagent)": 1,
        "status (of a subagent)": 1,
        "subagent_type (of a subagent)": 1,
        "tool_tokens (of a session)": 1,
        "type (of a subagent)": 1,
    }


def test_local_hashes_of_two_sessions_are_kept_apart_and_global_ones_are_shared(reading):
    def blocks(scope):
        sessions = [SESSION | {"id": name, "hash_id_scope": scope} for name in "ab"]
        trace = reading(json_lines(sessions), arrivals="constant:1")
        return [{b for e in trace if e.request.session[0] == name for b in e.request.blocks} for name in "ab"]

    local, shared = blocks("local"), blocks("global")

    assert len(local[0]) == len(local[1]) == 5
    assert not local[0] & local[1]
    assert shared == [{1, 2, 3, 7, 8}] * 2


def test_several_weka_sessions_begin_by_a_law_and_keep_their_own_pace(reading):
    content = json_lines([SESSION, SESSION | {"id": "t"}])
    trace = reading(content, arrivals="constant:0.01")

    with pytest.raises(TraceError, match="does not say when its sessions came"):
        reading(content)
    assert [e.request.arrived_s for e in trace] == [0.0, 3.5, 5.0, 10.0, 100.0, 103.5, 105.0, 110.0]
    assert trace.header.transforms[-1].parameters == {"law": "constant:0.01", "of": "sessions"}


def test_a_subagents_times_from_its_own_start_are_told_from_those_of_the_session(reading):
    nested = SESSION["requests"][1] | {"requests": [call(0.5, [1])]}
    trace = reading(msgspec.json.encode(SESSION | {"requests": [call(10.0, [1]), nested]}))

    assert [e.request.arrived_s for e in trace] == [0.0, 3.5]
    assert list(trace.report.odd.values()) == [1]


# --- OpenTelemetry ---------------------------------------------------------------------------------------------


def test_spans_of_calls_are_requests_and_those_of_agents_and_tools_are_not(reading):
    trace = reading(OTLP)
    first, second, failed, last = trace

    assert [(e.request.id, e.request.arrived_s) for e in trace] == [
        ("a1", 0.0),
        ("a3", 3.5),
        ("b1", 5.5),
        ("c1", 7.5),
    ]
    assert trace.header.offset_s == 1_700_000_000.5
    assert (first.request.model, first.request.prompt_tokens, first.output_tokens) == ("gpt", 100, 20)
    assert first.observed == Observed(ttft_s=0.25, e2e_s=2.0, failed=False)
    assert (failed.request.prompt_tokens, failed.output_tokens, failed.observed.failed) == (5, None, True)
    assert (last.request.prompt_tokens, last.observed) == (None, Observed(e2e_s=1.0, failed=False))
    assert second.observed == Observed(e2e_s=1.0, failed=False)


def test_a_session_is_a_conversation_else_a_trace_of_several_calls(reading):
    assert [e.request.session for e in reading(OTLP)] == ["t1", "t1", None, "talk"]


def test_what_else_a_span_says_is_kept_or_counted(reading):
    trace = reading(OTLP)
    first, second, failed, _ = trace

    assert first.request.extra == {
        "gen_ai.operation.name": "chat",
        "kind": 3,
        "name": "n",
        "parentSpanId": "a0",
        "traceId": "t1",
    }
    assert (second.request.extra["server.port"], failed.request.extra["status.message"]) == (443, "late")
    assert trace.report.not_kept == {"gen_ai.input.messages": 1, "resources": 1}
    assert trace.report.dropped == {
        "span of execute_tool": 1,
        "span of invoke_agent": 1,
        "span of no call of a model": 1,
    }


@pytest.mark.parametrize(
    "content",
    [
        json_lines([{"resourceSpans": [RESOURCE]}]),
        json_lines(SPANS),
        json_lines([{"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]} for one in SPANS]),
    ],
    ids=["one document", "a span a line", "a document a line"],
)
def test_spans_are_read_alike_however_they_are_wrapped(reading, content):
    assert reading(content).sha256 == reading(OTLP).sha256


def test_a_span_whose_time_is_none_is_a_bad_row(reading):
    wrong = span("w", 0, 1, gen_ai__operation__name="chat") | {"startTimeUnixNano": "soon"}

    with pytest.raises(TraceError, match=r":2: column `startTimeUnixNano`: expected str matching regex"):
        reading(json_lines([SPANS[1], wrong]))


# --- BLIS ------------------------------------------------------------------------------------------------------


def test_a_request_of_blis_came_when_it_was_sent(reading):
    trace = reading(BLIS)
    first, second, third = trace

    assert [(e.request.id, e.request.arrived_s) for e in trace] == [("0", 0.0), ("1", 1.0), ("2", 3.0)]
    assert trace.header.offset_s == 1.0
    assert [(e.request.prompt_tokens, e.output_tokens) for e in trace] == [(110, 5), (100, 1), (50, 0)]
    assert first.observed == Observed(ttft_s=0.5, tpot_s=0.5, e2e_s=2.5, failed=False)
    assert second.observed == Observed(ttft_s=0.5, e2e_s=0.5, failed=False)
    assert third.observed == Observed(failed=True)


def test_names_objectives_and_urgency_of_blis_become_columns(reading):
    first, second, third = reading(BLIS)

    assert (first.request.tenant, first.request.user, first.request.model) == ("acme", "c1", "llama")
    assert (first.request.session, first.request.turn, first.request.adapter) == ("s1", 0, "lora")
    assert (first.request.deadline_s, first.request.slo) == (6.0, Slo(ttft_s=0.25))
    assert [e.request.priority for e in (first, second, third)] == [0, -3, -2]
    assert (third.request.session, third.request.turn, third.request.deadline_s) == (None, None, None)
    assert first.request.extra["arrival_time_us"] == "900000"
    assert third.request.extra["error_message"] == "slow"


def test_later_rounds_of_blis_are_counted_as_only_the_header_says_what_their_prompts_hold(reading):
    assert list(reading(BLIS).report.odd.values()) == [1]


def test_columns_that_blis_writes_only_sometimes_may_be_absent(reading):
    names = BLIS_COLUMNS.split(",")
    keep = [n for n, name in enumerate(names) if name not in ("vllm_priority", "slo_target_us", "adapter")]
    lines = [",".join(line.split(",")[n] for n in keep) for line in (BLIS_COLUMNS, *BLIS_ROWS)]
    first, *_ = reading("\n".join(lines).encode())

    assert (first.request.priority, first.request.slo, first.request.adapter) == (None, None, None)


# --- ServeGen --------------------------------------------------------------------------------------------------


def test_a_generated_workload_of_servegen(reading):
    trace = reading(SERVEGEN_CSV.encode())
    reasons = reading(b"request_id,timestamp,input_tokens,output_tokens,reason_ratio\n7,2,10,20,0.75\n")

    assert [(e.request.id, e.request.arrived_s) for e in trace] == [("0", 0.0), ("1", 0.75)]
    assert [(e.request.prompt_tokens, e.output_tokens) for e in trace] == [(10, 20), (15, 25)]
    assert (trace.report.time_unit, trace.header.offset_s) == ("s", 0.5)
    assert [e.request.extra for e in reasons] == [{"reason_ratio": "0.75"}]
