"""`fleet again`: a saved run made anew, in one command, wherever its folder is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fleet import Run, load_run
from tests.cli.conftest import Fleet
from tests.conftest import ROOT

OWN = '''
from policies import Route, RoutingPolicy


class Lowest(RoutingPolicy):
    """The replica with the lowest number."""

    def route(self, request, replicas, now_s):
        return Route(replicas[0].id)
'''
OWN_FLEET = """
replicas = 3
routing = { policy = "mine:Lowest" }
engine = { engine = "emulated", latency = { latency = "affine", base_s = 0.005, per_item_s = 0.002, jitter_cv = 0.2 } }
"""
SIMULATE = ("simulate", "surge-reference", "small.toml", "--first-s", 6, "--scale-rate", 1.5, "--seed", 4)


def in_fresh_process(
    folder: Path, *arguments: object, hash_seed: str = "0"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", "import sys; from fleet.cli import main; sys.exit(main())"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_a_run_that_agrees_says_so_with_status_0(fleet: Fleet, tmp_path: Path) -> None:
    fleet(*SIMULATE, "--out", "out")
    ended = fleet("again", "out", "--out", "anew")
    digest = load_run(tmp_path / "out").digest
    assert ended.status == 0
    assert ended.out == f"out: run anew, and every byte agrees: digest {digest}\n"
    assert load_run(tmp_path / "anew").digest == digest
    assert fleet("again", "anew", "--no-check").status == 0


def test_faults_sessions_and_a_horizon_are_all_in_the_folder(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text('{"faults": [{"at_s": 1.0, "kind": "crash"}]}')
    fleet(
        "simulate", "chat-small", "small.toml", "--first", 200, "--sessions", "--faults", "faults.json",
        "--until-s", 9, "--stream", "--assign", "tenant=zipf:5:1.1", "--set", "replicas=2", "--out", "out",
    )  # fmt: skip
    (tmp_path / "faults.json").unlink()
    (tmp_path / "small.toml").unlink()
    assert fleet("again", "out").status == 0


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_a_fresh_process_agrees_whatever_its_hash_seed(tmp_path: Path, hash_seed: str) -> None:
    """With a policy and a trace file of one's own, named from another folder than they are used in."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN_FLEET)
    rows = "\n".join(f"{0.01 * n},{n % 7},3" for n in range(300))
    (tmp_path / "t.csv").write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}\n")
    made = in_fresh_process(
        tmp_path, "simulate", "t.csv", "own.toml", "--dequantise", 0.5, "--out", "out", hash_seed="7"
    )
    assert made.returncode == 0, made.stderr

    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(tmp_path / "mine.py", there)
    ended = in_fresh_process(there, "again", "../out", hash_seed=hash_seed)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert "every byte agrees" in ended.stdout


def test_a_policy_that_is_not_to_be_had_or_has_changed_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.py").write_text(OWN)
    (home / "own.toml").write_text(OWN_FLEET)
    in_fresh_process(home, "simulate", "surge-reference", "own.toml", "--first", 50, "--out", "../out")

    ended = in_fresh_process(tmp_path, "again", "out")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"put its folder on the import path, as in PYTHONPATH={home}" in ended.stderr

    (home / "mine.py").write_text(OWN.replace("replicas[0]", "replicas[-1]"))
    ended = in_fresh_process(home, "again", "../out")
    assert ended.returncode == 2
    assert "$.routing: the source of mine:Lowest has changed since the run" in ended.stderr

    ended = in_fresh_process(home, "again", "../out", "--allow-changed")
    assert ended.returncode == 1
    parts = {line.split()[0] for line in ended.stdout.splitlines()[1:]}
    assert {"components", "records", "the"} <= parts
    assert "$.routing.mine:Lowest " in ended.stdout


def test_a_trace_that_was_moved_is_given_by_a_flag(fleet: Fleet, tmp_path: Path) -> None:
    rows = "\n".join(f"{0.1 * n},5,3" for n in range(30))
    (tmp_path / "t.csv").write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}\n")
    fleet("simulate", "t.csv", "small.toml", "--scale-rate", 2, "--out", "out")
    (tmp_path / "t.csv").rename(tmp_path / "moved.csv")
    ended = fleet("again", "out")
    assert ended.status == 2
    assert ended.line.startswith(
        f"{tmp_path / 't.csv'}: is not there, and the run's trace was read from it; give"
    )
    assert fleet("again", "out", "--trace", "moved.csv").status == 0
    (tmp_path / "moved.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,3\n")
    ended = fleet("again", "out", "--trace", "moved.csv")
    assert ended.status == 2
    assert ended.line.startswith(
        "moved.csv: is not the file that the run's trace was read from: its SHA-256 is "
    )


def test_with_trace_the_folder_is_enough(fleet: Fleet, tmp_path: Path) -> None:
    rows = "\n".join(f"{0.1 * n},5,3" for n in range(30))
    (tmp_path / "t.csv").write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}\n")
    fleet("simulate", "t.csv", "small.toml", "--out", "out", "--with-trace")
    (tmp_path / "t.csv").unlink()
    assert fleet("again", "out").status == 0
    ended = fleet("simulate", "surge-reference", "small.toml", "--with-trace")
    assert (ended.status, ended.line) == (2, "--with-trace goes with --out DIR")


def test_figures_that_differ_are_told_with_status_1(fleet: Fleet, tmp_path: Path) -> None:
    """A run of another version, as far as its manifest says."""
    fleet(*SIMULATE, "--out", "out")
    run = load_run(tmp_path / "out")
    run.manifest.versions["numpy"] = "1.0"
    run.save(tmp_path / "out")
    ended = fleet("again", "out")
    assert ended.status == 1
    first, versions, same = ended.out.splitlines()
    assert first.startswith(f"out: run anew, and it differs: digest {run.digest} then, ")
    assert versions.split()[:4] == ["versions", "numpy", "1.0", "then,"]
    assert same == "the same  records, series, decisions, dispatches, replicas, attempts, pools, summary"


def test_a_live_run_is_refused_in_a_sentence(fleet: Fleet, tmp_path: Path) -> None:
    fleet(*SIMULATE, "--out", "out")
    run = load_run(tmp_path / "out")
    Run(run.tables, run.summary, msgspec.structs.replace(run.manifest, runtime="live")).save(
        tmp_path / "live"
    )
    ended = fleet("again", "live")
    assert ended.status == 2
    assert ended.line.startswith("a live run cannot be made again: real processes take other times each time")


def test_what_is_no_run_or_a_damaged_one_is_named(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet("again", "nowhere")
    assert (ended.status, ended.line) == (2, "nowhere: there is no such folder")
    fleet(*SIMULATE, "--out", "out")
    (tmp_path / "out/records.parquet").unlink()
    ended = fleet("again", "out")
    assert (ended.status, ended.line) == (2, "out/records.parquet: is missing from the run")


def test_a_disk_that_is_full_is_said_of_the_file(fleet: Fleet, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/series.parquet").symlink_to("/dev/full")
    ended = fleet(*SIMULATE, "--out", "out")
    assert (ended.status, ended.line) == (
        1,
        "cannot write out/series.parquet: no space is left on the device",
    )
    assert fleet("again", "out").status == 2
