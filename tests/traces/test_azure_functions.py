"""Invocations of functions, of which a file has the ends: requests of many models that came when those began."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.writing import azure_functions, csv
from traces import Observed, TraceError, load_trace, poisson, save_trace
from traces.transforms import arrivals

ROWS = [
    ("app1", "f", 10.5, 0.5),
    ("app1", "g", 9.0, 2.0),
    ("app2", "f", 12.0, 0.25),
]
GAPS_S = st.lists(st.integers(1, 500), min_size=1, max_size=8)


def file_of(*rows):
    return csv("app,func,end_timestamp,duration", rows)


def test_an_invocation_came_when_it_ended_less_what_it_took(reading):
    trace = reading(file_of(*ROWS))

    assert [(entry.request.arrived_s, entry.observed) for entry in trace] == [
        (0.0, Observed(e2e_s=2.0)),
        (3.0, Observed(e2e_s=0.5)),
        (4.75, Observed(e2e_s=0.25)),
    ]
    assert (trace.header.offset_s, trace.report.reordered) == (7.0, 1)
    assert (trace.report.format, trace.report.time_unit, trace.report.odd) == ("azure-functions", "s", {})


def test_a_function_of_an_application_is_a_model_and_the_application_a_tenant(reading):
    """Two applications may each have a function of one name."""
    names = [(entry.request.model, entry.request.tenant) for entry in reading(file_of(*ROWS))]

    assert names == [("app1/g", "app1"), ("app1/f", "app1"), ("app2/f", "app2")]


def test_policies_do_not_see_how_long_it_took_unless_that_is_said(reading):
    trace = reading(file_of(*ROWS))

    assert all(entry.request.work is None for entry in trace)
    assert [entry.request.work for entry in trace.with_work(0.5)] == [4.0, 1.0, 0.5]


@strategies.few
@given(start_s=st.integers(0, 1_000_000), gaps_s=GAPS_S, took_s=st.sampled_from([0.0, 0.5, 64.0]))
def test_a_file_that_begins_late_is_the_file_that_begins_at_zero(reading, start_s, gaps_s, took_s):
    times_s = [sum(gaps_s[:row]) for row in range(len(gaps_s) + 1)]
    late, zero = (
        reading(azure_functions([begin_s + at_s for at_s in times_s], took_s)) for begin_s in (start_s, 0)
    )

    assert arrivals(late).tolist() == times_s
    assert late.sha256 == zero.sha256
    assert (late.header.offset_s, zero.header.offset_s) == (start_s, 0)


def test_what_began_before_the_recording_is_the_first_and_time_0_says_how_long_before(reading):
    trace = reading(file_of(*ROWS, ("app2", "h", 1.0, 3.0), ("app2", "h", 0.0, 0.5)))

    assert arrivals(trace).tolist() == [0.0, 1.5, 9.0, 12.0, 13.75]
    assert trace.header.offset_s == -2.0
    assert trace.report.odd == {"began before time 0 of the recording": 2}


def test_a_duration_of_0_is_kept_as_recorded_and_counted(reading):
    trace = reading(file_of(*ROWS, ("app1", "f", 8.0, 0), ("app1", "f", 8.0, 0.0)))

    assert [entry.observed.e2e_s for entry in trace] == [2.0, 0.0, 0.0, 0.5, 0.25]
    assert trace.report.odd == {"duration of 0": 2}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("a", "f", 3, -0.5), "column `duration`: -0.5 is negative"),
        (("a", "f", -3, 0.5), "column `end_timestamp`: -3.0 is negative"),
        (("a", "f", "nan", 0.5), "column `end_timestamp`: nan is not a finite number"),
        (("a", "f", "-inf", 0.5), "column `end_timestamp`: -inf is negative"),
        (("a", "f", 3, "inf"), "column `duration`: inf is not a finite number"),
        (("a", "f", "x", 0.5), 'column `end_timestamp`: "x" is not a number; expected seconds'),
        (("a", "f", 3, ""), "column `duration`: is missing; expected seconds"),
        (("", "f", 3, 0.5), "column `app`: is missing; every invocation is of a function"),
        (("a", "", 3, 0.5), "column `func`: is missing"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted_and_moves_no_other(reading, row, complaint):
    content = file_of(row, *ROWS)

    with pytest.raises(TraceError) as error:
        reading(content)
    assert ":2: " + complaint in str(error.value)
    good = reading(content, on_bad="drop")
    assert (good.report.rows_in, good.report.rows_kept) == (4, 3)
    assert sum(good.report.dropped.values()) == 1
    assert arrivals(good).tolist() == arrivals(reading(file_of(*ROWS))).tolist()
    assert good.report.odd == {}


def test_the_published_columns_are_in_seconds_and_others_may_be_told(reading):
    """The first row of the publisher's sample."""
    published = file_of(("734272c0", "313c03f5", "5160.142570018768", "0.134"))
    trace = reading(published)

    assert trace.header.offset_s == pytest.approx(5160.008570018768, abs=1e-9)
    (entry,) = reading(file_of(("a", "f", 5000, 250)), time_unit="ms")
    assert entry.observed.e2e_s == 0.25
    assert reading(file_of(("a", "f", 5000, 250)), time_unit="ms").header.offset_s == 4.75


def test_further_columns_are_kept_and_what_it_has_itself_stays(reading):
    content = csv("app,region,func,model,end_timestamp,duration", [("a", "eu", "f", "m", 3, 1)])
    (entry,) = reading(content)

    assert (entry.request.model, entry.request.extra) == ("a/f", {"region": "eu", "model": "m"})


def test_a_file_that_is_not_the_published_one_is_of_unknown_provenance_and_survives_our_own_formats(
    reading, tmp_path
):
    trace = reading(file_of(*ROWS))
    save_trace(trace, tmp_path / "x.parquet")

    assert (trace.header.provenance, trace.header.licence) == ("unknown", None)
    assert trace.header.source.startswith("unknown source in the Azure Functions trace's format")
    assert load_trace(tmp_path / "x.parquet") == trace


@pytest.mark.traces
def test_the_published_file(shared_trace):
    trace = load_trace(
        shared_trace("azure-functions-2021/AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt")
    )

    assert trace.report.rows_in == trace.report.rows_kept + sum(trace.report.dropped.values())
    assert 13 < trace.duration_s / 86_400 < 15
    assert len(trace.column("model").unique()) >= len(trace.column("tenant").unique()) > 1


# --- work of what was recorded ---------------------------------------------------------------------------------


def test_work_is_what_was_recorded_over_what_is_ordinary_and_on_record(reading):
    trace = reading(file_of(*ROWS)).with_work(0.25)

    assert [entry.request.work for entry in trace] == [8.0, 2.0, 1.0]
    assert trace.header.transforms[-1].parameters == {"ordinary_s": 0.25}


def test_what_was_not_observed_has_no_work_afterwards(reading):
    burst = csv(
        "Timestamp,Elapsed time,Model,Request tokens,Response tokens",
        [(5, 2.5, "m", 3, 4), (6, "", "m", 3, 4)],
    )

    assert [entry.request.work for entry in reading(burst).with_work(0.5)] == [5.0, None]


@pytest.mark.parametrize(
    ("ordinary_s", "complaint"), [(0, "above 0"), (-1, "above 0"), (1e-9, "is more than 1e.06")]
)
def test_work_without_bounds_is_refused(reading, ordinary_s, complaint):
    with pytest.raises(TraceError, match=complaint):
        reading(file_of(*ROWS)).with_work(ordinary_s)


def test_a_trace_that_recorded_no_time_has_no_work_to_be_made_of():
    with pytest.raises(TraceError, match="no request has a recorded time"):
        poisson(5, 10, 0).with_work(1.0)
