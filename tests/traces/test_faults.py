"""Fault traces: files of ours, recordings of others, random ones; and what each event becomes."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.traces import strategies
from traces import Fault, FaultTrace, TraceError, load_faults, random_faults, save_faults

KINDS = ["crash", "hang", "slow", "partition", "drop", "fail-load", "preempt"]
SECONDS = st.floats(0, 1e6)
FAULTS = st.builds(
    Fault,
    at_s=SECONDS,
    kind=st.sampled_from(KINDS),
    replica=st.none() | st.sampled_from(["replica/0", "replica/1"]),
    for_s=st.none() | st.floats(0.001, 1e6),
    factor=st.floats(1, 100),
    probability=st.floats(0, 1),
    notice_s=SECONDS,
)
TRACES = st.builds(
    FaultTrace,
    faults=st.lists(FAULTS, max_size=5).map(tuple),
    source=strategies.NAMES,
    seed=st.none() | st.integers(0),
)


@given(TRACES.filter(lambda trace: trace.seed is None or trace.seed < 2**63))
def test_a_saved_fault_trace_is_read_back_equal(tmp_path_factory, faults):
    path = tmp_path_factory.mktemp("faults") / "x"

    save_faults(faults, path)

    assert load_faults(path) == faults


def test_toml_is_read_too(tmp_path):
    (tmp_path / "x").write_text(
        'source = "by hand"\n[[faults]]\nat_s = 20.0\nkind = "crash"\nreplica = "replica/0"\n'
        '[[faults]]\nat_s = 5\nkind = "slow"\nfactor = 3.0\nfor_s = 2.0\n'
    )

    assert load_faults(tmp_path / "x") == FaultTrace(
        faults=(
            Fault(at_s=5.0, kind="slow", factor=3.0, for_s=2.0),
            Fault(at_s=20.0, kind="crash", replica="replica/0"),
        ),
        source="by hand",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"faults": [{"at_s": -1, "kind": "crash"}]}', "Expected `float` >= 0.0 - at `$.faults[0].at_s`"),
        ('{"faults": [{"at_s": 1, "kind": "crush"}]}', "Invalid enum value 'crush' - at `$.faults[0].kind`"),
        ('{"faults": [{"at_s": 1, "kind": "crash", "who": 1}]}', "unknown field `who` - at `$.faults[0]`"),
        ("[[faults]]\nat_s = 'soon'", "at `$.faults[0].at_s`"),
        ("[[faults", "is not a fault trace: Expected"),
        ('{"metadata": {"gap_seconds": 0}, "data": []}', "at `$.metadata.gap_seconds`"),
        ('[{"node_id": "a", "event_time": 1, "event_type": "fault_begin"}]', "at `$[0].event_type`"),
        ("", "is empty"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(TraceError) as error:
        load_faults(tmp_path / "x")
    assert message in str(error.value)


@pytest.fixture
def spot(tmp_path):
    def write(*counts):
        (tmp_path / "x").write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": counts}))
        return tmp_path / "x"

    return write


def test_a_fall_in_spot_availability_preempts_that_many_replicas(spot):
    faults = load_faults(spot(4, 4, 2, 3, 0), notice_s=30).faults

    assert [(fault.at_s, fault.kind, fault.notice_s) for fault in faults] == [(120.0, "preempt", 30)] * 2 + [
        (240.0, "preempt", 30)
    ] * 3


def test_spot_availability_is_laid_onto_the_fleet_asked_for(spot):
    faults = load_faults(spot(1, 0, 1, 0), replicas=3, time_scale=0.1).faults

    assert [fault.at_s for fault in faults] == [6.0] * 3 + [18.0] * 3


def test_a_recording_that_starts_short_of_instances_preempts_at_once(spot):
    assert [fault.at_s for fault in load_faults(spot(1, 2)).faults] == [0.0]


def test_a_server_s_fault_crashes_its_replica_until_its_end(tmp_path):
    def event(node, time, kind, what="GPU"):
        return {
            "node_id": node,
            "event_time": time,
            "event_type": f"fault_{kind}",
            "fault_type": {"Class": what},
        }

    events = [
        event("a", 0.5, "start"),
        event("b", 1.0, "start"),
        event("a", 1.0, "start", "NIC"),
        event("a", 1.5, "end", "NIC"),
        event("a", 2.5, "end"),
        event("c", 3.0, "start"),
    ]
    (tmp_path / "x").write_text(json.dumps(events))

    faults = load_faults(tmp_path / "x", replicas=2, time_scale=1 / 86_400).faults

    assert faults == (
        Fault(at_s=0.5, kind="crash", replica="replica/0", for_s=2.0),
        Fault(at_s=1.0, kind="crash", replica="replica/1"),
        Fault(at_s=1.0, kind="crash", replica="replica/0", for_s=0.5),
        Fault(at_s=3.0, kind="crash", replica="replica/0"),
    )
    assert {fault.replica for fault in load_faults(tmp_path / "x").faults} == {None}


def events_of(tmp_path, *rows, **more):
    """A log of one server: `(day, "start" or "end")`."""
    events = [
        {"node_id": "a", "event_time": day, "event_type": f"fault_{kind}", "fault_type": {"Class": "GPU"}}
        | more
        for day, kind in rows
    ]
    (tmp_path / "log.json").write_text(json.dumps(events))
    return tmp_path / "log.json"


def test_a_fault_that_is_over_at_once_is_not_one_that_never_ends(tmp_path):
    rows = ((1.0, "start"), (1.0, "end"), (2.0, "start"))

    assert [fault.for_s for fault in load_faults(events_of(tmp_path, *rows)).faults] == [0.0, None]


def test_what_a_fault_trace_has_no_room_for_is_named(tmp_path, spot):
    log = load_faults(events_of(tmp_path, (0.5, "end"), (1.0, "start"), rack="r1"))

    assert log.source == "log.json (left out: rack of 2, 1 ends of faults that began before it)"
    assert len(log.faults) == 1
    assert load_faults(spot(1, 0)).source == "x"


def test_a_log_whose_times_are_not_days_is_refused(tmp_path):
    with pytest.raises(TraceError, match="are its times in days"):
        load_faults(events_of(tmp_path, (1_700_000_000, "start")))


def test_random_faults_alternate_between_exponential_times_up_and_down():
    trace = random_faults(replicas=20, duration_s=50_000, mtbf_s=90, mttr_s=10, seed=1)

    down = np.array([fault.for_s for fault in trace.faults])
    up = []
    for replica in {fault.replica for fault in trace.faults}:
        mine = [fault for fault in trace.faults if fault.replica == replica]
        up += [later.at_s - (fault.at_s + fault.for_s) for fault, later in pairwise(mine)]
    assert stats.kstest(down, "expon", args=(0, 10)).pvalue > 0.001
    assert stats.kstest(up, "expon", args=(0, 90)).pvalue > 0.001
    assert down.sum() / (20 * 50_000) == pytest.approx(0.1, rel=0.05)
    assert max(fault.at_s for fault in trace.faults) < 50_000


def test_a_larger_fleet_has_the_same_faults_and_more():
    few, many = (
        random_faults(replicas=n, duration_s=500, mtbf_s=90, mttr_s=10, seed=1, kind="hang") for n in (2, 4)
    )

    assert set(few.faults) < set(many.faults)
    assert few != random_faults(replicas=2, duration_s=500, mtbf_s=90, mttr_s=10, seed=2, kind="hang")
    assert {fault.kind for fault in few.faults} == {"hang"}


def test_impossible_options_are_errors(spot):
    for wrong in ({"replicas": 0}, {"time_scale": 0.0}):
        with pytest.raises(TraceError):
            load_faults(spot(1), **wrong)
    with pytest.raises(TraceError):
        random_faults(replicas=1, duration_s=1, mtbf_s=0, mttr_s=1)


# --- where a trace begins, how fast it goes, what it is laid on ----------------------------------------------


def own(tmp_path, *faults):
    save_faults(FaultTrace(faults=faults, source="by hand"), tmp_path / "own.json")
    return tmp_path / "own.json"


def test_a_trace_can_begin_anywhere_and_what_is_not_over_then_goes_on(tmp_path):
    path = own(
        tmp_path,
        Fault(at_s=10, kind="crash", replica="replica/0", for_s=5),
        Fault(at_s=20, kind="crash", replica="replica/1", for_s=50),
        Fault(at_s=25, kind="crash", replica="replica/2"),
        Fault(at_s=28, kind="preempt", replica="replica/3", notice_s=10, for_s=7),
        Fault(at_s=40, kind="hang", replica="replica/4", for_s=1),
    )

    trace = load_faults(path, start_s=30, time_scale=2)

    assert trace.faults == (
        Fault(at_s=0, kind="crash", replica="replica/1", for_s=80),
        Fault(at_s=0, kind="preempt", replica="replica/3", notice_s=8, for_s=14),
        Fault(at_s=20, kind="hang", replica="replica/4", for_s=2),
    )
    assert trace.source == "by hand (from 30 s on, times multiplied by 2)"


def test_a_trace_of_ours_is_laid_on_places_and_given_notices(tmp_path):
    path = own(
        tmp_path,
        Fault(at_s=1, kind="preempt", replica="replica/5", for_s=9),
        Fault(at_s=2, kind="preempt", replica="place/2", notice_s=1),
        Fault(at_s=3, kind="drop", replica="client/trace"),
        Fault(at_s=4, kind="crash"),
    )

    trace = load_faults(path, replicas=2, notice_s=120)

    assert [fault.replica for fault in trace.faults] == ["replica/1", "place/0", "client/trace", None]
    assert [fault.notice_s for fault in trace.faults] == [120, 1, 0, 0]
    assert trace.faults[0].for_s == 9
    assert trace.source == "by hand (laid on 2 places, k mod 2)"


def test_a_recorded_outage_lasts_until_availability_rises_or_the_recording_ends(spot):
    faults = load_faults(spot(4, 2, 3, 3, 1), notice_s=30).faults

    assert [(fault.at_s, fault.for_s) for fault in faults] == [(60, 30), (60, 210), (240, 30), (240, 30)]


def test_how_servers_were_laid_on_places_is_said(tmp_path):
    log = load_faults(events_of(tmp_path, (1.0, "start")), replicas=4)

    assert log.source == "log.json (1 servers laid on 4 places, k mod 4)"


@pytest.mark.parametrize(
    "wrong", [{"start_s": -1}, {"start_s": float("nan")}, {"notice_s": -1}, {"time_scale": float("inf")}]
)
def test_impossible_offsets_are_errors(spot, wrong):
    with pytest.raises(TraceError):
        load_faults(spot(1), **wrong)


@pytest.mark.parametrize(
    "name",
    [
        *("router", "place/x", "replica/-1", "replica/01", "replica/1e3", "batcher/0", "client/", ""),
        *("replica/large", "replica//0", "replica/large/", "place/-a/0", "replica/a b/0", "replica/a/b/0"),
        *("replica/large/01", "replica/large/0\n", f"place/{'a' * 64}/0", "replica/" + "9" * 5000),
    ],
)
def test_a_fault_names_a_place_or_a_client_and_nothing_else(name):
    with pytest.raises(ValueError, match="is no place; write replica/0"):
        Fault(at_s=1.0, kind="crash", replica=name)


# --- places of pools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replica/large/0", "place/large/12", "replica/0/1", f"place/{'a' * 63}/0"])
def test_a_fault_may_name_a_place_of_a_pool(tmp_path, name):
    path = own(tmp_path, Fault(at_s=1, kind="crash", replica=name))

    assert [fault.replica for fault in load_faults(path).faults] == [name]


def test_what_names_a_place_of_a_pool_is_laid_within_that_pool(tmp_path):
    names = ["replica/large/5", "place/small/2", "replica/3", "client/large/5", None]
    path = own(tmp_path, *(Fault(at_s=at_s, kind="drop", replica=name) for at_s, name in enumerate(names)))

    laid = load_faults(path, replicas=2)

    assert [fault.replica for fault in laid.faults] == [
        "replica/large/1", "place/small/0", "replica/1", "client/large/5", None,
    ]  # fmt: skip


def test_places_without_a_pool_can_be_laid_on_one(tmp_path):
    names = ["replica/5", "place/small/2", "place/0", "client/trace", None]
    path = own(tmp_path, *(Fault(at_s=at_s, kind="drop", replica=name) for at_s, name in enumerate(names)))

    trace = load_faults(path, replicas=4, pool="large")

    assert [fault.replica for fault in trace.faults] == [
        "replica/large/1", "place/small/2", "place/large/0", "client/trace", None,
    ]  # fmt: skip
    assert trace.source == "by hand (laid on 4 places, k mod 4, laid on pool large)"


def test_a_log_of_servers_can_be_laid_on_a_pool(tmp_path):
    path = events_of(tmp_path, (1.0, "start"), (2.0, "end"))
    (fault,) = load_faults(path, replicas=4, pool="large").faults

    assert (fault.replica, fault.for_s) == ("replica/large/0", 86_400)
    assert load_faults(path, replicas=4, pool="large").source == (
        "log.json (1 servers laid on 4 places, k mod 4) (laid on pool large)"
    )
    with pytest.raises(TraceError, match="names no place that could be one of pool large; lay a log of"):
        load_faults(path, pool="large")


def test_faults_without_a_place_cannot_be_laid_on_a_pool(spot, tmp_path):
    with pytest.raises(TraceError, match="names no place that could be one of pool large"):
        load_faults(spot(2, 1), replicas=2, pool="large")
    there = own(tmp_path, Fault(at_s=1, kind="crash", replica="replica/large/0"))
    assert load_faults(there, pool="large").faults == load_faults(there).faults
    with pytest.raises(TraceError, match="'a/b' is not possible; 'a/b' cannot name a pool"):
        load_faults(there, pool="a/b")


def test_random_faults_of_two_pools_are_independent_and_those_without_a_pool_stay_what_they_were():
    def of(pool, replicas=3, seed=1):
        return random_faults(replicas=replicas, duration_s=5000, mtbf_s=90, mttr_s=10, seed=seed, pool=pool)

    none, large, small = of(None), of("large"), of("small")

    assert {fault.replica for fault in large.faults} == {f"replica/large/{number}" for number in range(3)}
    assert {fault.replica for fault in none.faults} == {f"replica/{number}" for number in range(3)}
    times = [{fault.at_s for fault in trace.faults} for trace in (none, large, small)]
    assert not times[0] & times[1]
    assert not times[1] & times[2]
    assert large == of("large") != of("large", seed=2)
    assert set(large.faults) < set(of("large", replicas=4).faults)
    assert none.faults[0].at_s == 51.02123965345596, "as they were when there was one pool"
    assert large.source == "random_faults, mtbf_s=90, mttr_s=10, pool=large"
    with pytest.raises(TraceError, match="cannot name a pool"):
        of("a b")
