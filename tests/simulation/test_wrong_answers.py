"""Engines that answer for what they were not given: an engine error, at once, that names what was wrong."""

import pytest
from msgspec.structs import replace

from fleet import AffineLatency, EmulatedEngine
from fleet.engines import EmulatedLlmEngine
from fleet.messages import Payload, RunFinished
from policies import ExponentialBackoff, NoRetry
from tests.simulation.building import arrivals, column, engine, faults, fleet, play, states, trace_of
from tests.simulation.building_tokens import ONE_S, asks, llm, serving
from traces import Fault

GIVEN_UP = NoRetry()


class Misnaming(EmulatedEngine):
    """Says of every batch that it was another one, `off` further on; `also`: and then the right one."""

    off: int = 1_000
    also: bool = False
    results: int | None = None

    def run(self, batch, work):
        service_s = self.latency.seconds(work)
        results = None if self.results is None else [Payload(b"x")] * self.results
        self._ctx.after(service_s, RunFinished(batch + self.off, service_s, results=results))
        if self.also:
            self._ctx.after(service_s + 0.25, RunFinished(batch, service_s))


def misnaming(**changes):
    return Misnaming(latency=AffineLatency(base_s=1.0, per_item_s=0.0), **changes)


def test_an_answer_for_another_batch_is_an_engine_error_at_once():
    run = play(arrivals(0.0, 0.5), fleet(engine=misnaming(), retry=GIVEN_UP))

    assert column(run, "outcome") == {"r0": "failed", "r1": "failed"}
    assert column(run, "ended_s") == {"r0": 1.0, "r1": 2.0}, "not at a deadline, and not at a stall"
    assert column(run, "detail")["r0"].startswith("engine-error: ")
    assert "answered for batch 1001, which it was not running" in column(run, "detail")["r0"]


def test_the_right_answer_that_comes_after_a_wrong_one_fails_no_other_batch():
    run = play(arrivals(0.0, 0.5), fleet(engine=misnaming(also=True), retry=GIVEN_UP))

    assert "answered for batch 1001" in column(run, "detail")["r0"]
    assert "answered for batch 1002" in column(run, "detail")["r1"], "not for batch 1, which it answered late"


def test_an_answer_while_nothing_runs_hurts_nobody():
    class Twice(EmulatedEngine):
        def run(self, batch, work):
            super().run(batch, work)
            self._ctx.after(1.5, RunFinished(batch, 1.0))

    twice = Twice(latency=AffineLatency(base_s=1.0, per_item_s=0.0))
    run = play(arrivals(0.0, 3.0), fleet(engine=twice, retry=GIVEN_UP))

    assert set(column(run, "outcome").values()) == {"completed"}


@pytest.mark.parametrize("results", [0, 2])
def test_a_wrong_number_of_results_is_an_engine_error(results):
    run = play(arrivals(0.0), fleet(engine=misnaming(off=0, results=results), retry=GIVEN_UP))

    assert column(run, "detail")["r0"] == f"engine-error: misnaming gave {results} results for a batch of 1"


def test_a_slow_replica_finds_the_wrong_number_too():
    slow = faults(Fault(at_s=0.0, kind="slow", replica="replica/0", factor=3.0, for_s=60.0))
    run = play(arrivals(0.5), fleet(engine=misnaming(), retry=GIVEN_UP), faults=slow)

    assert column(run, "ended_s") == {"r0": 1.5}


# --- token by token ------------------------------------------------------------------------------------------


class Misstating(EmulatedLlmEngine):
    """On one replica, what it says of its third step is changed."""

    change: str = "number"
    where: str = "replica/0"

    def _end_after(self, work, steps):
        if work.number != 3 or self._ctx.address != self.where:
            super()._end_after(work, steps)
            return
        honest = self._ctx
        self._ctx = Meddling(honest, self.change)
        super()._end_after(work, steps)
        self._ctx = honest


class Meddling:
    def __init__(self, ctx, change):
        self._ctx, self._change, self.now, self.address = ctx, change, ctx.now, ctx.address

    def after(self, delay_s, message):
        changes = {
            "number": {"number": message.number + 7},
            "steps": {"steps": message.steps + 5_000},
            "no steps": {"steps": 0},
            "ended": {"ended": (41,)},
            "tokens": {"tokens": [(41, (1,))]},
        }
        return self._ctx.after(delay_s, replace(message, **changes[self._change]))


SAYS = {
    "number": "misstating answered for step 10, which it was not running",
    "steps": "misstating answered for step 3, but it ran 500",
    "no steps": "misstating answered for step 3, but it ran 0 steps of ",
    "ended": "misstating answered for step 3, but sequence 41 was to get no token in step 3",
    "tokens": "misstating answered for step 3, but sequence 41 was to get no token in step 3",
}


def misstating(change):
    return llm(ONE_S, cls=Misstating, change=change)


@pytest.mark.parametrize("change", SAYS)
def test_a_wrong_account_of_a_step_is_an_engine_error_at_once(change):
    trace = trace_of(asks("a", 0.0, 4, 9), asks("b", 0.5, 4, 9), asks("later", 20.0, 4, 2))
    run = play(trace, serving(engine=misstating(change), retry=GIVEN_UP), stream=True)

    assert column(run, "outcome") == {"a": "failed", "b": "failed", "later": "completed"}
    assert column(run, "ended_s")["a"] == column(run, "ended_s")["b"] == 3.0
    assert SAYS[change] in column(run, "detail")["a"]


@pytest.mark.parametrize("change", SAYS)
def test_what_was_part_of_it_is_tried_again_elsewhere(change):
    spec = serving(engine=misstating(change), replicas=2, retry=ExponentialBackoff())
    run = play(trace_of(asks("a", 0.0, 4, 9)), spec, stream=True)

    assert column(run, "outcome") == {"a": "completed"}
    assert column(run, "attempts") == {"a": 2}


# --- loads that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cold_start_s", [0.0, 3.0])
@pytest.mark.parametrize("spec", [fleet(), serving(ONE_S)], ids=["batches", "tokens"])
def test_a_replica_whose_load_fails_never_serves_though_it_was_there_before(spec, cold_start_s):
    broken = replace(spec.engine, fail_load=True, cold_start_s=cold_start_s)
    run = play(trace_of(asks("a", 1.0, 4, 2)), spec.replace(engine=broken), until_s=2.0)

    assert len(run.dispatches) == 0
    assert states(run, "replica/0") == [(0.0, "failed")]


def test_a_replica_that_was_there_before_is_ready_at_once_however_long_its_load_takes():
    run = play(arrivals(0.0), fleet(engine=engine(cold_start_s=50.0)))

    assert column(run, "ended_s") == {"r0": 1.0}
    assert states(run, "replica/0") == [(0.0, "ready")]
