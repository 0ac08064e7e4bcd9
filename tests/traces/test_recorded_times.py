"""Times as they were recorded: any beginning, some unit. Neither changes what a trace is, and none is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.test_trace import of
from tests.traces.writing import FOREIGN, csv, json_lines, mooncake
from traces import Header, Trace, TraceError, describe, load_trace, merge, save_trace

every_format = pytest.mark.parametrize("name", FOREIGN)
GAPS_S = st.lists(st.integers(1, 500), min_size=1, max_size=8)


def arrivals(trace):
    return trace.column("arrived_s").to_pylist()


def at(start_s, gaps_s):
    times_s = [start_s]
    for gap_s in gaps_s:
        times_s.append(times_s[-1] + gap_s)
    return times_s


@every_format
@strategies.few
@given(start_s=st.integers(0, 1_000_000) | st.just(19_440_110), gaps_s=GAPS_S)
def test_a_file_that_begins_late_is_the_file_that_begins_at_zero(reading, name, start_s, gaps_s):
    late, zero = (reading(FOREIGN[name](at(begin_s, gaps_s))) for begin_s in (start_s, 0))

    assert arrivals(late) == arrivals(zero) == at(0, gaps_s)
    assert late.sha256 == zero.sha256
    assert late.header.offset_s - zero.header.offset_s == start_s
    assert late.rate_per_s == pytest.approx((len(gaps_s) + 1) / sum(gaps_s))


@every_format
def test_the_first_seconds_are_those_after_the_first_request(reading, name):
    trace = reading(FOREIGN[name]([86_400, 86_402, 86_404]))

    assert (len(trace.first(seconds=3)), len(trace.slice(0, 3)), len(trace.slice(3, 9))) == (2, 2, 1)
    assert (trace.duration_s, trace.rate_per_s, describe(trace).rate_per_s) == (4.0, 0.75, 0.75)


@every_format
def test_one_request_or_several_at_one_instant_have_no_rate(reading, name):
    for times_s in ([86_400], [7, 7, 7]):
        trace = reading(FOREIGN[name](times_s))

        assert (trace.rate_per_s, describe(trace).rate_per_s, trace.duration_s) == (None, None, 0.0)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@every_format
def test_the_offset_survives_our_own_formats(reading, tmp_path, name, suffix):
    trace = reading(FOREIGN[name]([86_400, 86_402, 86_404]))

    save_trace(trace, tmp_path / f"x{suffix}")

    assert load_trace(tmp_path / f"x{suffix}") == trace
    assert load_trace(tmp_path / f"x{suffix}").header.offset_s == trace.header.offset_s


def test_the_offset_is_time_0_on_the_recording_s_clock_whatever_was_done(reading):
    trace = reading(FOREIGN["vidur"]([100, 110, 130]))

    assert trace.first(requests=2).header.offset_s == 100
    assert trace.scale_rate(2).scale_time(3).header.offset_s == 100
    assert trace.slice(10, 40).header.offset_s == 110
    assert trace.slice(10, 40, rebase=False).header.offset_s == 100
    assert trace.scale_time(2).slice(20, 80).header.offset_s == 110  # 20 s of it were 10 s
    assert trace.scale_rate(2).slice(5, 80).header.offset_s == 110


def test_a_merge_keeps_the_offset_that_its_parts_agree_on():
    early, late = (Trace(of(0.0, 1.0).table, Header(source="a", offset_s=by_s)) for by_s in (5.0, 9.0))

    assert merge(early, early).header.offset_s == 5.0
    assert merge(early, late).header.offset_s == 0.0


def test_our_own_formats_keep_the_times_that_they_have(tmp_path):
    trace = of(86_400.0, 86_402.0, 86_404.0)
    save_trace(trace, tmp_path / "x.jsonl")

    kept = load_trace(tmp_path / "x.jsonl")

    assert (kept, kept.start_s, kept.rate_per_s) == (trace, 86_400.0, 0.75)


def test_failed_and_bad_rows_that_are_dropped_leave_no_gap_at_the_beginning(reading):
    content = csv(
        "Timestamp,Model,Request tokens,Response tokens", [(3, "m", 9, 0), (5, "m", "x", 9), (7, "m", 9, 9)]
    )
    trace = reading(content, on_bad="drop", failed="drop")

    assert (arrivals(trace), trace.header.offset_s) == ([0.0], 7.0)


# --- units ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestamps", "why"),
    [
        ([51820.25, 51821.75, 51825.25], "51820.25 is no whole number of milliseconds"),
        ([0, 1, 4, 9, 12], "different arrival times a second"),
        ([0, 60, 120, 180], "different arrival times a second"),
        ([1_700_000_000, 1_700_000_600], "would be a date of this century in seconds"),
    ],
)
def test_mooncake_keys_that_may_be_in_seconds_are_refused_until_it_is_said(reading, timestamps, why):
    content = json_lines({"timestamp": at, "input_length": 9, "output_length": 4} for at in timestamps)

    with pytest.raises(
        TraceError, match=r"timestamp`: may be seconds or milliseconds: .*--time-unit"
    ) as error:
        reading(content)
    assert why in str(error.value)
    for unit, per_s in (("s", 1), ("ms", 1e3)):
        trace = reading(content, time_unit=unit)
        assert arrivals(trace) == [(time - timestamps[0]) / per_s for time in timestamps]
        assert trace.header.offset_s == timestamps[0] / per_s
        assert [step.parameters for step in trace.header.transforms] == [{"time_unit": unit}]
        assert trace.report.time_unit == unit


@pytest.mark.parametrize(
    "times_s",
    [[0, 3], [0, 0, 0, 0, 0.0], [5000, 5000.5, 5001], [0, 0, 0, 0, 0, 0, 3, 3], [1.7e9, 1.7e9 + 600]],
)
def test_whole_milliseconds_at_the_pace_of_a_service_are_what_mooncake_s_format_says(reading, times_s):
    trace = reading(mooncake(times_s))

    assert trace.duration_s == times_s[-1] - times_s[0]
    assert (trace.report.time_unit, trace.header.transforms) == ("ms", ())


@strategies.few
@given(st.lists(st.integers(0, 10**9 - 1), min_size=2, max_size=9))
def test_seconds_are_never_read_as_milliseconds_where_requests_come_faster_than_one_in_100_s(
    reading, timestamps
):
    content = json_lines({"timestamp": at, "input_length": 9, "output_length": 4} for at in timestamps)
    distinct = len(set(timestamps))
    span = max(timestamps) - min(timestamps)
    if distinct > 1 and (distinct - 1) / span > 1 / 100:
        with pytest.raises(TraceError, match="may be seconds"):
            reading(content)
    elif distinct == 1 or span >= 1000:
        assert reading(content).duration_s == span / 1000


@pytest.mark.parametrize("name", ["vidur", "splitwise", "burstgpt", "bailian", "measured-run"])
def test_other_times_without_a_unit_are_seconds_unless_it_is_said(reading, name):
    content = FOREIGN[name]([2000, 5000])

    assert (arrivals(reading(content)), reading(content).report.time_unit) == ([0, 3000], "s")
    assert arrivals(reading(content, time_unit="ms")) == [0, 3]
    assert arrivals(reading(content, time_unit="us")) == [0, 0.003]


@pytest.mark.parametrize("name", ["azure-llm", "llmservingsim-workload"])
def test_a_unit_is_not_taken_where_the_format_says_it(reading, name):
    with pytest.raises(TraceError, match=rf"time_unit= \(--time-unit\) does not apply to {name}"):
        reading(FOREIGN[name]([0, 1]), time_unit="s")


def test_impossible_options_are_errors(reading):
    for wrong in ({"time_unit": "min"}, {"failed": "retry"}, {"on_bad": "ignore"}, {"block_tokens": 0}):
        with pytest.raises(TraceError, match="is not possible"):
            reading(mooncake([0, 3]), **wrong)
