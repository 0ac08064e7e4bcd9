"""Weights are true: a replica of half the weight takes twice as long as its engine, exactly, whatever comes on top."""

import pytest

from fleet import AffineLatency, EmulatedEngine
from fleet.messages import RunFinished
from policies import NoBatching, NoRetry, RoundRobin
from tests.policies.listening import listening, told
from tests.simulation import building
from tests.simulation.building import arrivals, column, engine, entry, faults, fleet, play, simulation
from tests.simulation.building_tokens import LATENCY, asks, llm, play_out, serving, trace_of
from traces import Fault


def slow(at_s, factor, replica, for_s=None):
    return Fault(at_s=at_s, kind="slow", factor=factor, replica=replica, for_s=for_s)


# --- whole requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "expected"), [
    ((1.0, 0.5), [1.0, 2.0]), ((4.0, 1.0), [1.0, 4.0]), ((2.0, 2.0), [1.0, 1.0]), ((), [1.0, 1.0]),
    ((0.3,), [1.0, 1.0]), ((0.5, 1.0, 4.0), [2.0, 1.0]), ((1.0, 1.0, 0.1), [1.0, 1.0]),
])  # fmt: skip
def test_the_fastest_takes_the_time_of_its_engine_and_the_others_as_many_times_that_as_they_weigh_less(
    weights, expected
):
    run = play(arrivals(0.0, 0.0), fleet(1.0, replicas=2, weights=weights, routing=RoundRobin()))

    assert list(column(run, "service_s").values()) == expected
    assert list(column(run, "e2e_s").values()) == expected


def test_what_a_policy_is_told_is_what_is():
    spec = fleet(1.0, replicas=2, weights=(1.0, 0.25), routing=RoundRobin())
    made = simulation(arrivals(0.0, 0.0), spec)
    run = made.run()

    views = sorted(made.head.router.views(), key=lambda view: view.id)
    assert [view.weight for view in views] == [1.0, 0.25]
    assert [view.expected_service_s for view in views] == list(column(run, "service_s").values())


def test_the_engine_of_a_slow_replica_is_busy_for_as_long_as_it_takes():
    run = play(arrivals(0.0, 0.0, 10.0), fleet(1.0, replicas=2, weights=(1.0, 0.5), routing=RoundRobin()))

    assert run.summary.utilization * 2 * run.summary.duration_s == pytest.approx(1.0 + 2.0 + 1.0)


def test_a_fault_multiplies_and_its_end_goes_back_to_what_the_replica_weighs():
    spec = fleet(1.0, replicas=2, weights=(1.0, 0.5), routing=RoundRobin())
    given = faults(slow(5.0, 3.0, "replica/1", for_s=10.0))

    run = play(arrivals(0.0, 0.0, 6.0, 6.0, 20.0, 20.0), spec, faults=given)

    assert list(column(run, "service_s").values()) == [1.0, 2.0, 1.0, 6.0, 1.0, 2.0]


def test_a_replica_that_succeeds_another_has_a_weight_by_its_own_number():
    spec = fleet(1.0, replicas=1, max_replicas=2, weights=(1.0, 0.5))
    crash = faults(Fault(at_s=3.0, kind="crash", replica="replica/0"))

    run = play(arrivals(0.0, 10.0), spec, faults=crash)

    assert column(run, "service_s") == {"r0": 1.0, "r1": 2.0}


def test_weights_beyond_the_most_replicas_are_nobodys_even_when_replicas_are_replaced():
    spec = fleet(1.0, replicas=1, weights=(1.0, 4.0))
    crash = faults(Fault(at_s=5.0, kind="crash", replica="replica/0"))

    assert column(play(arrivals(0.0, 10.0), spec, faults=crash), "service_s") == {"r0": 1.0, "r1": 1.0}
    assert spec.replace(max_replicas=2).serving[0].slowness(0) == 4.0


def test_pools_have_weights_of_their_own():
    pools = {name: {"engine": engine(1.0), "model": name} for name in "ab"}
    pools["b"] |= {"weights": (1.0, 0.5), "replicas": 2, "routing": RoundRobin()}
    trace = arrivals(0.0, 0.0, model="b").merge(arrivals(0.0, model="a"))

    assert sorted(column(play(trace, fleet(pools=pools)), "service_s").values()) == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("ends_s", [0.5, 2.0, 3.0, 7.5])  # the engine alone takes 2 s, this replica 8
@pytest.mark.parametrize("interruptible", [True, False])
def test_a_batch_that_is_withdrawn_on_a_slow_replica_ends_there_and_then_if_its_engine_can_be_interrupted(
    ends_s, interruptible
):
    trace = building.trace_of(entry("a", deadline_s=ends_s), entry("b", 0.25))
    batching, heard = listening("batching", "on_batch_completed", parent=NoBatching)
    spec = fleet(engine=engine(2.0, interruptible=interruptible), batching=batching)

    run = play(trace, spec, faults=faults(slow(0.0, 4.0, "replica/0")))

    free_s = ends_s if interruptible else 8.0
    assert column(run, "ended_s") == {"a": ends_s, "b": free_s + 8.0}
    assert [batch.elapsed_s for batch, _ in told(heard, "on_batch_completed")] == [free_s, 8.0]
    assert run.attempts["service_s"].to_pylist() == [free_s]
    assert run.summary.utilization * run.summary.duration_s == pytest.approx(free_s + 8.0)


def test_a_batch_that_fails_by_itself_on_a_slow_replica_takes_its_time():
    trace = building.trace_of(entry("a"))
    run = play(trace, fleet(engine=Breaking(latency=AffineLatency(base_s=2.0, per_item_s=0.0)), retry=NoRetry()),
               faults=faults(slow(0.0, 4.0, "replica/0")))  # fmt: skip

    assert column(run, "ended_s") == {"a": 8.0}


class Breaking(EmulatedEngine):
    """Every batch fails at its end."""

    def run(self, batch, work):
        seconds = self.latency.seconds(work)
        self._ctx.after(seconds, RunFinished(batch, seconds, error="broken"))


# --- token by token --------------------------------------------------------------------------------------------


def tokens(weights, given=None, **engine_changes):
    """Two requests at once, one on each of two replicas; then two more, when all of that is long over."""
    spec = serving(engine=llm(LATENCY, **engine_changes), replicas=2, weights=weights, routing=RoundRobin())
    trace = trace_of(asks("a"), asks("b"), asks("c", 100.0), asks("d", 100.0))
    return play_out(trace, spec, faults=given)


@pytest.mark.parametrize("ahead", [False, True])
def test_every_step_of_a_replica_of_half_the_weight_takes_twice_as_long(ahead):
    even, mixed = (tokens(weights, async_scheduling=ahead) for weights in ((), (1.0, 0.5)))

    for name in ("ttft_s", "e2e_s", "itl_max_s"):
        was, now = column(even, name), column(mixed, name)
        assert now["a"] == was["a"], name
        assert now["b"] == pytest.approx(2.0 * was["b"], rel=1e-12), name


def test_a_fault_multiplies_token_by_token_too_and_goes_back():
    even = column(tokens(()), "e2e_s")
    struck = column(tokens((1.0, 0.5), faults(slow(50.0, 3.0, "replica/1", for_s=200.0))), "e2e_s")
    over = column(tokens((1.0, 0.5), faults(slow(50.0, 3.0, "replica/1", for_s=20.0))), "e2e_s")

    assert struck["b"] == pytest.approx(2.0 * even["b"], rel=1e-12)
    assert struck["d"] == pytest.approx(6.0 * even["d"], rel=1e-12)
    assert over["d"] == pytest.approx(2.0 * even["d"], rel=1e-12)
    assert struck["c"] == pytest.approx(even["c"], rel=1e-12)
