"""What the statistics claim, checked against what is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.paired import Difference, holm, paired_difference, verdict


@pytest.mark.parametrize(
    ("pairs", "interval", "studies", "least"),
    [(5, "t", 2000, 0.935), (10, "t", 2000, 0.935), (20, "bca", 60, 0.85)],
)
def test_the_interval_covers_the_true_difference_about_95_times_in_100(
    pairs: int, interval: str, studies: int, least: float
) -> None:
    rng = np.random.default_rng(7)
    truth = 0.3
    covered = 0
    for _ in range(studies):
        common = rng.lognormal(size=pairs)  # what both have of a seed; pairing takes it out
        one, other = common + truth + rng.normal(size=pairs), common + rng.normal(size=pairs)
        found = paired_difference(one - other, distinct=pairs, interval=interval)
        covered += found.low <= truth <= found.high
    assert least <= covered / studies <= 0.995


def test_pairing_takes_out_what_both_have_of_a_seed() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(scale=100.0, size=10)
    one, other = common + rng.normal(size=10) - 3.0, common + rng.normal(size=10)
    found = paired_difference(one - other, distinct=10)
    assert found.excludes_nothing
    assert found.mean == pytest.approx(-3.0, abs=1.5)
    assert stats.ttest_ind(one, other).pvalue > 0.5


def test_students_interval_is_the_textbooks() -> None:
    values = [1.0, 2.0, 4.0, 5.0]
    found = paired_difference(values, distinct=4)
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2.0
    assert (found.low, found.high) == pytest.approx((3.0 - half, 3.0 + half))


def test_one_run_repeated_is_no_replication() -> None:
    found = paired_difference([-2.0] * 10, distinct=1)
    assert found.deterministic
    assert (found.low, found.high, found.p_value) == (None, None, None)
    assert verdict(found, "lower", None) == "exact"


def test_without_spread_there_is_no_interval() -> None:
    found = paired_difference([1.0] * 4, distinct=4)
    assert found.exact
    assert not found.deterministic
    assert found.low is None


def test_one_pair_gives_a_difference_and_nothing_more() -> None:
    found = paired_difference([3.0], distinct=1)
    assert (found.mean, found.low, found.exact) == (3.0, None, False)
    assert verdict(found, "lower", None) == "not judged"


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=8),
    st.sampled_from(["lower", "higher", "neither"]),
    st.floats(0, 1),
)
def test_a_verdict_needs_an_interval_that_excludes_nothing_and_a_direction(
    values: list[float], better: str, p_adjusted: float
) -> None:
    found = paired_difference(values, distinct=len(values))
    said = verdict(found, better, p_adjusted)
    if said in ("better", "worse"):
        assert found.low > 0.0 or found.high < 0.0
        assert better != "neither"
        assert p_adjusted <= 0.05
        assert (said == "better") == ((found.mean < 0.0) == (better == "lower"))


def test_lower_is_better_for_latency_and_higher_for_goodput() -> None:
    fell = Difference(mean=-1.0, low=-1.5, high=-0.5, p_value=0.001, pairs=9, distinct=9)
    assert verdict(fell, "lower", 0.01) == "better"
    assert verdict(fell, "higher", 0.01) == "worse"
    assert verdict(fell, "lower", 0.2) == "no difference shown"


def test_holm_agrees_with_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1.0 for p, a in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def test_holm_keeps_false_verdicts_of_a_family_rare() -> None:
    rng = np.random.default_rng(3)
    families = [
        [paired_difference(rng.normal(size=8), distinct=8).p_value for _ in range(10)] for _ in range(150)
    ]
    assert np.mean([min(holm(family)) <= 0.05 for family in families]) <= 0.10
    assert np.mean([min(family) <= 0.05 for family in families]) > 0.25
