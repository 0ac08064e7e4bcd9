"""A/B tests: who is assigned where, and how often a verdict is wrong, or right, when it is looked at all the time."""

import math
import random
import subprocess
import sys

import pytest

from policies import ABTest, PolicyError, Request, Serve, VersionView
from policies.rollout.ab_test import Sample
from tests.policies.makers import reset
from tests.policies.rollouts import World, good, reply

BOTH = (VersionView(model="m", version="1", in_flight=9), VersionView(model="m", version="2", in_flight=9))


def by_request(rng, p_a, p_b):
    """Requests that are each a user of its own; version a fails `p_a` of them, b `p_b`."""
    number = 0
    while True:
        number += 1
        yield (
            Request(id=f"{rng.random()}-{number}", arrived_s=0.0),
            lambda version: rng.random() < (p_a if version == "1" else p_b),
        )


def by_user(rng, requests, spread):
    """Users of so many requests each, of whom some fail more than others, whatever serves them."""
    while True:
        user, chance = f"{rng.random()}", rng.choice([0.2 - spread, 0.2 + spread])
        for turn in range(requests):
            yield (
                Request(f"{user}/{turn}", 0.0, user=user),
                lambda version, chance=chance: rng.random() < chance,
            )


def finds(stream, *, effect, horizon, seed):
    """One A/B test on errors, looked at after every request; whether it found a difference."""
    policy = reset(ABTest(effect=effect, horizon=horizon, salt=f"{seed}"))
    while not policy.over:
        asked, fails = next(stream)
        version = policy.choose(asked, BOTH, 0.0).version
        policy.on_request_ended(reply(asked, version, "failed" if fails(version) else "completed", 0.1), 0.0)
    return policy.winner is not None


# --- assignment ------------------------------------------------------------------------------------------------


def test_assignment_is_the_same_in_every_process():
    code = (
        "from policies import ABTest, VersionView, Request; policy = ABTest(a='1', b='2'); import random;"
        "policy.reset(random.Random(0)); both = tuple(VersionView(model='m', version=name) for name in '12');"
        "print(''.join(policy.choose(Request('r', 0.0, user=f'u{n}'), both, 0.0).version for n in range(200)))"
    )
    lines = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(lines) == 1
    assert lines.pop().count("2") == pytest.approx(100, abs=30)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_each_arm_has_its_share_of_the_users_and_another_salt_another_one(share):
    policies = [reset(ABTest(share=share, salt=salt)) for salt in ("x", "y")]
    arms = [
        [policy.choose(Request("r", 0.0, user=f"u{number}"), BOTH, 0.0).version for number in range(4_000)]
        for policy in policies
    ]
    for versions in arms:
        sigma = math.sqrt(share * (1 - share) / 4_000)
        assert versions.count("2") / 4_000 == pytest.approx(share, abs=4 * sigma)
    alike = sum(one == other for one, other in zip(*arms, strict=True)) / 4_000
    assert alike == pytest.approx(share**2 + (1 - share) ** 2, abs=0.04)


def test_a_user_keeps_a_version_in_every_session_and_a_session_in_every_request():
    policy = reset(ABTest())
    for number in range(50):
        fields = [{"user": f"u{number}", "session": f"s{turn}"} for turn in range(4)]
        assert len({policy.choose(Request(f"r{f}", 0.0, **f), BOTH, 0.0) for f in fields}) == 1
        named = [Request(f"r{turn}", 0.0, session=f"s{number}") for turn in range(4)]
        assert len({policy.choose(request, BOTH, 0.0) for request in named}) == 1


# --- how sure it is ---------------------------------------------------------------------------------------------


def test_a_thousand_tests_of_nothing_find_something_no_more_often_than_alpha_says():
    found = sum(
        finds(by_request(random.Random(seed), 0.2, 0.2), effect=0.05, horizon=250, seed=seed)
        for seed in range(1_000)
    )

    assert found <= 1_000 * 0.05 + 3 * math.sqrt(1_000 * 0.05 * 0.95)


def test_a_thousand_tests_of_an_effect_find_it_as_often_as_its_power_says():
    """At the horizon the ratio exceeds 20 where |difference| > c of the standard error s of 400 a side: power is
    P(|N(effect / s, 1)| > c), and looking earlier can only add to it."""
    p_a, p_b, requests, effect = 0.2, 0.32, 400, 0.12
    variance = (p_a * (1 - p_a) + p_b * (1 - p_b)) / requests
    prior = effect * effect
    bound = math.sqrt(
        2 * variance * (variance + prior) / prior
        * (math.log(20.0) + 0.5 * math.log((variance + prior) / variance))
    )  # fmt: skip
    power = 1.0 - 0.5 * math.erfc((effect - bound) / math.sqrt(2 * variance))

    found = sum(
        finds(by_request(random.Random(seed), p_a, p_b), effect=effect, horizon=requests, seed=seed)
        for seed in range(1_000)
    )

    assert found / 1_000 >= power - 3 * math.sqrt(power * (1 - power) / 1_000)
    assert 0.6 < power < 0.95


def test_users_of_many_requests_who_differ_are_no_difference_of_the_versions():
    """Ten requests of each user, and users of two kinds: taken for independent, requests find something in two
    fifths of the tests."""
    found = sum(
        finds(by_user(random.Random(seed), 10, 0.19), effect=0.05, horizon=1_000, seed=seed)
        for seed in range(200)
    )

    assert found <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_the_variance_of_a_mean_over_requests_is_that_of_users():
    """Against 2,000 samples drawn anew: users of one to five requests, alike within a user and unlike between them."""
    rng, means, variances = random.Random(2), [], []
    for _ in range(2_000):
        sample = Sample()
        for user in range(60):
            level = rng.gauss(1.0, 0.5)
            for _ in range(rng.randint(1, 5)):
                sample.add(f"u{user}", level + rng.gauss(0.0, 0.1))
        means.append(sample.mean)
        variances.append(sample.variance_of_mean)
    centre = sum(means) / len(means)
    actual = sum((mean - centre) ** 2 for mean in means) / len(means)
    assert sum(variances) / len(variances) == pytest.approx(actual, rel=0.1)


def test_of_single_requests_it_is_the_plain_one():
    values, sample = [0.5, 0.1, 0.9, 0.4], Sample()
    for number, value in enumerate(values):
        sample.add(f"u{number}", value)
    mean = sum(values) / 4
    assert sample.mean == pytest.approx(mean)
    assert sample.variance_of_mean == pytest.approx(sum((value - mean) ** 2 for value in values) / 3 / 4)


class Queues:
    """A server of each version, first come, first served; so busy, with half of 20 requests a second."""

    def __init__(self, load, slowness=1.0):
        self.free_s, self.mean_s = {"1": 0.0, "2": 0.0}, {"1": load / 10.0, "2": slowness * load / 10.0}

    def __call__(self, version, now_s, rng):
        done_s = max(now_s, self.free_s[version]) + rng.expovariate(1.0 / self.mean_s[version])
        self.free_s[version] = done_s
        return "completed", done_s - now_s


def verdicts(tests, load, slowness, users, until_s=200.0):
    """Of so many A/B tests in two queues, how many found a difference."""
    found = 0
    for seed in range(tests):
        policy = ABTest(metric="e2e_s", effect=load / 10.0, salt=f"{seed}")
        world = World(policy, Queues(load, slowness), seed=seed, users=users).run(until_s)
        found += world.policy.winner is not None
    return found


@pytest.mark.parametrize("users", [0, 100])
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_two_queues_of_versions_that_are_alike_are_no_difference(load, users):
    """Taken for independent, latencies at 70 % load find one in nearly all of the tests."""
    assert verdicts(60, load, 1.0, users) <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95)


@pytest.mark.parametrize(("load", "slowness"), [(0.3, 1.5), (0.7, 0.7)])
def test_a_version_that_is_slower_is_found_in_its_queue(load, slowness):
    assert verdicts(20, load, slowness, 0, until_s=400.0) >= 16


# --- what counts ------------------------------------------------------------------------------------------------


def slower(version, now_s, rng):
    return "completed", rng.expovariate(5.0) * (1.0 if version == "1" else 2.0)


def test_the_verdict_names_the_better_version_and_what_was_seen():
    world = World(ABTest(metric="e2e_s", effect=0.1), slower).run(200.0)

    assert world.stages[-1].startswith("verdict: version 1 is better (e2e_s 0.")


def test_a_version_that_is_faster_because_it_gives_up_what_takes_long_is_no_winner():
    def gives_up(version, now_s, rng):
        outcome, e2e_s = good(version, now_s, rng)
        return ("failed", 0.05) if version == "2" and e2e_s > 0.2 else (outcome, e2e_s)

    world = World(ABTest(metric="e2e_s", effect=0.1), gives_up).run(300.0)

    assert world.stages[-1].startswith("verdict: version 2 seems better, and fails or leaves out more")
    with pytest.raises(PolicyError, match="no winner to promote"):
        world.policy.promote(300.0)


def test_a_version_that_never_answers_what_takes_long_is_no_winner():
    def hangs(version, now_s, rng):
        outcome, e2e_s = good(version, now_s, rng)
        return outcome, 1e6 if version == "2" and e2e_s > 0.2 else e2e_s

    world = World(ABTest(metric="e2e_s", effect=0.1), hangs).run(300.0)

    assert world.stages[-1].startswith("verdict: version 2 seems better, and fails or leaves out more")
    assert "still out" in world.stages[-1]


def test_those_count_whose_own_version_was_chosen_for_them():
    """Not those that pin a version, nor what the other one serves while it is gone, nor what clients cancel."""
    world = World(ABTest(min_requests=10))
    world.law = lambda version, now_s, rng: ("failed", 0.1)
    for number in range(100):
        world.send(Request(id=f"pinned-{number}", arrived_s=0.0), pinned="2")
    world.served = ["1"]
    world.run(20.0)
    world.served, world.law = ["1", "2"], lambda version, now_s, rng: ("cancelled", 0.1)
    world.run(40.0)

    assert [arm.ended for arm in world.policy.arms.values()] == [0, 0]
    world.law = good
    world.run(60.0)
    assert [arm.failed for arm in world.policy.arms.values()] == [0, 0]
    assert min(arm.ended for arm in world.policy.arms.values()) > 100


def test_an_operator_promotes_the_winner_and_rolls_back():
    world = World(ABTest(metric="e2e_s", effect=0.1), slower)
    with pytest.raises(PolicyError, match="no winner to promote; test runs"):
        world.policy.promote(0.0)
    world.run(200.0)

    world.policy.promote(200.0)
    assert {world.choose(Request(f"p{n}", 0.0)) for n in range(50)} == {"1"}
    with pytest.raises(PolicyError, match="all requests go to version 1 already"):
        world.policy.promote(201.0)
    world.policy.rollback(202.0)
    assert world.policy.stage == "rolled back: all to version 1, by an operator"


def test_its_own_version_serves_nobody_while_it_is_gone():
    policy = reset(ABTest())
    assert {policy.choose(Request(f"r{n}", 0.0), BOTH[1:], 0.0) for n in range(50)} == {Serve("2")}
