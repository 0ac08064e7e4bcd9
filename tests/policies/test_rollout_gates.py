"""What a rollout is judged by, and what it is not: loads that change, stalls, clients that leave, slow starts."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import BlueGreen, Canary, Gates, PolicyError, Ramp, Request, RolloutPolicy, build
from policies.rollout.gates import Judge, Recent, exceedance_tail, fisher_p
from policies.rollout.ledger import Ledger
from tests.policies.rollouts import World, good, reply


def canary(**fields):
    return Canary(**{"share": 0.1, "bake_s": 120.0, **fields})


def rolled_back(law, runs=20, until_s=150.0, **fields):
    """Of so many canaries, how many were rolled back."""
    worlds = [World(canary(**fields), law, seed=seed).run(until_s) for seed in range(runs)]
    return sum(world.policy.stage.startswith("rolled back") for world in worlds)


# --- what hits both versions is no fault of the new one --------------------------------------------------------


def test_a_surge_that_slows_both_rolls_hardly_anybody_back():
    """Both are four times as slow for a minute: what the new version did then is not held against calmer times. The old
    one's quantile follows a jump within a part of its window, so that some are slow for a moment: about 1 in 50."""

    def surge(version, now_s, rng):
        return "completed", rng.expovariate(5.0) * (4.0 if 30.0 < now_s < 90.0 else 1.0)

    assert rolled_back(surge) <= 2


def test_a_stall_of_both_rolls_nobody_back():
    def stall(version, now_s, rng):
        return "completed", rng.expovariate(5.0) + (60.0 - now_s if 40.0 < now_s < 60.0 else 0.0)

    assert rolled_back(stall) == 0


def test_an_outage_of_both_rolls_nobody_back():
    """Errors are counted over the same time: of the old version all, not the last ones."""

    def outage(version, now_s, rng):
        return "failed" if 30.0 < now_s < 35.0 else "completed", 0.1

    assert rolled_back(outage) <= 1


def test_what_variants_refuse_on_the_way_is_not_waited_for():
    def half(version, now_s, rng):
        return None if rng.random() < 0.5 else good(version, now_s, rng)

    worlds = [World(canary(), half, seed=seed).run(150.0) for seed in range(20)]

    assert {world.policy.stage.partition(":")[0] for world in worlds} == {"promoted"}


def test_what_clients_pin_says_nothing():
    """The versions are alike; whoever pins the new one asks for what takes long."""
    world = World(canary())
    world.law = lambda version, now_s, rng: ("failed", 9.0)
    for number in range(100):
        world.send(Request(id=f"pinned-{number}", arrived_s=0.0, model="m@2"), pinned="2")
    world.law = good

    world.run(150.0)

    assert world.policy.stage.startswith("promoted")


# --- liveness is not judged by answers -------------------------------------------------------------------------


@pytest.mark.parametrize("patience_s", [0.8, 1.0, 3.0, 1e6])
def test_a_version_that_never_answers_is_rolled_back_whatever_its_clients_do(patience_s):
    """They leave after a while: what they cancel is no error, and it was slow."""

    def silent(version, now_s, rng):
        return good(version, now_s, rng) if version == "1" else ("cancelled", patience_s)

    world = World(canary(), silent).run(100.0)

    assert "times the old version's p95" in world.policy.stage
    assert world.sent["2"] == world.policy.exposed == 30


def test_a_version_of_which_nothing_is_known_is_never_promoted():
    """Its clients leave before anybody could say that it is slow."""

    def hasty(version, now_s, rng):
        return good(version, now_s, rng) if version == "1" else ("cancelled", 0.001)

    assert World(canary(), hasty).run(500.0).policy.stage == "canary 10 %"


def test_slow_requests_count_once_whether_they_end_or_not():
    def late(version, now_s, rng):
        return ("completed", 0.1) if version == "1" else ("completed", 5.0)

    world = World(canary(gates=Gates(alpha=1e-9, min_requests=1000, window=30)), late).run(60.0)

    judge = world.policy.judge
    asked = judge.new.count - len(judge.new.out.open)
    assert 0 <= asked - judge.new.judged < 10  # those that ended before anything was known of the old one
    assert judge.new.slow == judge.new.judged > 80


def test_failures_count_as_errors_and_not_as_fast_answers():
    def fails_fast(version, now_s, rng):
        return ("failed", 0.001) if version == "2" and rng.random() < 0.5 else ("completed", 0.1)

    world = World(canary(gates=Gates(error_margin=None)), fails_fast).run(60.0)
    judge = world.policy.judge
    assert 0 <= judge.new.ended - judge.new.failed - judge.new.judged < 10

    assert "errors" in World(canary(), fails_fast).run(60.0).policy.stage


# --- when it begins, and when it ends --------------------------------------------------------------------------


def test_a_version_that_still_loads_gets_nothing_and_its_time_begins_when_it_is_ready():
    world = World(canary(bake_s=40.0))
    world.ready["2"] = 0
    world.run(50.0)
    assert world.sent["2"] == 0
    assert world.stages == ["canary: waits for version 2"]

    world.ready["2"] = 1
    world.run(85.0)
    assert world.stages[1:] == ["canary 10 %"]
    world.run(120.0)
    assert world.stages[-1].startswith("promoted: no gate failed in 4")


def test_one_whose_replicas_are_lost_later_is_judged_by_that():
    world = World(canary())
    world.run(20.0)
    world.ready["2"] = 0
    world.law = lambda version, now_s, rng: (
        good(version, now_s, rng) if version == "1" else ("completed", 1e6)
    )

    world.run(100.0)

    assert world.stages[-1].startswith("rolled back")


def test_a_version_that_is_retired_and_comes_back_is_judged_anew():
    """It may be another build: 25 failures of the first one are not held against the second."""
    world = World(canary(bake_s=60.0))
    world.law = lambda version, now_s, rng: ("failed" if version == "2" else "completed", 0.1)
    while world.sent["2"] < 25:
        world.run(world.now_s + 0.5)
    world.served, world.law = ["1"], good
    world.run(world.now_s + 10.0)
    assert world.stages[-1] == "canary: waits for version 2"

    world.served = ["1", "2"]
    world.run(world.now_s + 80.0)

    assert world.stages[-1].startswith("promoted")


def test_what_fails_after_the_last_full_look_is_seen_before_it_is_promoted():
    """It works for its first 35 requests, one look, and fails from then on; 24 more come before it has baked."""
    sent = []

    def breaks(version, now_s, rng):
        sent.append(version)
        return "failed" if version == "2" and sent.count("2") > 35 else "completed", 0.1

    assert "errors" in World(canary(bake_s=29.0), breaks, seed=3).run(60.0).policy.stage


def test_all_that_a_bound_allows_is_looked_at():
    sent = []

    def breaks(version, now_s, rng):
        sent.append(version)
        return "failed" if version == "2" and sent.count("2") > 31 else "completed", 0.1

    world = World(canary(max_exposure=50), breaks).run(200.0)

    assert world.sent["2"] == 50
    assert world.stages[-1] == "rolled back: errors 38.0% against 0.0% (50 requests were sent to version 2)"


def test_a_bound_that_left_it_undecided_takes_it_back():
    def leave(version, now_s, rng):
        return "cancelled" if version == "2" and rng.random() < 0.5 else "completed", 0.001

    world = World(canary(max_exposure=40), leave).run(200.0)

    assert world.sent["2"] == 40
    assert world.stages[-1].startswith("rolled back: undecided, for ")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"policy": "canary", "max_exposure": 10}, r"\$.max_exposure: 10 is below gates.min_requests, 30"),
        ({"policy": "canary", "stable": "2"}, r"\$.version: '2' is the stable one too"),
        ({"policy": "ramp", "stable": "2"}, r"\$.version: '2' is the stable one too"),
        ({"policy": "blue-green", "blue": "2"}, r"\$.green: '2' is blue too"),
        ({"policy": "ab-test", "a": "2"}, r"\$.b: '2' is `a` too"),
        (
            {"policy": "ab-test", "metric": "e2e_s", "horizon": 255},
            r"\$.horizon: 255: a verdict on latency takes 256 requests or more",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(table, says):
    with pytest.raises(PolicyError, match=says):
        build(RolloutPolicy, table)


def test_a_request_that_is_asked_about_again_is_drawn_once_and_stays_where_it_is():
    again, once = World(canary(share=0.5)), World(canary(share=0.5))
    for number in range(200):
        asked = Request(id=f"r{number}", arrived_s=0.0)
        first = again.choose(asked)
        assert [again.choose(asked) for _ in range(2)] == [first, first]
        assert once.choose(asked) == first
    assert again.policy.exposed == once.policy.exposed == once.sent["2"]


def test_one_that_has_to_change_its_version_is_held_against_neither():
    world = World(BlueGreen(at_s=0.0, watch_s=1e6))
    asked = Request(id="moved", arrived_s=0.0)
    assert world.choose(asked) == "2"
    world.served = ["1"]
    assert world.choose(asked) == "1"

    world.policy.on_request_ended(reply(asked, "1", "failed", 1.0), 1.0)

    judge = world.policy.judge
    assert judge.old.ended == judge.new.ended == 0
    assert judge.arm_of("moved") is None


# --- ramps -----------------------------------------------------------------------------------------------------


def test_a_version_that_fails_under_all_of_the_load_is_held_against_what_was_before():
    def heavy(version, now_s, rng):
        return "failed" if version == "2" and world.policy.sent_share == 1.0 else "completed", 0.1

    world = World(Ramp(stages=(0.2, 1.0), stage_s=30.0))
    world.law = heavy
    world.run(100.0)

    assert world.stages[:3] == ["ramp: waits for version 2", "ramp 20 %", "ramp 100 %"]
    assert world.stages[-1].startswith("rolled back: errors 100.0% against 0.0%")


def test_a_stage_does_not_forget_what_is_out():
    """What hangs from the first stage is slow in the second."""

    def hangs(version, now_s, rng):
        return good(version, now_s, rng) if version == "1" else ("completed", 1e6)

    world = World(Ramp(stages=(0.1, 0.5), stage_s=1.0, gates=Gates(min_requests=5)), hangs)
    while world.policy.number == 0 and not world.policy.over and world.now_s < 3.0:
        world.run(world.now_s + 0.1)
    if not world.policy.over:
        world.policy.promote(world.now_s)
        out = len(world.policy.judge.new.out)
        assert out > 0
        world.run(world.now_s + 2.0)
    assert world.stages[-1].startswith("rolled back")


def test_all_looks_of_all_stages_share_one_alpha(monkeypatch):
    """Each stage compares anew: if each had all of `alpha`, ten would reject good versions ten times as often."""
    levels = []
    monkeypatch.setattr(Judge, "_errors", lambda judge, level: levels.append(level))
    stages = tuple(0.05 * number for number in range(1, 11))
    gates = Gates(min_requests=5, latency_factor=None)

    World(Ramp(stages=stages, stage_s=20.0, gates=gates)).run(400.0)

    assert len(levels) > 100
    assert 0.8 * gates.alpha < sum(levels) <= gates.alpha


def test_an_operator_cannot_promote_what_is_not_there_yet():
    world = World(Ramp())
    with pytest.raises(PolicyError, match="waits for version 2; there is no stage to go on from yet"):
        world.policy.promote(0.0)


# --- what they are made of -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 9).map(float), max_size=60),
    st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]),
    st.integers(0, 5),
)
def test_a_quantile_is_the_least_value_with_its_share_at_or_below_it(values, share, longer):
    recent = Recent(window=20)
    for value in values:
        recent.add(value)
    kept = values[-20:]

    found = recent.quantile(share, longer)

    needed = share * (len(kept) + longer)
    right = [value for value in sorted(kept) if sum(other <= value for other in kept) >= needed - 1e-9]
    assert len(recent) == len(kept)
    assert found == (right[0] if right else None)


def test_a_ledger_drops_what_was_refused_and_never_what_a_replica_has():
    ledger = Ledger()
    for name in "abcd":
        ledger.sent(name, 0.0)
    ledger.heard("a")
    ledger.is_late("b")

    ledger.reconcile(in_flight=2)
    assert [name for name in "abcd" if name in ledger] == ["a", "d"]
    ledger.reconcile(in_flight=0)
    assert [name for name in "abcd" if name in ledger] == ["a"]
    ledger.drop("a")
    assert len(ledger) == 0


def test_nothing_is_kept_of_what_has_ended():
    world = World(canary(bake_s=1e9)).run(100.0)
    world.law = lambda version, now_s, rng: None
    world.run(200.0)

    judge = world.policy.judge
    assert len(judge.old.out) + len(judge.new.out) <= 2


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_tails_are_those_of_scipy(failed, well, other_failed, other_well):
    scipy = pytest.importorskip("scipy.stats")
    ended, other = failed + well, other_failed + other_well
    expected = scipy.hypergeom.sf(failed - 1, ended + other, ended, failed + other_failed) if failed else 1.0
    assert fisher_p(failed, ended, other_failed, other) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.data())
def test_exceedances_are_those_of_scipy(above, more, others, data):
    scipy = pytest.importorskip("scipy.stats")
    rank = data.draw(st.integers(1, others))
    expected = scipy.betabinom.sf(above - 1, above + more, others - rank + 1, rank) if above else 1.0
    assert exceedance_tail(above, above + more, others, rank) == pytest.approx(expected, abs=1e-9)


def pareto(rng):
    return rng.paretovariate(1.1)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("tail", [lambda rng: rng.expovariate(1.0), pareto])
def test_a_quantile_of_few_is_not_held_against_the_new_version(share, tail):
    """The latency gate alone, no tolerance, at 20 %. If the old version's quantile is taken as known, 31 % of good
    versions are rejected where most requests go to them."""
    gates = Gates(alpha=0.2, latency_factor=1.0, error_margin=None)
    rejected = 0
    for seed in range(200):
        world = World(
            Canary(share=share, bake_s=1e6, gates=gates),
            lambda version, now_s, rng: ("completed", 0.1 * tail(rng)),
            seed=seed,
        )
        rejected += world.run(60.0).policy.over
    assert rejected <= 200 * 0.2 + 3 * math.sqrt(200 * 0.2 * 0.8)


def test_a_version_that_is_held_against_what_was_before_is_so_against_few():
    """Blue-green: the quantile of one minute, for as long as green is watched."""
    gates = Gates(alpha=0.2, latency_factor=1.0, error_margin=None, window=100)
    worlds = [
        World(BlueGreen(at_s=10.0, watch_s=60.0, gates=gates), seed=seed).run(80.0) for seed in range(200)
    ]
    rejected = sum(world.policy.stage.startswith("rolled back") for world in worlds)
    assert rejected <= 200 * 0.2 + 3 * math.sqrt(200 * 0.2 * 0.8)


def test_draws_come_from_the_rng_that_reset_gives():
    world = World(canary(share=0.3, bake_s=1e9), seed=5).run(100.0)
    draws = random.Random(5)
    assert world.sent["2"] == sum(draws.random() < 0.3 for _ in range(sum(world.sent.values())))
