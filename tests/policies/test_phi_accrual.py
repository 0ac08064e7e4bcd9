"""Suspicion from silence, and from what requests tell."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import AlwaysTrust, ConsecutiveFailures, HealthPolicy, PolicyError, ProbeOutcome, Verdict, build
from policies.health.passive_checks import PassiveChecks
from policies.health.phi_accrual import FORGET_S, PhiAccrual, phi
from policies.testing import parametrize_with_checks
from policies.views import FailureKind, ProbeLevel, ProbeStatus
from tests.policies.makers import completion, replicas, reset


@parametrize_with_checks(
    [
        PhiAccrual,
        lambda: PhiAccrual(threshold=0.5, suspect_threshold=0.5, max_sample_size=2, acceptable_pause_s=0.0),
        lambda: PhiAccrual(
            threshold=500.0, suspect_threshold=20.0, min_std_deviation_s=5.0, first_interval_s=30.0
        ),
        PassiveChecks,
        lambda: PassiveChecks(active=PhiAccrual(), error_limit=1, on_error="mark-down", rise=1),
        lambda: PassiveChecks(
            active=AlwaysTrust(), error_limit=2, on_error="mark-down", rise=7, recover_by=("deep",)
        ),
    ]
)
def test_conformance(check: Any) -> None:
    check()


def seen(
    status: ProbeStatus, at_s: float, replica: str = "replica/0", level: ProbeLevel = "ready"
) -> ProbeOutcome:
    return ProbeOutcome(replica=replica, level=level, status=status, sent_s=at_s)


def observe(policy: HealthPolicy, status: ProbeStatus, at_s: float, **fields: Any) -> str | None:
    verdict = policy.observe(seen(status, at_s, **fields), at_s)
    return None if verdict is None else verdict.trust


def heartbeats(policy: PhiAccrual, *times_s: float) -> PhiAccrual:
    reset(policy)
    for at_s in times_s:
        observe(policy, "ok", at_s)
    return policy


def ready_phi(policy: PhiAccrual, at_s: float) -> float:
    return policy.phi("replica/0", "ready", at_s)


# --- the numbers of Akka's AccrualFailureDetectorSpec ------------------------------------------------------


@pytest.mark.parametrize(
    ("silence_s", "probability", "within"),
    [
        (0.0, 0.5, 1e-3), (6.0, 0.7257, 1e-3), (15.0, 0.9332, 1e-3), (20.0, 0.97725, 1e-3),
        (25.0, 0.99379, 1e-3), (35.0, 0.99977, 1e-3), (40.0, 0.99997, 1e-4),
    ],
)  # fmt: skip
def test_phi_is_a_good_enough_normal_distribution(
    silence_s: float, probability: float, within: float
) -> None:
    assert 1.0 - 10.0 ** -phi(silence_s, 0.0, 10.0) == pytest.approx(probability, abs=within)


@pytest.mark.parametrize(
    ("silence_ms", "expected"),
    [(0, 0.0), (500, 0.1), (1000, 0.3), (1200, 1.6), (1400, 4.7), (1600, 10.8), (1700, 15.3)],
)
def test_phi_of_a_mean_of_a_second_and_a_deviation_of_a_tenth(silence_ms: int, expected: float) -> None:
    assert phi(silence_ms / 1000, 1.0, 0.1) == pytest.approx(expected, abs=0.1)


def test_outliers_lose_no_precision() -> None:
    assert phi(10.0, 0.0, 1.0) == pytest.approx(38.0, abs=1.0)
    assert phi(-25.0, 0.0, 1.0) == 0.0
    assert math.isfinite(phi(1e9, 1.0, 1e-3))


def test_phi_is_a_guess_after_one_heartbeat() -> None:
    policy = heartbeats(PhiAccrual(acceptable_pause_s=0.0), 0.0)
    assert ready_phi(policy, 1.0) == pytest.approx(0.3, abs=0.2)
    assert ready_phi(policy, 2.0) == pytest.approx(4.5, abs=0.3)
    assert ready_phi(policy, 3.0) > 15.0


def test_a_pause_that_is_accepted_is_and_a_longer_one_is_not() -> None:
    times_s = [0.0, 1.0, 2.0, 3.0]
    assert ready_phi(heartbeats(PhiAccrual(), *times_s), 7.0) < 8.0
    times_s = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert ready_phi(heartbeats(PhiAccrual(), *times_s), 11.5) > 8.0


def test_after_max_sample_size_heartbeats_what_was_before_is_forgotten() -> None:
    policy = PhiAccrual(max_sample_size=3, acceptable_pause_s=0.0, suspect_threshold=100.0, threshold=100.0)
    before = ready_phi(heartbeats(policy, 0.0, 0.1, 0.2, 0.3), 0.4)
    policy = PhiAccrual(max_sample_size=3, acceptable_pause_s=0.0, suspect_threshold=100.0, threshold=100.0)
    after = ready_phi(heartbeats(policy, 0.0, 0.1, 0.2, 0.3, 1.0, 1.5, 2.0, 2.5), 3.0)
    assert after == pytest.approx(before, abs=1e-3)


def test_mean_and_variance_are_those_of_the_last_intervals() -> None:
    # Akka's "Statistics for heartbeats": after 100, 110, 90, then 140, then 80 ms, of which the last three count.
    policy = PhiAccrual(
        max_sample_size=3,
        min_std_deviation_s=1e-6,
        acceptable_pause_s=0.0,
        suspect_threshold=100.0,
        threshold=100.0,
    )
    heartbeats(policy, 0.0, 0.1, 0.21, 0.3)
    for at_s, heard_s, mean_ms, variance in ((0.44, 0.3, 100.0, 66.6666667), (0.52, 0.44, 113.333333, 422.222222),
                                            (0.6, 0.52, 103.333333, 688.88888889)):  # fmt: skip
        expected = phi(at_s - heard_s, mean_ms / 1000, math.sqrt(variance) / 1000)
        assert ready_phi(policy, at_s) == pytest.approx(expected, rel=1e-4)
        observe(policy, "ok", at_s)


# --- laws --------------------------------------------------------------------------------------------------


@given(
    a_s=st.floats(0, 100), b_s=st.floats(0, 100), mean_s=st.floats(0.01, 10), deviation_s=st.floats(0.01, 10)
)
def test_suspicion_grows_with_silence(a_s: float, b_s: float, mean_s: float, deviation_s: float) -> None:
    assert (phi(a_s, mean_s, deviation_s) <= phi(b_s, mean_s, deviation_s)) or a_s > b_s


def test_a_replica_that_answers_irregularly_gets_more_time() -> None:
    steady = heartbeats(PhiAccrual(acceptable_pause_s=0.0), *(float(n) for n in range(100)))
    irregular = heartbeats(PhiAccrual(acceptable_pause_s=0.0), *(n + 0.4 * (n % 2) for n in range(100)))
    assert ready_phi(steady, 99.0 + 1.6) > 8.0 > ready_phi(irregular, 99.4 + 1.6)


def test_a_silent_replica_is_suspect_then_failed_and_back_with_its_next_answer() -> None:
    policy = heartbeats(PhiAccrual(), *(float(n) for n in range(30)))  # phi 1 after 4.13 s, 8 after 4.52 s
    answers = [
        observe(policy, "timeout", 29.0 + silence_s) for silence_s in (1.5, 2.5, 4.0, 4.2, 4.3, 4.6, 9.0)
    ]
    assert answers == [None, None, None, "suspect", None, "failed", None]
    assert observe(policy, "ok", 60.0) == "healthy"
    assert ready_phi(policy, 61.0) < 1.0
    assert ready_phi(policy, 65.0) > 8.0  # the long silence was not learned


def test_where_no_probe_is_lost_it_fails_a_replica_with_the_fifth_that_times_out() -> None:
    policy = heartbeats(PhiAccrual(), *(float(n) for n in range(100)))
    answers = [observe(policy, "timeout", 99.0 + number + 0.5) for number in range(1, 6)]
    assert answers == [None, None, None, "suspect", "failed"]


def test_a_replica_that_never_answered_is_reckoned_from_its_first_probe() -> None:
    policy = reset(PhiAccrual())
    assert [observe(policy, "timeout", float(n)) for n in range(7)][-3:].count("failed") == 1


def test_each_level_has_its_own_history_and_the_worst_counts() -> None:
    policy = reset(PhiAccrual())
    for second in range(60):
        observe(policy, "ok", float(second))
        if second % 10 == 0:
            observe(policy, "ok", float(second), level="deep")
    # Deep probes come every ten seconds: eleven without one are nothing; a ready probe would long have failed.
    assert observe(policy, "timeout", 61.0, level="deep") is None
    answers = [observe(policy, "ok" if n % 2 else "timeout", 61.0 + 5 * n, level="ready" if n % 2 else "deep")
               for n in range(1, 9)]  # fmt: skip
    assert answers[-1] is None
    assert "failed" in answers
    assert "healthy" not in answers  # good ready probes do not make up for the deep ones
    assert observe(policy, "ok", 110.0, level="deep") == "healthy"


def test_what_is_not_probed_any_more_is_forgotten() -> None:
    policy = reset(PhiAccrual())
    for number in range(50):
        observe(policy, "ok", float(number), replica=f"replica/{number}")
    observe(policy, "ok", 20.0 + FORGET_S, replica="replica/50")
    assert len(policy.records) == 31


# --- passive checks ----------------------------------------------------------------------------------------


def attempts(
    policy: PassiveChecks, *failures: FailureKind | None, replica: str = "replica/0"
) -> list[str | None]:
    answers = [
        policy.after_completion(completion(replica=replica, failure=failure), 0.0) for failure in failures
    ]
    return [None if answer is None else answer.trust for answer in answers]


def test_failed_attempts_in_a_row_are_a_failed_probe() -> None:
    policy = reset(PassiveChecks(error_limit=3))  # of which one makes a replica suspect, and three failed
    failed: list[FailureKind] = ["engine-error"] * 9
    assert attempts(policy, *failed) == [None, None, "suspect", None, None, None, None, None, "failed"]


def test_an_attempt_that_completes_begins_the_count_anew() -> None:
    policy = reset(PassiveChecks(error_limit=2))
    answers = attempts(policy, "engine-error", None, "engine-error", None, "engine-error", "engine-error")
    assert answers == [None] * 5 + ["suspect"]


def test_what_says_nothing_of_the_replica_does_not_count() -> None:
    policy = reset(PassiveChecks(error_limit=2))
    assert attempts(policy, "engine-error", "withdrawn", "refused", "overloaded") == [None] * 4
    assert attempts(policy, "engine-error") == ["suspect"]


def test_probes_bring_back_what_a_failed_probe_took() -> None:
    policy = reset(PassiveChecks(error_limit=1))
    assert attempts(policy, "engine-error") == ["suspect"]
    assert [observe(policy, "ok", float(n)) for n in range(2)] == [None, "healthy"]
    assert not policy.records


def test_marked_down_is_suspect_until_enough_probes_that_ask_the_engine_went_well() -> None:
    policy = reset(
        PassiveChecks(active=AlwaysTrust(), error_limit=2, on_error="mark-down", rise=2, recover_by=("deep",))
    )
    assert attempts(policy, "engine-error", "engine-error", "engine-error", "engine-error") == [
        None,
        "suspect",
        None,
        None,
    ]
    assert [observe(policy, "ok", float(n), level="live") for n in range(5)] == [None] * 5
    assert [observe(policy, "ok", float(n), level="ready") for n in range(5)] == [None] * 5
    assert observe(policy, "ok", 6.0, level="deep") is None
    assert observe(policy, "timeout", 7.0, level="deep") is None  # not two in a row
    assert [observe(policy, "ok", float(n), level="deep") for n in (8, 9)] == [None, "healthy"]


def test_trust_is_the_worse_of_both() -> None:
    policy = reset(
        PassiveChecks(
            active=ConsecutiveFailures(failures=1, recoveries=1), error_limit=1, on_error="mark-down"
        )
    )
    assert attempts(policy, "engine-error") == ["suspect"]
    assert observe(policy, "timeout", 1.0) == "failed"
    assert [observe(policy, "ok", float(n)) for n in (2, 3)] == ["suspect", "healthy"]


def test_alone_it_judges_probes_as_the_active_policy_does() -> None:
    one, other = reset(PassiveChecks()), reset(ConsecutiveFailures())
    for number, status in enumerate("oxxoxxxxooxooxo"):
        probe = seen("ok" if status == "o" else "timeout", float(number))
        mine, theirs = one.observe(probe, float(number)), other.observe(probe, float(number))
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or mine.trust == theirs.trust


def test_replicas_that_ended_are_forgotten_and_those_under_suspicion_are_not() -> None:
    policy = reset(PassiveChecks(error_limit=2))
    attempts(policy, "engine-error", replica="replica/0")
    attempts(policy, "engine-error", replica="replica/1")
    attempts(policy, "engine-error", "engine-error", replica="replica/2")
    policy.on_replicas(replicas(0), 0.0)
    assert set(policy.records) == {"replica/0", "replica/2"}
    policy.on_replicas(replicas(0), 1.0 + FORGET_S)
    assert set(policy.records) == {"replica/0"}


def test_a_verdict_says_why() -> None:
    policy = reset(PassiveChecks(error_limit=1))
    answer = policy.after_completion(completion(failure="engine-error"), 0.0)
    assert answer == Verdict("replica/0", "suspect", "1 failed attempts in a row")


@pytest.mark.parametrize(
    ("policy", "parameters", "path"),
    [
        ("phi-accrual", {"suspect_threshold": 9.0}, r"\$\.health\.suspect_threshold"),
        ("phi-accrual", {"min_std_deviation_s": 0.0}, r"\$\.health\.min_std_deviation_s"),
        ("passive-checks", {"error_limit": 0}, r"\$\.health\.error_limit"),
        ("passive-checks", {"recover_by": ()}, r"\$\.health\.recover_by"),
        (
            "passive-checks",
            {"active": {"policy": "phi-accrual", "threshold": 0.0}},
            r"\$\.health\.active\.threshold",
        ),
    ],
)
def test_bad_parameters_are_named(policy: str, parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        build(HealthPolicy, {"policy": policy, **parameters}, "$.health")
