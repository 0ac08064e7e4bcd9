"""Idle time is passed over where nobody can tell: the bytes of a run are those of one that plays it all out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import NetworkModel
from fleet.runtime.simulated import SimulatedContext
from policies import AlwaysTrust, Fixed, FixedSize, QueueDepth, Scale, TargetUtilization
from tests.simulation.building import arrivals, column, faults, fleet, play, simulation, trace_of
from tests.simulation.building_tokens import asks, serving
from traces import Fault

DAY_S = 86_400.0


def events(trace, spec, **options) -> int:
    made = simulation(trace, spec, **options)
    made.run()
    return made.runtime.delivered


def played_out(monkeypatch, *args, **options):
    """The same, with every period of every actor."""
    with monkeypatch.context() as patch:
        patch.setattr(
            SimulatedContext, "every", lambda self, period_s, message: self.after(period_s, message)
        )
        return play(*args, **options)


def test_an_idle_day_costs_next_to_nothing():
    busy, idle = (events(arrivals(0.0, gap_s), fleet(0.1, replicas=4)) for gap_s in (30.0, DAY_S))

    assert idle <= 3 * busy


def test_an_idle_week_before_the_first_request_costs_next_to_nothing():
    assert events(arrivals(7 * DAY_S), fleet(0.1)) < 1_000


def test_a_horizon_after_the_last_request_is_reached_at_once():
    run = play(arrivals(0.0, 2 * DAY_S), fleet(0.1), until_s=DAY_S)

    assert run.series["time_s"].to_pylist()[-1] == pytest.approx(DAY_S, abs=1.0)
    assert run.summary.completed == 1


def test_the_series_of_several_pools_is_in_the_order_of_time_through_idle_periods(monkeypatch):
    """The audit of each run demands it; and the bytes are those of a run that plays all of it out."""
    spec = fleet(0.1, pools={"a": {}, "b": {"replicas": 2}, "c": {}})
    trace = arrivals(0.0, 500.0, 500.1)
    run, whole = play(trace, spec), played_out(monkeypatch, trace, spec)

    assert run.series.num_rows > 1_500
    assert run.series.equals(whole.series)
    assert run.digest == whole.digest


SPECS = {
    "batches": lambda: fleet(0.1, replicas=2),
    "a warm pool": lambda: fleet(
        0.1, replicas=1, warm_pool=FixedSize(size=1), min_replicas=1, max_replicas=2
    ),
    "no trust lost": lambda: fleet(0.1, health=AlwaysTrust()),
    "tokens": lambda: serving(replicas=2),
    "queue depth": lambda: fleet(
        0.5, replicas=2, min_replicas=1, max_replicas=4, scaling=QueueDepth(up_at=1, down_at=0.5)
    ),
    "utilization": lambda: fleet(
        0.5, min_replicas=1, max_replicas=4, scaling=TargetUtilization(down_stabilization_s=9.0)
    ),
    "late binding": lambda: fleet(0.1, replicas=2, binding="late"),
    "a slow network": lambda: fleet(0.1, network=NetworkModel(delay_s=0.01)),
    "deep probes": lambda: fleet(0.1, deep_probe_interval_s=7.0),
}
FAULTS = {
    "none": (),
    "a crash in between": (Fault(at_s=100.25, kind="crash", replica="replica/0"),),
    "a hang in between": (Fault(at_s=77.7, kind="hang", replica="replica/0", for_s=20.0),),
    "a partition in between": (Fault(at_s=50.0, kind="partition", replica="replica/0", for_s=1.4),),
}


@pytest.mark.parametrize("struck", FAULTS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_run_is_the_same_as_one_that_plays_all_idle_time_out(spec, struck, monkeypatch):
    trace = trace_of(
        *(asks(f"r{number}", at_s) for number, at_s in enumerate((0.0, 0.3, 150.1, 151.0, 400.0)))
    )
    given_faults = faults(*FAULTS[struck])

    quick = play(trace, SPECS[spec](), faults=given_faults)
    slow = played_out(monkeypatch, trace, SPECS[spec](), faults=given_faults)

    assert quick.digest == slow.digest
    assert quick.series.equals(slow.series)
    assert quick.decisions.equals(slow.decisions)


@given(times_s=st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.5, 20.0, 61.3, 200.0]), min_size=1, max_size=6))
def test_whatever_the_gaps_are(times_s):
    trace = arrivals(*sorted(times_s))
    with pytest.MonkeyPatch.context() as patch:
        slow = played_out(patch, trace, fleet(0.4, replicas=2))

    assert play(trace, fleet(0.4, replicas=2)).digest == slow.digest


class AtNoon(Fixed):
    """Decides by the time of day, and so is no `Fixed` that is settled."""

    def desired(self, pool, now_s):
        return Scale(3 if now_s >= 300.0 else 1)


def test_a_policy_that_decides_by_the_clock_is_asked_in_every_period():
    spec = fleet(0.1, min_replicas=1, max_replicas=3, scaling=AtNoon())

    run = play(arrivals(0.0, 600.0), spec)

    ready = dict(zip(run.series["time_s"].to_pylist(), run.series["ready"].to_pylist(), strict=True))
    assert (ready[290.0], ready[310.0]) == (1, 3)
    assert set(column(run, "outcome").values()) == {"completed"}
