"""When each health policy gives up on a replica, and when it trusts one again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import AlwaysTrust, ConsecutiveFailures, HealthPolicy
from tests.policies.makers import probe, reset


def verdicts(policy: HealthPolicy, statuses: str) -> str:
    """One letter a probe (`.` good, `x` failed, `t` timed out) gives one a verdict (H, S, F, or `.` for none)."""
    status = {".": "ok", "x": "failed", "t": "timeout"}
    answers = [
        policy.observe(probe(status[letter], sent_s=float(n)), float(n)) for n, letter in enumerate(statuses)
    ]
    return "".join("." if answer is None else answer.trust[0].upper() for answer in answers)


def test_always_trust_has_no_opinion() -> None:
    assert verdicts(AlwaysTrust(), "xxxxttttt....") == "............."


@pytest.mark.parametrize(
    ("parameters", "statuses", "expected"),
    [
        ({}, "..xx.xx..xxx", "..S.....HS.F"),
        ({}, ".xtx...", ".S.F.H."),
        ({}, "xx..xxx", "S..HS.F"),
        ({}, "x.x.x..", "S.....H"),  # it takes two good ones in a row
        ({}, "xxxxxx.x..", "S.F......H"),
        ({"failures": 1}, ".x.x..", ".F...H"),
        ({"recoveries": 1}, "x.x.", "SHSH"),
        ({"suspect_after": 2}, "x.xxx", "...SF"),
        ({"failures": 2, "suspect_after": 9}, "x.xx..", "...F.H"),
    ],
)
def test_consecutive_failures_counts_probes_in_a_row(
    parameters: dict[str, int], statuses: str, expected: str
) -> None:
    assert verdicts(reset(ConsecutiveFailures(**parameters)), statuses) == expected


def test_replicas_are_judged_apart() -> None:
    policy = reset(ConsecutiveFailures(failures=2))
    for name in ("replica/0", "replica/1"):
        policy.observe(probe("failed", name), 0.0)
    policy.observe(probe("ok", "replica/1"), 1.0)
    verdict = policy.observe(probe("failed", "replica/0"), 1.0)
    assert verdict is not None
    assert (verdict.replica, verdict.trust) == ("replica/0", "failed")


@given(failures=st.integers(1, 6), good=st.integers(0, 10))
def test_a_dead_replica_is_failed_at_exactly_the_threshold(failures: int, good: int) -> None:
    answers = verdicts(reset(ConsecutiveFailures(failures=failures)), "." * good + "t" * 10)
    assert answers.index("F") == good + failures - 1


def test_false_alarms_come_as_often_as_theory_says() -> None:
    loss, failures, rng = 0.3, 3, random.Random(1)
    gaps = []
    for _ in range(4000):
        policy, probes, verdict = reset(ConsecutiveFailures(failures=failures)), 0, None
        while verdict is None or verdict.trust != "failed":
            verdict = policy.observe(probe("timeout" if rng.random() < loss else "ok"), 0.0)
            probes += 1
        gaps.append(probes)
    expected = (1 - loss**failures) / ((1 - loss) * loss**failures)  # 51.5 probes
    # The gap is nearly exponential, so its mean has a standard error of about 51.5 / sqrt(4000) = 0.8.
    assert sum(gaps) / len(gaps) == pytest.approx(expected, abs=2.5)


def test_healthy_replicas_are_not_remembered() -> None:
    policy = reset(ConsecutiveFailures())
    for number in range(100):
        for status in ("ok", "failed", "ok", "ok"):
            policy.observe(probe(status, f"replica/{number}"), 0.0)
    assert not policy.records
