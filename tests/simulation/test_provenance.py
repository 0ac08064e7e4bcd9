"""A run names the code that it ran, by module and SHA-256 of its source, and its fleet is built again from that."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import policies.routing.random as random_module
from fleet import (
    AffineLatency,
    EmulatedEngine,
    FleetSpec,
    ProfiledLatency,
    load_run,
    simulate,
)
from fleet.engines import Profile, ProfilePoint
from fleet.pools import ModelPolicies, PoolSpec
from fleet.spec import from_mapping
from policies import (
    Composed,
    InFlightScorer,
    NoBreaker,
    NoHedge,
    Pinned,
    PolicyError,
    Random,
    Route,
    RoutingPolicy,
)
from tests.conftest import ROOT
from traces import poisson

ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.01))
TRACE = poisson(20.0, 2.0)
OWN = '''
from policies import Route, RoutingPolicy


class FirstOne(RoutingPolicy):
    """Takes the first."""

    skip: int = 0

    def route(self, request, replicas, now_s):
        return Route(replicas[self.skip % len(replicas)].id)
'''
RUN = """
import sys
from fleet import AffineLatency, EmulatedEngine, FleetSpec, load_run, simulate
from traces import poisson
{define}
engine = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.01))
run = simulate(poisson(20.0, 2.0), FleetSpec(engine=engine, replicas=2, routing=FirstOne(skip=1)))
run.save("out")
print(run.digest)
"""


def python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A script in a fresh process that has only this project and its own folder to import from."""
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def made_in(folder: Path, source: str = OWN) -> str:
    """The digest of a run saved in `folder`/out by a process that has a policy of its own there."""
    folder.mkdir(exist_ok=True)
    (folder / "my_policies.py").write_text(source)
    done = python(folder, RUN.format(define="from my_policies import FirstOne"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run of a policy of one's own, and the run's digest."""
    folder = tmp_path_factory.mktemp("first")
    return folder, made_in(folder)


@pytest.fixture
def saved(first: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(first[0], tmp_path / "copy"))


def test_the_manifest_names_every_component_with_the_hash_of_its_file() -> None:
    spec = FleetSpec(engine=ENGINE, routing=Composed(scorers=[(1.0, InFlightScorer())]))
    found = {item.path: item for item in simulate(TRACE, spec).manifest.components}

    assert found["$.engine.latency"].component == "fleet.engines.latency.batches.affine:AffineLatency"
    assert found["$.routing.scorers[0][1]"].component == "policies.routing.in_flight_scorer:InFlightScorer"
    assert {"$.engine", "$.routing", "$.routing.picker", "$.scaling", "$.retry", "$.health"} <= set(found)
    for item in found.values():
        file = ROOT / (item.component.partition(":")[0].replace(".", "/") + ".py")
        assert (item.source, item.sha256) == ("file", hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_fleet_of_ones_own_policy_is_built_again_in_another_process(saved: Path) -> None:
    again = python(
        saved,
        "from fleet import load_run, simulate\nfrom traces import poisson\nrun = load_run('out')\n"
        "spec = run.fleet()\nprint(type(spec.routing).__module__, spec.routing.skip)\n"
        "print(simulate(poisson(20.0, 2.0), spec).digest == run.digest)",
    )
    assert again.stdout.split() == ["my_policies", "1", "True"], again.stderr


def test_the_spec_in_the_manifest_is_one_that_a_file_may_hold(saved: Path) -> None:
    manifest = json.loads((saved / "out/manifest.json").read_text())["manifest"]
    assert manifest["spec"]["routing"] == {"policy": "my_policies:FirstOne", "skip": 1}
    assert manifest["spec"]["batching"]["policy"] == "greedy"
    (saved / "fleet.json").write_text(json.dumps(manifest["spec"]))
    script = "from fleet import load_spec; print(load_spec('fleet.json').routing)"
    assert python(saved, script).stdout.strip() == "FirstOne(skip=1)"


def test_a_source_that_has_changed_is_refused_unless_it_is_allowed(saved: Path) -> None:
    (saved / "my_policies.py").write_text(OWN + "\n# changed\n")
    script = "from fleet import load_run; run = load_run('out')\n"
    done = python(saved, script + "print(run.fleet(allow_changed=True).routing)\nrun.fleet()")
    assert done.stdout.strip() == "FirstOne(skip=1)"
    assert "$.routing: the source of my_policies:FirstOne has changed since the run" in done.stderr


def test_a_module_that_is_not_to_be_had_is_named(saved: Path) -> None:
    (saved / "my_policies.py").unlink()
    with pytest.raises(PolicyError, match=r"^\$\.routing\.policy: there is no module `my_policies`"):
        load_run(saved / "out").fleet()


def test_a_digest_depends_on_the_source_and_on_no_path(first: tuple[Path, str], tmp_path: Path) -> None:
    _, here = first
    there = made_in(tmp_path / "there")
    other = made_in(tmp_path / "other", OWN.replace("Takes the first.", "Takes the very first."))
    assert here == there
    assert other != here


def test_a_class_of_a_script_is_hashed_by_its_own_text_and_cannot_be_built_elsewhere(tmp_path: Path) -> None:
    done = python(tmp_path, RUN.format(define=OWN))
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "out")
    item = next(item for item in run.manifest.components if item.path == "$.routing")
    text = OWN[OWN.index("class") :].rstrip()

    assert (item.component, item.source) == ("__main__:FirstOne", "class")
    assert item.sha256 == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(
        PolicyError, match=r"^\$\.routing\.policy: `FirstOne` was defined in a script or a notebook"
    ):
        run.fleet()


def test_a_class_whose_text_is_not_to_be_had_is_said_to_be_unknown(tmp_path: Path) -> None:
    define = f"exec(compile({OWN!r}, '<typed>', 'exec'))"
    done = python(tmp_path, RUN.format(define=define))
    assert done.returncode == 0, done.stderr
    item = next(item for item in load_run(tmp_path / "out").manifest.components if item.path == "$.routing")
    assert (item.source, item.sha256) == ("unknown", None)


def test_a_class_within_a_function_is_built_again_where_it_is_known() -> None:
    class Local(RoutingPolicy):
        def route(self, request, replicas, now_s):
            return Route(replicas[0].id)

    run = simulate(TRACE, FleetSpec(engine=ENGINE, routing=Local()))
    assert type(run.fleet().routing) is Local
    unknown = {**run.manifest.spec, "routing": {"policy": "tests.nowhere:f.<locals>.Local"}}
    with pytest.raises(PolicyError, match="is defined inside a function"):
        from_mapping(unknown)


def test_a_namesake_of_a_shipped_policy_is_told_apart(tmp_path: Path) -> None:
    made_in(tmp_path, OWN + "class Random(FirstOne): pass\n")
    script = RUN.format(define="from my_policies import Random as FirstOne")
    script += """
print(run.manifest.spec['routing'], load_run('out').fleet().routing)
from policies import Random
print(simulate(poisson(20.0, 2.0), FleetSpec(engine=engine, routing=Random())).fleet().routing)
"""
    printed = python(tmp_path, script).stdout.splitlines()[1:]
    assert printed == ["{'policy': 'my_policies:Random', 'skip': 1} Random(skip=1)", "Random()"]


def test_a_shipped_policy_that_has_changed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.telemetry import provenance

    run = simulate(TRACE, FleetSpec(engine=ENGINE, routing=Random()))
    monkeypatch.setitem(provenance._KNOWN, random_module.Random, ("file", "0" * 64))
    with pytest.raises(PolicyError, match=r"policies\.routing\.random:Random has changed"):
        run.fleet()


# --- files that are read -----------------------------------------------------------------------------------


def profile(folder: Path, seconds: float = 0.1) -> Path:
    folder.mkdir()
    points = (ProfilePoint(1, 0, seconds, seconds, seconds),)
    Profile(engine={}, repeats=1, load_s=0.0, machine={}, versions={}, points=points).save(
        folder / "measured.json"
    )
    return folder / "measured.json"


def test_a_file_that_was_read_counts_by_its_content_and_not_by_its_folder(tmp_path: Path) -> None:
    files = [profile(tmp_path / name) for name in ("a", "b")] + [profile(tmp_path / "c", 0.2)]
    latencies = [ProfiledLatency(profile=str(file)) for file in files]
    runs = [simulate(TRACE, FleetSpec(engine=EmulatedEngine(latency=latency))) for latency in latencies]

    assert runs[0].digest == runs[1].digest != runs[2].digest
    assert runs[0].manifest.spec["engine"]["latency"]["profile"] == "measured.json"
    assert runs[0].manifest.files == {"$.engine.latency.profile": str(files[0])}
    runs[1].save(tmp_path / "out")
    assert load_run(tmp_path / "out").fleet().engine.latency.profile == str(files[1])


# --- pools and models --------------------------------------------------------------------------------------


def test_components_of_pools_and_models_are_found_where_they_are_said(tmp_path: Path) -> None:
    measured = EmulatedEngine(latency=ProfiledLatency(profile=str(profile(tmp_path / "a"))))
    spec = FleetSpec(
        engine=ENGINE,
        models={"chat": ModelPolicies(rollout=Pinned(version="2"))},
        pools={
            "one": PoolSpec(model="chat", routing=Composed(scorers=[(1.0, InFlightScorer())])),
            "two": PoolSpec(model="chat", version="2", engine=measured),
        },
    )
    trace = TRACE.first(requests=10)
    run = simulate(trace, spec)
    found = {item.path: item.component.partition(":")[2] for item in run.manifest.components}

    assert found["$.engine.latency"] == "AffineLatency"
    assert found["$.pools.two.engine.latency"] == "ProfiledLatency"
    assert found["$.pools.one.routing.scorers[0][1]"] == "InFlightScorer"
    assert found["$.models.chat.rollout"] == "Pinned"
    assert "$.pools.one.engine" not in found, "it has that of the fleet"
    assert run.manifest.files == {"$.pools.two.engine.latency.profile": str(tmp_path / "a/measured.json")}
    assert run.manifest.spec["pools"]["two"]["engine"]["latency"]["profile"] == "measured.json"

    run.save(tmp_path / "out")
    again = load_run(tmp_path / "out").fleet()
    assert again == spec
    assert simulate(trace, again).digest == run.digest


def test_a_fleet_that_is_built_again_has_its_pools_in_their_order(tmp_path: Path) -> None:
    """Versions come as declared, and `Pinned` serves by the first: by another order it would be another fleet."""
    spec = FleetSpec(engine=ENGINE, pools={"z": PoolSpec(version="1"), "a": PoolSpec(version="2")})
    run = simulate(TRACE, spec)
    assert set(run.records["version"].to_pylist()) == {"1"}

    run.save(tmp_path / "out")
    again = load_run(tmp_path / "out").fleet()
    assert list(again.pools) == ["z", "a"]
    assert simulate(TRACE, again).digest == run.digest

    other = FleetSpec(engine=ENGINE, pools=dict(reversed(spec.pools.items())))
    assert simulate(TRACE, other).manifest.spec["pools"] == run.manifest.spec["pools"], "but for the order"
    assert simulate(TRACE, other).digest != run.digest


def test_a_pool_of_ones_own_policy_is_built_again_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "my_policies.py").write_text(OWN)
    pools = 'pools={"a": {"routing": FirstOne(skip=1)}, "b": {"model": "b"}}'
    script = RUN.format(define="from my_policies import FirstOne").replace("routing=FirstOne(skip=1)", pools)
    made = python(tmp_path, script)
    assert made.returncode == 0, made.stderr
    script = "from fleet import load_run; print(load_run('out').fleet().serving[0].routing)\n"
    assert python(tmp_path, script).stdout.strip() == "FirstOne(skip=1)"
    (tmp_path / "my_policies.py").write_text(OWN + "\n# changed\n")
    said = "$.pools.a.routing: the source of my_policies:FirstOne has changed since the run"
    assert said in python(tmp_path, script).stderr


def test_no_hedge_and_no_breaker_leave_a_manifest_as_it_was() -> None:
    plain = simulate(TRACE, FleetSpec(engine=ENGINE))
    said = simulate(TRACE, FleetSpec(engine=ENGINE, hedge=NoHedge(), breaker=NoBreaker()))
    assert said.digest == plain.digest
    assert not {"$.hedge", "$.breaker"} & {item.path for item in plain.manifest.components}
