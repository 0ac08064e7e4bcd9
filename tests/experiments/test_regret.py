"""`regret`: what is known by hand, what must hold of every policy, and what it says of mistakes."""

import copy
import math

import pytest
from msgspec.structs import replace

from experiments import regret
from experiments.counterfactual.asking import Asking, not_fed
from experiments.counterfactual.forcing import Forcing
from experiments.counterfactual.result import Decision, Saved, estimated_of, exact_of
from experiments.counterfactual.waiting import difference_s, lines_through
from fleet import FleetSpec, load_spec, simulate
from fleet.runs.simulate import Simulation
from fleet.telemetry.calls import CallLog
from fleet.telemetry.run import Run
from policies import (
    Composed,
    Degrade,
    Hold,
    InFlightScorer,
    LeastOutstanding,
    PolicyError,
    PowerOfTwoChoices,
    PrefixScorer,
    QueueDepth,
    Random,
    Reject,
    ReplicaView,
    Route,
    RoutingPolicy,
)
from policies.base import AdmissionPolicy
from tests.policies.makers import SHIPPED
from tests.simulation.building import arrivals, fleet
from traces import Fault, FaultTrace, Trace, TraceError, load_trace

SURGE = load_trace("demo-surge").first(requests=400)
CHAT = load_trace("chat-small").first(requests=120)
CRASH = FaultTrace(faults=(Fault(at_s=0.5, kind="crash", replica="replica/1"),))
TEN_AT_ONCE = arrivals(*[0.0] * 10)


class FirstPick(RoutingPolicy):
    """Everything to the first replica."""

    def route(self, request, replicas, now_s) -> Route:
        return Route(replicas[0].id)


class LastOfAll(RoutingPolicy):
    """Everything to the last replica."""

    def route(self, request, replicas, now_s) -> Route:
        return Route(replicas[-1].id)


class Scripted(RoutingPolicy):
    """Answers the same, whatever it is asked."""

    answer: str = "reject"

    def route(self, request, replicas, now_s) -> Route | Hold | Reject:
        match self.answer:
            case "raise":
                raise RuntimeError("oh")
            case "reject":
                return Reject()
            case "hold":
                return Hold(now_s + 1.0)
            case "past":
                return Hold(now_s)
            case "None":
                return None
        return Route(self.answer)


class EveryToken(FirstPick):
    """Wants to hear what no log has."""

    def on_tokens(self, request, replica, output_tokens, now_s) -> None:
        pass


class Halver(AdmissionPolicy):
    """Every prompt at half its length."""

    def admit(self, request, fleet, now_s) -> Degrade:
        return Degrade(replace(request, prompt_tokens=(request.prompt_tokens or 2) // 2))


class Notes(RoutingPolicy):
    """Takes turns, and writes down all that it is shown and told."""

    def reset(self, rng) -> None:
        self.noted = [rng.random()]

    def note(self, *seen) -> None:
        self.noted.append(copy.copy(seen))

    def route(self, request, replicas, now_s) -> Route:
        self.note("route", request, tuple(map(copy.copy, replicas)), now_s)
        return Route(replicas[len(self.noted) % len(replicas)].id)

    def on_dispatched(self, *told) -> None:
        self.note("on_dispatched", *told)

    def on_first_token(self, *told) -> None:
        self.note("on_first_token", *told)

    def on_completed(self, *told) -> None:
        self.note("on_completed", *told)

    def on_request_ended(self, *told) -> None:
        self.note("on_request_ended", *told)

    def on_replicas(self, replicas, now_s) -> None:
        self.note("on_replicas", tuple(map(copy.copy, replicas)), now_s)


def logged(trace: Trace, spec: FleetSpec, **options) -> Run:
    return simulate(trace, spec, log_views=True, **options)


def everything_to_one() -> Run:
    """Ten requests at once, each 1 s of work, all sent to the first of two replicas: number i takes i + 1 seconds."""
    return logged(TEN_AT_ONCE, fleet(1.0, replicas=2, routing=FirstPick()))


# --- known by hand -------------------------------------------------------------------------------------------


def test_the_estimate_of_the_busy_one_of_two_is_the_queue_that_was_seen() -> None:
    found = regret(everything_to_one(), LeastOutstanding())

    assert (found.asked, found.agreed) == (10, 1)  # the first: both are idle
    assert [one.estimate_s for one in found.decisions] == pytest.approx([float(i) for i in range(1, 10)])
    line = found.estimated.lines[0]
    assert (line.alone_s, line.each_s, line.explained) == pytest.approx((1.0, 1.0, 1.0))
    assert found.estimated.total_s == pytest.approx(45.0)


def test_the_exact_regret_has_what_later_requests_gain_and_single_ones_do_not_add_up() -> None:
    run = everything_to_one()

    found = regret(run, LeastOutstanding(), exact=100, progress=False)

    # Number k gains the k seconds of those before it, and each of the 9 - k after it one second: 9, whichever it is.
    assert [one.exact.total_s for one in found.decisions] == pytest.approx([9.0] * 9)
    assert (found.exact.tried, found.exact.of) == (9, 9)
    assert found.exact.total_s == pytest.approx(81.0)
    # 1 + ... + 10 seconds then, twice 1 + ... + 5 with the queues shared out.
    assert found.whole == Saved(pytest.approx(55.0 - 30.0), 0, 0)


def test_regret_is_below_zero_where_the_other_policy_chooses_worse() -> None:
    run = logged(TEN_AT_ONCE, fleet(1.0, replicas=2, routing=LeastOutstanding()))

    found = regret(run, FirstPick(), exact=100, progress=False)

    # Every second one goes to replica/1, where as many wait as at replica/0 but one.
    assert [one.estimate_s for one in found.decisions] == pytest.approx([-1.0] * 5)
    # Number k of five at replica/1 takes k + 1 s more at the end of the other queue, less what those after it gain.
    assert found.exact.each.mean_s < 0.0
    assert found.whole.total_s == pytest.approx(-25.0)


def test_a_sample_is_drawn_by_its_seed_and_only_that_is_tried() -> None:
    run = everything_to_one()

    one, same, other = (
        regret(run, LeastOutstanding(), exact=3, seed=seed, progress=False) for seed in (0, 0, 1)
    )

    def drawn(found) -> list[int]:
        return [item.nth for item in found.decisions if item.exact is not None]

    assert drawn(one) == drawn(same) != drawn(other)
    assert (one.exact.tried, one.exact.of) == (3, 9)


def test_the_interval_of_a_sample_is_students_with_the_correction_for_drawing_without_putting_back() -> None:
    decisions = [
        Decision(
            pool="default", nth=i, time_s=0.0, request="r", logged="Route", replica="a", other="Route",
            other_replica="b", exact=Saved(float(i), 0, 0) if 1 <= i <= 3 else None,
        )
        for i in range(6)
    ]  # fmt: skip

    each = exact_of(decisions).each

    reach = 4.302653 * math.sqrt((1 - 3 / 6) / 3)  # t of 2 degrees of freedom; 1, 2, 3 have variance 1
    assert (each.mean_s, each.low_s, each.high_s) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach))


def test_the_interval_of_an_estimate_is_that_of_blocks_and_not_of_single_decisions() -> None:
    def of(values: list[float]):
        return estimated_of(
            [
                Decision(
                    pool="default", nth=i, time_s=float(i), request="r", logged="Route", replica="a",
                    other="Route", other_replica="b", estimate_s=value,
                )
                for i, value in enumerate(values)
            ],
            (),
        ).each  # fmt: skip

    runs = of([float(i // 100 % 2) for i in range(2_000)])  # a hundred of a kind, one after another
    mixed = of([float(i % 2) for i in range(2_000)])

    assert runs.mean_s == mixed.mean_s == 0.5
    assert runs.high_s - runs.low_s == pytest.approx(
        2 * 2.093024 * math.sqrt(20 / 19 / 4 / 20)
    )  # of 20 blocks
    assert mixed.low_s is None  # all blocks are alike: there is nothing to make an interval of
    assert of([1.0, 2.0]).low_s is None


def test_decisions_between_replicas_that_look_alike_are_told_apart() -> None:
    run = logged(TEN_AT_ONCE, fleet(1.0, replicas=2, routing=LeastOutstanding()))

    found = regret(run, LastOfAll())

    assert [one.alike for one in found.decisions] == [
        True
    ] * 5  # whenever replica/0 was chosen, both had as many
    assert "5 of 10 decisions differ (50.0%), 5 of them between replicas that looked alike." in found.in_short


@pytest.mark.parametrize("took_s", [[1.0, 5.0] * 10, [20.0 - i for i in range(20)]], ids=["noise", "falling"])
def test_a_line_that_tells_nothing_makes_no_estimate(took_s: list[float]) -> None:
    views = [ReplicaView(id="replica/0", in_flight=i) for i in range(20)]

    lines = lines_through(zip(views, took_s, strict=True))

    assert len(lines) == 1
    assert difference_s(lines, views[3], views[0]) is None


def test_kinds_of_replicas_have_lines_of_their_own() -> None:
    fast = [ReplicaView(id="replica/0", in_flight=i, expected_service_s=1.0) for i in range(10)]
    slow = [ReplicaView(id="replica/1", in_flight=i, expected_service_s=2.0, weight=0.5) for i in range(10)]
    sent = [(view, (view.in_flight + 1) * view.expected_service_s) for view in (*fast, *slow)]

    lines = lines_through(sent)

    assert difference_s(lines, slow[2], fast[3]) == pytest.approx(6.0 - 4.0)
    assert difference_s(lines, slow[2], ReplicaView(id="replica/2")) is None
    assert [line.label for line in lines.values()] == ["default", "default of weight 0.5"]


# --- what must hold of every policy --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trace", "spec", "options"),
    [
        (SURGE, fleet(0.05, replicas=3, scaling=QueueDepth(), max_replicas=6), {"seed": 5}),
        (SURGE, load_spec("examples/hedged.toml"), {"faults": CRASH}),
        (SURGE.assign(model="choice:chat=0.8,code=0.2", seed=0), load_spec("examples/two-models.toml"), {}),
        (CHAT, load_spec("examples/llm.toml"), {"sessions": True}),
    ],
    ids=["scaling", "hedges and a crash", "pools", "closed loop"],
)  # fmt: skip
def test_another_policy_is_shown_and_told_exactly_what_the_first_one_was(trace, spec, options) -> None:
    own = {f"pools.{name}.routing": Notes() for name in spec.pools}
    simulation = Simulation(trace, spec.replace(own, routing=Notes()), watcher=CallLog(), **options)
    run = simulation.run()

    asking = Asking(run, trace, Notes())

    assert all(one.agrees for one in asking)
    for pool, other in asking._others.items():
        assert other.policy.noted == simulation.head.pools[pool].pool.routing.noted


ROUTING = [cls for cls in SHIPPED if cls.slot == "routing" and cls is not Composed and not not_fed(cls())]
"""Of what the others listen to there is no log, and so they decide otherwise: the caveats say so."""


@pytest.mark.parametrize(
    "policy",
    [*(cls() for cls in ROUTING), Composed(scorers=[(1.0, PrefixScorer()), (1.0, InFlightScorer())])],
    ids=lambda policy: policy.name(),
)
def test_a_policy_agrees_with_itself_in_every_decision(policy: RoutingPolicy) -> None:
    run = logged(CHAT, load_spec("examples/llm.toml").replace(routing=policy, replicas=3), seed=2)

    found = regret(run, policy)

    assert (found.agreed, found.agreement, found.decisions) == (len(CHAT), 1.0, ())


def test_a_decision_that_is_forced_to_be_what_it_was_changes_nothing() -> None:
    trace = SURGE.first(requests=100)
    spec = load_spec("examples/small.toml").replace(routing=PowerOfTwoChoices())
    run = logged(trace, spec)
    route = [row for row in run.calls.to_pylist() if row["call"] == "route"][40]

    as_it_was, otherwise = (
        Simulation(trace, spec, watcher=Forcing("default", 40, replica)).run()
        for replica in (route["replica"], "replica/0" if route["replica"] != "replica/0" else "replica/1")
    )

    assert as_it_was.digest == run.digest != otherwise.digest


def test_the_whole_run_with_the_other_policy_is_what_simulating_it_gives() -> None:
    trace, spec = SURGE, load_spec("examples/two-models.toml")
    trace = trace.assign(model="choice:chat=0.8,code=0.2", seed=0)

    found = regret(logged(trace, spec), Random(), exact=1, progress=False)

    before, after = (
        sum(simulate(trace, spec.replace(routing=policy)).records["e2e_s"].to_pylist())
        for policy in (spec.routing, Random())
    )
    assert found.whole.total_s == pytest.approx(before - after)


def test_a_log_that_ended_early_is_asked_about_as_far_as_it_goes() -> None:
    run = Simulation(TEN_AT_ONCE, fleet(1.0, replicas=2, routing=FirstPick()), watcher=CallLog(most=10)).run()

    found = regret(run, FirstPick())

    assert 0 < found.asked < 10
    assert found.agreement == 1.0


# --- what it says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["reject", "hold"])
def test_what_the_other_policy_does_not_send_has_no_estimate_and_is_not_tried(answer: str) -> None:
    found = regret(everything_to_one(), Scripted(answer=answer), exact=5, progress=False)

    assert found.agreed == 0
    assert (found.estimated.decisions, found.estimated.without, found.exact) == (0, 10, None)
    said = " ".join(found.caveats)
    assert "10 decisions that differ have no estimate" in said
    # A fleet that holds everything never ends, and there is nothing to say of such a run.
    assert (found.whole is None) == ("could not go on: deadlock" in said) == (answer == "hold")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("raise", "raised RuntimeError: oh"),
        ("replica/7", "'replica/7', which is not a candidate"),
        ("past", "until_s must be in the future"),
        ("None", "expected Route, Hold or Reject"),
    ],
)
def test_a_policy_that_breaks_its_contract_is_named_with_the_decision_and_its_time(
    answer: str, says: str
) -> None:
    trace = arrivals(0.5, 0.75)
    run = logged(trace, fleet(replicas=2))

    with pytest.raises(PolicyError, match=r"decision 0 of the log, at 0\.500000 s") as raised:
        regret(run, Scripted(answer=answer))
    assert says in str(raised.value)


@pytest.mark.parametrize("options", [{}, {"log_views": True, "late": True}], ids=["no log", "nobody routes"])
def test_a_run_without_a_log_says_how_to_have_one(options: dict) -> None:
    binding = "late" if options.pop("late", False) else "early"
    run = simulate(TEN_AT_ONCE, fleet(replicas=2, binding=binding), **options)

    with pytest.raises(ValueError, match=r"log_views=True, or --log-views, and with early binding"):
        regret(run, LeastOutstanding())


def test_a_log_of_a_time_when_views_had_fewer_fields_is_refused_by_their_names() -> None:
    run = everything_to_one()
    run.views = run.views.drop_columns(["capacity"])

    with pytest.raises(ValueError, match="the log of views has no capacity: it is of an older version"):
        regret(run, LeastOutstanding())


def test_another_trace_another_metric_and_a_live_run_are_refused() -> None:
    run = everything_to_one()

    with pytest.raises(TraceError, match="the trace is not that of the run"):
        regret(run, LeastOutstanding(), trace=arrivals(0.0, 1.0))
    with pytest.raises(ValueError, match="e2e_s, queue_s, ttft_s, not of 'speed'"):
        regret(run, LeastOutstanding(), metric="speed")
    run.manifest = replace(run.manifest, runtime="live")
    with pytest.raises(ValueError, match="the run is a live one"):
        regret(run, LeastOutstanding(), exact=1)


def test_caveats_name_hooks_that_no_log_has_and_requests_that_were_degraded() -> None:
    run = logged(TEN_AT_ONCE, fleet(1.0, replicas=2, routing=FirstPick(), admission=Halver()))

    said = " ".join(regret(run, EveryToken()).caveats)

    assert "every-token listens to on_tokens, which no log has" in said
    assert "10 requests were degraded on admission" in said


def test_outcomes_that_change_with_the_decision_are_counted_apart() -> None:
    spec = fleet(1.0, replicas=2, routing=FirstPick(), deadline_s=3.5)  # four of ten come in time
    run = logged(TEN_AT_ONCE, spec)

    found = regret(run, LeastOutstanding(), exact=100, progress=False)

    assert found.exact.other_outcomes > 0
    assert found.whole.only_other > 0
    assert any("other requests completed" in caveat for caveat in found.caveats)


def test_the_table_says_who_was_asked_what_it_comes_to_and_what_to_mind() -> None:
    found = regret(everything_to_one(), LeastOutstanding(), exact=9, progress=False)

    text = str(found)

    assert "beside least-outstanding, e2e_s: 9 of 10 decisions differ" in text
    assert "one decision at a time" in text
    assert found.to_table().num_rows == 9
    assert found.to_table()["exact_s"].to_pylist() == pytest.approx([9.0] * 9)
    assert found.to_dict()["agreement"] == 0.1
