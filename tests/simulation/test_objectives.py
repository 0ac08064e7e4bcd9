"""What an objective asks of a request: every objective, every way to end, every length of answer, in one table."""

from itertools import product

import pytest

from fleet import AffineSteps, EmulatedLlmEngine, FleetSpec, KvSpec, simulate
from fleet.messages import Reply, Usage
from fleet.telemetry.run import finish_run
from fleet.telemetry.sink import Telemetry
from policies import RetryPolicy
from policies.decisions import GiveUp, Retry
from tests.simulation.building import entry, fleet, play, simulation, trace_of
from tests.simulation.building_tokens import asks
from traces import Slo

E2E_S, TTFT_S, TPOT_S = 10.0, 2.0, 0.5
BOUNDS = {"e2e_s": E2E_S, "ttft_s": TTFT_S, "tpot_s": TPOT_S}
"""The three bounds, of which an objective has some."""
OBJECTIVES = [
    tuple(name for name, chosen in zip(BOUNDS, which, strict=True) if chosen)
    for which in product((False, True), repeat=3)
]

# How a request ended: outcome, first token and end after its arrival, tokens (None: a whole answer), bounds it broke.
ENDINGS = {
    "in time": ("completed", 1.0, 3.0, 9, ()),
    "late first token": ("completed", 2.5, 3.0, 9, ("ttft_s",)),
    "long gaps": ("completed", 1.0, 9.0, 9, ("tpot_s",)),
    "late end": ("completed", 1.0, 11.0, 41, ("e2e_s",)),
    "all late": ("completed", 3.0, 19.0, 9, ("e2e_s", "ttft_s", "tpot_s")),
    "one token": ("completed", 1.0, 1.0, 1, ()),
    "one token, late": ("completed", 3.0, 3.0, 1, ("ttft_s",)),
    "no token": ("completed", None, 1.0, 0, ()),
    "a whole answer": ("completed", None, 1.0, None, ()),
    "a whole answer, late": ("completed", None, 3.0, None, ("ttft_s",)),
    "rejected": ("rejected", None, 0.0, None, tuple(BOUNDS)),
    "shed": ("shed", None, 0.0, None, tuple(BOUNDS)),
    "expired": ("expired", None, 1.0, None, tuple(BOUNDS)),
    "expired after tokens": ("expired", 1.0, 1.5, 2, tuple(BOUNDS)),
    "failed": ("failed", None, 1.0, None, tuple(BOUNDS)),
    "failed after a token": ("failed", 1.0, 1.0, 1, tuple(BOUNDS)),
    "cancelled": ("cancelled", None, 1.0, None, tuple(BOUNDS)),
    "in flight": (None, None, None, None, tuple(BOUNDS)),
}


def one_run(names, slo, *, spec=None):
    """A run whose requests ended like that, as the telemetry was told."""
    telemetry, unfinished = Telemetry(), []
    for row, name in enumerate(names):
        outcome, first_s, end_s, tokens, _ = ENDINGS[name]
        if outcome is None:
            unfinished.append((row, float(row)))
            continue
        usage = None if tokens is None else Usage(tokens)
        first_at_s = None if first_s is None else row + first_s
        reply = Reply(str(row), outcome, 1, "replica/0", service_s=end_s, usage=usage)
        telemetry.request_ended(row, float(row), row + end_s, reply, first_at_s)
    trace = trace_of(*(entry(str(row), float(row), slo=slo) for row in range(len(names))))
    return finish_run(
        telemetry, trace, spec, seed=0, runtime="simulated", ended_s=100.0, unfinished=unfinished
    )


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("default", [False, True], ids=["its own", "the fleet's"])
def test_a_request_met_its_objective_if_it_completed_and_broke_no_bound(objective, ending, default):
    slo = Slo(**{name: BOUNDS[name] for name in objective})
    *_, broken = ENDINGS[ending]
    right = None if not objective else not set(broken) & set(objective)

    run = one_run([ending], None if default else slo, spec=fleet(slo=slo) if default else None)

    assert run.records["slo_met"].to_pylist() == [right]
    assert run.summary.slo_attainment == (None if right is None else float(right))
    completed = ENDINGS[ending][0] == "completed"
    good = completed if right is None else right
    assert run.summary.goodput_per_s * run.summary.duration_s == pytest.approx(float(good))


@pytest.mark.parametrize("objective", OBJECTIVES[1:], ids="+".join)
def test_attainment_is_of_all_that_were_submitted(objective):
    slo = Slo(**{name: BOUNDS[name] for name in objective})
    met = [name for name, (*_, broken) in ENDINGS.items() if not set(broken) & set(objective)]

    run = one_run(list(ENDINGS), slo)

    assert run.summary.slo_attainment == len(met) / len(ENDINGS)
    assert run.summary.goodput_per_s == pytest.approx(len(met) / 100.0)


def test_a_request_without_an_objective_is_good_when_it_completes_beside_others_that_have_one():
    trace = trace_of(
        entry("quick", 0.0, slo=Slo(e2e_s=5.0)), entry("slow", 1.0, slo=Slo(e2e_s=0.5)), entry("free", 2.0)
    )

    summary = play(trace, fleet(1.0, replicas=3)).summary

    assert summary.slo_attainment == 1 / 2
    assert summary.goodput_per_s * summary.duration_s == pytest.approx(2)


def test_of_one_completed_one_expired_and_one_refused_a_third_met_its_tpot_objective():
    llm = EmulatedLlmEngine(latency=AffineSteps(base_s=0.1), kv=KvSpec(blocks=101, block_tokens=16))
    trace = trace_of(
        asks("completed", 0.0, 16, 5),
        asks("expired", 0.0, 16, 500, deadline_s=1.0),
        asks("refused", 0.0, 5_000, 5),
    )

    summary = simulate(trace, FleetSpec(engine=llm, slo=Slo(tpot_s=1.0))).summary

    assert (summary.completed, summary.expired, summary.failed) == (1, 1, 1)
    assert summary.slo_attainment == 1 / 3


def test_nine_answers_of_one_token_are_good_beside_a_slow_one():
    llm = EmulatedLlmEngine(latency=AffineSteps(base_s=1.0), kv=KvSpec(blocks=1_000))
    trace = trace_of(*(asks(f"short {n}", 0.0, 16, 1) for n in range(9)), asks("slow", 0.0, 16, 5))

    summary = simulate(trace, FleetSpec(engine=llm, slo=Slo(tpot_s=0.1))).summary

    assert summary.goodput_per_s * summary.duration_s == pytest.approx(9)
    assert summary.slo_attainment == 0.9


class Thrice(RetryPolicy):
    def after_failure(self, request, failure, now_s):
        return Retry(after_s=0.1) if failure.attempt < 3 else GiveUp()


def test_the_attempts_of_what_failed_count_too():
    llm = EmulatedLlmEngine(latency=AffineSteps(base_s=0.1), kv=KvSpec(blocks=100, block_tokens=16))
    trace = trace_of(asks("good", 0.0, 16, 5), asks("never fits", 0.0, 5_000, 5))

    assert (
        simulate(trace, FleetSpec(engine=llm, retry=Thrice())).summary.attempts_mean == 2.0
    )  # one and three


@pytest.mark.parametrize(
    "slo", [Slo(tpot_s=0.15), Slo(ttft_s=0.3), Slo(e2e_s=0.6), Slo(ttft_s=0.3, tpot_s=0.15)]
)
def test_what_policies_are_told_of_objectives_is_what_the_records_say(slo):
    llm = EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.1, per_decode_s=0.02), kv=KvSpec(blocks=100, block_tokens=16)
    )
    trace = trace_of(
        *(asks(f"r{n}", 0.2 * n, 16, 1 + n % 6) for n in range(12)),
        asks("expires", 1.0, 16, 500, deadline_s=1.0), asks("refused", 1.0, 5_000, 5), asks("bare", 2.0, 16, 0),
    )  # fmt: skip
    made = simulation(trace, FleetSpec(engine=llm, slo=slo))

    met = made.run().records["slo_met"].to_pylist()

    demand = made.head.router.catalogue.desks["default"].demand
    assert (demand.judged, demand.met) == (len(met), sum(met))
    assert 0 < demand.met < demand.judged
