"""The bound on mean response times: against hand-computed schedules, every assignment there is, and theory."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.studies.response_bound import fast_server, response_bound
from experiments.studies.workloads import exponential_work
from traces import poisson


def test_three_at_once_on_one_server_and_on_two():
    one = response_bound([0.0, 0.0, 0.0], [3.0, 1.0, 2.0], 1)
    assert one.mean_s == one.fast_server_s == pytest.approx((1 + 3 + 6) / 3)
    two = response_bound([0.0, 0.0, 0.0], [3.0, 1.0, 2.0], 2)
    assert two.own_size_s == pytest.approx(2.0)
    assert two.fast_server_s == pytest.approx((0.5 + 1.5 + 3.0) / 3)
    # Worked on at 0.25, 1 and 2.25 on average, and half a size after that at the earliest they end.
    assert two.busy_times_s == pytest.approx((0.25 + 0.5 + 1.0 + 1.0 + 2.25 + 1.5) / 3)
    assert two.mean_s == two.busy_times_s < 7 / 3  # which is what {3}, {1, 2} comes to


def test_the_least_rest_goes_first_or_the_smallest_request():
    assert fast_server([0.0, 1.0], [4.0, 1.0], 1, by_rest=True)[0] == [5.0, 2.0]
    # The second is smaller, and more than what is left of the first.
    assert fast_server([0.0, 3.0], [4.0, 2.0], 1, by_rest=True) == ([4.0, 6.0], [2.0, 5.0])
    ended, busy = fast_server([0.0, 3.0], [4.0, 2.0], 1, by_rest=False)
    assert ended == [6.0, 5.0]
    assert busy == pytest.approx([(3 * 1.5 + 1 * 5.5) / 4, 4.0])


def test_with_as_many_servers_as_requests_it_is_their_size():
    assert response_bound([0.0, 0.0], [1.0, 5.0], 2).mean_s == 3.0


def test_no_requests_have_no_mean():
    with pytest.raises(ValueError, match="no requests"):
        response_bound([], [], 1)


def best_alone(jobs: list[tuple[int, int]]) -> int:
    """The least sum of response times of these on one server, in unit steps: the one with the least left goes first."""
    left = {number: size for number, (_, size) in enumerate(jobs)}
    total, now = 0, 0
    while left:
        here = [number for number in left if jobs[number][0] <= now]
        now += 1
        if not here:
            continue
        chosen = min(here, key=left.__getitem__)
        left[chosen] -= 1
        if not left[chosen]:
            del left[chosen]
            total += now - jobs[chosen][0]
    return total


def best_of_all(jobs: list[tuple[int, int]], servers: int) -> int:
    """The least sum over every way to spread them, each server being as clever as it can."""
    return min(
        sum(
            best_alone([job for job, place in zip(jobs, places, strict=True) if place == server])
            for server in range(servers)
        )
        for places in itertools.product(range(servers), repeat=len(jobs))
    )


@given(
    jobs=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=6),
    servers=st.integers(1, 3),
)
def test_it_is_never_above_the_best_assignment(jobs, servers):
    best = best_of_all(jobs, servers) / len(jobs)
    found = response_bound([float(came) for came, _ in jobs], [float(size) for _, size in jobs], servers)
    for one in (found.own_size_s, found.fast_server_s, found.busy_times_s):
        assert one <= best + 1e-9
    if servers == 1:
        assert found.mean_s == pytest.approx(best)


def srpt_mean(load: float) -> float:
    """M/M/1 with SRPT, service 1: Schrage and Miller, "The Queue M/G/1 with SRPT", Operations Research 14, 1966."""
    size = np.linspace(0.0, 40.0, 40_001)
    step = size[1] - size[0]
    below = load * (1.0 - np.exp(-size) * (1.0 + size))  # the load of requests up to this size
    second = 2.0 - np.exp(-size) * (size**2 + 2.0 * size + 2.0)  # ∫ t² f(t) dt
    waits = load * (second + size**2 * np.exp(-size)) / (2.0 * (1.0 - below) ** 2)
    served = np.cumsum(1.0 / (1.0 - below)) * step
    return float(np.sum((waits + served) * np.exp(-size)) * step)


def test_with_one_server_and_many_requests_it_is_what_theory_says_of_srpt():
    assert srpt_mean(0.01) == pytest.approx(1.0, abs=0.02)
    means = []
    for seed in range(4):
        trace = poisson(0.8, 20_000.0, seed)
        work = exponential_work(len(trace), seed).tolist()
        means.append(response_bound(trace.column("arrived_s").to_pylist(), work, 1).mean_s)
    assert math.fsum(means) / 4 == pytest.approx(srpt_mean(0.8), rel=0.06)
