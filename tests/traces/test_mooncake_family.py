"""Mooncake's keys as others write them too: other names, sessions, delays, awaited requests, hashes of 64 bits."""

import pytest

from fleet import AffineSteps, EmulatedLlmEngine, FleetSpec, KvSpec, simulate
from tests.traces.writing import json_lines
from traces import Request, TraceEntry, TraceError, load_trace, save_trace
from traces.readers.blocks import UNSIGNED
from traces.readers.mooncake import ALIASES


def column(trace, name):
    return trace.column(name).to_pylist()


def row(timestamp=None, length=10, output=4, **more):
    times = {} if timestamp is None else {"timestamp": timestamp}
    return times | {"input_length": length, "output_length": output} | more


# --- names ----------------------------------------------------------------------------------------------------


def test_a_row_with_all_fields_is_read_field_by_field(reading):
    line = row(
        4000, 100, 7, hash_ids=[3, 4], session_id="s", request_id="r-1", priority=2, model="llama", delay=250,
        strict_priority=1, prefix_reset=True,
    )  # fmt: skip
    (entry,) = reading(json_lines([line]), block_tokens=64)

    assert entry == TraceEntry(
        Request(
            "r-1", 0.0, 100, (3, 4), 64, session="s", model="llama", priority=2,
            extra={"delay": 250, "prefix_reset": True, "strict_priority": 1},
        ),
        7,
    )  # fmt: skip


@pytest.mark.parametrize("used", [["timestamp"], ["input_length", "output_length"], [*ALIASES]])
def test_a_field_may_have_its_other_name(reading, used):
    rows = [row(3000, session_id="s"), row(6000, session_id="s", delay=500)]
    renamed = [{ALIASES[k] if k in used else k: value for k, value in line.items()} for line in rows]

    plain, other = reading(json_lines(rows)), reading(json_lines(renamed))

    assert other.report.format == "mooncake"
    assert list(other) == list(plain)
    assert column(other, "think_s") == [None, 0.5]


def test_errors_have_the_name_that_the_file_has(reading):
    lines = [
        {"created_time": 0, "input_tokens": 5, "output_tokens": 4},
        {"created_time": 3000, "input_tokens": -5},
    ]

    with pytest.raises(TraceError, match=r":2: column `output_tokens`: is missing"):
        reading(json_lines(lines))
    with pytest.raises(TraceError, match=r":2: column `input_tokens`: -5 is negative"):
        reading(json_lines([lines[0], lines[1] | {"output_tokens": 1}]))


def test_of_two_names_in_one_file_the_other_is_kept_beside(reading):
    trace = reading(json_lines([row(0, created_time=77), row(3000)]))

    assert column(trace, "arrived_s") == [0.0, 3.0]
    assert [entry.request.extra for entry in trace] == [{"created_time": 77}, None]


# --- who follows whom -----------------------------------------------------------------------------------------


def test_a_turn_with_a_delay_follows_the_one_before_it_in_its_session(reading):
    trace = reading(
        json_lines(
            [
                row(1000, session_id="a"),
                row(2000, session_id="b"),
                row(session_id="a", delay=3500.5),
                row(session_id="b"),
                row(9000, session_id="a", delay=0),
            ]
        )
    )

    assert column(trace, "parent") == [None, None, "1", "0", "2"]
    assert column(trace, "id") == ["0", "1", "3", "2", "4"]
    assert column(trace, "arrived_s") == [
        0.0,
        1.0,
        1.0,
        3.5005,
        8.0,
    ]  # the earliest possible, where none is told
    assert column(trace, "think_s") == [None, None, None, 3.5005, 0.0]
    assert trace.report.in_extra == {}


def test_a_turn_with_a_time_and_no_delay_is_sent_at_its_time(reading):
    trace = reading(json_lines([row(0, session_id="a"), row(4000, session_id="a")]))

    assert (column(trace, "parent"), column(trace, "session")) == ([None] * 2, ["a"] * 2)
    assert column(trace.sessions(), "think_s") == [None, 4.0]


def test_a_delay_without_anything_to_follow_stays_as_it_is(reading):
    trace = reading(json_lines([row(0, session_id="a", delay=250), row(4000, delay=1.5), row(8000)]))

    assert [entry.request.extra for entry in trace] == [{"delay": 250}, {"delay": 1.5}, None]
    assert trace.report.in_extra == {"delay": 2}


def test_a_request_waits_for_those_that_it_names_and_follows_the_last(reading):
    lines = [row(at, request_id=f"r{at}") for at in (0, 3000, 6000)]
    waiting = row(request_id="w", wait_for=["r3000", "r0"], delay=100, tool_wait_ms=400)
    trace = reading(json_lines([*lines, waiting, row(request_id="x", wait_for=["w"], session_id="s")]))

    assert column(trace, "parent") == [None, None, "r3000", "w", None]
    assert column(trace, "id") == ["r0", "r3000", "w", "x", "r6000"]
    assert column(trace, "think_s") == [None, None, 0.5, None, None]
    assert column(trace, "arrived_s") == [0.0, 3.0, 3.5, 3.5, 6.0]
    assert [entry.request.extra for entry in trace][2:4] == [{"wait_for": '["r3000","r0"]'}, None]


def test_who_waits_for_a_request_that_no_earlier_row_is_is_a_bad_row(reading):
    lines = [row(0, request_id="a"), row(3000, request_id="b", wait_for=["c"]), row(6000, request_id="c")]

    with pytest.raises(TraceError, match=r':2: column `wait_for`: "c" is the id of no earlier row'):
        reading(json_lines(lines))
    assert column(reading(json_lines(lines), on_bad="drop"), "id") == ["a", "c"]


def test_a_row_without_a_time_that_follows_nobody_is_a_bad_row(reading):
    with pytest.raises(TraceError, match=r":2: column `timestamp`: is missing"):
        reading(json_lines([row(0), row(session_id="a", delay=5)]))


def test_delays_are_milliseconds_whatever_the_times_are_in(reading):
    lines = json_lines([row(10.5, session_id="a"), row(session_id="a", delay=500)])

    trace = reading(lines, time_unit="s")

    assert (column(trace, "arrived_s"), column(trace, "think_s")) == ([0.0, 0.5], [None, 0.5])


def test_a_follower_s_time_need_not_be_a_whole_millisecond_and_says_nothing_of_the_unit(reading):
    trace = reading(json_lines([row(0, session_id="a"), row(session_id="a", delay=1500.25), row(6000)]))

    assert (trace.report.time_unit, column(trace, "arrived_s")) == ("ms", [0.0, 1.50025, 6.0])


def test_a_session_with_delays_is_played_closed_loop(reading):
    lines = [row(0, session_id="a"), row(session_id="a", delay=2000), row(session_id="a", delay=1000)]
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.5, per_decode_s=0.0, per_prefill_token_s=0.0), kv=KvSpec(blocks=64)
    )

    run = simulate(reading(json_lines(lines)), FleetSpec(engine=engine), sessions=True)

    first, second, third = run.records["arrived_s"].to_pylist()
    assert (first, second - first, third - second) == (
        0.0,
        4.0,
        3.0,
    )  # four steps of half a second, and the delay


def test_what_the_family_s_layout_holds_comes_back_from_it(reading, tmp_path):
    lines = [
        row(0, request_id="a", session_id="s", priority=1),
        row(request_id="b", wait_for="a", delay=2500),
    ]
    trace = reading(json_lines(lines))
    save_trace(trace, tmp_path / "x.jsonl", format="mooncake")

    assert list(load_trace(tmp_path / "x.jsonl", time_unit="ms")) == list(trace)


# --- hashes ---------------------------------------------------------------------------------------------------


def test_hashes_of_64_bits_without_a_sign_are_kept_as_the_same_bits_and_counted(reading):
    lines = [row(0, 1000, hash_ids=[2**64 - 1, 2**63 - 1]), row(3000, 1000, hash_ids=[2**64 - 1, 2**63])]
    trace = reading(json_lines([*lines, row(6000, 10, hash_ids=[5])]))

    assert column(trace, "blocks") == [[-1, 2**63 - 1], [-1, -(2**63)], [5]]
    assert trace.report.odd == {UNSIGNED: 2}


@pytest.mark.parametrize(
    ("hashes", "problem"),
    [
        ([2**64, 1], "has a hash of more than 64 bits"),
        ([-1, 2**64 - 1], "has hashes below 0 and hashes of 2^63 or more"),
    ],
)
def test_hashes_that_could_become_another_s_are_refused(reading, hashes, problem):
    with pytest.raises(TraceError) as error:
        reading(json_lines([row(0, 1000, hash_ids=[1, 2]), row(3000, 1000, hash_ids=hashes)]))
    assert f":2: column `hash_ids`: {problem}" in str(error.value)
