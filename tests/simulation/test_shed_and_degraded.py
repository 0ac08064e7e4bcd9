"""Controlled delay, rate limits and brownout in a fleet: what is given up, delayed, and served for less."""

import numpy as np
import pytest

from fleet import FleetSpec, simulate
from fleet.engines import AffineSteps
from policies import Fifo, NoBatching
from policies.admission.brownout import Brownout
from policies.admission.token_bucket import Tier, TokenBucket
from policies.queueing.adaptive_lifo import AdaptiveLifo
from policies.queueing.codel import CoDel
from tests.simulation.building import engine, trace_of
from tests.simulation.building_tokens import asks, llm
from traces import poisson

ONE = FleetSpec(engine=engine(0.02), binding="late", batching=NoBatching(), max_inflight_batches=1)
BUSY = poisson(80.0, 20.0, seed=3)
"""Fifty of them can be served in a second."""


def test_controlled_delay_gives_up_what_is_too_much_and_keeps_the_others_from_waiting():
    fifo, codel = (
        simulate(BUSY, ONE.replace(queueing=order)).summary for order in (Fifo(), CoDel(target_s=0.02))
    )
    assert codel.shed + codel.completed == codel.submitted
    assert codel.shed > 0.3 * codel.submitted
    assert codel.throughput_per_s == pytest.approx(50.0, rel=0.03)  # it never leaves the server without work
    assert codel.e2e_s.p50 < 0.1 * fifo.e2e_s.p50


def test_controlled_delay_gives_up_next_to_nothing_where_the_queue_empties_again_and_again():
    run = simulate(poisson(25.0, 60.0, seed=1), ONE.replace(queueing=CoDel(target_s=0.1, interval_s=1.0)))
    assert run.summary.shed == 0


def test_adaptive_lifo_with_a_target_gives_up_what_waited_an_interval():
    run = simulate(BUSY, ONE.replace(queueing=AdaptiveLifo(interval_s=0.1, target_s=0.05)))
    assert run.summary.shed > 0
    assert run.summary.e2e_s.max <= 0.1 + 0.02 + 0.02 + 1e-6  # it waits, another one ends, it is served


def test_a_rate_limit_delays_in_order_and_lets_everybody_in():
    admission = TokenBucket(
        default=Tier(requests_per_s=10.0, burst_requests=1.0), over_rate="delay", max_delay_s=60.0
    )
    run = simulate(poisson(20.0, 20.0, seed=5), ONE.replace(admission=admission))
    ended = run.records.sort_by("arrived_s")["ended_s"].to_numpy()
    assert run.summary.completed == run.summary.submitted
    assert (np.diff(ended) >= 0.1 - 1e-6).all()


def test_a_request_that_is_served_for_less_has_so_many_output_tokens_at_most():
    entries = [asks(f"r{number}", number * 0.2, 10, 60) for number in range(100)]
    spec = FleetSpec(
        engine=llm(AffineSteps(base_s=0.05)),
        admission=Brownout(setpoint_s=1.0, max_output_tokens=7, period_s=1.0, pole=0.5),
    )
    run = simulate(trace_of(*entries), spec)
    tokens = run.records["generated_tokens"].to_pylist()
    assert run.summary.completed == 100
    assert set(tokens) == {7, 60}
    assert sum(count == 7 for count in tokens) > 20
