"""Arrival laws. Each function states the law, the mean and variance of its counts, and its source.

N(t) is the number of arrivals in [0, t). All laws start in their stationary state, so E N(t) holds from t = 0
and not only in the long run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.rates import RateSeries
from traces.recipe import recorded
from traces.synthesis.build import Array, Tokens, check, check_finite, stream, synthetic, trace_of
from traces.trace import Trace


@recorded("poisson")
def poisson(
    rate_per_s: float,
    duration_s: float,
    seed: int = 0,
    *,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Poisson process: gaps are independent and exponential of mean ``1 / rate_per_s``.

    E N(t) = Var N(t) = rate·t. Drawn as a Poisson number of independent uniform arrivals, sorted, which is
    the same law (Kingman, "Poisson Processes", 1993, section 2.4).
    """
    check("poisson", rate_per_s=rate_per_s, duration_s=duration_s)
    arrived = _uniform_arrivals(stream(seed, "arrivals"), rate_per_s, duration_s)
    return trace_of(
        "poisson", arrived, seed, prompt_tokens, output_tokens, rate_per_s=rate_per_s, duration_s=duration_s
    )


@recorded("gamma")
def gamma(
    rate_per_s: float,
    cv: float,
    duration_s: float,
    seed: int = 0,
    *,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Renewal process with gamma gaps of mean ``1 / rate_per_s`` and coefficient of variation `cv`.

    `cv` 1 is Poisson, above 1 bursty, below 1 regular. The gap's shape is ``1 / cv**2``. E N(t) = rate·t
    exactly, because the first gap is drawn from the equilibrium law (a uniform part of a length-biased gap,
    itself gamma with shape + 1); Var N(t) tends to cv²·rate·t (Cox, "Renewal Theory", 1962, chapters 2 and
    4).
    """
    check("gamma", rate_per_s=rate_per_s, cv=cv, duration_s=duration_s)
    rng = stream(seed, "arrivals")
    shape = 1 / cv**2
    scale = 1 / (rate_per_s * shape)
    times = [np.array([rng.uniform() * rng.gamma(shape + 1, scale)])]
    batch = int(rate_per_s * duration_s * 1.1) + 100
    while times[-1][-1] < duration_s:
        times.append(times[-1][-1] + np.cumsum(rng.gamma(shape, scale, batch)))
    arrived = np.concatenate(times)
    arrived = arrived[arrived < duration_s]
    return trace_of(
        "gamma",
        arrived,
        seed,
        prompt_tokens,
        output_tokens,
        rate_per_s=rate_per_s,
        cv=cv,
        duration_s=duration_s,
    )


@recorded("mmpp")
def mmpp(
    rates_per_s: Sequence[float],
    mean_sojourn_s: float | Sequence[float],
    duration_s: float,
    seed: int = 0,
    *,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Markov-modulated Poisson process: Poisson at ``rates_per_s[i]`` while a hidden chain is in state i.

    The chain stays in state i for an exponential time of mean ``mean_sojourn_s[i]`` and moves to each other
    state with equal probability; it starts in its stationary law p_i = s_i / sum s. E N(t) = t·sum p_i r_i.
    For two states, with q_i = 1 / s_i and q = q1 + q2, Var N(t) / E N(t) = 1 + 2 q1 q2 (r1 - r2)² / (q² (r1
    q2 + r2 q1)) · (1 - (1 - e^(-qt)) / (qt)) (Fischer and Meier-Hellstern, "The Markov-modulated Poisson
    process cookbook", Performance Evaluation 18, 1993).
    """
    rates = np.asarray(rates_per_s, dtype=float)
    sojourns = np.broadcast_to(np.asarray(mean_sojourn_s, dtype=float), rates.shape)
    check("mmpp", duration_s=duration_s)
    for sojourn_s in sojourns:
        check("mmpp", mean_sojourn_s=float(sojourn_s))
    if len(rates) < 2 or not (np.isfinite(rates) & (rates >= 0)).all():
        raise TraceError(f"mmpp: rates_per_s = {rates_per_s}", remedy="give two or more rates, none below 0")
    starts, ends, states = _chain(sojourns, duration_s, stream(seed, "modulation"))
    rng = stream(seed, "arrivals")
    counts = rng.poisson(rates[states] * (ends - starts))
    arrived = np.repeat(starts, counts) + rng.uniform(size=counts.sum()) * np.repeat(ends - starts, counts)
    return trace_of(
        "mmpp",
        np.sort(arrived),
        seed,
        prompt_tokens,
        output_tokens,
        rates_per_s=" ".join(map(repr, rates.tolist())),
        mean_sojourn_s=" ".join(map(repr, sojourns.tolist())),
        duration_s=duration_s,
    )


def _chain(mean_s: Array, duration_s: float, rng: np.random.Generator) -> tuple[Array, Array, np.ndarray]:
    """Start, end and state of each sojourn of the hidden chain in [0, duration_s)."""
    kinds = len(mean_s)
    states = np.array([rng.choice(kinds, p=mean_s / mean_s.sum())])
    ends = rng.exponential(mean_s[states])
    batch = int(duration_s / mean_s.min()) + 100
    while ends[-1] < duration_s:
        further = (states[-1] + np.cumsum(rng.integers(1, kinds, batch))) % kinds
        states = np.concatenate([states, further])
        ends = np.concatenate([ends, ends[-1] + np.cumsum(rng.exponential(mean_s[further]))])
    begun = int(np.searchsorted(ends, duration_s)) + 1
    ends = np.minimum(ends[:begun], duration_s)
    return np.concatenate([[0.0], ends[:-1]]), ends, states[:begun]


@recorded("diurnal")
def diurnal(
    mean_per_s: float,
    amplitude: float,
    period_s: float,
    duration_s: float,
    seed: int = 0,
    *,
    peak_at_s: float | None = None,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Poisson process whose rate is a wave.

    The rate is ``mean_per_s * (1 + amplitude * cos(2 * pi * (t - peak_at_s) / period_s))``.

    E N(t) = Var N(t) = the integral of the rate, which over whole periods is mean·t. `amplitude` is from 0 to
    1; `peak_at_s` defaults to half a period, so the trace begins at the trough. Sampled by thinning, which is
    exact (Lewis and Shedler, Naval Research Logistics Quarterly 26, 1979).
    """
    check("diurnal", mean_per_s=mean_per_s, period_s=period_s, duration_s=duration_s)
    if not 0 <= amplitude <= 1:
        raise TraceError(f"diurnal: amplitude = {amplitude}", remedy="give a part of the mean, from 0 to 1")
    peak_s = period_s / 2 if peak_at_s is None else peak_at_s
    check_finite("diurnal", peak_at_s=peak_s)

    def rate(at_s: Array) -> Array:
        return mean_per_s * (1 + amplitude * np.cos(2 * np.pi * (at_s - peak_s) / period_s))

    arrived = _thinned(rate, mean_per_s * (1 + amplitude), duration_s, stream(seed, "arrivals"))
    return trace_of(
        "diurnal",
        arrived,
        seed,
        prompt_tokens,
        output_tokens,
        mean_per_s=mean_per_s,
        amplitude=amplitude,
        period_s=period_s,
        duration_s=duration_s,
        peak_at_s=peak_s,
    )


@recorded("surge")
def surge(
    base_per_s: float = 40.0,
    peak_per_s: float = 640.0,
    at_s: float = 15.0,
    half_width_s: float = 9.0,
    duration_s: float = 30.0,
    *,
    seed: int = 0,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Poisson process whose rate climbs in a straight line from `base_per_s` to `peak_per_s`, and back.

    The climb begins `half_width_s` before `at_s` and ends as long after it. E N(t) = Var N(t) = the integral
    of the rate; where the triangle lies within the trace, base·duration + (peak - base)·half_width in all.
    Sampled by thinning, exactly.
    """
    check("surge", peak_per_s=peak_per_s, half_width_s=half_width_s, duration_s=duration_s)
    check_finite("surge", at_s=at_s)
    if not 0 <= base_per_s <= peak_per_s:
        raise TraceError(f"surge: base_per_s = {base_per_s}", remedy="give 0 <= base_per_s <= peak_per_s")

    def rate(time_s: Array) -> Array:
        return base_per_s + (peak_per_s - base_per_s) * np.maximum(
            0.0, 1 - np.abs(time_s - at_s) / half_width_s
        )

    arrived = _thinned(rate, peak_per_s, duration_s, stream(seed, "arrivals"))
    return trace_of(
        "surge",
        arrived,
        seed,
        prompt_tokens,
        output_tokens,
        base_per_s=base_per_s,
        peak_per_s=peak_per_s,
        at_s=at_s,
        half_width_s=half_width_s,
        duration_s=duration_s,
    )


@recorded("bernoulli_surge")
def bernoulli_surge(
    base_per_s: float = 40.0,
    peak_per_s: float = 640.0,
    at_s: float = 15.0,
    half_width_s: float = 9.0,
    duration_s: float = 30.0,
    *,
    seed: int = 7,
    tick_s: float = 0.001,
) -> Trace:
    """The triangular surge in discrete time: at each tick at most one arrival, with probability rate·tick.

    Mean of the counts as `surge`; their variance is smaller by the factor 1 - rate·tick. Python's own
    generator, and a clock that accumulates ``t += tick_s``: bit for bit the arrivals of the 100-line serving
    loop that this project's reference scenario comes from. The defaults are that loop's, and give its 6,606
    arrivals.
    """
    check(
        "bernoulli_surge",
        peak_per_s=peak_per_s,
        half_width_s=half_width_s,
        duration_s=duration_s,
        tick_s=tick_s,
    )
    check_finite("bernoulli_surge", base_per_s=base_per_s, at_s=at_s)
    uniform = random.Random(seed).random
    arrived: list[float] = []
    now_s = 0.0
    while now_s < duration_s:
        rate_per_s = base_per_s + (peak_per_s - base_per_s) * max(0.0, 1 - abs(now_s - at_s) / half_width_s)
        if uniform() < rate_per_s * tick_s:
            arrived.append(now_s)
        now_s += tick_s
    header = synthetic(
        "bernoulli_surge",
        seed,
        {
            "base_per_s": base_per_s,
            "peak_per_s": peak_per_s,
            "at_s": at_s,
            "half_width_s": half_width_s,
            "duration_s": duration_s,
            "tick_s": tick_s,
        },
    )
    return Trace(pa.table({"arrived_s": np.array(arrived, dtype=float)}), header)


@recorded("from_rates")
def from_rates(
    series: RateSeries,
    seed: int = 0,
    *,
    scale: float = 1.0,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
) -> Trace:
    """Poisson process whose rate is `scale` times a recorded series, constant within a step, 0 in gaps.

    E N(t) = Var N(t) = the integral of the rate. Drop the gaps first with `RateSeries.without_gaps()` to
    close them up.
    """
    check("from_rates", scale=scale)
    rng = stream(seed, "arrivals")
    counts = rng.poisson(np.nan_to_num(series.per_s, nan=0.0) * scale * series.step_s)
    steps = np.repeat(np.arange(len(series)), counts)
    arrived = np.sort((steps + rng.uniform(size=len(steps))) * series.step_s)
    return trace_of(
        "from_rates",
        arrived,
        seed,
        prompt_tokens,
        output_tokens,
        rates=series.source,
        steps=len(series),
        step_s=series.step_s,
        scale=scale,
    )


def _uniform_arrivals(rng: np.random.Generator, rate_per_s: float, duration_s: float) -> Array:
    return np.sort(rng.uniform(0, duration_s, rng.poisson(rate_per_s * duration_s)))


def _thinned(
    rate: Callable[[Array], Array], most_per_s: float, duration_s: float, rng: np.random.Generator
) -> Array:
    """Arrivals at `most_per_s`, each kept with probability rate / most: a Poisson process of that rate."""
    candidates = _uniform_arrivals(rng, most_per_s, duration_s)
    return candidates[rng.uniform(size=len(candidates)) * most_per_s < rate(candidates)]
