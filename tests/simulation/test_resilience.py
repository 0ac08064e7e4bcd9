"""The policies of slowness and failure in a fleet: what they add, what they prevent, and what they cost."""

import math
from collections import Counter

import pytest

from fleet import AffineLatency, EmulatedEngine, simulate
from policies import (
    AlwaysTrust,
    AttemptTimeout,
    CircuitBreaker,
    HedgeAfterPercentile,
    NoRetry,
    OutlierEjection,
    Random,
    RoundRobin,
    TiedRequests,
)
from tests.policies.listening import listening, told
from tests.simulation.building import arrivals, column, decisions, faults, fleet, play
from traces import Fault, poisson

VARIED = EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.1, jitter_cv=1.0))
"""A tenth of a second on average, as much again of standard deviation."""
SLOW_ONE = faults(Fault(at_s=10.0, kind="slow", replica="replica/0", factor=20.0, for_s=60.0))


QUIET = {"report_interval_s": 1e3, "probe_interval_s": 1e3, "control_interval_s": 1e3}
"""Nothing happens but requests."""


def sent_to(run, replica: str, since_s: float, until_s: float) -> int:
    """How many requests this replica was given to run in that time."""
    rows = run.dispatches.to_pylist()
    return sum(
        row["size"] for row in rows if row["replica"] == replica and since_s <= row["time_s"] < until_s
    )


# --- hedges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.5, 0.95])
def test_hedging_at_the_percentile_that_it_has_learnt_adds_what_lies_beyond(percentile):
    """At the median many a primary attempt loses against its hedge, and is withdrawn: it is not left out."""
    policy = HedgeAfterPercentile(percentile=percentile, budget_ratio=None)
    spec = fleet(replicas=40, routing=Random(), engine=VARIED, hedge=policy, **QUIET)
    trace = poisson(4.0, 2_000.0, 1)

    run = simulate(trace, spec, seed=1, check=False)

    later = len(trace) - policy.min_samples
    # Four standard errors of the fraction, and what those of the percentile's own estimate add to it.
    error = 4 * math.sqrt(percentile * (1 - percentile) * (1 / later + 1 / policy.window))
    assert error < 0.07
    assert run.manifest.counters["hedges"] / later == pytest.approx(1 - percentile, abs=error)


def test_a_hedge_is_worth_it_where_few_are_slow_and_its_budget_holds_where_many_are():
    spec = fleet(replicas=16, routing=Random(), engine=VARIED, health=AlwaysTrust())
    trace = poisson(16.0, 100.0, 1)
    few, many = SLOW_ONE, faults(
        *(Fault(at_s=10.0, kind="slow", replica=f"replica/{n}", factor=20.0, for_s=60.0) for n in range(8))
    )  # fmt: skip
    policy = HedgeAfterPercentile(percentile=0.9, budget_ratio=0.15)

    alone = simulate(trace, spec, seed=1, faults=few)
    hedged = simulate(trace, spec.replace(hedge=policy), seed=1, faults=few)
    storm = simulate(trace, spec.replace(hedge=policy), seed=1, faults=many)

    assert hedged.summary.e2e_s.p99 < 0.5 * alone.summary.e2e_s.p99
    assert hedged.summary.completed == storm.summary.completed == len(trace)
    assert storm.manifest.counters["hedges_over_budget"] > 0
    assert storm.manifest.counters["hedges"] <= 0.15 * len(trace)


def test_a_tied_request_runs_where_its_turn_comes_first_and_only_there():
    spec = fleet(replicas=2, routing=RoundRobin(), hedge=TiedRequests())

    run = play(arrivals(0.0, 0.0, 0.1, 0.2, 0.3), spec)

    assert sum(row["size"] for row in run.dispatches.to_pylist()) == 5
    assert column(run, "e2e_s") == pytest.approx({"r0": 1.0, "r1": 1.0, "r2": 1.9, "r3": 1.8, "r4": 2.7})


# --- a limit of time ---------------------------------------------------------------------------------------


def test_no_attempt_takes_longer_than_its_limit():
    routing, heard = listening("routing", "on_dispatched", "on_completed", parent=Random)
    spec = fleet(replicas=4, routing=routing, engine=VARIED, retry=AttemptTimeout(limit_s=0.5))

    run = simulate(poisson(8.0, 60.0, 1), spec, seed=1, faults=SLOW_ONE)

    sent = {(request.id, replica): now_s for request, replica, now_s in told(heard, "on_dispatched")}
    ended = told(heard, "on_completed")
    lasted = [now_s - sent[done.request.id, done.replica] for done, now_s in ended]
    assert max(lasted) <= 0.5 + 1e-9
    ends = Counter(done.failure for done, _ in ended)
    assert ends.keys() == {None, "timed-out"}
    assert ends["timed-out"] == run.manifest.counters["retries"] + run.summary.failed > 50


def test_what_takes_too_long_fails_as_the_inner_policy_says():
    run = play(arrivals(0.0), fleet(retry=AttemptTimeout(limit_s=0.25, retry=NoRetry())))

    assert column(run, "outcome") == {"r0": "failed"}
    assert column(run, "ended_s") == {"r0": pytest.approx(0.25)}


# --- breakers ----------------------------------------------------------------------------------------------

CAREFUL = fleet(0.1, replicas=8, routing=Random(), health=AlwaysTrust(), retry=AttemptTimeout(limit_s=1.0))
"""At a replica that is twenty times slower than it should be, every attempt takes too long."""


def test_a_circuit_breaker_keeps_requests_from_a_slow_replica_and_lets_it_back():
    trace = poisson(20.0, 120.0, 1)

    run = simulate(trace, CAREFUL.replace(breaker=CircuitBreaker()), seed=1, faults=SLOW_ONE)

    assert sent_to(run, "replica/0", 0.0, 10.0) > 10
    assert sent_to(run, "replica/0", 30.0, 70.0) <= 40.0 / 5.0 + 1  # a trial each time that it has been open
    assert sent_to(run, "replica/0", 80.0, 120.0) > 60
    assert run.summary.rejected == 0


def test_an_outlier_is_ejected_and_comes_back():
    trace = poisson(20.0, 120.0, 1)

    run = simulate(trace, CAREFUL.replace(breaker=OutlierEjection()), seed=1, faults=SLOW_ONE)

    fifth_s = [row["time_s"] for row in decisions(run, "retry", "Retry")][4]
    assert sent_to(run, "replica/0", 0.0, 10.0) > 10
    assert sent_to(run, "replica/0", fifth_s + 2.0, fifth_s + 30.0) == 0  # what it runs already takes 2 s
    assert sent_to(run, "replica/0", fifth_s + 30.0, fifth_s + 40.0) > 0
    assert run.summary.completed == len(trace)


def test_when_every_breaker_is_open_requests_are_refused_or_served_all_the_same():
    slow = faults(
        *(Fault(at_s=0.0, kind="slow", replica=f"replica/{n}", factor=50.0, for_s=30.0) for n in range(8))
    )
    trace = poisson(20.0, 60.0, 1)

    fast, ignored = (
        simulate(trace, CAREFUL.replace(breaker=CircuitBreaker(when_all_open=what)), seed=1, faults=slow)
        for what in ("fail-fast", "ignore")
    )

    assert fast.summary.rejected > 100
    assert ignored.summary.rejected == 0
    for run in (fast, ignored):  # it is over in the end, and nobody is locked out
        late = [row["outcome"] for row in run.records.to_pylist() if row["arrived_s"] > 50.0]
        assert set(late) == {"completed"}
