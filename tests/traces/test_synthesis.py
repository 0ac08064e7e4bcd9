"""Every generator is the law that it names: mean, variance, gaps, intensity; and a function of its seed.

Seeds are fixed, so nothing here is flaky. Tolerances are four standard deviations of what theory says, or a
p-value of 0.001: a generator that is a few per cent off fails.
"""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from traces import (
    Lengths,
    RateSeries,
    TraceError,
    bernoulli_surge,
    diurnal,
    from_rates,
    gamma,
    load_trace,
    mmpp,
    poisson,
    surge,
)

P = 0.001


def arrivals(trace):
    return trace.column("arrived_s").to_numpy()


def gaps(trace):
    return np.diff(arrivals(trace))


def counts(trace, window_s, duration_s):
    edges = np.arange(0, duration_s + window_s / 2, window_s)
    return np.histogram(arrivals(trace), edges)[0]


def within(value, mean, deviation, times=4):
    return abs(value - mean) < times * deviation


def test_poisson_gaps_are_exponential_and_independent():
    trace = poisson(rate_per_s=200, duration_s=200, seed=1)

    assert stats.kstest(gaps(trace), "expon", args=(0, 1 / 200)).pvalue > P
    assert abs(np.corrcoef(gaps(trace)[:-1], gaps(trace)[1:])[0, 1]) < 4 / math.sqrt(len(trace))


def test_poisson_counts_have_their_mean_as_variance():
    sample = counts(poisson(rate_per_s=20, duration_s=5000, seed=2), 1.0, 5000)

    assert within(sample.mean(), 20, math.sqrt(20 / 5000))
    assert within(sample.var() / sample.mean(), 1, math.sqrt(2 / 5000))
    expected = stats.poisson(20).pmf(np.arange(10, 31))
    observed = np.array([(sample == k).sum() for k in range(10, 31)])
    assert stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > P


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0])
def test_gamma_gaps_have_their_law_mean_and_variation(cv):
    sample = gaps(gamma(rate_per_s=100, cv=cv, duration_s=400, seed=3))

    assert stats.kstest(sample, "gamma", args=(1 / cv**2, 0, cv**2 / 100)).pvalue > P
    assert within(sample.mean(), 0.01, 0.01 * cv / math.sqrt(len(sample)))
    assert sample.std() / sample.mean() == pytest.approx(cv, rel=0.05)


def test_gamma_offers_its_rate_from_the_very_start():
    """One that begins with an ordinary gap would be (cv² - 1) / 2 = 4 arrivals off in the mean."""
    totals = [len(gamma(rate_per_s=2, cv=3, duration_s=10, seed=seed)) for seed in range(1500)]

    assert within(np.mean(totals), 20, np.std(totals) / math.sqrt(len(totals)))


def test_mmpp_has_the_mean_and_dispersion_of_the_formula():
    r1, r2, s1, s2, duration_s, window_s = 5.0, 50.0, 4.0, 1.0, 40_000, 2.0
    sample = counts(mmpp([r1, r2], [s1, s2], duration_s, seed=4), window_s, duration_s)

    q1, q2 = 1 / s1, 1 / s2
    q = q1 + q2
    mean = (r1 * s1 + r2 * s2) / (s1 + s2) * window_s
    dispersion = 1 + 2 * q1 * q2 * (r1 - r2) ** 2 / (q**2 * (r1 * q2 + r2 * q1)) * (
        1 - (1 - math.exp(-q * window_s)) / (q * window_s)
    )
    assert sample.mean() == pytest.approx(mean, rel=0.02)
    assert sample.var() / sample.mean() == pytest.approx(dispersion, rel=0.05)


def test_mmpp_starts_in_its_stationary_law_and_visits_every_state():
    first_second = [len(mmpp([0.0, 60.0], [3.0, 1.0], 1.0, seed=seed)) for seed in range(1500)]
    three = mmpp([1.0, 10.0, 100.0], 0.5, 4000, seed=5)

    assert within(np.mean(first_second), 15, np.std(first_second) / math.sqrt(len(first_second)))
    assert three.rate_per_s == pytest.approx(37, rel=0.05)


def test_mmpp_with_equal_rates_is_poisson():
    assert stats.kstest(gaps(mmpp([30.0, 30.0], 1.0, 500, seed=6)), "expon", args=(0, 1 / 30)).pvalue > P


def uniform_under(cumulative, trace):
    """A Poisson process seen on the scale of its expected count is uniform: the test of any intensity."""
    return stats.kstest(cumulative(arrivals(trace)) / cumulative(np.array([1e99]))[0], "uniform").pvalue


def test_diurnal_follows_its_wave():
    duration_s, period_s = 1000.0, 200.0
    trace = diurnal(40, 0.8, period_s, duration_s, seed=7)

    def cumulative(t):
        t = np.minimum(t, duration_s)
        w = 2 * np.pi / period_s
        return 40 * t + 40 * 0.8 * (np.sin(w * (t - 100)) - np.sin(-w * 100)) / w

    assert within(len(trace), 40_000, 200)
    assert uniform_under(cumulative, trace) > P
    assert counts(trace, 20, duration_s)[0] < counts(trace, 20, duration_s)[4] / 3  # begins at the trough


def test_surge_follows_its_triangle():
    trace = surge(40, 640, 15, 9, 30, seed=8)

    def cumulative(t):
        t = np.minimum(t, 30)
        up, down = np.clip(t - 6, 0, 9), np.clip(t - 15, 0, 9)
        return 40 * t + 600 * (up**2 / 18 + down - down**2 / 18)

    assert within(len(trace), 6600, math.sqrt(6600))
    assert uniform_under(cumulative, trace) > P


def test_rates_are_followed_step_by_step_and_gaps_stay_empty():
    per_s = np.array([10.0, 0.0, np.nan, 40.0] * 500)
    trace = from_rates(RateSeries(per_s, step_s=2.0), seed=9, scale=0.5)

    sample = counts(trace, 2.0, len(per_s) * 2.0).reshape(-1, 4).sum(axis=0)
    assert within(sample[0], 5000, math.sqrt(5000))
    assert sample[1] == sample[2] == 0
    assert within(sample[3], 20_000, math.sqrt(20_000))
    inside = arrivals(trace) % 2.0
    assert stats.kstest(inside / 2.0, "uniform").pvalue > P
    assert from_rates(RateSeries(per_s).without_gaps(), seed=9).duration_s < 1500


def reference_loop():
    """The generator of the reference text, as it stands there."""
    random.seed(7)
    arrived, t = [], 0.0
    while t < 30.0:
        rate = 40.0 + 600.0 * max(0.0, 1 - abs(t - 15.0) / 9.0)
        if random.random() < rate * 0.001:
            arrived.append(t)
        t += 0.001
    return arrived


def test_the_bernoulli_surge_is_the_reference_text_s_bit_for_bit():
    trace = bernoulli_surge()

    assert len(trace) == 6606
    assert arrivals(trace).tolist() == reference_loop()


def test_the_global_random_generator_is_left_alone():
    random.seed(0)
    before = random.getstate()
    np_before = np.random.get_state()[1].tolist()

    bernoulli_surge()
    poisson(10, 10)

    assert random.getstate() == before
    assert np.random.get_state()[1].tolist() == np_before


GENERATORS = [
    lambda seed: poisson(50, 10, seed),
    lambda seed: gamma(50, 2, 10, seed),
    lambda seed: mmpp([10, 90], 1.0, 10, seed),
    lambda seed: diurnal(50, 0.5, 10, 10, seed),
    lambda seed: surge(seed=seed),
    lambda seed: bernoulli_surge(seed=seed),
    lambda seed: from_rates(RateSeries(np.full(10, 50.0)), seed),
]


@pytest.mark.parametrize("generate", GENERATORS)
def test_a_trace_is_a_function_of_its_seed_and_says_which(generate):
    assert generate(1) == generate(1)
    assert generate(1).sha256 != generate(2).sha256
    assert generate(3).header.transforms[0].seed == 3
    assert generate(3).header.provenance == "synthetic"


@pytest.mark.parametrize("generate", GENERATORS)
def test_arrivals_are_sorted_and_within_the_duration(generate):
    assert (gaps(generate(1)) >= 0).all()
    assert 0 <= arrivals(generate(1))[0] <= generate(1).duration_s < 30.0


def test_lengths_do_not_move_arrivals():
    bare = poisson(50, 10, seed=4)
    full = poisson(50, 10, seed=4, prompt_tokens=Lengths.lognormal(500, 1), output_tokens=7)

    assert (arrivals(bare) == arrivals(full)).all()
    assert set(full.column("output_tokens").to_pylist()) == {7}
    assert full.header.transforms[0].parameters["prompt_tokens"] == "lognormal(mean=500, cv=1)"


@given(st.floats(5, 5000), st.floats(0.1, 2), st.integers(0, 99))
def test_lognormal_lengths_have_their_mean_and_variation(mean, cv, seed):
    sample = Lengths.lognormal(mean, cv).draw(np.random.default_rng(seed), 4000)

    # Heavy tails make the sample mean itself skewed: five deviations instead of four.
    assert within(sample.mean(), mean, mean * math.sqrt(cv**2 + 1) / math.sqrt(4000), 5)
    assert sample.dtype == np.int64


def test_lognormal_lengths_are_lognormal():
    sample = Lengths.lognormal(1e6, 0.8).draw(np.random.default_rng(1), 20_000)

    sigma = math.sqrt(math.log(1 + 0.64))
    assert stats.kstest(np.log(sample), "norm", args=(math.log(1e6) - sigma**2 / 2, sigma)).pvalue > P


def test_empirical_lengths_are_drawn_from_the_trace():
    trace = load_trace("demo-surge")
    sample = Lengths.empirical(trace).draw(np.random.default_rng(1), 50_000)

    assert set(sample) <= set(trace.column("prompt_tokens").to_pylist())
    assert sample.mean() == pytest.approx(np.mean(trace.column("prompt_tokens").to_numpy()), rel=0.01)
    with pytest.raises(TraceError, match="no values to draw from"):
        Lengths.empirical(trace, "output_tokens")


def test_uniform_and_constant_lengths():
    rng = np.random.default_rng(1)

    assert set(Lengths.uniform(8, 11).draw(rng, 1000)) == {8, 9, 10, 11}
    assert Lengths.constant(5).draw(rng, 3).tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    "generate",
    [
        lambda: poisson(0, 10),
        lambda: poisson(10, float("inf")),
        lambda: gamma(1, 0, 10),
        lambda: mmpp([1.0], 1.0, 10),
        lambda: mmpp([1.0, -1.0], 1.0, 10),
        lambda: mmpp([1.0, 2.0], [1.0, 0.0], 10),
        lambda: diurnal(10, 1.5, 10, 10),
        lambda: surge(50, 40),
        lambda: from_rates(RateSeries(np.ones(3)), scale=-1),
        lambda: Lengths.lognormal(0, 1),
        lambda: Lengths.uniform(9, 8),
        lambda: Lengths.constant(-1),
    ],
)
def test_impossible_parameters_are_errors(generate):
    with pytest.raises(TraceError):
        generate()
