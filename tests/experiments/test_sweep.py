"""Sweeps: every run is kept as it ends, and going on comes to the same bytes."""

import errno
import os
import shutil
import signal
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments import Metric, Range, Sweep, SweepError, load_sweep, sweep
from experiments.executor import LOST
from experiments.sweep.index import Index
from experiments.sweep.space import drawn_points
from fleet import FleetSpec, load_run, load_spec, simulate
from policies import LeastOutstanding, PolicyError, PowerOfTwoChoices, Route, RoutingPolicy
from traces import poisson

TRACE = poisson(rate_per_s=100.0, duration_s=1.0, seed=1)
AXES = {"replicas": [2, 4], "routing": [LeastOutstanding(), PowerOfTwoChoices()]}
FRONT = {"objectives": {"gpu_seconds": "min", "e2e_s.p99": None}, "where": ["e2e_s.p99<=5"]}


class RaisesLate(RoutingPolicy):
    """Breaks down in some of its runs."""

    after: int = 10

    def reset(self, rng):
        self.asked, self.broken = 0, rng.random() < 0.5

    def route(self, request, replicas, now_s):
        self.asked += 1
        if self.broken and self.asked > self.after:
            raise RuntimeError("no\nidea")
        return Route(replicas[0].id)


class TakesItsWorker(RoutingPolicy):
    """Ends the process that asks it."""

    def route(self, request, replicas, now_s):
        os._exit(1)


def swept(base: FleetSpec, folder: Path | None = None, axes=AXES, **options) -> Sweep:
    return sweep(
        TRACE, base, axes, **{"seeds": range(2), "out": folder, "progress": False, **FRONT, **options}
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- what is kept --------------------------------------------------------------------------------------------


def test_a_sweep_has_every_point_with_every_seed_as_simulate_makes_them(base):
    found = swept(base)

    assert found.runs["candidate"].unique().to_pylist() == [
        "replicas=2, routing=least-outstanding", "replicas=2, routing=power-of-two-choices",
        "replicas=4, routing=least-outstanding", "replicas=4, routing=power-of-two-choices",
    ]  # fmt: skip
    last = found.runs.to_pylist()[-1]
    run = simulate(TRACE, base.replace(replicas=4, routing=PowerOfTwoChoices()), seed=1)
    assert (last["seed"], last["replicas"], last["routing"]) == (1, 4, "power-of-two-choices")
    assert (last["digest"], last["e2e_s.p99"]) == (run.digest, run.summary.e2e_s.p99)
    assert found.complete
    assert found.folder is None


def test_any_number_of_workers_comes_to_the_same_bytes(base, tmp_path):
    swept(base, tmp_path / "one")
    swept(base, tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_the_index_is_a_data_set_that_others_read(base, tmp_path):
    found = swept(base, tmp_path)
    table = pq.read_table(tmp_path / "runs")
    assert table.num_rows == 8
    assert set(table["e2e_s.p99"].to_pylist()) == set(found.runs["e2e_s.p99"].to_pylist())


def test_it_is_loaded_as_it_was(base, tmp_path):
    found = swept(base, tmp_path)
    loaded = load_sweep(tmp_path)
    assert loaded.runs.equals(found.runs)
    assert loaded.points.equals(found.points)
    assert str(loaded) == str(found)
    assert (
        loaded.pareto(["throughput_per_s"], where=[]).front
        == found.pareto(["throughput_per_s"], where=[]).front
    )


def test_each_fleet_of_the_front_is_kept_as_toml_and_is_that_fleet(base, tmp_path):
    found = swept(base, tmp_path)
    front = found.pareto().front
    assert sorted(file.name for file in (tmp_path / "front").iterdir()) == sorted(
        f"{name.replace(' ', '')}.toml" for name in front
    )
    for name in front:
        spec = load_spec(found.toml_of(name))
        assert simulate(TRACE, spec, seed=1).digest == found.measured[name][1].digest


def test_a_name_too_long_for_a_file_is_cut_and_stays_its_own(base, tmp_path):
    backoff = {
        "policy": "exponential-backoff",
        "base_s": 0.05,
        "factor": 2.0,
        "cap_s": 5.0,
        "max_attempts": 3,
    }
    window = {"policy": "window", "max_batch": 8, "window_s": 0.001}
    limit = {"policy": "queue-limit", "max_queue_depth": 10_000, "max_in_flight": 10_000}
    axes = {
        "retry": [backoff],
        "batching": [window],
        "admission": [limit],
        "routing": [{"policy": "power-of-two-choices", "choices": 2}],
        "replicas": [2, 3],
    }
    found = swept(base, tmp_path, axes, objectives=["submitted:max"], where=[])
    front = found.pareto().front
    assert all(len(name) > 255 for name in front)
    assert {load_spec(found.toml_of(name)).replicas for name in front} == {2, 3}


def test_pools_models_and_odd_names_survive_toml(base, tmp_path):
    pools = {"v1.5": {"model": "a", "version": "1.0"}, "small": {"model": "b", "weights": [1.0, 0.5]}}
    pooled = FleetSpec(engine=base.engine, pools=pools, models={"a": {"rollout": {"policy": "pinned"}}})
    found = swept(pooled, tmp_path, {"pools.small.replicas": [2]}, objectives=["throughput_per_s"], where=[])
    [file] = (tmp_path / "front").iterdir()
    assert load_spec(file).to_dict() == found.spec("replicas=2").to_dict()
    assert tomllib.loads(file.read_text())["pools"]["small"]["replicas"] == 2


def test_points_have_means_and_intervals(base):
    rows = {row["candidate"]: row for row in swept(base, seeds=range(4)).points.to_pylist()}
    chance = rows["replicas=2, routing=power-of-two-choices"]
    assert chance["e2e_s.p99 low"] < chance["e2e_s.p99"] < chance["e2e_s.p99 high"]
    assert (chance["runs"], chance["failed"]) == (4, 0)
    assert rows["replicas=2, routing=least-outstanding"]["e2e_s.p99 low"] is None, "chance has no part in it"


def test_whole_runs_are_kept_where_that_is_asked(base, tmp_path):
    found = swept(base, tmp_path, keep_runs=True)
    run = load_run(tmp_path / "kept" / "point=000003" / "seed-1")
    assert run.digest == found.runs["digest"].to_pylist()[-1]
    with pytest.raises(SweepError, match="keep_runs needs a folder"):
        swept(base, keep_runs=True)


def test_a_trace_of_each_seed_is_written_once_each(base, tmp_path):
    found = sweep(
        lambda seed: poisson(rate_per_s=50, duration_s=1, seed=seed), base, {"replicas": [1, 2]},
        seeds=range(3), out=tmp_path, progress=False,
    )  # fmt: skip
    assert len(list((tmp_path / "traces").iterdir())) == 3
    assert found.runs["trace_sha256"].to_pylist()[:3] == [one["sha256"] for one in found.plan.traces]


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_runs_that_raise_are_reported_and_the_others_are_kept(base, tmp_path):
    axes = {"routing": [LeastOutstanding(), RaisesLate()], "replicas": [2]}
    one = swept(base, tmp_path / "one", axes, seeds=range(6))
    two = swept(base, tmp_path / "two", axes, seeds=range(6), workers=2)

    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert {failed.candidate for failed in one.failures} == {"routing=raises-late, replicas=2"}
    assert 0 < len(one.failures) < 6
    assert one.failures[0].error.startswith(
        "PolicyError: routing policy raises-late raised RuntimeError: no idea"
    )
    assert "in route" in one.failures[0].traceback
    assert one.runs["digest"].null_count == 0
    assert one.pareto().front == ["routing=least-outstanding, replicas=2"]
    assert str(two).count("raised RuntimeError: no idea") >= len(one.failures)


def test_a_point_that_is_no_fleet_fails_alone(base):
    found = swept(base, axes={"min_replicas": [1, 3], "replicas": [2, 3]}, seeds=[0])
    assert [failed.candidate for failed in found.failures] == ["min_replicas=3, replicas=2"]
    assert "min_replicas" in found.failures[0].error


def test_a_metric_that_raises_costs_its_value_alone(base):
    def broken(run):
        raise ZeroDivisionError("by nothing")

    own = Metric("own", "", broken, better="lower")
    found = swept(base, metrics=[own, "e2e_s.p50"])
    measured = found.measured["replicas=2, routing=least-outstanding"][0]
    assert measured.values["own"] is None
    assert "ZeroDivisionError: by nothing" in measured.why["own"]
    assert measured.values["e2e_s.p50"] > 0
    assert found.failures == []


def test_a_metric_of_ones_own_is_an_objective_too(base, tmp_path):
    own = Metric("size", "", lambda run: 3.0, better="higher")
    found = swept(base, tmp_path, metrics=[own], objectives=["size"], workers=2)
    assert len(found.pareto().front) == 4
    assert len(load_sweep(tmp_path).pareto().front) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": range(3)}, r"\$.seeds was \[0,1\], and is \[0,1,2\] now"),
        ({"axes": {"replicas": [2, 4]}}, r"\$.axes was "),
        ({"metrics": ["e2e_s.p50"]}, r"\$.metrics was "),
        ({"method": "random:4"}, r'\$.method was "grid", and is "random:4" now'),
        ({"sessions": True}, r"\$.sessions was false, and is true now"),
    ],
)
def test_another_sweep_does_not_go_into_the_folder_and_the_difference_is_named(base, tmp_path, changes, says):
    swept(base, tmp_path)
    before = bytes_of(tmp_path)
    with pytest.raises(SweepError, match=says):
        swept(base, tmp_path, **changes)
    assert bytes_of(tmp_path) == before


def test_another_trace_fleet_or_source_is_another_sweep(base, tmp_path, monkeypatch):
    swept(base, tmp_path)
    with pytest.raises(SweepError, match=r"\$.traces\[0\].*sha256 was"):
        sweep(TRACE.first(requests=5), base, AXES, seeds=range(2), out=tmp_path, progress=False, **FRONT)
    with pytest.raises(SweepError, match=r"\$.spec.provision_s was 0.0, and is 1.0 now"):
        swept(base.replace(provision_s=1.0), tmp_path)
    monkeypatch.setattr("fleet.telemetry.provenance._KNOWN", {PowerOfTwoChoices: ("file", "0" * 64)})
    with pytest.raises(SweepError, match=r'\$.alternatives\[0\].sha256 was .* and is "0000'):
        swept(base, tmp_path)


def test_other_bounds_are_another_look_at_the_same_runs(base, tmp_path):
    swept(base, tmp_path)
    made_ns = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.parquet")}
    found = swept(base, tmp_path, where=["e2e_s.p99<=1e-9"])
    assert found.pareto().front == []
    assert {file: file.stat().st_mtime_ns for file in made_ns} == made_ns


def test_other_peoples_files_are_left_alone(base, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SweepError, match="holds other files, and no sweep"):
        swept(base, tmp_path)
    with pytest.raises(SweepError, match="is a file, not a folder"):
        swept(base, tmp_path / "thesis.tex")
    with pytest.raises(SweepError, match="holds no sweep"):
        load_sweep(tmp_path)


def test_a_full_disk_names_the_file_and_leaves_what_is_there(base, tmp_path, monkeypatch):
    whole = bytes_of_sweep(base, tmp_path / "whole")
    replace, replaced = Path.replace, []

    def full(part, target):
        if "seed-" in part.name and len(replaced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced.extend([part] if "seed-" in part.name else [])
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*point=000001/seed-1.parquet"):
        swept(base, tmp_path / "full")
    monkeypatch.undo()
    assert len(load_sweep(tmp_path / "full").runs) == 3
    assert bytes_of_sweep(base, tmp_path / "full") == whole


def bytes_of_sweep(base, folder):
    swept(base, folder)
    return bytes_of(folder)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_named(base, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        swept(base, tmp_path)


def test_a_run_that_takes_its_worker_with_it_is_a_failure_like_another(base, tmp_path):
    found = swept(base, tmp_path, {"routing": [LeastOutstanding(), TakesItsWorker()]}, seeds=[0], workers=2)
    assert [(one.error, one.traceback) for one in found.failures] == [(LOST, "")]
    assert len(found.pareto().front) == 1


def test_a_run_that_lost_its_worker_is_made_again_when_the_sweep_goes_on(base, tmp_path):
    whole = bytes_of_sweep(base, tmp_path)
    file = tmp_path / "runs" / "point=000001" / "seed-0.parquet"
    lost = pq.read_table(file, partitioning=None)
    at = lost.column_names.index("error")
    file.unlink()
    lost = lost.set_column(at, "error", [[LOST]]).set_column(at + 1, "traceback", [[""]])
    pq.write_table(lost, file.with_name("seed-0.lost.parquet"))
    assert [failed.error for failed in load_sweep(tmp_path).failures] == [LOST]
    assert bytes_of_sweep(base, tmp_path) == whole


def test_what_a_kill_left_half_written_is_swept_up(base, tmp_path):
    whole = bytes_of_sweep(base, tmp_path)
    for left in (tmp_path / "runs" / ".seed-0.parquet.77.part", tmp_path / ".plan.json.77.part"):
        left.write_bytes(b"half")
    assert bytes_of_sweep(base, tmp_path) == whole


class TakesItsWorkerAlong(RoutingPolicy):
    """As one does for which the memory of a machine is not enough."""

    def route(self, request, replicas, now_s):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_point_that_takes_its_workers_with_it_fails_alone(base, tmp_path):
    axes = {"routing": [LeastOutstanding(), TakesItsWorkerAlong()], "replicas": [2, 3]}
    found = swept(base, tmp_path, axes, seeds=[0], workers=2)
    assert [(failed.candidate, failed.error) for failed in found.failures] == [
        (f"routing=takes-its-worker-along, replicas={number}", LOST) for number in (2, 3)
    ]
    assert len(found.runs) == 4


@pytest.mark.parametrize("place", ["point=000001/seed-1", "point=000000/seed-0", "point=000001/seed-x"])
def test_a_run_in_the_place_of_another_is_named(base, tmp_path, place):
    swept(base, tmp_path)
    runs = tmp_path / "runs"
    shutil.copy(runs / "point=000001" / "seed-0.parquet", runs / f"{place}.parquet")
    with pytest.raises(SweepError, match=r"remove it, and go on"):
        load_sweep(tmp_path)


def test_a_table_that_is_no_run_is_named(base, tmp_path):
    swept(base, tmp_path)
    run = simulate(TRACE, base, seed=0)
    pq.write_table(run.records, tmp_path / "runs" / "point=000001" / "seed-0.parquet")
    with pytest.raises(SweepError, match=r"seed-0\.parquet: is not the run that its name says"):
        load_sweep(tmp_path)


def test_a_damaged_file_is_named(base, tmp_path):
    swept(base, tmp_path)
    (tmp_path / "runs" / "point=000001" / "seed-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(SweepError, match=r"cannot be read.*seed-0.parquet"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"axes": {}}, "needs an axis"),
        ({"axes": {"replicas": []}}, "replicas: has no values"),
        ({"axes": {"replicas": [2, 2]}}, "two of its values have the name '2'"),
        ({"axes": {"replicas": Range(1, 3)}}, "a grid has no end of a range"),
        ({"method": "gird"}, "is no way to choose points; there are grid, random:N"),
        ({"method": "random:0"}, "is no way to choose points"),
        ({"method": "grid:3"}, "is no way to choose points"),
        ({"method": "optuna:3", "objectives": []}, "a search needs an objective"),
        ({"seeds": []}, "needs one at least"),
        ({"seeds": [1, 1]}, "each once"),
        ({"objectives": ["utilization"]}, "has no better way"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(base, tmp_path, changes, says):
    with pytest.raises(SweepError, match=says):
        swept(base, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("axes", [{"batching.max_batsh": [4]}, {"batching.max_batch": [4, 0]}])
def test_a_wrong_path_or_value_of_an_axis_is_named(base, axes):
    with pytest.raises(PolicyError, match=r"\$\.batching\.max_bat"):
        swept(base, axes=axes)


# --- drawing and searching ---------------------------------------------------------------------------------

RANGES = {
    "replicas": Range(1, 8),
    "network.delay_s": Range(0.0001, 0.1, log=True),
    "batching.max_batch": [1, 8],
}


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_points_are_drawn_within_their_ranges_by_the_seed(method):
    points = list(drawn_points(RANGES, 100, method, 3))
    assert points == list(drawn_points(RANGES, 100, method, 3))
    assert points != list(drawn_points(RANGES, 100, method, 4))
    assert len({point.name for point in points}) == 100
    replicas, delays, batches = (
        list(values) for values in zip(*(p.values.values() for p in points), strict=True)
    )
    assert set(replicas) == set(range(1, 9))
    assert set(batches) == {1, 8}
    assert min(delays) >= 0.0001
    assert max(delays) <= 0.1
    below = sum(delay < 0.00316 for delay in delays)
    assert below == pytest.approx(50, abs=3 if method == "sobol" else 15), "half of the decades"


def test_a_space_that_is_exhausted_has_no_more_points():
    assert (
        len(list(drawn_points({"replicas": Range(1, 3), "batching.max_batch": [1, 8]}, 50, "sobol", 0))) == 6
    )


@pytest.mark.parametrize(
    "axis",
    [Range(1000, 5000, log=True), Range(0.1234564, 0.2), Range(0.1, 0.12345651), Range(3, 9, log=True)],
)
def test_no_value_of_a_range_is_outside_of_it(axis) -> None:
    assert axis.low <= axis.at(0.0) <= axis.at(1.0) <= axis.high


@pytest.mark.parametrize(
    ("low", "high", "log"), [(3, 3, False), (4, 3, False), (0, 3, True), (1, float("inf"), False)]
)
def test_a_range_that_is_none_is_named(low, high, log):
    with pytest.raises(SweepError, match=r"\.\."):
        Range(low, high, log=log)


@pytest.mark.parametrize("method", ["random:5", "sobol:5", "optuna:20"])
def test_a_drawing_or_search_comes_to_the_same_bytes_on_any_number_of_workers_and_when_gone_on_with(
    base, tmp_path, method
):
    options = {"axes": RANGES, "method": method, "seeds": [0], "where": ["e2e_s.p99<=0.2"]}
    swept(base, tmp_path / "one", **options)
    swept(base, tmp_path / "two", workers=2, **options)
    whole = bytes_of(tmp_path / "one")
    assert bytes_of(tmp_path / "two") == whole

    files = sorted((tmp_path / "two").rglob("seed-0.parquet"))
    for file in files[len(files) // 2 :]:
        file.unlink()
    for file in sorted((tmp_path / "two" / "asked").glob("*"))[1:]:
        file.unlink()
    swept(base, tmp_path / "two", **options)
    assert bytes_of(tmp_path / "two") == whole


def test_a_search_finds_the_best_and_never_runs_a_point_twice(base):
    options = {
        "method": "optuna:48",
        "objectives": ["gpu_seconds"],
        "where": ["e2e_s.p99<=0.06"],
        "seeds": [0],
    }
    best = swept(base, axes={"replicas": list(range(1, 13))}, **{**options, "method": "grid"})
    found = swept(base, axes={"replicas": Range(1, 12)}, **options)
    assert found.pareto().front == best.pareto().front
    assert len(found.runs) <= 12


def test_a_search_bears_points_that_fail(base):
    axes = {"routing": [LeastOutstanding(), RaisesLate()], "replicas": Range(1, 4)}
    found = swept(base, axes=axes, method="optuna:20", seeds=[0, 1, 2])
    assert found.failures
    assert found.pareto().front


def test_figures_by_group_are_kept_of_each_run(base, tmp_path):
    trace = TRACE.assign(tenant="choice:a=0.5,b=0.5")
    found = sweep(
        trace, base, {"replicas": [2]}, seeds=[0], metrics=["e2e_s.p99@tenant"], out=tmp_path, progress=False,
        objectives=["e2e_s.p99@tenant:max_min"],
    )  # fmt: skip
    values = found.measured["replicas=2"][0].values
    assert {"e2e_s.p99@tenant=a", "e2e_s.p99@tenant=b"} <= values.keys()
    assert found.points["e2e_s.p99@tenant=a"].to_pylist() == [values["e2e_s.p99@tenant=a"]]
    assert found.runs["e2e_s.p99@tenant:max_min"].to_pylist()[0] >= 1.0
    assert load_sweep(tmp_path).measured == found.measured
    with pytest.raises(SweepError, match="has a value for each group"):
        found.pareto(["e2e_s.p99@tenant"])
    with pytest.raises(ValueError, match="nothing to group requests by"):
        swept(base, metrics=["e2e_s.p99@flavour"])


def test_rows_keep_what_was_measured_of_groups(tmp_path):
    from experiments.measured import Measured
    from experiments.sweep.index import Row, measured_in
    from experiments.sweep.space import Point

    one = Measured(
        candidate="a", seed=3, submitted=2, completed=1, values={"completed": 1.0, "ttft_s.p99@tenant=x": 0.5},
        why={"ttft_s.p99@tenant=y": "nothing completed"}, groups={"tenant": ("x", "y")}, digest="d", fingerprint="f",
        trace_sha256="t",
    )  # fmt: skip
    index = Index(tmp_path, {"replicas": [1, 2]}, [])
    index.write(Row(Point(7, "a", {"replicas": 2}), one))
    assert list(measured_in(index.read(), [])) == index.of_point(7, [3])
    [back] = index.of_point(7, [3])
    assert (back.why, back.groups, back.values["ttft_s.p99@tenant=x"]) == (one.why, one.groups, 0.5)
