"""The page of a report: what comes first, what is left out, how names and many candidates are shown."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments import Report, compare, metric
from experiments.pages.blocks import Block, Bullets, Details, Facts, Figure, Heading, Table, Text, page
from experiments.pages.specs import differences
from experiments.words import verdict_at_once
from fleet import FleetSpec, Run, simulate
from policies import PowerOfTwoChoices, Random, RoundRobin
from traces import Trace, load_trace, zipf

pytest.importorskip("matplotlib")

NASTY = ["<script>alert(1)</script>", "$x_2^ and $5", "_private", "two\nlines\x1b[31m", "long " * 60]


@pytest.fixture(scope="module")
def runs(trace: Trace, base: FleetSpec) -> dict[str, list[Run]]:
    routings = {"random": Random(), "p2c": PowerOfTwoChoices(), "three": PowerOfTwoChoices(choices=3)}
    sent = trace.with_slo(e2e_s=0.05)
    return {
        name: [simulate(sent, base.replace(routing=routing), seed=seed) for seed in range(3)]
        for name, routing in routings.items()
    }


def many(runs: dict[str, list[Run]], count: int) -> dict[str, list[Run]]:
    """`count` candidates of three kinds."""
    kinds = list(runs.values())
    return {f"candidate {number:02d}": kinds[number % 3] for number in range(count)}


def saved(report: Report, folder: Path) -> str:
    return (report.save(folder) / "report.html").read_text()


def headings(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


# --- the order --------------------------------------------------------------------------------------------------


def test_the_verdict_on_the_primary_metric_is_one_sentence_before_all_else(runs, tmp_path: Path) -> None:
    report = Report(runs, seeds=range(3), baseline="random", primary=metric("e2e_s.mean"))
    html = saved(report, tmp_path)
    body = html[html.index("</h1>") :]
    first = re.search(r"<p class=\"(\w+)\">(.*?)</p>", body)
    assert first is not None
    assert first[1] == "verdict"
    assert first[2].startswith("In e2e mean (ms), against random: ")
    assert body.index("verdict") < body.index("<svg") < body.index("<table")


def test_the_sentence_names_the_groups_of_a_grouped_metric(base: FleetSpec) -> None:
    sent = load_trace("demo-surge").first(requests=600).assign(tenant=zipf(2, 1.2))
    fleets = {"one": base.replace(replicas=1), "two": base.replace(replicas=2)}
    report = compare(sent, fleets, seeds=range(2), primary="e2e_s.p50@tenant", progress=False)
    said = verdict_at_once(report)
    assert said.startswith("In e2e p50, by tenant (ms), against one: exact: two for tenant=tenant-0 (×")
    assert "two for tenant=tenant-1 (×" in said


def test_without_a_primary_metric_the_page_says_so(runs, tmp_path: Path) -> None:
    html = saved(Report(runs, seeds=range(3), baseline="random"), tmp_path)
    assert '<p class="verdict">No metric was named beforehand as the one that decides' in html


def test_what_failed_comes_before_the_verdict(runs, tmp_path: Path) -> None:
    some = {**runs, "p2c": runs["p2c"][:2]}
    report = Report(some, seeds=range(3), baseline="random", errors={("p2c", 2): "OSError: <none>"})
    html = saved(report, tmp_path)
    assert html.index("p2c failed in 1 of 3 runs") < html.index('class="verdict"')
    assert "OSError: &lt;none&gt;" in html


def test_a_section_without_data_is_not_there(runs, base: FleetSpec, trace: Trace, tmp_path: Path) -> None:
    alone = Report({"one": [simulate(trace, base.replace(replicas=1), seed=0)]}, seeds=[0], baseline="one")
    assert headings(saved(alone, tmp_path / "one")) == [
        "Latency", "Over time", "What the candidates differ in", "Method", "To check it, and to make it again",
    ]  # fmt: skip
    several = Report(runs, seeds=range(3), baseline="random")
    assert "Load of each replica" in headings(saved(several, tmp_path / "three"))
    assert "By class" not in headings((tmp_path / "three" / "report.html").read_text())


def test_classes_and_load_are_there_where_the_trace_has_them(base: FleetSpec, tmp_path: Path) -> None:
    surge = load_trace("demo-surge").first(requests=1500)
    fleet = base.replace(routing=RoundRobin())
    report = compare(surge.assign(tenant=zipf(3, 1.2)), {"one": fleet}, seeds=[0], progress=False)
    html = saved(report, tmp_path)
    assert {"By class", "Latency against load"} <= set(headings(html))
    assert "tenant=tenant-0</text>" in html


# --- many candidates, strange names ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 12, 50])
def test_any_number_of_candidates_is_drawn_without_a_warning(runs, tmp_path: Path, count: int) -> None:
    report = Report(many(runs, count), seeds=range(3), baseline="candidate 00")
    html = saved(report, tmp_path)
    assert ("<details>" in html) == (count > 8)
    assert f">candidate {count - 1:02d}</text>" in html
    fields = headings(html).index("What the candidates differ in")
    assert fields > 0
    if count == 50:
        assert html.index("<table") < html.index("<h2>Latency</h2>")
        assert "<tr><td>candidate 49</td>" in html, "specs have a row for each candidate"


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_shown_as_it_is_and_breaks_nothing(runs, tmp_path: Path, name: str) -> None:
    report = Report({name: runs["random"], "p2c": runs["p2c"]}, seeds=range(3), baseline=name)
    html = saved(report, tmp_path)
    assert "<script" not in html
    assert name.replace("<", "&lt;").replace(">", "&gt;") in html
    for path in report.figures(tmp_path / "figures"):
        if path.suffix == ".svg":
            ElementTree.parse(path)


def test_blocks_hold_text_whatever_is_in_it() -> None:
    text = "<i>&"
    every: list[Block] = [
        Heading(text), Text(text), Bullets([text]), Table([text], [[text]]), Facts([(text, text)]),
        Figure("<svg/>", text), Details(text, [Text(text)]),
    ]  # fmt: skip
    html = page(text, every)
    assert "<i>" not in html
    assert html.count("&lt;i&gt;&amp;") == 12
    assert "<svg/>" in html


def test_the_specs_of_few_stand_side_by_side_and_those_of_many_below_one_another() -> None:
    few = differences({"a": {"x": 1, "same": 0}, "b": {"x": {"y": 2}, "same": 0}})
    assert few == [Table(("field", "a", "b"), [("x", "1", "–"), ("x.y", "–", "2")], 3)]
    (table,) = differences({str(number): {"x": number} for number in range(9)})
    assert table.headings == ("candidate", "x")
    assert table.rows[8] == ("8", "8")
    assert differences({"a": {}, "b": {}}) == [Text("Nothing: their specs are equal.")]


# --- notebooks ------------------------------------------------------------------------------------------------


def test_a_notebook_shows_reports_runs_and_traces(runs, trace: Trace) -> None:
    report = Report(runs, seeds=range(3), baseline="random")
    shown = report._repr_html_()
    assert shown.startswith("<div")
    assert {"<table", "<svg"} <= set(re.findall(r"<(?:table|svg)", shown))
    run = runs["p2c"][0]
    assert f"{run.summary.completed:,} completed" in run._repr_html_()
    assert f"{len(trace):,}" in trace._repr_html_()


def test_a_notebook_shows_a_run_in_which_nothing_completed(base: FleetSpec, trace: Trace) -> None:
    run = simulate(trace, base, seed=0, until_s=1e-6)
    assert "end to end" not in run._repr_html_()
