"""Load curves: held against queues whose answers are known, and as tables, figures and files."""

import csv
import warnings

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from experiments import load_curve
from experiments.curves.load_curve import LoadCurve
from experiments.curves.plot import figure_of
from fleet import Run
from policies import LeastOutstanding, QueueLimit, Random, RoundRobin
from policies.base import RoutingPolicy
from tests.simulation.building import fleet
from traces import Header, Trace

QUIET = {"report_interval_s": 1e3, "probe_interval_s": 1e3, "control_interval_s": 1e3}
ONE = {"one": fleet(**QUIET)}


def poisson(requests: int):
    """For each seed Poisson arrivals of requests that take a second on average, exponentially distributed."""

    def drawn(seed: int) -> Trace:
        rng = np.random.default_rng(seed)
        times, work = np.cumsum(rng.exponential(1.0, requests)), rng.exponential(1.0, requests)
        columns = {
            "arrived_s": times,
            "work": work,
            "tenant": ["a" if number % 3 else "b" for number in range(requests)],
        }
        return Trace(pa.table(columns), Header(source="exponential", provenance="synthetic"))

    return drawn


def run(candidates, requests=600, **options) -> LoadCurve:
    return load_curve(poisson(requests), candidates, progress=False, **options)


class Fails(RoutingPolicy):
    """Cannot do it when requests come fast."""

    def route(self, request, replicas, now_s):
        if now_s < 1000.0 and request.id == "500":
            raise RuntimeError("too fast")
        return LeastOutstanding().route(request, replicas, now_s)


# --- queues that are known -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def m_m_1() -> LoadCurve:
    return run(ONE, 4000, rates=[0.2, 0.35, 0.5, 0.65, 0.8, 1.2], seeds=range(5), metrics=["e2e_s.mean"])


def test_the_mean_latency_of_m_m_1_at_each_load_is_in_its_band(m_m_1):
    for row in m_m_1.curve("one", "e2e_s.mean")[:-1]:
        expected = 1.0 / (1.0 - row.rate_per_s)
        assert row.band.low <= expected <= row.band.high, row
        assert row.band.high - row.band.low < 0.5 * expected
        assert row.state == "steady"


def test_past_its_capacity_m_m_1_falls_behind_by_what_is_too_much(m_m_1):
    row = m_m_1.curve("one", "e2e_s.mean")[-1]
    drifts = [point.steadiness.drift for point in m_m_1.of("one", 1.2)]

    assert (row.state, row.in_state) == ("growing", 5)
    assert np.mean(drifts) == pytest.approx(1.0 - 1.0 / 1.2, abs=0.05)
    assert "one at 1.200 requests/s (falls behind)" in str(m_m_1).replace("\n", " ")


def test_the_knee_of_m_m_1_is_at_half_its_capacity(m_m_1):
    knee = m_m_1.knee("one")

    assert knee.low <= 0.5 <= knee.high
    assert knee.high - knee.low < 0.1


def test_the_mean_latency_of_m_m_4_is_as_erlang_c_says():
    found = run(
        {"four": fleet(replicas=4, binding="late", **QUIET)}, 6000, rates=[1.6, 3.2], seeds=range(4),
        metrics=["e2e_s.mean"],
    )  # fmt: skip

    for row, waits in zip(
        found.curve("four", "e2e_s.mean"), (0.0907, 0.5964), strict=True
    ):  # P(wait) at 0.4 and 0.8
        expected = 1.0 + waits / (4.0 - row.rate_per_s)
        assert row.band.low <= expected <= row.band.high, row
        assert row.band.high - row.band.low < 0.25 * expected


def test_bisection_finds_the_load_at_which_the_tail_of_m_m_1_meets_the_objective():
    found = run(ONE, 10_000, rates=[0.4, 0.7], seeds=range(3), metrics=[], objective="e2e_s.p99<=10")

    (capacity,) = found.capacities
    expected = 1.0 - np.log(100.0) / 10.0  # e2e is exponential of rate 1 − ρ
    assert capacity.band.mean == pytest.approx(expected, rel=0.06)
    assert capacity.band.least > 0.9 * expected


# --- what is run ---------------------------------------------------------------------------------------------


def test_rates_go_from_a_light_load_to_past_what_the_best_candidate_sustains():
    found = run({"one": fleet(**QUIET), "two": fleet(replicas=2, **QUIET)}, 2000, seeds=[3])

    assert found.sustained_per_s["one"] == pytest.approx(1.0, rel=0.2)
    assert found.sustained_per_s["two"] == pytest.approx(2.0, rel=0.2)
    assert found.rates_per_s[0] < 0.3
    assert found.rates_per_s[-1] > found.sustained_per_s["two"]
    assert found.knee("two") is not None


def test_rates_may_be_shares_of_what_the_first_candidate_sustains():
    found = run(ONE, rates=["80%", "50%", 0.1], seeds=[0])

    sustained = found.sustained_per_s["one"]
    assert found.rates_per_s == pytest.approx((0.1, 0.5 * sustained, 0.8 * sustained))


@pytest.mark.parametrize("requests", [40, 150, 600])
def test_a_fleet_keeps_up_with_no_more_than_its_capacity_however_few_requests_say_so(requests):
    found = run(ONE, requests, rates=["50%"], seeds=[0])

    assert 0.3 < found.sustained_per_s["one"] < 1.6


def test_the_highest_rate_is_found_however_far_above_the_curve_it_is():
    found = run(ONE, 2000, rates=[0.005], seeds=[0], objective="e2e_s.p99<=1000")

    assert found.capacities[0].band.mean == pytest.approx(1.0, abs=0.1)


def test_rates_of_a_fleet_that_falls_behind_are_said_to_count_late_answers():
    options = {"rates": [1.5], "seeds": [0], "requests": 1500}

    assert "its rates count answers that came long after" in " ".join(str(run(ONE, **options)).split())
    assert "count answers" not in str(run(ONE, metrics=["e2e_s.p50"], **options))
    assert "count answers" not in str(run(ONE, rates=[0.5], seeds=[0], requests=1500))


def test_a_rate_is_not_looked_for_with_a_handful_of_requests():
    assert run(ONE, 10, rates=[0.5], seeds=[0]).rows
    with pytest.raises(ValueError, match="a trace of 10 requests does not tell at what rate"):
        run(ONE, 10, seeds=[0])


def test_a_rate_changes_the_clock_for_all_candidates_alike():
    found = run({"one": fleet(**QUIET), "again": fleet(**QUIET)}, rates=[0.5, 0.9], seeds=[0, 1])

    for rate in found.rates_per_s:
        one, again = ([msgspec.structs.replace(point.measured, candidate="") for point in found.of(name, rate)]
                      for name in ("one", "again"))  # fmt: skip
        assert one == again


def test_figures_may_be_told_apart_by_groups():
    found = run(ONE, rates=[0.5], seeds=[0], metrics=["e2e_s.p50@tenant", "e2e_s.p50"])

    assert [axis.name for axis in found.axes] == ["e2e_s.p50@tenant=a", "e2e_s.p50@tenant=b", "e2e_s.p50"]
    assert found.curve("one", "e2e_s.p50@tenant=b")[0].band.mean > 0.0


def test_the_same_arguments_give_the_same_bytes_and_they_can_be_read_back():
    first, second = (run(ONE, rates=[0.5, 0.9], seeds=[0, 1], objective="e2e_s.p50<=2") for _ in range(2))

    assert first.to_json() == second.to_json()
    assert msgspec.json.decode(first.to_json(), type=LoadCurve).to_json() == first.to_json()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": []}, "one candidate and one seed"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"rates": ["fast"]}, "'fast' is no rate"),
        ({"rates": [0.0]}, "'0.0' is no rate"),
        ({"rates": []}, "give rates in requests a second"),
        ({"metrics": ["e2e"]}, "no figure of a run"),
        ({"objective": "e2e_s.p99"}, "is no constraint"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(options, says):
    with pytest.raises(ValueError, match=says):
        run(ONE, **{"rates": [0.5], "seeds": [0], **options})


def test_no_rate_can_be_chosen_for_a_fleet_that_never_does_its_work():
    with pytest.raises(ValueError, match="give rates in requests a second"):
        run({"deaf": fleet(deadline_s=1e-3, **QUIET)}, seeds=[0])


# --- what is said --------------------------------------------------------------------------------------------


def test_candidates_are_ranked_by_the_load_they_bear_and_held_against_the_first():
    candidates = {"one": fleet(**QUIET), "two": fleet(replicas=2, routing=LeastOutstanding(), **QUIET)}

    found = run(candidates, 1500, rates=[0.5, 1.0], seeds=range(3), objective="e2e_s.p50<=2")

    said = found.verdict
    assert said.startswith("At most, in requests/s within e2e p50 ≤ 2,000 ms: two 1.")
    assert ", more), one 0." in said
    assert found.capacities[1].verdict == "better"
    assert str(found).startswith(said[:60])


def test_a_candidate_that_bears_no_rate_is_said_to():
    found = run(ONE, rates=[0.5], seeds=[0], objective="e2e_s.p50<=0.001")

    assert found.verdict.endswith("one at no rate.")


def test_what_a_candidate_leaves_undone_is_said_and_its_latency_is_not_shown():
    few = fleet(admission=QueueLimit(max_queue_depth=1), **QUIET)
    found = run({"all": fleet(**QUIET), "few": few}, rates=[0.2, 4.0], seeds=[0, 1], metrics=["e2e_s.p50"])

    row = found.curve("few", "e2e_s.p50")[1]
    assert row.completed_share < 0.5
    lines = [line for line in str(found).splitlines() if " 4 " in line]
    assert [("–" in line) for line in lines[:2]] == [False, True]
    assert "few completed only" in str(found)


def test_a_candidate_that_fails_loses_its_points_and_no_other_does():
    found = run({"one": fleet(**QUIET), "fails": fleet(routing=Fails(), **QUIET)}, rates=[0.4, 2.0], seeds=[0, 1],
                objective="e2e_s.p50<=2")  # fmt: skip

    assert [(point.measured.candidate, point.rate_per_s) for point in found.failures] == [("fails", 2.0)] * 2
    assert len(found.curve("one", "e2e_s.p50")) == 2
    assert len(found.curve("fails", "e2e_s.p50")) == 1
    assert str(found).startswith("fails failed in 2 of 4 runs: ")
    assert "too fast" in str(found)
    assert found.verdict.endswith("fails not known, as it failed.")


def test_where_every_run_fails_there_is_no_curve():
    with pytest.raises(RuntimeError, match=r"every run failed; the first: .*too fast"):
        run({"fails": fleet(routing=Fails(), **QUIET)}, rates=[2.0], seeds=[0])


def test_a_metric_of_ones_own_reads_the_kept_requests():
    from experiments import Metric

    def count(run: Run) -> float:
        return float(len(run.records))

    found = run(ONE, rates=[0.5], seeds=[0], metrics=[Metric("kept", "", count)])

    cut = found.points[0].cut
    assert found.curve("one", "kept")[0].band.mean == 600 - cut.warm_up - cut.cool_down < 600


# --- files and figures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve() -> LoadCurve:
    base = fleet(replicas=2, slo={"e2e_s": 3.0}, **QUIET)
    candidates = {
        "<b>random": base.replace(routing=Random()),
        "_round $x$": base.replace(routing=RoundRobin()),
    }
    return run(candidates, rates=[0.5, 1.0, 1.5, 3.0], seeds=[0, 1], objective="e2e_s.p99<=8")


def test_a_curve_is_kept_as_page_rows_and_figures(curve, tmp_path):
    curve.save(tmp_path / "new")

    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"curve.html", "curve.csv", "curve.json", "curve.svg", "curve.pdf"}
    page = (tmp_path / "new/curve.html").read_text()
    assert "<b>random" not in page
    assert page.index("<h1>At most, in requests/s within e2e p99 ≤ 8,000 ms: ") < page.index("<svg")
    with (tmp_path / "new/curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 4
    first = curve.rows[0]
    assert (rows[0]["candidate"], float(rows[0]["mean"])) == (first.candidate, first.band.mean)
    again = curve.save(tmp_path / "again")
    for name in names:
        assert (again / name).read_bytes() == (tmp_path / "new" / name).read_bytes(), name


@pytest.mark.parametrize("count", [1, 2, 12])
def test_the_figure_draws_any_number_of_candidates_without_a_warning(curve, count):
    names = tuple(f"candidate {number}" for number in range(count))
    several = msgspec.structs.replace(
        curve, candidates=names,
        points=tuple(
            msgspec.structs.replace(point, measured=msgspec.structs.replace(point.measured, candidate=name))
            for name in names
            for point in curve.points
            if point.measured.candidate == "_round $x$"
        ),
    )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figure_of(several)
        figure.draw_without_rendering()

    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in panels] == [axis.label for axis in curve.axes]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names)


def test_what_is_no_steady_state_is_drawn_hollow(curve):
    panel = figure_of(curve).axes[0]

    hollow = [line.get_xdata().tolist() for line in panel.lines if line.get_markerfacecolor() == "white"]
    unsteady = [[row.rate_per_s for row in curve.curve(name, "e2e_s.p50") if row.state != "steady"]
                for name in curve.candidates]  # fmt: skip
    assert hollow == unsteady
    assert all(3.0 in rates for rates in unsteady)
