"""Fronts: who is on them, who cannot be, and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import SweepError, plot_pareto
from experiments.measured import Measured
from experiments.sweep.judging import constraints_of, objectives_of
from experiments.sweep.pareto import knee_of, nondominated, pareto

COSTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2), st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12
)


def ran(name: str, *values: float | None, completed: int = 10, error: str | None = None, why="") -> Measured:
    """One run whose throughput and p99 are `values`."""
    figures = dict(zip(("throughput_per_s", "e2e_s.p99"), values, strict=False))
    whys = {key: why for key, value in figures.items() if value is None and why}
    return Measured(
        candidate=name, seed=0, submitted=10, completed=completed, values=figures, why=whys, error=error
    )


def of(*runs: Measured, where=(), objectives=("throughput_per_s", "e2e_s.p99")):
    by_name: dict[str, list[Measured]] = {}
    for run in runs:
        by_name.setdefault(run.candidate, []).append(run)
    return pareto(by_name, objectives_of(objectives), constraints_of(where))


def test_who_is_worse_in_all_is_dominated_and_equals_stay():
    found = of(ran("fast", 1.0, 0.1), ran("both", 2.0, 0.2), ran("twin", 2.0, 0.2), ran("worse", 1.5, 0.3))

    assert found.front == ["both", "twin", "fast"], "the best in the first objective first"
    assert found.names("dominated") == ["worse"]


@given(COSTS)
def test_the_front_is_what_nobody_dominates(costs):
    def dominated(cost):
        return any(
            other != cost and all(a <= b for a, b in zip(other, cost, strict=True))
            for other in costs.values()
        )

    assert nondominated(costs) == [name for name, cost in costs.items() if not dominated(cost)]


@given(COSTS)
def test_the_knee_does_not_depend_on_units(costs):
    front = {name: costs[name] for name in nondominated(costs)}
    scaled = {name: (1000.0 * a + 7.0, 0.25 * b) for name, (a, b) in front.items()}
    assert knee_of(front) == knee_of(scaled)
    assert (knee_of(front) in front) == bool(front)


def test_the_knee_lies_between_the_extremes():
    assert of(ran("a", 10.0, 1.0), ran("b", 9.0, 0.2), ran("c", 1.0, 0.1)).knee == "b"


def test_who_breaks_a_bound_is_infeasible_and_dominates_nobody():
    found = of(
        ran("slow", 3.0, 0.5), ran("kept", 2.0, 0.4), where=["e2e_s.p99<0.5", "throughput_per_s >= 1e0"]
    )

    assert (found.front, found.names("infeasible")) == (["kept"], ["slow"])
    assert next(one.why for one in found.candidates if one.name == "slow") == "e2e_s.p99<0.5"


def test_means_are_over_the_seeds_that_have_a_value():
    found = of(ran("a", 1.0, 0.1), ran("a", 3.0, None))
    assert found.candidates[0].means == {"throughput_per_s": 2.0, "e2e_s.p99": 0.1}


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (ran("x", 9.0, None, why="nothing completed"), "no value of e2e p99 (nothing completed)"),
        (ran("x", 9.0, 0.1, completed=4), "it completed 40.0% of its requests"),
        (Measured(candidate="x", seed=0, error="ValueError: no"), "1 of 1 runs failed: ValueError: no"),
    ],
)
def test_who_cannot_be_judged_is_left_out_with_the_reason(run, why):
    found = of(run, ran("other", 1.0, 0.2))
    assert found.left_out == {"x": why}
    assert found.front == ["other"]
    assert f"· x is not judged: {why}." in str(found)


def test_little_completed_is_no_obstacle_to_what_counts_the_undone():
    assert of(ran("x", 9.0, completed=1), objectives=["throughput_per_s"]).front == ["x"]


def test_a_front_of_nobody_says_so():
    found = of(ran("x", 1.0, 0.2), where=["e2e_s.p99<=0.1"])
    assert found.knee is None
    assert str(found).splitlines() == [
        "1 candidates with e2e_s.p99<=0.1: 0 front, 1 infeasible.",
        "No candidate keeps all constraints.",
    ]


@pytest.mark.parametrize(
    ("objectives", "where", "says"),
    [
        (["utilization"], [], "has no better way"),
        (["e2e_s.p42"], [], "is no figure"),
        ({"e2e_s.p99": "low"}, [], "'low' is no way to be best"),
        (["e2e_s.p99"], ["e2e_s.p99=3"], "is no constraint"),
        (["e2e_s.p99"], ["e2e_s.p99<=fast"], "is no constraint"),
        (["e2e_s.p99"], ["latency<=3"], "is no figure"),
        ([], [], "a front needs an objective"),
    ],
)
def test_a_mistake_is_named(objectives, where, says):
    with pytest.raises(SweepError, match=says):
        of(ran("x", 1.0, 0.2), objectives=objectives, where=where)


def test_names_are_literal():
    assert "[red]a[/]" in str(of(ran("[red]a[/]", 1.0, 0.1)))


def test_a_plot_has_everybody_the_knee_and_the_bound():
    found = of(
        ran("<a>", 10.0, 1.0), ran("b", 9.0, 0.2), ran("c", 1.0, 0.01), ran("d", 1.0, 0.9), ran("e", 50.0, 3.0),
        ran("gone", None, None), where=["e2e_s.p99<=2"],
    )  # fmt: skip
    drawn = plot_pareto(found)
    assert drawn == plot_pareto(found), "the same bytes each time"
    for text in (
        "front (3)",
        "dominated (1)",
        "does not keep the constraints (1)",
        "knee: b",
        "e2e_s.p99&lt;=2",
    ):
        assert text in drawn
    assert "throughput (1/s) (more is better)" in drawn
    assert plot_pareto(found, x="e2e_s.p99") != drawn


@pytest.mark.parametrize("standing", ["nobody", "one"])
def test_a_plot_of_few_is_drawn_all_the_same(standing):
    runs = [ran("x", 1.0, 0.2)] if standing == "one" else []
    assert plot_pareto(of(*runs, where=["e2e_s.p99<=0.1"])).startswith("<svg")


def test_a_plot_needs_two_figures_that_were_judged():
    found = of(ran("x", 1.0, 0.2), objectives=["e2e_s.p99"])
    with pytest.raises(SweepError, match=r"two figures out of those that were judged: e2e_s\.p99"):
        plot_pareto(found)
    with pytest.raises(SweepError, match="two figures"):
        plot_pareto(of(ran("x", 1.0, 0.2)), x="cost")


def test_a_way_can_be_said_of_what_has_none_and_against_what_it_has():
    ways = [str(one) for one in objectives_of(["utilization:max", "throughput_per_s:min", "e2e_s.p99"])]
    assert ways == ["utilization:max", "throughput_per_s:min", "e2e_s.p99:min"]
