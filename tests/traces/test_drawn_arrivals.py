"""Files that say no times: their arrivals are drawn by a law that is told, and on record."""

import itertools
import json
import statistics

import pytest

from tests.traces.samples import (
    AZURE_DAY,
    LENGTHS,
    OFFLINE,
    OFFLINE_HASHES,
    SHAREGPT,
    TALKS,
    pretty,
)
from tests.traces.writing import csv, json_lines
from traces import Observed, TraceError, Transform
from traces.readers import azure_functions_2019
from traces.transforms import arrivals

MANY = csv("input_tokens,output_tokens", [(10, 3)] * 20_001)


def gaps_s(trace):
    times_s = arrivals(trace).tolist()
    return [later - earlier for earlier, later in itertools.pairwise(times_s)]


# --- laws ------------------------------------------------------------------------------------------------------


def test_nothing_is_drawn_unasked(reading):
    with pytest.raises(TraceError) as error:
        reading(MANY)

    assert "does not say when its requests came; say how they come with" in str(error.value)
    assert "poisson:RATE_PER_S, gamma:RATE_PER_S:CV, constant:RATE_PER_S, or at-once" in str(error.value)


@pytest.mark.parametrize(
    ("law", "mean_s", "cv"),
    [
        ("poisson:4", 0.25, 1.0),
        ("gamma:4:2", 0.25, 2.0),
        ("gamma:10:0.5", 0.1, 0.5),
        ("constant:4", 0.25, 0.0),
    ],
)
def test_gaps_have_the_mean_and_the_variation_that_the_law_says(reading, law, mean_s, cv):
    gaps = gaps_s(reading(MANY, arrivals=law, seed=1))

    assert statistics.mean(gaps) == pytest.approx(mean_s, rel=0.06)
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.06, abs=1e-6)


def test_all_may_come_at_once(reading):
    assert set(arrivals(reading(MANY, arrivals="at-once"))) == {0.0}


def test_the_law_and_the_seed_are_on_record_and_make_the_same_trace_again(reading):
    trace = reading(MANY, arrivals="gamma:4:2", seed=7)
    step = trace.header.transforms[-1]

    assert step == Transform("arrivals", {"law": "gamma:4:2", "of": "requests"}, 7)
    assert trace.header.provenance == "derived"
    assert reading(MANY, arrivals=step.parameters["law"], seed=step.seed).sha256 == trace.sha256
    assert reading(MANY, arrivals="gamma:4:2", seed=8).sha256 != trace.sha256


def test_a_longer_file_begins_with_what_the_shorter_one_has(reading):
    short = csv("input_tokens,output_tokens", [(10, 3)] * 50)

    assert (
        arrivals(reading(short, arrivals="poisson:4")).tolist()
        == arrivals(reading(MANY, arrivals="poisson:4"))[:50].tolist()
    )


@pytest.mark.parametrize(
    "law",
    [
        "poisson",
        "poisson:0",
        "poisson:x",
        "poisson:4:2",
        "gamma:4",
        "gamma:4:0",
        "constant:inf",
        "at-once:1",
        "",
    ],
)
def test_a_law_that_is_none_is_an_error(reading, law):
    with pytest.raises(TraceError, match=r"is no law of arrivals|is not possible"):
        reading(MANY, arrivals=law)


# --- lengths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [json_lines(LENGTHS), pretty(LENGTHS)], ids=["lines", "a list"])
def test_lengths_of_objects(reading, content):
    first, second = reading(content, arrivals="constant:2")

    assert (first.request.prompt_tokens, first.output_tokens, first.request.extra) == (
        10,
        3,
        {"dataset": "a"},
    )
    assert (second.request.prompt_tokens, second.output_tokens, second.request.arrived_s) == (20, 4, 0.5)


def test_lengths_of_a_table_with_a_name_that_means_a_column(reading):
    trace = reading(csv("model,input_len,output_len", [("m", 10, 3), ("n", 20, 4)]), arrivals="at-once")

    assert [(e.request.model, e.request.prompt_tokens, e.output_tokens) for e in trace] == [
        ("m", 10, 3),
        ("n", 20, 4),
    ]


def test_a_bad_length_is_named(reading):
    with pytest.raises(TraceError, match=r":2: column `output_len`: expected int, got str"):
        reading(json_lines([LENGTHS[0], LENGTHS[1] | {"output_len": "x"}]), arrivals="at-once")
    with pytest.raises(TraceError, match=r"has no length of answers; expected one of output_tokens, "):
        reading(json_lines([{"prompt_len": 3}]), arrivals="at-once", format="lengths")


# --- ShareGPT --------------------------------------------------------------------------------------------------


def test_texts_are_counted_only_as_it_is_told(reading):
    with pytest.raises(
        TraceError, match=r"has texts and no counts of tokens; .* chars_per_token=4 \(--chars-per-token"
    ):
        reading(SHAREGPT, arrivals="at-once")
    trace = reading(SHAREGPT, arrivals="at-once", chars_per_token=4)

    assert trace.header.transforms[0] == Transform("count_tokens", {"chars_per_token": 4})
    with pytest.raises(TraceError, match="chars_per_token=0 is not possible"):
        reading(SHAREGPT, arrivals="at-once", chars_per_token=0)


def test_each_answer_is_a_request_whose_prompt_is_all_that_was_said_before(reading):
    trace = reading(SHAREGPT, arrivals="constant:0.1", chars_per_token=4)

    assert [(e.request.id, e.request.arrived_s, e.request.prompt_tokens, e.output_tokens) for e in trace] == [
        ("x/0", 0.0, 3, 2),
        ("x/1", 0.0, 5, 3),
        ("z/0", 20.0, 1, 1),
    ]
    assert [(e.request.session, e.request.turn, e.request.parent, e.think_s) for e in trace] == [
        ("x", 0, None, None),
        ("x", 1, "x/0", 0.0),
        ("z", 0, None, None),
    ]


def test_conversations_without_an_answer_and_what_nobody_answered_are_counted(reading):
    trace = reading(SHAREGPT, arrivals="at-once", chars_per_token=4)

    assert (trace.report.rows_in, trace.report.dropped) == (4, {"conversation without an answer": 1})
    assert trace.report.not_kept == {
        "answers to nothing (as context)": 1,
        "last messages that nobody answered": 1,
        "texts": 3,
    }
    assert [e.request.extra for e in trace] == [None, None, {"source": "web"}]


def test_a_list_that_breaks_off_is_an_error_and_not_an_empty_trace(reading):
    with pytest.raises(TraceError, match="is not JSON: Input data was truncated"):
        reading(SHAREGPT[:-9], arrivals="at-once", chars_per_token=4, format="sharegpt")


def test_messages_of_openai_are_read_alike(reading):
    roles = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant"}
    chats = [
        {
            "id": talk["id"],
            "messages": [{"role": roles[m["from"]], "content": m["value"]} for m in talk["conversations"]],
        }
        for talk in TALKS
    ]
    told = {"arrivals": "poisson:1", "chars_per_token": 4}
    parts = [{"type": "text", "text": "a" * 4}, {"type": "text", "text": "b" * 4}, {"type": "image_url"}]
    mixed = [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}]

    ours, theirs = ([(e.request.prompt_tokens, e.output_tokens) for e in reading(c, **told)] for c in (
        json_lines(chats), SHAREGPT,
    ))  # fmt: skip
    assert ours == theirs
    assert [e.request.prompt_tokens for e in reading(json_lines(mixed), **told)] == [2]


# --- ServeGen's batch jobs -------------------------------------------------------------------------------------


def test_a_batch_job_comes_as_a_whole_unless_told_otherwise(reading):
    trace = reading(json_lines(OFFLINE))
    first, second = trace

    assert [e.request.arrived_s for e in trace] == [0.0, 0.0]
    assert (first.request.kind, first.request.prompt_tokens, first.output_tokens) == ("batch", 61, 2370)
    assert (first.observed, second.observed) == (Observed(e2e_s=14.0), Observed(e2e_s=11.63))
    assert first.request.extra == {"type": "text"}
    assert trace.header.transforms[-1].parameters["law"] == "at-once"
    assert arrivals(reading(json_lines(OFFLINE), arrivals="constant:2")).tolist() == [0.0, 0.5]


def test_a_batch_job_with_hashes_has_blocks_of_16_tokens(reading):
    first, second = reading(json_lines(OFFLINE_HASHES))

    assert (first.request.blocks, second.request.blocks, first.request.block_tokens) == (
        (5, 6, 7),
        (5, 8),
        16,
    )
    assert json.loads(first.request.extra["img_ids"]) == ["img_00001"]


# --- Azure Functions, 2019 -------------------------------------------------------------------------------------


def test_each_invocation_of_a_minute_is_a_request_within_it(reading):
    trace = reading(AZURE_DAY.encode(), seed=3)
    times_s = (arrivals(trace) + trace.header.offset_s).tolist()

    assert [int(at_s // 60) for at_s in times_s] == [0, 0, 1, 1, 1, 60]
    assert len(set(times_s)) == 6
    assert [e.request.model for e in trace] == ["a1/f1"] * 2 + ["a2/f1"] * 3 + ["a1/f1"]
    assert [e.request.tenant for e in trace] == ["a1"] * 2 + ["a2"] * 3 + ["a1"]
    assert next(iter(trace)).request.extra == {"HashOwner": "o1", "Trigger": "http"}
    assert trace.report.dropped == {"function without an invocation": 1}


def test_the_draw_within_minutes_is_on_record_and_has_a_seed(reading):
    trace = reading(AZURE_DAY.encode(), seed=3)

    assert trace.header.transforms[-1] == Transform("spread_within_minutes", {"minute_s": 60.0}, 3)
    assert trace.header.provenance == "derived"
    assert reading(AZURE_DAY.encode(), seed=3).sha256 == trace.sha256
    assert reading(AZURE_DAY.encode(), seed=4).sha256 != trace.sha256


def test_times_are_uniform_within_the_minute(reading):
    content = b"HashOwner,HashApp,HashFunction,Trigger,7\no,a,f,http,20000\n"
    trace = reading(content, seed=0)
    within_s = arrivals(trace) + trace.header.offset_s - 360.0

    assert 0 <= within_s.min() < within_s.max() < 60
    assert within_s.mean() == pytest.approx(30, abs=0.5)
    assert within_s.var() == pytest.approx(300, rel=0.03)


@pytest.mark.parametrize("cell", ["-1", "1.5", "x", ""])
def test_a_function_with_a_bad_count_is_named_or_dropped_whole(reading, cell):
    content = AZURE_DAY.replace("o2,a2,f1,queue,0,3,0", f"o2,a2,f1,queue,0,3,{cell}").encode()

    with pytest.raises(TraceError, match=r":4: column `61`: "):
        reading(content)
    trace = reading(content, on_bad="drop")
    assert (len(trace), sum(trace.report.dropped.values())) == (3, 2)


def test_more_invocations_than_a_run_can_hold_are_refused(reading, monkeypatch):
    monkeypatch.setattr(azure_functions_2019, "MOST", 5)

    with pytest.raises(TraceError, match="has 6 invocations; 5 are the most; cut it to fewer functions"):
        reading(AZURE_DAY.encode())
