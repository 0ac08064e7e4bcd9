"""More than one attempt at a request: hedges, tied ones, limits of time, breakers and escalations."""

import math
import random

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.messages import RunFinished
from fleet.pools import PoolSpec
from policies import (
    BreakerPolicy,
    Escalate,
    ExponentialBackoff,
    GiveUp,
    Hedge,
    HedgePolicy,
    Hold,
    LeastOutstanding,
    NoBatching,
    NoRetry,
    PolicyError,
    Reject,
    Retry,
    RetryPolicy,
    RolloutPolicy,
    RoundRobin,
    Serve,
    Shadow,
    Use,
    VariantsPolicy,
)
from tests.simulation.building import (
    arrivals,
    column,
    engine,
    entry,
    faults,
    fleet,
    play,
    simulation,
    trace_of,
)
from tests.simulation.building_tokens import asks, serving
from traces import Fault, Trace, TraceEntry, poisson


class HedgeAfter(HedgePolicy):
    """One more attempt `delay_s` after the first."""

    delay_s: float = 0.0
    tied: bool = False
    most: int = 1
    budget_ratio: float | None = None

    def after_s(self, request, attempts, now_s):
        return Hedge(self.delay_s, tied=self.tied) if len(attempts) <= self.most else None


SLOW_ONE = faults(Fault(at_s=0.0, kind="slow", replica="replica/0", factor=10.0, for_s=60.0))
"""The first replica takes ten times as long."""


def attempts(run) -> list[tuple]:
    return [
        (row["request"], row["role"], row["replica"], row["end"], row["ended_s"])
        for row in run.attempts.to_pylist()
    ]


# --- hedges ----------------------------------------------------------------------------------------------------


def test_a_hedge_that_answers_first_ends_the_request_and_the_slow_attempt_is_withdrawn_and_accounted():
    spec = fleet(replicas=2, hedge=HedgeAfter(2.0))

    run = play(arrivals(0.5), spec, faults=SLOW_ONE)

    assert column(run, "e2e_s") == {"r0": pytest.approx(3.0)}
    assert column(run, "replica") == {"r0": "replica/1"}
    assert column(run, "attempts") == {"r0": 2}
    rows = attempts(run)
    assert ("r0", "hedge", "replica/1", "completed", pytest.approx(3.5)) in rows
    slow = next(row for row in run.attempts.to_pylist() if row["role"] == "primary")
    assert (slow["replica"], slow["sent_s"], slow["started_s"]) == ("replica/0", 0.5, 0.5)


def test_a_request_that_is_answered_in_time_gets_no_hedge():
    run = play(arrivals(0.0, 2.0), fleet(replicas=2, hedge=HedgeAfter(1.5)))

    assert run.manifest.counters == {}
    assert len(run.attempts) == 0


def test_two_answers_at_the_same_instant_are_one_reply():
    run = play(arrivals(0.0, 5.0), fleet(replicas=2, hedge=HedgeAfter(0.0)), until_s=5.5)

    assert column(run, "e2e_s") == {"r0": 1.0, "r1": None}
    assert run.manifest.counters["late_answers"] == 1
    assert [row[1:4] for row in attempts(run) if row[0] == "r0"] == [
        ("primary", "replica/0", "completed"), ("hedge", "replica/1", "withdrawn"),
    ]  # fmt: skip


def test_there_is_no_hedge_where_no_other_replica_is():
    run = play(arrivals(0.0), fleet(replicas=1, hedge=HedgeAfter(0.5)))

    assert column(run, "attempts") == {"r0": 1}
    assert run.manifest.counters["hedges_without_replica"] == 1


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_a_budget_of_hedges_holds_whatever_fails(ratio):
    crash = [Fault(at_s=0.5 * n, kind="crash", replica=f"replica/{n % 4}") for n in range(20)]
    spec = fleet(
        0.4, replicas=4, hedge=HedgeAfter(0.1, budget_ratio=ratio), retry=ExponentialBackoff(), deadline_s=5.0
    )

    made = simulation(poisson(8.0, 10.0, 1), spec, faults=faults(*crash))
    run = made.run()

    hedges = run.manifest.counters.get("hedges", 0)
    assert hedges <= ratio * run.summary.submitted
    assert run.manifest.counters["hedges_over_budget"] > 0
    assert (hedges > 0) == (ratio > 0.0)


def test_an_attempt_that_fails_while_another_is_live_is_not_retried():
    crash = faults(Fault(at_s=0.6, kind="crash", replica="replica/0"))
    spec = fleet(replicas=2, hedge=HedgeAfter(0.2), retry=NoRetry())

    run = play(arrivals(0.0), spec, faults=crash)

    assert column(run, "outcome") == {"r0": "completed"}
    assert column(run, "e2e_s") == {"r0": pytest.approx(1.2)}


def test_a_request_whose_attempts_are_lost_with_one_host_is_retried_once_for_both():
    """Both replicas die at the same instant."""
    both = faults(*(Fault(at_s=0.6, kind="crash", replica=f"replica/{n}") for n in range(2)))
    spec = fleet(replicas=2, hedge=HedgeAfter(0.2), retry=ExponentialBackoff(jitter="none", base_s=0.5))

    run = play(arrivals(0.0), spec, faults=both)

    assert column(run, "outcome") == {"r0": "completed"}
    assert run.manifest.counters["retries"] == 1
    assert [row[3] for row in attempts(run)].count("replica-lost") == 2


def test_a_hedge_needs_a_choice_of_replicas():
    with pytest.raises(PolicyError, match=r'^\$.hedge: hedge-after needs binding = "early"'):
        fleet(binding="late", hedge=HedgeAfter(1.0))


def test_hedging_at_a_percentile_adds_one_minus_p_of_load_at_low_load():
    """Service is lognormal; the delay is its 90th percentile. So a tenth of the requests is still out by then."""
    cv = 1.0
    sigma = math.sqrt(math.log1p(cv * cv))
    p90_s = math.exp(1.2815515655446004 * sigma - sigma * sigma / 2.0)
    spec = FleetSpec(
        engine=engine(1.0).__class__(latency={"latency": "affine", "base_s": 1.0, "per_item_s": 0.0, "jitter_cv": cv}),
        batching=NoBatching(), max_inflight_batches=1, replicas=40, routing=LeastOutstanding(),
        hedge=HedgeAfter(p90_s),
    )  # fmt: skip
    trace = poisson(1.0, 8_000.0, 3)

    run = simulate(trace, spec, seed=1)

    share = run.manifest.counters["hedges"] / len(trace)
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / len(trace)))


def rows_of(run, request: str) -> dict[tuple[str, str], dict]:
    """The attempts of one request by role and replica."""
    found = [row for row in run.attempts.to_pylist() if row["request"] == request]
    return {(row["role"], row["replica"]): row for row in found}


@pytest.mark.parametrize(("dies", "lost", "left"), [(0, "primary", "hedge"), (1, "hedge", "primary")])
def test_a_request_that_is_given_up_as_poison_has_its_other_attempt_withdrawn(dies, lost, left):
    crash = faults(Fault(at_s=0.6, kind="crash", replica=f"replica/{dies}"))
    stubborn = ExponentialBackoff(jitter="none", base_s=0.0, max_attempts=100, budget_ratio=None)
    spec = fleet(5.0, replicas=2, hedge=HedgeAfter(0.2), poison_limit=1, retry=stubborn)

    run = play(arrivals(0.0), spec, faults=crash)

    assert column(run, "ended_s") == {"r0": 0.6}
    assert column(run, "attempts") == {"r0": 2}
    rows = rows_of(run, "r0")
    assert rows[lost, f"replica/{dies}"]["end"] == "replica-lost"
    assert rows[lost, f"replica/{dies}"]["service_s"] == pytest.approx(0.6 if lost == "primary" else 0.4)
    assert rows[left, f"replica/{1 - dies}"]["end"] == "withdrawn"


def test_the_wait_at_a_replicas_door_is_no_service():
    """The hedge of b answers while b's first attempt is with replica 0, and behind its batch of five seconds."""
    trace = trace_of(
        entry("a", work=5.0), entry("y", work=0.1), entry("z", work=0.1), entry("b", 0.1)
    )  # fmt: skip
    spec = fleet(replicas=3, max_inflight_batches=2, routing=RoundRobin(), hedge=HedgeAfter(0.9))

    run = play(trace, spec)

    rows = rows_of(run, "b")
    at_the_door = rows["primary", "replica/0"]
    assert (at_the_door["end"], at_the_door["service_s"]) == ("withdrawn", 0.0)
    assert rows["hedge", "replica/1"]["service_s"] == 1.0


def test_a_hedge_that_goes_on_alone_after_the_first_was_moved_is_accounted():
    """The first waits at replica 0, which vanishes: it costs no attempt, and the hedge is the answer."""
    trace = trace_of(
        entry("a", work=5.0), entry("y", work=0.1), entry("z", work=0.1), entry("b", 0.1, work=2.0)
    )  # fmt: skip
    preempt = faults(Fault(at_s=1.5, kind="preempt", replica="replica/0"))

    run = play(trace, fleet(replicas=3, routing=RoundRobin(), hedge=HedgeAfter(0.9)), faults=preempt)

    assert column(run, "attempts")["b"] == 1
    assert {key: row["end"] for key, row in rows_of(run, "b").items()} == {
        ("hedge", "replica/1"): "completed"
    }
    counters = run.manifest.counters
    assert (counters["moved"], counters["hedges"], counters["hedges_won"]) == (1, 2, 2), (
        "a's hedge won as well"
    )


class ErrsLate(EmulatedEngine):
    """On the first replica a batch ends in an error after half of its time."""

    def run(self, batch, work):
        if self._ctx.address == "replica/0":
            self._ctx.after(0.5, RunFinished(batch, 0.5, error="CUDA error"))
        else:
            super().run(batch, work)


def test_an_attempt_that_ends_in_an_error_has_cost_what_it_took():
    errs = ErrsLate(latency=AffineLatency(base_s=1.0, per_item_s=0.0))
    spec = fleet(engine=errs, replicas=2, retry=ExponentialBackoff(), routing=RoundRobin())

    run = play(arrivals(0.0), spec)

    assert rows_of(run, "r0")["primary", "replica/0"]["service_s"] == 0.5


# --- tied requests ---------------------------------------------------------------------------------------------


def test_the_tied_copy_that_begins_first_has_the_other_withdrawn_before_it_costs_anything():
    """Replica 0 is busy until 1.0 and replica 1 until 0.3: the copy there is the one."""
    spec = fleet(replicas=2, routing=RoundRobin(), hedge=HedgeAfter(0.0, tied=True))
    trace = trace_of(entry("a", 0.0, work=1.0), entry("b", 0.0, work=0.3), entry("tied", 0.1, work=1.0))

    run = play(trace, spec)

    assert column(run, "replica")["tied"] == "replica/1"
    assert column(run, "e2e_s")["tied"] == pytest.approx(1.2)
    rows = {row["replica"]: row for row in run.attempts.to_pylist() if row["request"] == "tied"}
    assert (rows["replica/0"]["end"], rows["replica/0"]["service_s"]) == ("withdrawn", 0.0)


def exponential(trace: Trace, seed: int) -> Trace:
    """The same arrivals, each with an exponential amount of work of mean 1."""
    rng = random.Random(seed)
    entries = []
    for item in trace:
        values = {name: getattr(item.request, name) for name in item.request.__struct_fields__}
        entries.append(TraceEntry(type(item.request)(**{**values, "work": rng.expovariate(1.0)})))
    return Trace.from_entries(entries)


TIED = fleet(replicas=2, routing=RoundRobin(), hedge=HedgeAfter(0.0, tied=True))


def test_tied_requests_at_all_of_two_servers_are_one_queue_request_by_request():
    """Cancel-on-start redundancy joins the least work: over all servers there are, that is a central queue."""
    trace = exponential(poisson(1.4, 3_000.0, 0), 0)

    tied, central = simulate(trace, TIED), simulate(trace, fleet(replicas=2, binding="late"))

    assert column(tied, "e2e_s") == pytest.approx(column(central, "e2e_s"))


def test_tied_requests_at_two_servers_wait_as_in_m_m_2():
    """Mean wait by Erlang C at rho = 0.5: C / (2 - 1) with C = 2 rho² / (1 + rho), a third of a service time."""
    means = [
        simulate(exponential(poisson(1.0, 10_000.0, seed), seed), TIED, check=False).summary.e2e_s.mean - 1.0
        for seed in range(8)
    ]

    assert sum(means) / len(means) == pytest.approx(1.0 / 3.0, rel=0.05)


# --- a limit of time -------------------------------------------------------------------------------------------


class Impatient(RetryPolicy):
    limit_s: float = 2.0
    most: int = 3

    def after_failure(self, request, failure, now_s):
        if failure.attempt >= self.most:
            return GiveUp("enough")
        return Retry(0.0, () if failure.replica is None else (failure.replica,))

    def attempt_limit_s(self, request, attempt, now_s):
        return self.limit_s


def test_an_attempt_that_takes_too_long_is_withdrawn_and_has_failed():
    run = play(arrivals(0.5), fleet(replicas=2, retry=Impatient()), faults=SLOW_ONE)

    assert column(run, "e2e_s") == {"r0": pytest.approx(3.0)}
    assert [(row[1], row[2]) for row in attempts(run)] == [("retry", "replica/1"), ("primary", "replica/0")]
    assert [row[3] for row in attempts(run)] == ["completed", "timed-out"]


def test_a_request_all_of_whose_attempts_take_too_long_fails_with_the_reason():
    run = play(arrivals(0.0), fleet(10.0, replicas=3, retry=Impatient()))

    assert column(run, "outcome") == {"r0": "failed"}
    assert column(run, "detail") == {"r0": "timed-out: it took longer than one attempt may"}
    assert column(run, "attempts") == {"r0": 3}


# --- breakers --------------------------------------------------------------------------------------------------


class Shuts(BreakerPolicy):
    """Allows none of `replicas` before `until_s`."""

    replicas: tuple[str, ...] = ()
    until_s: float = 1e9
    answer: str = "route"

    def allows(self, replica, now_s):
        return replica.id not in self.replicas or now_s >= self.until_s

    def none_allowed(self, request, replicas, now_s):
        return {"route": None, "hold": Hold(self.until_s), "reject": Reject("all are open")}[self.answer]


def test_a_replica_that_the_breaker_does_not_allow_is_not_chosen():
    run = play(arrivals(0.0, 0.1, 0.2), fleet(replicas=2, breaker=Shuts(("replica/0",))))

    assert set(column(run, "replica").values()) == {"replica/1"}


@pytest.mark.parametrize(
    ("answer", "outcome", "e2e_s"),
    [("route", "completed", 1.0), ("hold", "completed", 4.0), ("reject", "rejected", None)],
)  # fmt: skip
def test_a_breaker_that_allows_nobody_says_what_becomes_of_the_request(answer, outcome, e2e_s):
    shut = Shuts(("replica/0", "replica/1"), until_s=3.0, answer=answer)

    run = play(arrivals(0.0), fleet(replicas=2, breaker=shut))

    assert column(run, "outcome") == {"r0": outcome}
    assert column(run, "e2e_s") == {"r0": e2e_s}


def test_what_a_retry_would_rather_not_have_it_takes_where_the_breaker_leaves_nothing_else():
    """Replica 1 is shut, and the attempt at replica 0 failed: the retry goes there again."""
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/2"))
    spec = fleet(
        replicas=3, breaker=Shuts(("replica/1",)), routing=RoundRobin(), retry=Impatient(limit_s=0.8, most=2)
    )

    run = play(arrivals(0.0), spec, faults=crash)

    assert [row["replica"] for row in run.attempts.to_pylist()] == ["replica/0", "replica/0"]


# --- answers that are none ---------------------------------------------------------------------------------------


class AnswersSo(HedgePolicy):
    """Whatever it is told to."""

    def after_s(self, request, attempts, now_s):
        return SAYS[0] if len(attempts) == 1 else None


class AllowsSo(BreakerPolicy):
    def allows(self, replica, now_s):
        return SAYS[0]


class RetriesSo(RetryPolicy):
    def after_failure(self, request, failure, now_s):
        return SAYS[0]


class LimitsSo(NoRetry):
    def attempt_limit_s(self, request, attempt, now_s):
        return SAYS[0]


class VersionSo(RolloutPolicy):
    def choose(self, request, versions, now_s):
        return SAYS[0]


class StageSo(RolloutPolicy):
    def choose(self, request, versions, now_s):
        self.stage = SAYS[0]
        return Serve(versions[0].version)


class StageAtOnce(RolloutPolicy):
    def reset(self, rng):
        self.stage = SAYS[0]

    def choose(self, request, versions, now_s):
        return Serve(versions[0].version)


class VariantSo(VariantsPolicy):
    def choose(self, request, variants, now_s):
        return SAYS[0]


class EscalatesSo(VariantsPolicy):
    def choose(self, request, variants, now_s):
        return Use(variants[0].variant)

    def after_answer(self, request, answer, variants, now_s):
        return SAYS[0]


SAYS = [None]
"""What those above answer."""
NO_TIME = "after_s is a number of seconds, 0 or more and below 1e+09"
NO_IDS = "exclude is a tuple of replicas' ids, such as ('replica/0',)"
VERSIONS = {"a": PoolSpec(version="1"), "b": PoolSpec(version="2")}
ANSWERS = [
    ({"hedge": AnswersSo()}, 1.0, "hedge policy answers-so answered 1.0 for request 'r0'; expected None or a Hedge"),
    ({"hedge": AnswersSo()}, Hedge(math.inf), NO_TIME),
    ({"hedge": AnswersSo()}, Hedge(math.nan), NO_TIME),
    ({"hedge": AnswersSo()}, Hedge(-1.0), NO_TIME),
    ({"hedge": AnswersSo()}, Hedge("1"), NO_TIME),
    ({"hedge": AnswersSo()}, Hedge(1.0, exclude="replica/0"), NO_IDS),
    ({"hedge": AnswersSo()}, Hedge(1.0, exclude=(0,)), NO_IDS),
    ({"hedge": AnswersSo()}, Hedge(1.0, exclude=None), NO_IDS),
    ({"retry": RetriesSo()}, None, "retry policy retries-so answered None for request 'r0'; expected Retry or GiveUp"),
    ({"retry": RetriesSo()}, Retry(math.inf), NO_TIME),
    ({"retry": RetriesSo()}, Retry(exclude="replica/0"), NO_IDS),
    ({"retry": LimitsSo()}, "1", "retry policy limits-so gave an attempt at 'r0' '1' s; expected None or a time"),
    (
        {"breaker": AllowsSo()},
        "no",
        "breaker policy allows-so answered 'no' to whether replica/0 is allowed; expected True or False",
    ),
    ({"breaker": AllowsSo()}, None, "answered None to whether replica/0 is allowed"),
    (
        {"pools": VERSIONS, "models": {"default": {"rollout": VersionSo()}}},
        Serve(1),
        "rollout policy version-so named 1 for request 'r0' at 0.000000 s; expected the name of one that is served, "
        "which is text (served: 1, 2)",
    ),
    (
        {"pools": VERSIONS, "models": {"default": {"rollout": VersionSo()}}},
        Shadow("1", ["2"]),
        "rollout policy version-so named ['2'] for",
    ),
    *(
        (
            {"pools": VERSIONS, "models": {"default": {"rollout": policy}}},
            7,
            f"rollout policy {policy.name()} has the stage 7; `stage` is text, such as 'canary 5 %'",
        )
        for policy in (StageSo(), StageAtOnce())
    ),
    ({"models": {"default": {"variants": VariantSo()}}}, Use(2), "variants policy variant-so named 2 for request"),
    (
        {"models": {"default": {"variants": EscalatesSo()}}},
        Escalate(2),
        "expected None or Escalate with the name of a variant",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "answer", "complaint"), ANSWERS)
def test_an_answer_that_is_none_is_an_error_that_names_the_policy_and_what_is_right(
    changes, answer, complaint
):
    SAYS[0] = answer
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/0")) if "retry" in changes else None

    with pytest.raises(PolicyError) as caught:
        play(arrivals(0.0), fleet(replicas=2, **changes), faults=crash)

    assert complaint in str(caught.value)


# --- escalation ------------------------------------------------------------------------------------------------


class Cascades(VariantsPolicy):
    """The small variant first; what is not as good as `threshold` goes to the large one."""

    threshold: float = 0.5

    def choose(self, request, variants, now_s):
        return Use("small")

    def after_answer(self, request, answer, variants, now_s):
        if answer.variant == "large" or (answer.quality or 0.0) >= self.threshold:
            return None
        return Escalate("large", f"{answer.quality:.2f}")


def cascade(small_quality=0.0, large=1.0, **changes) -> FleetSpec:
    pools = {
        "s": PoolSpec(model="m", variant="small", quality=small_quality),
        "l": PoolSpec(model="m", variant="large", quality=large, engine=engine(2.0)),
    }
    return fleet(pools=pools, models={"m": {"variants": Cascades()}}, **changes)


def test_an_answer_that_is_not_good_enough_is_followed_by_a_better_one():
    run = play(arrivals(0.0, model="m"), cascade())

    assert column(run, "e2e_s") == {"r0": 3.0}
    assert column(run, "replica") == {"r0": "replica/l/0"}
    assert [row[1:4] for row in attempts(run)] == [
        ("primary", "replica/s/0", "completed"), ("escalation", "replica/l/0", "completed"),
    ]  # fmt: skip


def test_a_good_enough_answer_is_given_at_once():
    run = play(arrivals(0.0, model="m"), cascade(small_quality=1.0))

    assert column(run, "e2e_s") == {"r0": 1.0}
    assert "escalations" not in run.manifest.counters


@pytest.mark.parametrize("why", ["deadline", "failure"])
def test_the_answer_that_is_there_is_given_where_nothing_better_comes(why):
    lost = faults(Fault(at_s=1.5, kind="crash", replica="replica/l/0")) if why == "failure" else None
    spec = cascade(retry=NoRetry(), deadline_s=2.5 if why == "deadline" else None)

    run = play(arrivals(0.0, model="m"), spec, faults=lost)

    assert column(run, "outcome") == {"r0": "completed"}
    assert column(run, "replica") == {"r0": "replica/s/0"}
    assert column(run, "e2e_s") == {"r0": 2.5 if why == "deadline" else 1.5}
    assert run.manifest.counters["fell_back"] == 1


def test_a_request_is_not_escalated_to_a_queue_that_would_shed_it():
    spec = cascade()
    pools = {
        **spec.pools,
        "l": PoolSpec(model="m", variant="large", quality=1.0, engine=engine(50.0), queue_capacity=1),
    }

    run = play(arrivals(*[0.0] * 6, model="m"), spec.replace(pools=pools, deadline_s=30.0))

    assert set(column(run, "outcome").values()) == {"completed"}
    assert run.manifest.counters["escalations_overloaded"] > 0


def test_quality_has_the_mean_that_the_pool_says_and_hard_requests_are_hard_for_all():
    trace = poisson(1.0, 4_000.0, 1)
    by = {}
    for mean in (0.3, 0.8):
        spec = fleet(0.01, quality=mean)
        by[mean] = simulate(trace, spec, check=False).records["quality"].to_numpy()
        assert by[mean].mean() == pytest.approx(mean, abs=0.02)
    order = by[0.3].argsort()
    assert (by[0.8][order][1:] >= by[0.8][order][:-1]).all()


# --- streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [0, 1])
def test_of_a_hedged_stream_the_attempt_with_the_first_token_is_heard_and_every_token_once(slow):
    """The load generator raises where a token is repeated or missing."""
    late = faults(Fault(at_s=0.0, kind="slow", replica=f"replica/{slow}", factor=8.0))
    spec = serving(replicas=2, hedge=HedgeAfter(0.2), routing=RoundRobin())

    made = simulation(
        trace_of(*(asks(f"r{n}", 0.4 * n, output_tokens=6) for n in range(8))), spec, faults=late, stream=True
    )
    run = made.run()

    assert set(column(run, "outcome").values()) == {"completed"}
    assert run.manifest.counters["hedges_won"] > 0
    assert set(column(run, "generated_tokens").values()) == {6}


def test_a_stream_whose_hedge_was_heard_goes_on_elsewhere_when_that_is_lost():
    late = Fault(at_s=0.0, kind="slow", replica="replica/0", factor=50.0)
    crash = Fault(at_s=1.0, kind="crash", replica="replica/2")
    spec = serving(
        replicas=3, hedge=HedgeAfter(0.2), routing=RoundRobin(), retry=ExponentialBackoff(jitter="none")
    )

    run = play(trace_of(asks("r0", output_tokens=12)), spec, faults=faults(late, crash), stream=True)

    assert column(run, "outcome") == {"r0": "completed"}
    assert column(run, "generated_tokens") == {"r0": 12}
    assert {row[1] for row in attempts(run)} == {"primary", "hedge", "retry"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_hears_nothing_of_an_answer_that_is_not_accepted(stream):
    spec = serving(
        pools={
            "s": {"model": "m", "variant": "small", "quality": 0.0},
            "l": {"model": "m", "variant": "large"},
        },
        models={"m": {"variants": Cascades()}},
    )

    run = play(trace_of(asks("r0", model="m")), spec, stream=stream)

    assert column(run, "replica") == {"r0": "replica/l/0"}
    assert column(run, "ttft_s")["r0"] == pytest.approx(column(run, "e2e_s")["r0"])
