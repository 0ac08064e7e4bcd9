"""What `describe` says of traces whose figures are known."""

import numpy as np
import pytest

from tests.traces.test_trace import of
from traces import describe, poisson


def test_a_trace_that_can_be_counted_by_hand():
    trace = of(
        *(0.0, 0.5, 2.5, 2.5),
        prompt_tokens=[10, 20, 30, None], blocks=[[1, 2], [1, 3], [1, 2], None], session=["a", "a", "b", None],
    )  # fmt: skip
    known = describe(trace)

    assert (known.requests, known.duration_s, known.rate_per_s, known.peak_per_s) == (4, 2.5, 1.6, 2)
    assert known.gap_mean_s == pytest.approx(2.5 / 3)
    assert known.gap_cv == pytest.approx(np.std([0.5, 2, 0]) / (2.5 / 3))
    assert (known.distinct_times, known.sessions, known.blocks) == (3, 2, 6)
    assert known.prefix_hit_share == 3 / 6
    assert (known.prompt_tokens.p50, known.prompt_tokens.max, known.output_tokens) == (20, 30, None)
    assert (known.absent["prompt_tokens"], known.absent["output_tokens"], known.absent["id"]) == (1, 4, 0)


def test_an_empty_trace_and_a_single_request_have_statistics_too():
    assert describe(of()).gap_cv is None
    assert describe(of(0.0)).peak_per_s == 1
    assert describe(of(1.0, 1.0)).gap_cv is None


def test_quantiles_are_values_that_occur():
    known = describe(of(*range(1000), prompt_tokens=range(1, 1001)))

    assert (known.prompt_tokens.p50, known.prompt_tokens.p90, known.prompt_tokens.p99) == (500, 900, 990)


def test_a_coarse_clock_is_found_and_a_fine_one_is_not():
    trace = poisson(rate_per_s=20, duration_s=300, seed=1)
    ticking = of(*np.floor(trace.column("arrived_s").to_numpy() / 0.5) * 0.5)

    assert describe(trace).tick_s is None
    assert describe(ticking).tick_s == 0.5
    assert describe(ticking.dequantise(tick_s=0.5, seed=1)).tick_s is None


def test_poisson_gaps_vary_as_much_as_their_mean():
    assert describe(poisson(rate_per_s=100, duration_s=100, seed=1)).gap_cv == pytest.approx(1, abs=0.05)
