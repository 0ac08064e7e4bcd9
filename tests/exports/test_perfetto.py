"""Timelines: hand-computed events of tiny runs, and what must hold of the timeline of any run."""

import io
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import simulate
from fleet.exports import perfetto
from fleet.exports.perfetto.events import Lanes
from policies import ExponentialBackoff, RoundRobin
from tests.simulation.building import arrivals, faults, fleet
from tests.telemetry.building import NEW, OLD, Told
from traces import Fault

US = 1_000_000


def timeline(run, **window):
    file = io.BytesIO()
    report = perfetto.write(run, file, **window)
    document = msgspec.json.decode(file.getvalue())
    assert len(document["traceEvents"]) == report.written
    return document["traceEvents"], report


def groups(events):
    """The name of each process."""
    return {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}


def tracks(events):
    return {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}


def of(events, group, ph="X"):
    """(track, name, ts, dur) of the events of one group and kind, in the order of the file."""
    names, called = tracks(events), groups(events)
    return [
        (names[e["tid"]], e["name"], e["ts"], e.get("dur"))
        for e in events
        if e["ph"] == ph and called[e["pid"]] == group
    ]


# --- values, computed by hand --------------------------------------------------------------------------------


def test_a_request_waits_and_runs_within_its_slice():
    events, _ = timeline(Told().request(arrived_s=1.0, ended_s=4.0, service_s=2.5).run())
    assert of(events, "requests") == [
        ("requests 1", "r0", 1 * US, 3 * US),
        ("requests 1", "waits", 1 * US, US // 2),
        ("requests 1", "runs", 3 * US // 2, 5 * US // 2),
    ]


def test_what_is_served_token_by_token_has_prefill_and_decode():
    told = Told()
    told.request(arrived_s=1.0, ended_s=4.0, service_s=2.5, tokens=3)
    run = told.run()
    row = run.records.column_names.index("ttft_s")
    run.records = run.records.set_column(row, "ttft_s", [[1.5]])
    events, _ = timeline(run)
    assert of(events, "requests")[1:] == [
        ("requests 1", "waits", 1 * US, US // 2),
        ("requests 1", "prefill", 3 * US // 2, US),
        ("requests 1", "decode", 5 * US // 2, 3 * US // 2),
    ]


def test_requests_at_a_time_are_side_by_side_and_the_lowest_free_lane_is_taken():
    told = Told()
    for arrived_s, ended_s in ((0.0, 4.0), (1.0, 2.0), (2.0, 3.0), (2.5, 6.0)):
        told.request(arrived_s=arrived_s, ended_s=ended_s, service_s=None)
    events, _ = timeline(told.run())
    assert [(track, name) for track, name, _, _ in of(events, "requests") if name.startswith("r")] == [
        ("requests 1", "r0"), ("requests 2", "r1"), ("requests 2", "r2"), ("requests 3", "r3"),
    ]  # fmt: skip


def test_a_request_without_an_answer_lasts_to_the_end_of_the_run_and_says_so():
    events, _ = timeline(Told().request(arrived_s=0.0).request(None, arrived_s=3.0).run(ended_s=10.0))
    assert of(events, "requests")[-1] == ("requests 1", "r1", 3 * US, 7 * US)
    last = next(e for e in events if e["name"] == "r1")
    assert last["args"]["outcome"] == "unfinished"


def test_attempts_are_on_the_track_of_their_replica_with_an_arrow_from_their_request():
    told = Told().request(arrived_s=1.0, ended_s=5.0, replica=NEW, attempts=2)
    told.attempt("r0", "primary", OLD, end="timed out", sent_s=1.0, started_s=2.0, ended_s=4.0)
    told.attempt("r0", "retry", NEW, sent_s=4.0, started_s=4.5, ended_s=5.0, number=2)
    events, _ = timeline(told.run())

    assert of(events, "attempts") == [
        (OLD, "r0", 2 * US, 2 * US), (NEW, "r0", 9 * US // 2, US // 2),
    ]  # fmt: skip
    arrows = [(e["ph"], e["id"], e["ts"]) for e in events if e["ph"] in "sf"]
    assert arrows == [("s", 0, 2 * US), ("f", 0, 2 * US), ("s", 1, 9 * US // 2), ("f", 1, 9 * US // 2)]


def test_an_only_attempt_is_told_by_its_record_and_has_no_arrow():
    events, _ = timeline(Told().request(arrived_s=1.0, ended_s=4.0, service_s=2.5).run())
    assert of(events, "attempts") == [(OLD, "r0", 3 * US // 2, 5 * US // 2)]
    assert not [e for e in events if e["ph"] in "sf"]


def test_a_replica_s_states_follow_each_other_and_its_end_is_a_mark():
    told = Told().replica(OLD, (0.0, "loading"), (2.0, "ready"), (9.0, "stopped")).request(ended_s=10.0)
    told.replica(NEW, (1.0, "ready"))
    events, _ = timeline(told.run())
    assert of(events, "replicas") == [
        (OLD, "loading", 0, 2 * US), (OLD, "ready", 2 * US, 7 * US), (NEW, "ready", 1 * US, 9 * US),
    ]  # fmt: skip
    assert of(events, "replicas", "i") == [(OLD, "stopped", 9 * US, None)]


def test_batches_decisions_and_samples_are_at_their_times():
    told = Told().request(ended_s=10.0)
    told.telemetry.dispatched(1.5, OLD, 8, 3, "full")
    told.telemetry.decided(2.0, "scaling", "old", "Scale", value=4.0, reason="queue")
    events, _ = timeline(told.run())
    assert of(events, "batches", "i") == [(OLD, "batch of 8", 3 * US // 2, None)]
    assert of(events, "decisions", "i") == [("scaling", "Scale 4.0", 2 * US, None)]


def test_figures_of_each_pool_are_counters_of_a_group_of_their_own():
    run = simulate(arrivals(0.0, 0.0, 0.0), fleet(control_interval_s=1.0))
    events, _ = timeline(run)
    depth = [(e["ts"], e["args"]) for e in events if e["ph"] == "C" and e["name"] == "queue_depth"]
    series = zip(run.series["time_s"].to_pylist(), run.series["queue_depth"].to_pylist(), strict=True)
    assert depth == [(round(at_s * US), {"requests": waiting}) for at_s, waiting in series]
    assert len(depth) > 1
    assert groups(events)[1] == "fleet"


@pytest.mark.parametrize(
    ("fault", "dur"),
    [
        ({"kind": "slow", "factor": 2.0}, US),  # of no end: to that of the run
        ({"kind": "hang"}, US),
        ({"kind": "crash"}, None),
        ({"kind": "preempt", "notice_s": 0.25}, US // 4),
        ({"kind": "preempt", "notice_s": 0.25, "for_s": 0.5}, 3 * US // 4),
    ],
)
def test_a_fault_that_says_no_end_has_none_unless_it_is_a_loss(fault, dur):
    told = faults(Fault(at_s=0.5, replica="replica/1", **fault))
    run = simulate(arrivals(0.0, 0.5), fleet(replicas=2), faults=told, until_s=1.5)

    events, _ = timeline(run)

    ((_, _, ts, found),) = of(events, "faults", "X" if dur else "i")
    assert (ts, found) == (US // 2, dur)


def test_faults_last_as_long_as_they_say_within_the_run():
    told = faults(Fault(at_s=0.5, kind="slow", replica="replica/0", factor=2.0, for_s=100.0),
                  Fault(at_s=99.0, kind="crash"))  # fmt: skip
    run = simulate(arrivals(0.0), fleet(), faults=told)
    events, report = timeline(run)
    ((_, name, ts, dur),) = of(events, "faults")
    assert (name, ts) == ("slow replica/0", US // 2)
    assert ts + dur == max(e["ts"] + e.get("dur", 0) for e in events if "ts" in e)
    assert report.left_out == {"faults outside the stretch": 1}


def test_names_of_users_are_escaped_and_stay_one_line():
    run = Told().request(arrived_s=0.0).run()
    run.records = run.records.set_column(0, "id", [['</script>\n"\x1b[31m']])
    file = io.BytesIO()
    perfetto.write(run, file)
    assert b"\\\\n" in file.getvalue()
    assert b"\x1b" not in file.getvalue()
    assert (
        of(msgspec.json.decode(file.getvalue())["traceEvents"], "requests")[0][1] == '</script>\\n"\\x1b[31m'
    )


# --- what is shown -------------------------------------------------------------------------------------------


def test_a_stretch_has_what_reaches_into_it_and_the_rest_is_counted():
    told = Told()
    for arrived_s, ended_s in ((0.0, 1.0), (0.5, 2.5), (3.0, 4.0), (5.0, 6.0)):
        told.request(arrived_s=arrived_s, ended_s=ended_s, service_s=None)
    events, report = timeline(told.run(), from_s=2.0, first_s=5.0)
    assert [name for _, name, _, _ in of(events, "requests")] == ["r1", "r2"]
    assert report.left_out["requests outside the stretch"] == 2


@pytest.mark.parametrize("window", [{"from_s": 50.0}, {"from_s": 3.0, "first_s": 2.0}])
def test_a_stretch_in_which_nothing_is_left_is_refused(window):
    with pytest.raises(ValueError, match="nothing is left"):
        timeline(Told().request().run(), **window)


def test_too_many_events_are_refused_with_a_stretch_that_would_do(monkeypatch):
    run = Told().request(ended_s=10.0).run()
    whole = timeline(run)[1].written
    monkeypatch.setattr(perfetto, "MOST_EVENTS", whole - 1)
    with pytest.raises(ValueError, match=rf"{whole} events are more .* about 9\.\d+ s: .*--first-s"):
        timeline(run)


# --- what holds of any timeline ------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=30))
def test_on_one_lane_nothing_overlaps_and_no_lane_is_taken_in_vain(spans):
    lanes, until, most = Lanes(), {}, 0
    spans = sorted((begin, begin + length) for begin, length in spans)
    for begin, end in spans:
        lane = lanes.take(begin, end)
        assert until.get(lane, 0) <= begin
        until[lane] = end
        at_a_time = sum(b <= begin < max(e, b + 1) or (b, e) == (begin, end) for b, e in spans)
        most = max(most, at_a_time)
    assert len(until) <= most


def busy_run():
    """Overload, a crash, retries: everything that a timeline has to hold."""
    retry = ExponentialBackoff(max_attempts=4)
    spec = fleet(0.3, replicas=3, routing=RoundRobin(), binding="early", retry=retry)
    struck = faults(Fault(at_s=2.0, kind="crash", replica="replica/1", for_s=1.5))
    return simulate(arrivals(*(0.07 * number for number in range(120)), deadline_s=6.0), spec, faults=struck)


def test_slices_of_one_track_nest_and_everything_of_the_run_is_there_once():
    run = busy_run()
    events, _ = timeline(run)
    by_track = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            by_track[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for slices in by_track.values():
        assert slices == sorted(slices, key=lambda one: one[0])
        open_until = []
        for begin, end in slices:
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)

    shown = [name for _, name, _, _ in of(events, "requests") if name.startswith("r") and name != "runs"]
    assert sorted(shown) == sorted(run.records["id"].to_pylist())
    assert len(of(events, "attempts")) == len(run.every_attempt())
    assert len(of(events, "batches", "i")) == len(run.dispatches)
    assert len(of(events, "decisions", "i")) == len(run.decisions)
    states = of(events, "replicas") + of(events, "replicas", "i")
    assert len(states) == len(run.replicas)
    assert {track for track, *_ in states} == set(run.replicas["replica"].to_pylist())


def test_every_arrow_begins_in_its_request_and_ends_in_its_attempt():
    events, _ = timeline(busy_run())
    slices = [e for e in events if e["ph"] == "X"]
    arrows = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["id"]][event["ph"]] = event
    assert arrows
    for arrow in arrows.values():
        (begin,) = [e for e in slices if e["tid"] == arrow["s"]["tid"] and e["name"].startswith("r")
                    and e["name"] != "runs" and e["ts"] <= arrow["s"]["ts"] <= e["ts"] + e["dur"]][-1:]  # fmt: skip
        ends = [e for e in slices if e["tid"] == arrow["f"]["tid"] and e["ts"] == arrow["f"]["ts"]]
        assert begin["name"] in {e["name"] for e in ends}


def test_no_two_tracks_have_one_number_and_each_has_a_name():
    events, _ = timeline(busy_run())
    used = {(e["pid"], e["tid"]) for e in events if e["ph"] in "Xisf"}
    assert len({tid for _, tid in used}) == len(used)
    assert {tid for _, tid in used} <= tracks(events).keys()
    assert {e["pid"] for e in events} == groups(events).keys()


def test_the_same_run_is_the_same_file():
    first, second = io.BytesIO(), io.BytesIO()
    perfetto.write(busy_run(), first)
    perfetto.write(busy_run(), second)
    assert first.getvalue() == second.getvalue()
