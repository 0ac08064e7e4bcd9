"""Policies of somebody else's distribution: found by name once it is installed, checked by the kit, told what is wrong.

`tests/third_party` is built and installed into a folder of its own, as pip would install it anywhere; what is looked at
are fresh processes that have this folder on their path.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("hatchling", reason="builds tests/third_party: pip install -c constraints.txt hatchling")

FLEET = "import sys; from fleet.cli import main; sys.exit(main())"
NAMES = {"load-balancing-with-memory": "routing", "at-least": "batching", "by-arrivals": "scaling"}
SPEC = """
replicas = 2
min_replicas = 1
max_replicas = 6
engine = {engine = "emulated", latency = {latency = "affine", base_s = 0.030, per_item_s = 0.010}}
routing = {policy = "load-balancing-with-memory", choices = 2}
batching = {policy = "at-least", least = 2}
scaling = {policy = "by-arrivals"}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the distribution is installed."""
    folder = tmp_path_factory.mktemp("third_party")
    source, target = folder / "source", folder / "site"
    shutil.copytree(ROOT / "tests/third_party", source)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return target


def fresh(site: Path, folder: Path, *command: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """A new Python that has the distribution installed."""
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip


def fleet(site: Path, folder: Path, *arguments: str, hash_seed: str = "0") -> str:
    done = fresh(site, folder, "-c", FLEET, *arguments, hash_seed=hash_seed)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fleet.toml").write_text(SPEC)
    return tmp_path


# --- found by name -----------------------------------------------------------------------------------------


def test_the_distribution_offers_each_class_under_its_own_name(site):
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    lines = entry_points.read_text().splitlines()
    assert {line.partition(" = ")[0] for line in lines if " = " in line} == set(NAMES)


@pytest.mark.parametrize(("name", "slot"), NAMES.items())
def test_a_policy_of_a_distribution_is_described_as_those_of_the_library_are(site, folder, name, slot):
    (info,) = json.loads(fleet(site, folder, "policies", name, "--json"))
    assert (info["slot"], info["name"]) == (slot, name)
    assert info["location"].startswith("fleetlab_example.")
    assert info["law"]
    assert info["parameters"]
    assert f"\n  {name} " in fleet(site, folder, "policies", slot)


def test_the_name_alone_is_enough_in_a_file(site, folder):
    fleet(site, folder, "simulate", "demo-surge", "fleet.toml", "--first-s", "5", "--out", "run")
    kept = (folder / "run" / "manifest.json").read_text()
    for module in ("load_balancing_with_memory", "at_least", "by_arrivals"):
        assert f"fleetlab_example.{module}:" in kept  # what code ran is known, and can be had again
    fleet(site, folder, "again", "run")


def test_it_is_compared_with_those_of_the_library_by_its_name(site, folder):
    vary = "routing=round-robin,load-balancing-with-memory"
    out = fleet(
        site, folder, "compare", "demo-surge", "fleet.toml", "--first-s", "5", "--seeds", "2", "--vary", vary
    )
    assert "load-balancing-with-memory" in out


def test_where_it_is_not_installed_the_name_is_not_known(tmp_path, folder):
    done = fresh(tmp_path, folder, "-c", FLEET, "simulate", "demo-surge", "fleet.toml")
    assert done.returncode == 2
    assert "there is no routing policy `load-balancing-with-memory`" in done.stderr


# --- it keeps the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_its_own_test_passes_whatever_strings_hash_to(site, folder, hash_seed):
    shutil.copytree(ROOT / "tests/third_party/tests", folder / "tests")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "tests")
    done = fresh(site, folder, *command, hash_seed=hash_seed)
    assert done.returncode == 0, done.stdout


def test_a_run_is_the_same_whatever_strings_hash_to(site, folder):
    runs = ("simulate", "demo-surge", "fleet.toml", "--first-s", "5", "--json")
    assert fleet(site, folder, *runs, hash_seed="1") == fleet(site, folder, *runs, hash_seed="2")


# --- what is wrong is told ---------------------------------------------------------------------------------

WRONG = {
    "RollsItsOwnDice": "RollsItsOwnDice uses the global random generator; use the `rng` that `reset` gives it",
    "LooksAtTheClock": "LooksAtTheClock reads the clock (time.time); time is an argument: use `now_s`",
    "NamesNobody": "it must name one of the replicas it was given, by `id`",
}
"""What is said of each: the policy, the rule, and what to do about it."""


@pytest.mark.parametrize(("name", "words"), WRONG.items())
def test_the_kit_names_the_policy_the_rule_and_the_likely_cause(site, folder, name, words):
    check = f"from fleetlab_example.wrong import {name}; check_policy({name})"
    done = fresh(site, folder, "-c", f"from policies.testing import check_policy; {check}")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert name in said
    assert words in said


def test_a_run_with_a_policy_that_names_nobody_ends_in_a_line_that_says_so(site, folder):
    chosen = "routing=fleetlab_example.wrong:NamesNobody"
    done = fresh(
        site, folder, "-c", FLEET, "simulate", "demo-surge", "fleet.toml", "--first-s", "2", "--set", chosen
    )
    assert done.returncode not in (0, 1)
    (line,) = done.stderr.splitlines()
    assert "NamesNobody" in line or "names-nobody" in line
    assert "replica/nobody" in line


# --- in the library itself ---------------------------------------------------------------------------------


def test_a_file_in_a_slots_folder_is_all_that_a_new_policy_of_the_library_takes(tmp_path):
    shutil.copytree(ROOT / "policies", tmp_path / "policies", ignore=shutil.ignore_patterns("__pycache__"))
    source = ROOT / "tests/third_party/fleetlab_example/load_balancing_with_memory.py"
    shutil.copy(source, tmp_path / "policies/routing/load_balancing_with_memory.py")

    (info,) = json.loads(fleet(tmp_path, tmp_path, "policies", "load-balancing-with-memory", "--json"))

    assert info["location"] == "policies.routing.load_balancing_with_memory:LoadBalancingWithMemory"
    out = fleet(
        tmp_path, tmp_path, "simulate", "demo-surge", str(ROOT / "examples/small.toml"), "--first-s", "2",
        "--set", "routing=load-balancing-with-memory", "--json",
    )  # fmt: skip
    assert json.loads(out)
