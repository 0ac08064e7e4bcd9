"""What a control loop is told of demand and capacity, and what the shipped laws make of it."""

import math
import statistics
from itertools import pairwise

import pytest

from fleet import AffineLatency, AffineSteps, EmulatedEngine, EmulatedLlmEngine, FleetSpec, KvSpec, simulate
from policies import (
    ExponentialBackoff,
    Fixed,
    NoBatching,
    QueueDepth,
    Scale,
    ScalingPolicy,
    TargetKvUtilization,
    TargetUtilization,
)
from policies.backoff import grown
from tests.simulation.building import arrivals, column, engine, faults, fleet, play
from traces import Fault, load_trace, poisson


class ByArrivals(ScalingPolicy):
    """As many as the demand needs, by the requests let in since it was last asked."""

    per_replica_s: float = 25.0

    def desired(self, pool, now_s):
        wanted = math.ceil(pool.arrivals_per_s / self.per_replica_s)
        return Scale(max(pool.min_replicas, min(wanted, pool.max_replicas)))


class Watching(Fixed):
    """Keeps every view that it is shown."""

    def reset(self, rng):
        super().reset(rng)
        self.seen = []

    def desired(self, pool, now_s):
        self.seen.append((now_s, pool))
        return super().desired(pool, now_s)


def series(run, name, begin_s=0.0, end_s=math.inf):
    rows = run.series.select(["time_s", name]).to_pylist()
    return [row[name] for row in rows if begin_s < row["time_s"] < end_s]


# --- demand is measured where requests arrive ----------------------------------------------------------------


@pytest.mark.parametrize("binding", ["early", "late"])
def test_demand_is_what_arrives_whatever_there_is_to_serve_it(binding):
    spec = fleet(0.002, engine=engine(0.002, cold_start_s=10.0), binding=binding)
    outage = faults(Fault(at_s=10.2, kind="crash", replica="replica/0"))

    run = play(arrivals(*(number / 20 for number in range(800))), spec, faults=outage)

    assert set(series(run, "arrivals_per_s", 2.0, 38.0)) == {20.0}


def test_a_request_that_is_tried_again_arrives_once():
    spec = fleet(0.5, replicas=2, retry=ExponentialBackoff(base_s=0.1))
    crashes = faults(*(Fault(at_s=1.2 + number, kind="crash") for number in range(3)))

    run = play(arrivals(*(number / 2 for number in range(20))), spec, faults=crashes)

    assert run.manifest.counters["retries"] > 0
    assert sum(series(run, "arrivals_per_s")) == 20


def test_all_that_waits_is_the_depth_of_the_queue_wherever_it_waits():
    spec = fleet(0.1, engine=engine(0.1, cold_start_s=5.0), scaling=Watching())
    outage = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))

    run = play(arrivals(*(1.0 + number / 10 for number in range(30))), spec, faults=outage)

    assert series(run, "queue_depth", 1.5, 4.5) == [10, 20, 30]
    assert run.summary.completed == 30


# --- one bound, wherever a request waits ---------------------------------------------------------------------


@pytest.mark.parametrize("binding", ["early", "late"])
@pytest.mark.parametrize("capacity", [1, 10, 100])
def test_what_goes_beyond_the_bound_is_shed_on_arrival_though_nothing_is_ready(binding, capacity):
    spec = fleet(0.01, engine=engine(0.01, cold_start_s=20.0), queue_capacity=capacity, binding=binding)
    outage = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))

    run = play(arrivals(*(1.0 + 0.01 * number for number in range(500))), spec, faults=outage)

    assert (run.summary.completed, run.summary.shed) == (capacity, 500 - capacity)
    shed = [row for row in run.records.to_pylist() if row["outcome"] == "shed"]
    assert all(row["ended_s"] == row["arrived_s"] for row in shed)


# --- integrals, not samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase_s", [0.0, 0.1, 0.26, 0.5, 0.74, 0.9])
@pytest.mark.parametrize("control_interval_s", [1.0, 2.0, 3.0])
def test_a_quarter_busy_is_a_quarter_at_every_phase(phase_s, control_interval_s):
    run = play(
        arrivals(*(number + phase_s for number in range(40))),
        fleet(0.25, control_interval_s=control_interval_s),
    )

    seen = series(run, "busy_fraction", 4.0, 38.0)
    assert seen == pytest.approx([0.25] * len(seen))


def test_in_flight_is_averaged_over_the_interval():
    watching = Watching()
    spec = fleet(0.5, scaling=watching)

    run = play(arrivals(*(number + 0.25 for number in range(10))), spec)

    assert run.summary.completed == 10
    assert series(run, "in_flight", 0.5, 9.5) == [0] * 9, "each sample finds none"
    means = series(run, "in_flight_mean", 0.5, 9.5)
    assert means == pytest.approx([0.5] * 9)


def test_utilization_counts_what_a_horizon_a_crash_or_a_deadline_left_unfinished():
    horizon = play(arrivals(0.0), fleet(10.0), until_s=5.0)
    crash = play(
        arrivals(0.0), fleet(10.0, retry={"policy": "no-retry"}),
        faults=faults(Fault(at_s=5.0, kind="crash", replica="replica/0")),
    )  # fmt: skip
    deadline = play(arrivals(0.0), fleet(10.0, deadline_s=4.0))

    for run in (horizon, crash, deadline):
        assert run.summary.utilization == pytest.approx(1.0)


def test_latencies_and_attainment_of_the_interval_are_in_the_view():
    seen = []

    class Look(Fixed):
        def desired(self, pool, now_s):
            seen.append(pool)
            return super().desired(pool, now_s)

    play(
        arrivals(0.1, 0.1, 1.1, 5.1), fleet(0.3, scaling=Look(), slo={"e2e_s": 0.4})
    )  # two at once: 0.3 and 0.6 s

    first = seen[1]
    assert first.e2e_s.values_s == pytest.approx((0.3, 0.6))
    assert first.e2e_s.mean == pytest.approx(0.45)
    assert first.attainment == 0.5
    assert seen[2].attainment == 1.0
    assert seen[4].attainment is None
    assert seen[4].e2e_s.p99 is None


# --- laws that are defined at zero ---------------------------------------------------------------------------

BATCHES = EmulatedEngine(latency=AffineLatency(base_s=0.012, per_item_s=0.003), cold_start_s=3.0)
TOKENS = EmulatedLlmEngine(
    latency=AffineSteps(base_s=0.01, per_prefill_token_s=0.0001), kv=KvSpec(blocks=4_000), cold_start_s=3.0
)
SCALERS = {
    "queue depth": QueueDepth(),
    "queue depth, close thresholds": QueueDepth(up_at=0.5, down_at=0.1),
    "utilization": TargetUtilization(down_stabilization_s=5.0),
    "cache": TargetKvUtilization(down_stabilization_s=5.0),
    "fixed": Fixed(),
    "fixed, none": Fixed(replicas=0),
    "arrivals": ByArrivals(),
}


@pytest.mark.parametrize("served", ["batches", "tokens"])
@pytest.mark.parametrize("scaler", SCALERS)
def test_every_scaler_serves_everything_from_zero(scaler, served):
    spec = FleetSpec(
        engine=BATCHES if served == "batches" else TOKENS, replicas=1, min_replicas=0, max_replicas=4,
        scaling=SCALERS[scaler],
    )  # fmt: skip
    trace = (
        load_trace("chat-small").first(requests=100) if served == "tokens" else arrivals(0.0, 100.0, 120.0)
    )

    summary = simulate(trace, spec).summary

    assert summary.completed == len(trace)


def test_demand_alone_brings_a_fleet_back_from_zero():
    spec = fleet(0.02, engine=engine(0.02, cold_start_s=1.0), replicas=1, min_replicas=0, max_replicas=6,
                 scaling=ByArrivals())  # fmt: skip

    run = play(arrivals(0.0, 0.1, *(30 + number / 10 for number in range(200))), spec)

    assert run.summary.completed == 202
    assert run.summary.replicas.min == 0


def test_a_start_that_takes_longer_than_the_loops_period_is_not_forgotten():
    spec = fleet(0.1, engine=engine(0.1, cold_start_s=3.5), replicas=1, min_replicas=0, max_replicas=4,
                 scaling=ByArrivals())  # fmt: skip

    run = play(arrivals(0.0, 60.0), spec)

    assert set(column(run, "outcome").values()) == {"completed"}
    started = {row["replica"] for row in run.replicas.to_pylist() if row["state"] == "provisioning"}
    assert started == {"replica/1", "replica/2"}, "one for each request"


# --- how many there should be --------------------------------------------------------------------------------


def steady(scaling):
    """5 Erlang for a quarter of an hour, one request at a time on each replica."""
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.25, per_item_s=0.0)), batching=NoBatching(),
        max_inflight_batches=1, replicas=4, min_replicas=1, max_replicas=40, scaling=scaling,
    )  # fmt: skip
    return simulate(poisson(20, 900, seed=1), spec, check=False)


def test_five_erlang_at_seventy_percent_take_seven_or_eight_replicas():
    ready = series(steady(TargetUtilization(target=0.7)), "ready", 300.0, 900.0)

    assert 7.0 <= statistics.fmean(ready) <= 8.0


def test_queue_depth_settles_under_constant_load():
    ready = series(steady(QueueDepth()), "ready")

    assert sum(before != after for before, after in pairwise(ready)) <= 5


# --- starts that fail, replicas that are taken away ----------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 1, 5, 6, 1_023, 1_024, 10**9])
def test_a_back_off_is_capped_before_it_grows(failures):
    assert grown(0.5, 2.0, failures, 30.0) == min(30.0, 0.5 * 2.0 ** min(failures, 10))


def test_a_replica_with_notice_is_replaced_at_the_notice():
    spec = fleet(0.2, engine=engine(0.2, cold_start_s=10.0), replicas=2, scaling=Fixed(replicas=2))
    trace = arrivals(*(number / 8 for number in range(480)))
    runs = {
        notice_s: play(trace, spec, faults=faults(Fault(at_s=10.0, kind="preempt", notice_s=notice_s)))
        for notice_s in (0.0, 30.0)
    }

    draining = series(runs[30.0], "draining", 10.5, 11.5)
    assert draining in ([1], [0]), "idle at its notice, it is gone at once"
    assert series(runs[30.0], "starting", 10.5, 15.0) == [1] * 4
    assert runs[30.0].summary.e2e_s.p99 <= runs[0.0].summary.e2e_s.p99


def test_a_replica_on_notice_drains_and_is_not_requested():
    watching = []

    class Look(Fixed):
        def desired(self, pool, now_s):
            watching.append(pool)
            return super().desired(pool, now_s)

    spec = fleet(5.0, engine=engine(5.0, cold_start_s=3.0), replicas=2, scaling=Look(replicas=2))
    notice = faults(Fault(at_s=1.5, kind="preempt", replica="replica/0", notice_s=30.0))

    play(arrivals(0.0, 0.0, 9.0), spec, faults=notice)

    then = watching[2]
    assert (then.ready, then.draining, then.starting, then.requested) == (1, 1, 1, 2)


# --- token by token ------------------------------------------------------------------------------------------


def test_what_waits_at_a_replica_that_serves_token_by_token_is_in_the_depth_of_the_queue():
    llm = EmulatedLlmEngine(latency=AffineSteps(base_s=0.1), kv=KvSpec(blocks=8, block_tokens=16))
    trace = arrivals(*[0.0] * 20, prompt_tokens=100)

    run = simulate(trace, FleetSpec(engine=llm), until_s=3.0)

    assert max(series(run, "queue_depth")) > 10, "one sequence fits into the cache at a time"


def test_utilization_counts_the_steps_that_a_horizon_cut_off():
    llm = EmulatedLlmEngine(latency=AffineSteps(base_s=0.05), kv=KvSpec(blocks=1_000))
    trace = load_trace("chat-small").first(requests=1)

    run = simulate(trace, FleetSpec(engine=llm), until_s=trace.column("arrived_s")[0].as_py() + 1.0)

    assert run.summary.utilization == pytest.approx(1.0 / run.summary.duration_s)
