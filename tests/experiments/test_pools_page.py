"""What a report shows of pools: their figures, which version served when, what attempts came to."""

import re
from html import escape
from pathlib import Path

import numpy as np
import pytest

from experiments import Report, compare
from experiments.plots.versions import MOST_LEVELS, _levels, versions, versions_of
from experiments.serving import Stage, attempts_in_short, attempts_of, pools_of, stages_of
from experiments.totals import fleet_series
from fleet import FleetSpec, Run
from fleet.spec import from_mapping
from policies.views import PoolView
from tests.telemetry.building import ENGINE, NEW, OLD, Told, both_ready, two_versions
from traces import Trace


def rollout(told: Told | None = None) -> Told:
    """Old for a while, then new, and back."""
    told = both_ready(told or Told())
    for at_s, stage in (
        (0.0, "canary 5 %"),
        (40.0, "canary 50 %"),
        (80.0, "rolled back: p99 above the gate"),
    ):
        told.telemetry.decided(at_s, "rollout", "chat", stage, reason=f"at {at_s:g} <s>")
    for number in range(200):
        told.request(replica=NEW if 40 <= number // 2 < 80 and number % 2 else OLD, arrived_s=number / 2)
    told.attempt("r0", "primary", OLD, service_s=1.0)
    return told.attempt("r0", "hedge", NEW, end="withdrawn", started_s=0.5)


# --- rows ------------------------------------------------------------------------------------------------------


def test_pools_are_told_apart_by_what_they_differ_in() -> None:
    headings, names, rows = pools_of(rollout().request("rejected", None).run(100.0))

    assert headings[:names] == ("pool", "version", "device")
    assert [row[:names] for row in rows] == [("old", "1", "l4"), ("new", "2", "a100"), ("no pool", "–", "–")]
    assert all(len(row) == len(headings) for row in rows)


def test_figures_that_no_pool_has_are_left_out_and_those_that_one_lacks_are_dashes() -> None:
    priced = pools_of(rollout().request("rejected", None).run(100.0))
    bare = pools_of(rollout(Told(two_versions(prices={}))).run(100.0))

    assert "cost" in priced.headings
    assert priced.rows[2][priced.headings.index("cost")] == "–"
    assert not {"cost", "cost/1k requests", "quality", "objectives met"} & {*bare.headings}


def test_attempts_are_told_by_role_and_end_in_the_order_of_roles() -> None:
    told = both_ready(Told()).request().request("failed").request(None).request(replica=NEW)
    told.attempt("r0", "shadow", NEW, service_s=3.0)
    told.attempt("r1", "primary", OLD, end="engine-error", started_s=0.0, ended_s=0.5)
    told.attempt("r2", "primary", OLD, end=None, ended_s=None)

    assert attempts_of(told.run()).rows == [
        ("primary", "became the answer", "2", "2"),
        ("primary", "engine-error", "1", "0.500"),
        ("primary", "unfinished", "1", "0"),
        ("shadow", "completed, not the answer", "1", "3"),
    ]


def test_attempts_in_short_say_shares_and_what_was_for_nothing() -> None:
    assert attempts_in_short(rollout().run(100.0)) == (
        "1 hedge (0.5% of requests), 0 retries; 0.500 service s for nothing, 0.2% of all"
    )


def svg_of(run: Run) -> str:
    return versions(run, "chat", "versions").svg()


# --- traffic ---------------------------------------------------------------------------------------------------


def test_versions_are_plotted_of_models_that_have_several() -> None:
    several = Told(
        from_mapping({
            "engine": ENGINE,
            "pools": {
                "old": {"model": "a", "version": "9"}, "new": {"model": "a", "version": "10"}, "other": {"model": "b"},
            },
        })
    )  # fmt: skip

    assert versions_of(several.request("rejected", None).run()) == {"a": ["9", "10"]}


def test_the_plot_has_every_version_every_stage_and_what_had_no_version() -> None:
    pytest.importorskip("matplotlib")
    svg = svg_of(rollout().request("rejected", None, arrived_s=50.0).run(100.0))

    for words in (
        "version 1",
        "version 2",
        "no version",
        "1: canary 5 %",
        "3: rolled back: p99 above the gate",
    ):
        assert words in svg
    assert "no version" not in svg_of(rollout().run(100.0))


@pytest.mark.parametrize("name", [r"v$\frac$", "$0.03_x^<$0.02", "$1_", "_x^2_"])
def test_versions_and_stages_are_plotted_as_they_are_called(name: str) -> None:
    pytest.importorskip("matplotlib")
    pools = {"old": {"model": "chat", "version": "1"}, "new": {"model": "chat", "version": name}}
    told = both_ready(Told(from_mapping({"engine": ENGINE, "pools": pools})))
    told.telemetry.decided(0.0, "rollout", "chat", name)
    told.request(version="1").request(replica=NEW, version=name)

    svg = svg_of(told.run())

    assert f">version {escape(name)}</text>" in svg
    assert f">1: {escape(name)}</text>" in svg


def test_a_stage_of_several_lines_is_plotted_in_one() -> None:
    pytest.importorskip("matplotlib")
    told = rollout()
    told.telemetry.decided(90.0, "rollout", "chat", "held:\n\x1b[31merrors", reason="two\nlines")

    assert r">4: held: \x1b[31merrors</text>" in svg_of(told.run(100.0))


def test_a_plot_of_nothing_is_no_mistake() -> None:
    pytest.importorskip("matplotlib")
    run = both_ready(Told()).request("rejected", None).run()
    run.records = run.records.slice(0, 0)

    assert "<svg" in svg_of(run)


def test_no_text_of_a_stage_covers_another_or_its_line() -> None:
    stages = [Stage(at_s, "chat", "a stage with a text", None) for at_s in (0.0, 1.0, 2.0, 60.0, 61.0)]

    assert _levels(stages, 100.0) == [2, 1, 0, 1, 0]
    assert _levels(stages[:1] * 9, 100.0).count(None) == 9 - MOST_LEVELS


def test_stages_are_of_their_model() -> None:
    told = rollout()
    told.telemetry.decided(90.0, "rollout", "other", "began")
    run = told.run(100.0)

    assert [stage.stage for stage in stages_of(run, "other")] == ["began"]
    assert len(stages_of(run, "chat")) == 3
    assert len(stages_of(run)) == 4


# --- series ----------------------------------------------------------------------------------------------------


def test_the_series_of_a_fleet_is_the_sum_over_its_pools_while_each_is_there() -> None:
    told = Told()
    for at_s in range(6):
        told.telemetry.pool_sampled(
            float(at_s), PoolView(name="old", ready=2, in_flight=3, busy_fraction=0.25)
        )
        if 2 <= at_s < 4:  # deployed, and retired
            told.telemetry.pool_sampled(
                at_s + 0.0, PoolView(name="new", ready=6, in_flight=1, busy_fraction=0.75, kv_utilization=0.5)
            )
    series = fleet_series(told.request().run().series)

    assert series["time_s"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert series["in_flight"].to_pylist() == [3, 3, 4, 4, 3, 3]
    assert series["ready"].to_pylist() == [2, 2, 8, 8, 2, 2]
    assert series["busy_fraction"].to_pylist() == pytest.approx([0.25, 0.25, 0.625, 0.625, 0.25, 0.25])
    assert series["kv_utilization"].to_pylist() == [None, None, 0.5, 0.5, None, None]


def test_pools_that_look_at_different_times_are_added_as_last_seen() -> None:
    told = Told()
    for at_s in (0.0, 1.0, 2.0):
        told.telemetry.pool_sampled(at_s, PoolView(name="old", in_flight=10))
        told.telemetry.pool_sampled(at_s + 0.5, PoolView(name="new", in_flight=1))
    series = fleet_series(told.request().run().series)

    assert np.array_equal(series["in_flight"].to_numpy(), [10, 11, 11, 11, 11, 11])


# --- the page --------------------------------------------------------------------------------------------------


def test_the_page_has_pools_versions_stages_and_attempts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = Report({"<canary>": [rollout().run(100.0)]}, seeds=[7], baseline="<canary>")

    page = (report.save(tmp_path) / "report.html").read_text()

    for section in ("Pools", "Traffic by version", "Attempts"):
        assert f"<h2>{section}</h2>" in page
    for part in ("version 1", "old", "hedge"):
        assert part in page
    assert "first run (seed 0)" in page
    assert "at 80 &lt;s&gt;" in page
    assert "<canary>" not in page
    assert re.search(r"<td>hedge</td><td>withdrawn</td><td class=\"number\">1</td>", page)


def test_the_page_of_flat_fleets_says_nothing_of_pools(trace: Trace, base: FleetSpec, tmp_path: Path) -> None:
    report = compare(trace, {"base": base}, seeds=[0], progress=False)

    page = (report.save(tmp_path) / "report.html").read_text()

    assert not {"Pools", "Traffic by version", "Attempts"} & set(re.findall(r"<h2>(.*?)</h2>", page))


def test_costs_and_quality_are_compared_and_judged() -> None:
    def runs(price: float, quality: float) -> list[Run]:
        told = [
            Told(two_versions(prices={"old": price, "new": price})).request(quality=quality) for _ in range(3)
        ]
        return [both_ready(one).request(None).run(10.0 + seed) for seed, one in enumerate(told)]

    report = Report({"dear": runs(3600.0, 0.5), "cheap": runs(360.0, 0.8)}, seeds=range(3), baseline="dear")

    row = report.row("cost_per_request", "cheap")
    assert row.mean == pytest.approx(0.1 * report.row("cost_per_request", "dear").mean)
    assert report.row("quality_mean", "cheap").difference.mean == pytest.approx(0.3)
    assert "better in cost per request (×0.100), quality mean" in report.in_short[0]
