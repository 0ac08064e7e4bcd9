"""Where a run was made is on record, is asked for once, and counts for nothing."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.telemetry import origin
from fleet.telemetry.origin import Commit, origin_of
from fleet.telemetry.provenance import ComponentSource
from tests.conftest import ROOT
from traces import poisson

RUN = """
import sys
from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import RoundRobin
from traces import poisson
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    from mine import RoundRobin
run = simulate(poisson(20.0, 2.0), FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.01)),
                                            replicas=2, routing=RoundRobin()))
import msgspec
print(run.digest)
print(msgspec.json.encode(run.origin).decode())
"""
MINE = """
from policies import RoundRobin as Theirs


class RoundRobin(Theirs):
    pass
"""


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    origin._commit_of.cache_clear()
    origin._asked.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With one commit, and a folder in it."""
    made = tmp_path / "repository"
    (made / "policies_of_mine").mkdir(parents=True)
    (made / "policies_of_mine" / "mine.py").write_text(MINE)
    git(made, "init", "-q")
    git(made, "add", ".")
    git(made, "commit", "-q", "-m", "one")
    return made


def in_fresh_process(folder: Path, *arguments: object, path: str | None = None) -> tuple[str, origin.Origin]:
    import msgspec

    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({} if path is None else {"PATH": path})
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digest, said = done.stdout.splitlines()
    return digest, msgspec.json.decode(said, type=origin.Origin)


def test_a_run_says_the_commit_of_the_folder_that_it_was_made_in(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    here, said = in_fresh_process(repository)
    assert said.commit == Commit(str(repository), commit, changed=False)
    assert said.directory == str(repository)
    (repository / "notes.txt").write_text("beside what is tracked")
    assert not in_fresh_process(repository)[1].commit.changed

    (repository / "policies_of_mine" / "mine.py").write_text(MINE + "# more\n")
    there, said = in_fresh_process(repository)
    assert said.commit == Commit(str(repository), commit, changed=True)
    assert here == there == in_fresh_process(tmp_path)[0], "no digest has any of it"


def test_the_folder_of_ones_own_policy_comes_before_the_one_worked_in(
    repository: Path, tmp_path: Path
) -> None:
    folder = repository / "policies_of_mine"
    _, said = in_fresh_process(tmp_path, folder)
    assert said.modules == {"mine": str(folder / "mine.py")}
    assert said.commit is not None
    assert said.commit.repository == str(repository)
    assert said.command == ("-c", str(folder))


def test_no_git_and_no_repository_are_no_mistakes(repository: Path, tmp_path: Path) -> None:
    assert in_fresh_process(repository, path=str(tmp_path))[1].commit is None
    assert in_fresh_process(tmp_path)[1].commit is None
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert in_fresh_process(tmp_path / "empty")[1].commit is None, "it has no commit yet"


def test_git_is_asked_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, run = [], subprocess.run

    def counted(*arguments, **options):
        asked.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(origin.subprocess, "run", counted)
    for folder in (repository, repository / "policies_of_mine", repository):
        monkeypatch.chdir(folder)
        assert origin_of((), None).commit is not None
    assert len(asked) == 1


def test_a_folder_that_was_removed_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert origin_of((), None).directory is None


def test_modules_of_fleetlab_are_not_ones_own() -> None:
    components = [
        ComponentSource("$.engine", "fleet.engines.base:Engine", "file", ""),
        ComponentSource("$.routing", "tests.telemetry.test_origin:Mine", "file", ""),
        ComponentSource("$.retry", "nowhere:Typed", "unknown", None),
    ]
    assert origin_of(components, None).modules == {"tests.telemetry.test_origin": __file__}


def test_a_run_goes_to_another_process_without_its_trace() -> None:
    spec = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.01)))
    run = simulate(poisson(2000.0, 2.0), spec)
    sent = pickle.dumps(run)
    back = pickle.loads(sent)
    assert (back.digest, back.origin) == (run.digest, run.origin)
    assert back.rebuild().trace == run.rebuild().trace, "by its recipe"
