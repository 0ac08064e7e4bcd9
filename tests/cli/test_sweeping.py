"""`fleet sweep`: the front by command, and sweeps that are killed, interrupted, disturbed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import load_sweep
from fleet.spec import load_spec
from tests.cli.conftest import SMALL, Fleet
from tests.cli.test_processes import alive, children, started

AXES = ("--grid", "replicas=2,3", "--grid", "batching.max_batch=1,8")
BEST = ("--objectives", "gpu_seconds,e2e_s.p99:min")
SHORT = ("sweep", "demo-surge", "small.toml", "--first-s", 5, "--seeds", 2)
BROKEN = """
from policies import Route, RoutingPolicy

class Broken(RoutingPolicy):
    "Breaks down in the run of one seed."
    def reset(self, rng):
        self.broken = rng.random() < 0.5
    def route(self, request, replicas, now_s):
        if self.broken:
            raise RuntimeError("no idea")
        return Route(replicas[0].id)
"""


def test_the_front_is_printed_and_kept(fleet: Fleet, tmp_path: Path) -> None:
    done = fleet(*SHORT, *AXES, *BEST, "--where", "e2e_s.p99<=1", "--out", "swept")

    assert (done.status, done.err) == (0, "saved in swept; the fleets of the front are in swept/front\n")
    found = load_sweep(tmp_path / "swept")
    assert str(found.pareto().knee) in done.out
    assert "e2e_s.p99&lt;=1" in (tmp_path / "swept" / "front.svg").read_text()
    assert [load_spec(found.toml_of(name)).replicas for name in found.pareto().front]
    assert fleet("simulate", "demo-surge", found.toml_of(found.pareto().front[0]), "--first-s", 5).status == 0


def test_where_nobody_keeps_the_constraints_no_front_is_promised(fleet: Fleet, tmp_path: Path) -> None:
    done = fleet(*SHORT, *AXES, *BEST, "--where", "e2e_s.p99<=0.0001", "--out", "swept")
    assert (done.status, done.err) == (0, "saved in swept\n")
    assert "No candidate keeps all constraints." in done.out


@pytest.mark.parametrize("judged", [("--objectives", "e2e_s.p99"), ("--where", "e2e_s.p99<=1"), ()])
def test_what_is_judged_by_one_figure_or_none_has_no_plot(fleet: Fleet, tmp_path: Path, judged) -> None:
    done = fleet(*SHORT, *AXES, *judged, "--where", "e2e_s.p99<=2", "--out", "swept")
    assert done.status == 0
    assert not (tmp_path / "swept" / "front.svg").exists()


def test_without_objectives_the_points_are_printed(fleet: Fleet) -> None:
    done = fleet(*SHORT, *AXES, "--metrics", "queue_s.p99,throughput_per_s@outcome")
    assert done.status == 0
    assert "replicas=3, max_batch=8" in done.out
    assert "queue p99 (ms)" in done.out


def test_ranges_are_drawn_from(fleet: Fleet, tmp_path: Path) -> None:
    ranges = ("--range", "engine.latency.base_s=0.001..0.01:log", "--grid", "routing=random,round-robin")
    assert fleet(*SHORT, *ranges, "--sobol", 3, "--search-seed", 7, "--out", "swept").status == 0
    runs = load_sweep(tmp_path / "swept").runs
    assert len(runs) == 6
    assert all(0.001 <= value <= 0.01 for value in runs["engine.latency.base_s"].to_pylist())


def test_a_run_that_raises_makes_the_status_1_and_the_others_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    done = fleet(*SHORT, "--grid", "routing=random,broken:Broken", "--seeds", 8, *BEST, "--out", "swept")
    found = load_sweep(tmp_path / "swept")
    assert done.status == 1
    assert 0 < len(found.failures) < 8
    assert f"{len(found.failures)} of 16 runs failed:" in done.out
    assert "raised RuntimeError: no idea" in done.out
    assert found.pareto().front == ["routing=random"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "needs an axis: --grid PATH=A,B"),
        (("--grid", "replicas"), "--grid takes PATH=VALUE"),
        (("--grid", "replicas=1", "--range", "replicas=1..2"), "replicas: is given twice"),
        (("--range", "replicas=1-4"), "--range takes PATH=LOW..HIGH"),
        (("--range", "replicas=4..1"), "its low end must be below"),
        (("--range", "replicas=1..4"), "a grid has no end of a range"),
        (("--grid", "replicas=1,2", "--where", "e2e_s.p99=3"), "is no constraint"),
        (("--grid", "replicas=1,2", "--objectives", "latency"), "is no figure"),
        (("--grid", "replicas=1,2", "--optuna", "3"), "a search needs an objective"),
        (("--grid", "replicas=1,2", "--optuna", "3", "--random", "4"), "not allowed with"),
        (("--grid", "replicsa=1,2"), "$.replicsa"),
        (("--grid", "replicas=1,0"), "$.replicas"),
        (("--grid", "replicas=1,2", "--keep-runs"), "keep_runs needs a folder"),
    ],
)
def test_a_mistake_is_one_line(fleet: Fleet, arguments: tuple[str, ...], says: str) -> None:
    done = fleet(*SHORT, *arguments)
    assert done.status == 2
    assert says in done.line


# --- processes ---------------------------------------------------------------------------------------------

LONG = (
    "sweep",
    "demo-surge",
    "small.toml",
    "--first-s",
    25,
    "--grid",
    "replicas=2,3,4",
    "--grid",
    "batching.max_batch=1,4,16",
    *BEST,
)
SEARCH = ("sweep", "demo-surge", "small.toml", "--range", "replicas=2..6", "--range", "batching.max_batch=1..32", *BEST,
          "--optuna", 24)  # fmt: skip


def runs_in(folder: Path) -> int:
    return len(list(folder.glob("runs/*/seed-*.parquet")))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.mark.live
@pytest.mark.parametrize(
    ("command", "workers"),
    [((*LONG, "--seeds", 2), 2), ((*SEARCH, "--seeds", 1), 1)],
    ids=["grid on two processes", "optuna in one"],
)
def test_a_sweep_that_is_killed_twice_ends_with_the_same_bytes(place: Path, command, workers: int) -> None:
    with started(*command, "--out", "whole", "--workers", workers, cwd=place) as process:
        assert process.wait(90) == 0
    for runs in (3, 9):
        with started(*command, "--out", "killed", "--workers", workers, cwd=place) as process:
            wait_for(lambda runs=runs: runs_in(place / "killed") >= runs)
            workers_of = children(process.pid)
            process.kill()
            wait_for(lambda pids=workers_of: not any(map(alive, pids)))
    assert 9 <= runs_in(place / "killed") < runs_in(place / "whole")
    kept = {file: file.stat().st_mtime_ns for file in (place / "killed").rglob("seed-*.parquet")}

    with started(*command, "--out", "killed", "--workers", workers, cwd=place) as process:
        assert process.wait(90) == 0

    assert bytes_of(place / "killed") == bytes_of(place / "whole")
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "what was there is not made again"


@pytest.mark.live
def test_a_worker_that_is_killed_costs_no_run(place: Path) -> None:
    with started(*LONG, "--seeds", 3, "--out", "swept", "--workers", 2, cwd=place) as process:
        wait_for(lambda: runs_in(place / "swept") >= 3)
        os.kill(max(children(process.pid)), signal.SIGKILL)
        assert process.wait(90) == 0
    found = load_sweep(place / "swept")
    assert (len(found.runs), found.failures) == (27, [])


@pytest.mark.live
def test_ctrl_c_is_a_word_and_leaves_no_process_and_what_was_made(place: Path) -> None:
    with started(*LONG, "--seeds", 200, "--out", "swept", "--workers", 2, cwd=place) as process:
        wait_for(lambda: runs_in(place / "swept") >= 3)
        pids = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (130, "fleet: interrupted\n")
        wait_for(lambda: not any(map(alive, pids)))
    assert len(load_sweep(place / "swept").runs) >= 3


@pytest.mark.live
def test_a_batch_system_that_ends_a_sweep_leaves_nothing_behind(place: Path) -> None:
    with started(*LONG, "--seeds", 200, "--out", "swept", "--workers", 2, cwd=place) as process:
        wait_for(lambda: runs_in(place / "swept") >= 3)
        pids = children(process.pid)
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (143, "fleet: terminated\n")
        wait_for(lambda: not any(map(alive, pids)))
    assert len(load_sweep(place / "swept").runs) >= 3


@pytest.mark.live
def test_two_sweeps_do_not_go_into_one_folder_at_once(place: Path) -> None:
    with started(*LONG, "--seeds", 200, "--out", "swept", cwd=place) as process:
        wait_for(lambda: runs_in(place / "swept") >= 1)
        with started(*LONG, "--seeds", 200, "--out", "swept", cwd=place) as second:
            _, said = second.communicate(timeout=60)
            assert (second.returncode, said) == (
                2, "fleet: swept: another sweep is writing there; wait for it, or give another folder\n",
            )  # fmt: skip
        assert process.poll() is None
        process.kill()
