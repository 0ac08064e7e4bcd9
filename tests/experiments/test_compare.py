"""`compare`: paired by construction, honest about chance, and kept in files that need no network."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments import Metric, Report, compare, frontier, grid, metric
from fleet import FleetSpec, simulate
from policies import PolicyError, PowerOfTwoChoices, Random, RoundRobin
from tests.conftest import ROOT
from traces import Fault, FaultTrace, Trace, poisson

MINE = Metric("mine", "s", min)


@pytest.fixture(scope="module")
def report(trace: Trace, specs: dict[str, FleetSpec]) -> Report:
    return compare(trace, specs, seeds=range(4), progress=False)


def test_every_candidate_gets_the_same_trace_seeds_and_faults(
    trace: Trace, specs: dict[str, FleetSpec]
) -> None:
    faults = FaultTrace(faults=(Fault(at_s=1.0, kind="crash", replica="replica/0"),))
    report = compare(trace, specs, seeds=(3, 5), faults=faults, progress=False)
    for runs in report.runs.values():
        assert [run.manifest.seed for run in runs] == [3, 5]
        assert {run.manifest.trace["sha256"] for run in runs} == {trace.sha256}
        assert all(run.manifest.counters["faults"] == 1 for run in runs)


def test_a_report_has_what_simulate_gives(report: Report, trace: Trace, specs: dict[str, FleetSpec]) -> None:
    assert report.runs["p2c"][2].digest == simulate(trace, specs["p2c"], seed=2).digest
    means = [run.summary.e2e_s.p99 for run in report.runs["p2c"]]
    assert report.row("e2e_s.p99", "p2c").mean == pytest.approx(sum(means) / 4)


def test_the_difference_is_taken_seed_by_seed(report: Report) -> None:
    deltas = [
        one.summary.e2e_s.mean - other.summary.e2e_s.mean
        for one, other in zip(report.runs["p2c"], report.runs["random"], strict=True)
    ]
    row = report.row("e2e_s.mean", "p2c")
    assert row.difference.mean == pytest.approx(sum(deltas) / 4)
    assert row.difference.low < row.difference.mean < row.difference.high
    assert row.verdict == "better"


def test_runs_that_chance_does_not_touch_are_counted_as_one(
    trace: Trace, specs: dict[str, FleetSpec]
) -> None:
    report = compare(
        trace, {name: specs[name] for name in ("round robin", "least")}, seeds=range(5), progress=False
    )
    assert report.deterministic == ["round robin", "least"]
    row = report.row("e2e_s.mean", "least")
    assert (row.runs, row.distinct_runs, row.verdict) == (5, 1, "exact")
    assert row.difference.low is None
    assert "1 distinct run out of 5" in str(report)
    assert "exact (deterministic)" in str(report)


def test_a_fingerprint_tells_runs_apart_by_what_happened_not_by_the_number_of_the_seed(
    trace: Trace, specs: dict[str, FleetSpec]
) -> None:
    one, other = (simulate(trace, specs["least"], seed=seed) for seed in (0, 1))
    assert one.digest != other.digest
    assert one.fingerprint == other.fingerprint
    assert (
        simulate(trace, specs["p2c"], seed=0).fingerprint != simulate(trace, specs["p2c"], seed=1).fingerprint
    )


def test_a_trace_for_each_seed_resamples_the_arrivals(specs: dict[str, FleetSpec]) -> None:
    report = compare(
        lambda seed: poisson(rate_per_s=100.0, duration_s=2.0, seed=seed),
        {name: specs[name] for name in ("round robin", "least")},
        seeds=range(6),
        progress=False,
    )
    assert report.deterministic == []
    assert report.row("e2e_s.mean", "least").difference.low is not None
    assert "6 traces like" in str(report)


def test_one_seed_gives_no_verdicts(trace: Trace, specs: dict[str, FleetSpec]) -> None:
    report = compare(trace, specs, seeds=[0], progress=False)
    assert {row.verdict for row in report.rows} == {None, "not judged"}
    assert "One seed" in str(report)


def test_the_same_call_gives_the_same_text(report: Report, trace: Trace, specs: dict[str, FleetSpec]) -> None:
    again = compare(trace, specs, seeds=range(4), progress=False)
    assert str(again) == str(report)
    assert again.manifest() == report.manifest()


def test_worker_processes_change_nothing(trace: Trace, specs: dict[str, FleetSpec]) -> None:
    two = {name: specs[name] for name in ("random", "p2c")}
    alone, shared = (compare(trace, two, seeds=range(2), workers=n, progress=False) for n in (1, 2))
    assert alone.manifest() == shared.manifest()


def test_a_policy_of_the_users_script_runs_in_other_processes_too(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "from experiments import compare\n"
        "from fleet import AffineLatency, EmulatedEngine, FleetSpec\n"
        "from policies import Route, RoutingPolicy\n"
        "from traces import poisson\n"
        "class First(RoutingPolicy):\n"
        "    def route(self, request, replicas, now_s):\n"
        "        return Route(replicas[0].id)\n"
        "spec = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0)), replicas=2)\n"
        "trace = poisson(rate_per_s=20, duration_s=1, seed=0)\n"
        "both = {'base': spec, 'first': spec.replace(routing=First())}\n"
        "one, two = (compare(trace, both, seeds=[0], workers=n, progress=False) for n in (1, 2))\n"
        "assert one.manifest() == two.manifest()\n"
        "print(two)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert "first" in done.stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": []}, "at least one candidate and one seed"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"baseline": "nobody"}, "expected one of random, p2c"),
        ({"metrics": ["e2e_s.p42"]}, "no figure of a run"),
        ({"metrics": [len]}, r'is no metric: .*Metric\("len", "s", len\) makes one'),
        ({"metrics": [MINE, Metric("mine", "s", max)]}, "two different metrics are called 'mine'"),
        ({"metrics": [MINE], "primary": Metric("mine", "s", max, better="lower")}, "two different metrics"),
        ({"metrics": ["utilization", "gpu_seconds"], "by": "tenant"}, "of the whole fleet"),
        ({"scale": "log"}, "scale='log' is not known; expected one of difference, ratio"),
        ({"interval": "bootstrap"}, "interval='bootstrap' is not known; expected one of t, bca"),
    ],
)
def test_a_mistake_is_named(
    trace: Trace, specs: dict[str, FleetSpec], changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        compare(trace, specs, **{"seeds": [0], "progress": False, **changes})


def test_a_metric_says_which_way_is_better_or_none() -> None:
    with pytest.raises(ValueError, match="better: 'low' is no way; expected one of lower, higher, neither"):
        Metric("mine", "s", max, better="low")


def test_a_metric_named_twice_is_judged_once(trace: Trace, specs: dict[str, FleetSpec]) -> None:
    report = compare(trace, specs, seeds=[0], metrics=["e2e_s.p99", "e2e.p99", MINE, MINE], progress=False)
    assert [metric.key for metric in report.metrics] == ["e2e_s.p99", "mine"]


# --- what is printed and kept --------------------------------------------------------------------------------


def test_the_table_names_metric_candidate_difference_interval_and_verdict(report: Report) -> None:
    text = str(report)
    for word in (
        "e2e p99 (ms)",
        "random",
        "p2c",
        "difference",
        "95 % interval",
        "ratio",
        "verdict",
        "baseline",
        "better",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110
    line = next(line for line in text.splitlines() if line.strip().startswith("p2c"))
    assert re.search(r"p2c\s+[\d.]+\s+-[\d.]+\s+\[-[\d.]+, -[\d.]+\]\s+0\.\d{3}\s+better", line)


def test_a_saved_report_is_whole_and_needs_no_network(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.findall(r"@import|url\(\s*['\"]?https?:|<script|<link", page)
    assert page.count("<svg") == 4, "differences, latency, over time, replicas"
    assert "The replicas were ready throughout" in page
    assert "<li>p2c against " in page
    for words in (
        "end-to-end latency (ms",
        "waiting requests",
        "routing.policy",
        "Method",
        report.runs["p2c"][0].digest[:16],
    ):
        assert words in page
    records = pq.read_table(tmp_path / "records.parquet")
    assert len(records) == 4 * 4 * len(report.runs["p2c"][0].records)
    assert records.column_names[:2] == ["candidate", "seed"]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["digests"]["p2c"][0] == report.runs["p2c"][0].digest
    assert manifest["seeds"] == [0, 1, 2, 3]


def test_a_candidates_name_cannot_break_the_page(trace: Trace, base: FleetSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = compare(trace, {"<b>": base, "a [bold] & b": base}, seeds=[0], progress=False)
    assert "a [bold] & b" in str(report)
    report.save(tmp_path)
    assert "<b>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["_private", "$x_2^ and $5", r"a$\frac$", "[/red]"])
def test_a_candidate_is_plotted_and_printed_as_it_is_called(
    trace: Trace, base: FleetSpec, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("matplotlib")
    report = compare(trace, {name: base, "more": base.replace(replicas=5)}, seeds=[0], progress=False)

    page = (report.save(tmp_path) / "report.html").read_text()

    assert len(re.findall(rf"<text [^>]*>\s?{re.escape(name)}</text>", page)) == 3, "in each plot"
    assert f"baseline: {name}" in " ".join(str(report).split())


def test_saving_twice_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, other = report.save(tmp_path / "one"), report.save(tmp_path / "other")
    assert (one / "report.html").read_bytes() == (other / "report.html").read_bytes()


def test_it_says_in_a_sentence_what_a_candidate_is_better_and_worse_at(trace: Trace, base: FleetSpec) -> None:
    fixed = base.replace(routing=RoundRobin())
    candidates = {"four": fixed, "same": fixed, "eight": fixed.replace(replicas=8)}
    report = compare(trace, candidates, seeds=range(2), progress=False)
    same, eight = report.in_short
    assert same == "same against four: no difference shown."
    assert eight.startswith("eight against four: better in e2e mean (×0."), "exact differences count"
    assert "worse in gpu seconds (×2.000)" in eight
    assert eight in " ".join(str(report).split()), "wherever its lines break"


def test_replicas_are_drawn_where_their_number_differs(trace: Trace, base: FleetSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = compare(trace, {"four": base, "five": base.replace(replicas=5)}, seeds=[0], progress=False)
    page = (report.save(tmp_path) / "report.html").read_text()
    assert "ready replicas</text>" in page
    assert "ready throughout" not in page


# --- sweeps --------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination(base: FleetSpec) -> None:
    specs = grid(base, {"batching.max_batch": [1, 8], "replicas": [2, 3], "network.delay_s": [0.001]})
    assert list(specs)[:2] == [
        "max_batch=1, replicas=2, delay_s=0.001",
        "max_batch=1, replicas=3, delay_s=0.001",
    ]
    last = specs["max_batch=8, replicas=3, delay_s=0.001"]
    assert (last.batching.max_batch, last.replicas, last.network.delay_s) == (8, 3, 0.001)


def test_a_policy_is_a_value_of_an_axis_too(base: FleetSpec) -> None:
    assert list(grid(base, {"routing": [Random(), PowerOfTwoChoices()]})) == [
        "routing=random",
        "routing=power-of-two-choices",
    ]


def test_a_grid_reaches_into_pools_and_names_what_differs(base: FleetSpec) -> None:
    pooled = FleetSpec(engine=base.engine, pools={"large": {"model": "a"}, "small": {"model": "b"}})

    specs = grid(
        pooled, {"pools.large.replicas": [1, 2], "pools.small.replicas": [3], "batching.max_batch": [4]}
    )

    assert list(specs)[1] == "pools.large.replicas=2, pools.small.replicas=3, max_batch=4"
    assert [pool.replicas for pool in list(specs.values())[1].serving] == [2, 3]


@pytest.mark.parametrize(
    ("path", "value"),
    [("batching.max_batsh", 4), ("batching.max_batch", 0), ("batsching", 4), ("pools.large.replicas", 2)],
)
def test_a_wrong_path_or_value_is_named(base: FleetSpec, path: str, value: object) -> None:
    section = path.rpartition(".")[0] or path
    with pytest.raises(PolicyError, match=rf"\$\.{re.escape(section)}"):
        grid(base, {path: [value]})


def test_the_frontier_leaves_out_what_another_beats_in_all(trace: Trace, base: FleetSpec) -> None:
    report = compare(trace, grid(base, {"replicas": [3, 4, 8]}), seeds=[0], progress=False)
    assert frontier(report, "gpu_seconds", "e2e_s.p99").front == ["replicas=3", "replicas=4", "replicas=8"]
    assert frontier(report, "gpu_seconds").front == ["replicas=3"]
    assert frontier(report, "gpu_seconds", where=["e2e_s.p99<0"]).names("infeasible") == list(report.runs)
    with pytest.raises(ValueError, match="no better way"):
        frontier(report, "utilization")


def test_a_metric_reads_and_names_itself(report: Report) -> None:
    run = report.runs["p2c"][0]
    assert metric("e2e_s.p99").read(run) == run.summary.e2e_s.p99
    assert metric("e2e_s.p99").label == "e2e p99 (ms)"
    assert metric("not_completed").read(run) == 0.0
    assert metric("slo_attainment").read(run) is None
