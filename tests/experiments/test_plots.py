"""Figures of runs: what their data says, that they are the same bytes each time, and that nothing upsets them."""

import filecmp
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from experiments import Report, metric
from experiments.plots import (
    legend_above,
    new_figure,
    plot_classes,
    plot_forest,
    plot_latency,
    plot_load,
    plot_replicas,
    plot_timeline,
    svg_text,
)
from experiments.plots.forest import forest, forests
from experiments.plots.latency import latency, objective_s
from experiments.plots.load import load
from experiments.plots.of_report import plots_of
from experiments.plots.replicas import replicas
from experiments.plots.timeline import OFFERED, timeline
from fleet import FleetSpec, Run, simulate
from policies import PowerOfTwoChoices, Random
from traces import Trace, load_trace, poisson, zipf

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(base: FleetSpec) -> dict[str, list[Run]]:
    sent = load_trace("demo-surge").first(requests=1500).assign(tenant=zipf(3, 1.2)).with_slo(e2e_s=0.1)
    routings = {"random": Random(), "p2c": PowerOfTwoChoices()}
    return {
        name: [simulate(sent, base.replace(routing=routing), seed=seed) for seed in range(3)]
        for name, routing in routings.items()
    }


@pytest.fixture(scope="module")
def report(runs: dict[str, list[Run]]) -> Report:
    return Report(runs, seeds=range(3), baseline="random", primary=metric("e2e_s.p99"))


# --- what the data says ---------------------------------------------------------------------------------------


def test_a_latency_curve_passes_through_the_quantiles(runs) -> None:
    data = latency(runs).data
    own = data.filter(pc.equal(data["candidate"], "p2c"))
    every = np.concatenate([run.records["e2e_s"].drop_null().to_numpy() for run in runs["p2c"]]) * 1000.0
    for share in (0.5, 0.9, 0.99):
        drawn = np.interp(share, own["share"].to_numpy(), own["latency_ms"].to_numpy())
        assert drawn == pytest.approx(np.quantile(every, share), rel=0.02)


def test_the_objective_is_that_of_the_trace_and_else_of_the_fleet(
    runs, trace: Trace, base: FleetSpec
) -> None:
    from traces import Slo

    assert objective_s(runs["p2c"], "e2e_s") == 0.1
    assert objective_s(runs["p2c"], "ttft_s") is None
    own = simulate(trace, base.replace(slo=Slo(e2e_s=0.3)), seed=0)
    assert objective_s([own], "e2e_s") == 0.3
    assert objective_s([own, runs["p2c"][0]], "e2e_s") is None, "two objectives are no line"


def test_the_forest_has_what_the_rows_have_in_the_unit_of_the_label(report: Report) -> None:
    (cells,) = forest(report, "primary").data.to_pylist()
    row = report.row("e2e_s.p99", "p2c")
    assert cells["label"] == "e2e p99 (ms)"
    assert cells["difference"] == pytest.approx(1000.0 * row.difference.mean)
    assert (cells["low"], cells["high"]) == pytest.approx(
        (1000.0 * row.difference.low, 1000.0 * row.difference.high)
    )
    assert cells["verdict"] == row.verdict
    assert [plot.name for plot in forests(report)] == ["forest", "forest-secondary"]
    assert "e2e_s.p99" not in forest(report, "secondary").data["metric"].to_pylist()


def test_the_titles_of_a_forests_panels_do_not_run_into_each_other(runs) -> None:
    long = [metric(name) for name in ("goodput@tenant", "e2e_s.p99@tenant:max_min", "slo_attainment@tenant")]
    figure = plot_forest(Report(runs, seeds=range(3), baseline="random", metrics=long), "secondary")
    figure.draw_without_rendering()
    titles = [axes._left_title for axes in figure.axes if axes.get_visible()]
    boxes = [title.get_window_extent() for title in titles]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_bands_span_the_seeds_and_equal_arrivals_are_drawn_once(runs) -> None:
    data = timeline(runs).data
    offered = data.filter(pc.equal(data["measure"], "arrivals_per_s"))
    assert offered["candidate"].unique().to_pylist() == [OFFERED]
    rate = offered["median"].to_numpy()
    width_s = np.diff(offered["time_s"].to_numpy())[0]
    assert rate.sum() * width_s == pytest.approx(1500, abs=1)
    flying = data.filter(pc.equal(data["measure"], "in_flight"))
    least, middle, most = (flying[name].to_numpy() for name in ("least", "median", "most"))
    assert (least <= middle).all()
    assert (middle <= most).all()
    assert (least < most).any()


def test_what_waits_where_replicas_have_queues_of_their_own_waits_at_the_head(llm: FleetSpec) -> None:
    run = simulate(load_trace("chat-small").first(seconds=30.0), llm.replace(max_inflight_batches=1), seed=0)
    labels = [axes.get_ylabel() for axes in plot_timeline({"one at a time": [run]}).axes]
    assert "waiting at the head" in labels
    assert "used cache blocks" in labels


def test_what_was_0_throughout_is_not_drawn(base: FleetSpec) -> None:
    idle = simulate(poisson(rate_per_s=2.0, duration_s=20.0, seed=0), base.replace(replicas=8), seed=0)
    measures = timeline({"idle": [idle]}).data["measure"].unique().to_pylist()
    assert "queue_depth" not in measures
    assert "arrivals_per_s" in measures


def test_levels_of_load_hold_all_requests(runs) -> None:
    data = load(runs).data
    for name, of_one in runs.items():
        own = data.filter(pc.equal(data["candidate"], name))
        assert pc.sum(own["requests"]).as_py() == sum(len(run.records) for run in of_one)
        rates = own["arrivals_per_s"].to_numpy()
        assert (np.diff(rates) > 0.0).all()


def test_load_that_varies_by_chance_alone_is_no_axis(base: FleetSpec) -> None:
    even = poisson(rate_per_s=100.0, duration_s=20.0, seed=3)
    runs = {"one": [simulate(even, base, seed=0)]}
    assert load(runs) is None
    with pytest.raises(ValueError, match="varies no more than by chance"):
        plot_load(runs)


def test_replicas_are_ranked_by_load_and_one_is_no_rank(runs, trace: Trace, base: FleetSpec) -> None:
    data = replicas(runs).data
    own = data.filter(pc.equal(data["candidate"], "random"))
    assert own["rank"].to_pylist() == [1, 2, 3, 4]
    assert (np.diff(own["median"].to_numpy()) <= 0.0).all()
    assert replicas({"one": [simulate(trace, base.replace(replicas=1), seed=0)]}) is None


def test_classes_are_those_of_a_column_and_one_class_is_none(runs) -> None:
    axes = plot_classes(runs, "tenant").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        f"tenant=tenant-{number}" for number in range(3)
    ]
    with pytest.raises(ValueError, match="all requests are alike in outcome"):
        plot_classes(runs, "outcome")


def test_a_latency_that_records_do_not_have_is_refused(runs) -> None:
    with pytest.raises(ValueError, match="have no 'wait_s'; they have e2e_s"):
        plot_latency(runs, "wait_s")


def test_a_candidate_has_its_colour_where_another_is_not_drawn(runs, trace: Trace, base: FleetSpec) -> None:
    alone = [simulate(trace, base.replace(replicas=1), seed=0)]  # has no replicas to rank
    own = [
        plot({"alone": alone, "p2c": runs["p2c"]}).axes[0].get_lines()[-1]
        for plot in (plot_latency, plot_replicas)
    ]
    assert len({line.get_color() for line in own}) == 1


def test_a_name_is_literal_in_whatever_is_written(tmp_path: Path) -> None:
    figure, axes = new_figure(4.0, 3.0)
    axes.plot([0.0, 1.0], label=r"$\frac$")
    legend_above(figure, axes)
    assert r">$\frac$</text>" in svg_text(figure, "any")


# --- files ----------------------------------------------------------------------------------------------------


def test_figures_are_written_with_their_data_in_the_same_bytes_each_time(
    report: Report, tmp_path: Path
) -> None:
    one, other = report.figures(tmp_path / "one"), report.figures(tmp_path / "other")
    names = [plot.name for plot in plots_of(report, report.runs).every()]
    assert [path.name for path in one] == [
        f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "csv")
    ]
    assert {"forest", "latency-e2e_s", "latency-load", "timeline", "classes-tenant", "replica-load"} <= set(
        names
    )
    for mine, its in zip(one, other, strict=True):
        assert filecmp.cmp(mine, its, shallow=False), mine.name
    assert b"CreationDate" not in (tmp_path / "one/forest.pdf").read_bytes()
    table = csv.read_csv(tmp_path / "one/forest.csv")
    assert table["candidate"].to_pylist() == ["p2c"]


# --- nothing upsets them --------------------------------------------------------------------------------------


def one_request(base: FleetSpec) -> Run:
    return simulate(poisson(rate_per_s=1.0, duration_s=60.0, seed=0).first(requests=1), base, seed=0)


def nothing_completed(base: FleetSpec) -> Run:
    return simulate(poisson(rate_per_s=50.0, duration_s=5.0, seed=0), base, seed=0, until_s=1e-3)


def all_equal(base: FleetSpec) -> Run:
    return simulate(poisson(rate_per_s=1.0, duration_s=60.0, seed=0).first(requests=20), base, seed=0)


@pytest.mark.parametrize("make", [one_request, nothing_completed, all_equal])
@pytest.mark.parametrize("count", [1, 12])
def test_runs_with_little_to_show_are_drawn_without_a_warning(base: FleetSpec, tmp_path, make, count) -> None:
    run = make(base)
    candidates = {f"c{number}": [run, run] for number in range(count)}
    report = Report(candidates, seeds=[0, 1], baseline="c0")
    names = [path.stem for path in report.figures(tmp_path)]
    assert ("latency-e2e_s" in names) == (run.summary.completed > 0)
    assert (report.save(tmp_path / "report") / "report.html").stat().st_size > 0


def test_public_plots_are_figures_to_go_on_with(runs, report: Report) -> None:
    from matplotlib.figure import Figure

    made = [
        plot_latency(runs), plot_timeline(runs), plot_load(runs), plot_replicas(runs),
        plot_classes(runs, "tenant"), plot_forest(report), plot_forest(report, "secondary"),
    ]  # fmt: skip
    assert all(isinstance(figure, Figure) and figure.axes for figure in made)
