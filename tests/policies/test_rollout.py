"""Rollouts: who gets the new version, what makes them go back, and how sure they are of it."""

import math
import random

import pytest

from policies import (
    ABTest,
    BlueGreen,
    Canary,
    Ending,
    FeatureFlag,
    Gates,
    Pinned,
    PolicyError,
    Ramp,
    Serve,
    Shadow,
    ShadowTraffic,
    VersionView,
)
from policies.rollout.gates import exceedance_tail, fisher_p
from tests.policies.makers import request, reset

BOTH = (VersionView(model="m", version="1", ready=1), VersionView(model="m", version="2", ready=1))


def ended(name, version, outcome="completed", e2e_s=0.1, quality=None, **fields):
    return Ending(
        request=request(name, **fields),
        outcome=outcome,
        attempts=1,
        e2e_s=e2e_s,
        version=version,
        quality=quality,
    )


def play(policy, requests, law, *, rate_per_s=10.0, versions=BOTH, start_s=0.0, answers=True):
    """Choose for so many requests, and end each right away as `law(version, rng)` says: fields of an `Ending`."""
    rng = random.Random(17)
    sent = {"1": 0, "2": 0}
    for number in range(requests):
        now_s = start_s + number / rate_per_s
        asked = request(f"r{start_s}-{number}", arrived_s=now_s)
        answer = policy.choose(asked, versions, now_s)
        sent[answer.version] += 1
        policy.on_dispatched(asked, "replica/0", now_s)
        if answers or answer.version == "1":
            policy.on_request_ended(ended(asked.id, answer.version, **law(answer.version, rng)), now_s)
    return sent


def alike(version, rng):
    return {"e2e_s": rng.expovariate(5.0)}


def failing(version, rng):
    return {"outcome": "failed"} if version == "2" else alike(version, rng)


def slower(version, rng):
    return {"e2e_s": rng.expovariate(5.0) * (1.0 if version == "1" else 2.0)}


def worse(version, rng):
    return {"quality": rng.betavariate(8, 2) if version == "1" else rng.betavariate(5, 5)}


CANARY = {"stable": "1", "version": "2", "share": 0.2, "bake_s": 300.0}


def test_a_canary_gets_its_share_and_is_promoted_when_it_has_baked():
    policy = reset(Canary(**CANARY))

    before = play(policy, 2_999, alike)
    after = play(policy, 100, alike, start_s=301.0)

    assert before["2"] / 2_999 == pytest.approx(0.2, abs=0.03)
    assert after == {"1": 0, "2": 100}
    assert policy.stage.startswith("promoted: no gate failed in 301 s")


@pytest.mark.parametrize(
    ("law", "gates", "why"),
    [
        (failing, Gates(), "errors 100.0% against 0.0%"),
        (slower, Gates(), "times the old version's p95"),
        (worse, Gates(quality_margin=0.05), "quality 0."),
    ],
)
def test_a_canary_that_fails_a_gate_is_rolled_back_for_good(law, gates, why):
    policy = reset(Canary(**CANARY, gates=gates))

    play(policy, 3_000, law)
    later = play(policy, 200, law, start_s=400.0)

    assert policy.stage.startswith("rolled back: ")
    assert why in policy.stage
    assert f"({policy.exposed} requests were sent to version 2)" in policy.stage
    assert later == {"1": 200, "2": 0}


def test_a_canary_that_never_answers_is_rolled_back():
    policy = reset(Canary(**CANARY))

    play(policy, 1_000, alike, answers=False)

    assert policy.stage.startswith("rolled back: ")
    assert policy.exposed < 100


def test_a_gate_that_is_off_does_not_judge():
    policy = reset(Canary(**CANARY, gates=Gates(latency_factor=None)))

    play(policy, 2_000, slower)

    assert policy.stage == "canary 20 %"


def test_what_clients_cancel_is_no_error_of_the_version():
    policy = reset(Canary(**CANARY))

    play(policy, 2_000, lambda version, rng: {"outcome": "cancelled" if version == "2" else "completed"})

    assert policy.stage == "canary 20 %"


def test_exposure_before_a_rollback_is_that_of_the_first_look():
    """All fail: rolled back at the first look, which comes with the 30th request that was sent to it, and before the
    next one is. By how many requests of all that is follows the negative binomial: mean 30 / share."""
    totals = []
    for seed in range(300):
        policy = reset(Canary(stable="1", version="2", share=0.2), seed)
        number = 0
        while not policy.over:
            answer = policy.choose(request(f"r{number}"), BOTH, 0.0)
            policy.on_request_ended(
                ended(
                    f"r{number}",
                    answer.version,
                    **failing(answer.version, None) if answer.version == "2" else {},
                ),
                0.0,
            )
            number += 1
        assert policy.exposed == 30
        totals.append(number)
    spread = math.sqrt(30 * 0.8) / 0.2 / math.sqrt(len(totals))
    assert sum(totals) / len(totals) == pytest.approx(30 / 0.2, abs=4 * spread)


def test_a_bound_of_exposure_holds():
    policy = reset(Canary(**CANARY, max_exposure=50))

    sent = play(policy, 2_000, alike)

    assert sent["2"] == 50


def test_false_rollbacks_are_as_rare_as_alpha_says():
    """Two gates at 1 % each: at most 2 % of good versions are rejected, over all looks."""
    rejected = 0
    for seed in range(300):
        policy, rng = (
            reset(Canary(stable="1", version="2", share=0.5, bake_s=1e6), seed),
            random.Random(1_000 + seed),
        )
        for number in range(1_000):
            answer = policy.choose(request(f"r{number}"), BOTH, 0.1 * number)
            outcome = "failed" if rng.random() < 0.05 else "completed"
            policy.on_request_ended(
                ended(f"r{number}", answer.version, outcome, rng.expovariate(5.0)), 0.1 * number
            )
        rejected += policy.over
    assert rejected <= 300 * 0.02 + 3 * math.sqrt(300 * 0.02)


def test_an_operator_promotes_a_canary_and_rolls_it_back():
    policy = reset(Canary(**CANARY))
    policy.promote(1.0)
    assert play(policy, 10, alike) == {"1": 0, "2": 10}
    policy.rollback(2.0)
    assert play(policy, 10, alike) == {"1": 10, "2": 0}
    assert policy.stage.startswith("rolled back: by an operator")


def test_a_ramp_goes_through_its_stages_and_compares_anew_in_each():
    policy = reset(Ramp(stable="1", version="2", stages=(0.1, 0.5, 1.0), stage_s=100.0))
    stages = []
    for part in range(6):
        sent = play(policy, 1_000, alike, start_s=101.0 * part)
        stages.append((policy.stage.split(":")[0], round(sent["2"] / 1_000, 1)))

    assert [share for _, share in stages] == [0.1, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert stages[-1][0] == "promoted"


def test_a_version_that_fails_only_under_load_is_rolled_back_in_a_later_stage():
    policy = reset(Ramp(stable="1", version="2", stages=(0.1, 0.6, 1.0), stage_s=100.0))

    def under_load(version, rng):
        loaded = policy.sent_share > 0.5 and version == "2"
        return {"e2e_s": rng.expovariate(5.0) * (3.0 if loaded else 1.0)}

    play(policy, 4_000, under_load)

    assert policy.stage.startswith("rolled back: ")
    assert policy.number == 1


@pytest.mark.parametrize("stages", [(), (0.5, 0.1), (0.5, 0.5)])
def test_stages_that_do_not_grow_are_refused(stages):
    from policies import build
    from policies.base import RolloutPolicy

    with pytest.raises(PolicyError, match="must grow"):
        build(RolloutPolicy, {"policy": "ramp", "stable": "1", "version": "2", "stages": stages})


def test_blue_green_switches_at_its_time_and_goes_back_by_its_gates():
    policy = reset(BlueGreen(at_s=50.0, watch_s=100.0, gates=Gates(min_requests=5)))

    assert play(policy, 499, failing) == {"1": 499, "2": 0}
    sent = play(policy, 500, failing, start_s=50.0)

    assert sent == {"1": 495, "2": 5}
    assert policy.stage == "rolled back: errors 100.0% against 0.0% (5 requests were sent to version 2)"
    policy.promote(200.0)
    assert policy.stage == "green: version 2"
    with pytest.raises(PolicyError, match="serves by green already"):
        policy.promote(201.0)
    policy.rollback(202.0)
    assert policy.stage == "rolled back: by an operator (5 requests were sent to version 2)"


@pytest.mark.parametrize(
    ("law", "why"), [(slower, "times the old version's p95"), (alike, "no gate failed in 60 s")]
)
def test_blue_green_is_watched_for_as_long_as_it_says(law, why):
    policy = reset(BlueGreen(at_s=50.0, watch_s=60.0))

    play(policy, 500, law)
    play(policy, 800, law, start_s=50.0)

    assert why in policy.stage


def test_blue_green_waits_for_a_replica_of_green_unless_an_operator_does_not():
    loading = (BOTH[0], VersionView(model="m", version="2"))
    policy = reset(BlueGreen(at_s=5.0))

    assert play(policy, 100, alike, versions=loading) == {"1": 100, "2": 0}
    assert play(policy, 10, alike, start_s=10.0) == {"1": 0, "2": 10}

    policy = reset(BlueGreen())
    policy.promote(0.0)
    assert play(policy, 10, alike, versions=loading) == {"1": 0, "2": 10}


def test_a_shadow_is_cast_for_its_share_and_never_without_its_version():
    policy = reset(ShadowTraffic(stable="1", version="2", share=0.3))

    answers = [policy.choose(request(f"r{n}"), BOTH, 0.0) for n in range(2_000)]

    assert {answer.version for answer in answers} == {"1"}
    assert sum(isinstance(answer, Shadow) for answer in answers) / 2_000 == pytest.approx(0.3, abs=0.04)
    assert policy.choose(request(), BOTH[:1], 0.0) == Serve("1")
    assert ShadowTraffic.__struct_config__.tag == "shadow"


def test_a_flag_is_on_for_whom_it_names_and_for_a_part_of_the_others_that_only_grows():
    named = reset(FeatureFlag(stable="1", version="2", rules={"tenant": ("acme",), "beta": ("yes",)}))
    assert named.choose(request(tenant="acme"), BOTH, 0.0) == Serve("2")
    assert named.choose(request(extra={"beta": "yes"}), BOTH, 0.0) == Serve("2")
    assert named.choose(request(tenant="other"), BOTH, 0.0) == Serve("1")

    def is_on(part, user):
        flag = reset(FeatureFlag(percentage=part))
        return flag.choose(request("r", user=user), BOTH, 0.0) == Serve("2")

    on = [{n for n in range(2_000) if is_on(part, f"u{n}")} for part in (10.0, 30.0, 100.0)]
    assert on[0] < on[1] < on[2]
    assert len(on[1]) / 2_000 == pytest.approx(0.3, abs=0.04)


# --- the statistics of gates -----------------------------------------------------------------------------------


def test_a_tail_of_exceedances_is_what_it_is_by_hand():
    """Both of two values are above both of two others in 1 of 6 orders."""
    assert exceedance_tail(2, 2, 2, 2) == pytest.approx(1 / 6)
    assert exceedance_tail(1, 1, 1, 1) == pytest.approx(1 / 2)
    assert exceedance_tail(0, 3, 5, 4) == 1.0
    assert exceedance_tail(4, 3, 5, 4) == 0.0


def test_fishers_test_is_that_of_the_lady_tasting_tea():
    """3 of 4 right: (16 + 1) / 70."""
    assert fisher_p(3, 4, 1, 4) == pytest.approx(17 / 70)


@pytest.mark.parametrize(
    "policy", [Pinned(version="9"), Canary(stable="8", version="9"), ABTest(a="8", b="9")]
)
def test_versions_that_are_not_there_are_no_reason_to_refuse(policy):
    assert reset(policy).choose(request(), BOTH[1:], 0.0) == Serve("2")


THREE = tuple(VersionView(model="m", version=name, ready=1) for name in ("2", "0", "1"))


@pytest.mark.parametrize(
    "policy",
    [
        Canary(stable="11", version="2", share=0.2),
        Ramp(stable="11", version="2"),
        BlueGreen(blue="11", green="2"),
        FeatureFlag(stable="11", version="2"),
        ShadowTraffic(stable="11", version="2"),
    ],
)
def test_an_old_version_that_is_not_there_does_not_send_all_to_the_new_one(policy):
    reset(policy)

    assert {policy.choose(request(f"r{n}"), THREE, 0.0) for n in range(200)} == {Serve("0")}
    assert policy.choose(request("alone"), THREE[:1], 0.0) == Serve("2"), "there is nobody else"


def test_a_canary_says_which_of_its_versions_it_waits_for():
    policy = reset(Canary(stable="11", version="2"))
    assert policy.stage == "canary: waits for version 2"

    policy.choose(request("a"), BOTH, 0.0)
    assert policy.stage == "canary: waits for version 11"
    loading = (VersionView(model="m", version="11", ready=1), VersionView(model="m", version="2"))
    policy.choose(request("b"), loading, 0.0)
    assert policy.stage == "canary: waits for version 2"


def test_a_flag_whose_new_version_is_not_there_leaves_all_at_the_old_one():
    flag = reset(FeatureFlag(stable="1", version="22", percentage=100.0))

    assert flag.choose(request(), THREE, 0.0) == Serve("1")
