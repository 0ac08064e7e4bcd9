"""The same requests at other rates, and the highest rate that attains something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.knee import knee
from experiments.load import at_rate, highest_rate
from experiments.studies.workloads import chat, conversations


@given(limit=st.floats(0.2, 400.0), tolerance=st.floats(0.01, 0.5))
def test_bisection_finds_the_highest_rate_that_attains(limit, tolerance):
    asked = []

    def attains(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = highest_rate(attains, 8.0, tolerance)
    assert found in asked
    assert found <= limit < found * (1.0 + tolerance) * (1.0 + 1e-9)


def test_bisection_gives_up_on_what_no_rate_attains_and_on_what_every_rate_does():
    assert highest_rate(lambda rate: False, 8.0, 0.1) == 0.0
    assert highest_rate(lambda rate: True, 8.0, 0.1) > 1e6


def test_bisection_finds_what_is_far_above_where_it_starts():
    assert highest_rate(lambda rate: rate <= 5000.0, 8.0, 0.1) == pytest.approx(5000.0, rel=0.1)


@pytest.mark.parametrize("make", [chat, conversations])
def test_a_rate_changes_the_clock_and_nothing_else(make):
    trace = make(50, 3)
    assert len(trace) == 50
    faster = at_rate(trace, 7.0)
    assert faster.rate_per_s == pytest.approx(7.0)
    for column in ("id", "prompt_tokens", "output_tokens", "blocks"):
        assert faster.column(column).to_pylist() == trace.column(column).to_pylist()


# --- the knee ------------------------------------------------------------------------------------------------


def test_the_knee_of_m_m_1_is_at_half_its_capacity_whatever_the_rates():
    rates = [0.1, 0.25, 0.45, 0.7, 0.95]

    assert knee(rates, [rate * (1.0 - rate) for rate in rates]) == pytest.approx(0.5)


@pytest.mark.parametrize("powers", [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [], [1.0], [2.0, 1.0, None]])
def test_there_is_no_knee_at_either_end(powers):
    assert knee([1.0, 2.0, 3.0][: len(powers)], powers) is None


def test_beside_a_rate_without_power_the_knee_is_the_best_rate_itself():
    assert knee([1.0, 2.0, 3.0], [1.0, 2.0, None]) == 2.0
