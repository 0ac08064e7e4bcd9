"""Objectives as they are written, said and held against runs."""

import pytest

from experiments.objectives import objective
from fleet import simulate
from policies import QueueLimit
from tests.simulation.building import arrivals, fleet


def test_an_objective_is_a_figure_and_its_bound():
    found = objective("e2e_s.p99 <= 0.2")

    assert (found.metric.name, found.sign, found.bound) == ("e2e_s.p99", "<=", 0.2)
    assert found.label == "e2e p99 ≤ 200 ms"
    assert objective("slo_attainment>=0.9").label == "slo attainment ≥ 90 %"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("e2e_s.p99", "is no constraint, such as"),
        ("e2e_s.p99=0.2", "is no constraint, such as"),
        ("e2e_s.p99<=fast", "is no constraint, such as"),
        ("e2e_s.p98<=0.2", "no figure of a run"),
        ("e2e_s.p99>=0.2", "the lower is the better; write e2e_s.p99<=0.2"),
        ("goodput_per_s<=3", "the higher is the better; write goodput_per_s>=3"),
        ("e2e_s.p99@tenant<=1", "for each group"),
        ("e2e_s.p99@tenant:jain>=0.9", "of all requests together"),
        ("e2e_s.p99<=nan", "is no constraint, such as"),
    ],
)
def test_a_wrong_one_is_answered_with_what_would_be_right(text, says):
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        objective(text)


def test_it_is_met_on_the_right_side_of_the_bound():
    run = simulate(arrivals(0.0, 5.0, 10.0), fleet())

    assert objective("e2e_s.max<=1.0").met_by(run)
    assert not objective("e2e_s.max<=0.999").met_by(run)
    assert not objective("slo_attainment>=0").met_by(run)  # nothing has one


def test_it_is_not_met_by_turning_requests_away():
    run = simulate(arrivals(*[0.0] * 50), fleet(admission=QueueLimit(max_queue_depth=1)))

    assert run.summary.completed
    assert not objective("e2e_s.max<=100").met_by(run)
