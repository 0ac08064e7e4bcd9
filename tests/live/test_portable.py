"""What a host lets a head name: components of installed distributions, and of modules that its user named."""

import sys

import msgspec
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.actor import FleetError
from fleet.launch.host import ReplicaHost
from fleet.launch.portable import decode_settings, demand_importable, encode_settings, modules_of
from fleet.messages import HostReplica, ReplicaReported
from fleet.runs.assembly import replica_settings
from fleet.runs.live_head import LiveHead
from policies import PolicyError

ENGINE = '''
import sys
from pathlib import Path
from fleet.engines.base import BatchEngine

Path(__file__).with_suffix(".ran").touch()


class Mine(BatchEngine):
    """An engine of somebody's own."""

    latency: int = 1

    def load(self, ctx): ...
    def run(self, batch, work): ...
    def unload(self): ...
    def cancel(self, batch): ...
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a mark when it is."""
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "somebodys" / "__init__.py").touch()
    (tmp_path / "somebodys" / "engines.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("somebodys", "somebodys.engines"):
        sys.modules.pop(name, None)


def was_imported(path) -> bool:
    return (path / "somebodys" / "engines.ran").exists()


def settings(**changes) -> bytes:
    spec = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0)))
    return msgspec.json.encode(
        {**msgspec.json.decode(encode_settings(replica_settings(spec, "replica/0", 0))), **changes}
    )


MINE = {"engine": "somebodys.engines:Mine"}


def test_settings_arrive_as_they_were_sent():
    engine = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.2))
    spec = FleetSpec(engine=engine, weights=(2.0, 0.5), replicas=2, quality=0.7)
    sent = replica_settings(spec, "replica/3", 7)
    arrived = decode_settings(encode_settings(sent))
    assert (arrived.engine, arrived.seed, arrived.weight) == (sent.engine, 7, 0.5)
    assert (arrived.slowness, arrived.quality) == (4.0, 0.7)
    assert modules_of(sent) == []


def test_a_replica_is_told_what_its_pool_says():
    engines = {
        name: EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=n)) for n, name in enumerate("ab")
    }
    pools = {name: {"engine": engine, "model": name} for name, engine in engines.items()}
    pools["b"] |= {"quality": 0.25, "weights": (1.0, 0.2), "replicas": 2, "max_inflight_batches": 7}
    spec = FleetSpec(pools=pools)
    told = {name: replica_settings(spec, f"replica/{name}/1", 0) for name in "ab"}
    assert {name: settings.engine for name, settings in told.items()} == engines
    assert (told["a"].quality, told["a"].slowness, told["a"].max_inflight_batches) == (None, 1.0, 2)
    assert (told["b"].quality, told["b"].slowness, told["b"].max_inflight_batches) == (0.25, 5.0, 7)


@pytest.mark.parametrize("named", [(), ("somebody",), ("somebodys.engin",), ("engines",), ("other", "")])
def test_a_module_that_nobody_named_is_not_imported(module, named):
    with pytest.raises(FleetError, match=r"\$\.engine\.engine: module `somebodys\.engines` .*--allow-module"):
        decode_settings(settings(engine=MINE), named)
    assert not was_imported(module)


@pytest.mark.parametrize("named", ["somebodys", "somebodys.engines"])
def test_a_module_that_was_named_is_imported_and_what_is_below_it(module, named):
    assert type(decode_settings(settings(engine=MINE), (named,)).engine).__name__ == "Mine"
    assert was_imported(module)


def test_an_installed_distribution_needs_no_naming(module):
    information = module / "somebodys-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("somebodys\n")
    assert type(decode_settings(settings(engine=MINE)).engine).__name__ == "Mine"


@pytest.mark.parametrize(
    "component",
    [
        {"engine": "antigravity:x"}, {"engine": "os:system"}, {"engine": "somebodys.engines:Mine"},
        {"engine": "pip.__main__:main"}, {"engine": "pytest.__main__:x"},
        {"engine": "emulated", "latency": {"latency": "somebodys.engines:Mine"}},
        {"engine": "torch", "module": "somebodys.engines:Mine"},
        {"engine": "torch", "module": "torch.nn:Linear", "kwargs": {"x": [{"y": "antigravity:geohash"}]}},
    ],
)  # fmt: skip
def test_wherever_a_module_is_named_it_is_asked_about_before_anything_is_imported(module, component):
    before = set(sys.modules)
    with pytest.raises(FleetError, match="not started with --allow-module"):
        decode_settings(settings(engine=component))
    assert not was_imported(module)
    assert not {
        name for name in set(sys.modules) - before if name.partition(".")[0] in ("antigravity", "pip")
    }


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b'{"engine": null}', settings(engine=7), settings(engine={}),
        settings(weight=0.0), settings(report_interval_s=0.0), settings(report_interval_s=-1),
        settings(max_inflight_batches=0), settings(seed="x"), settings(nonsense=1), settings(iteration={"policy": "x"}),
        settings(engine={"engine": "emulated"}), settings(slowness=0.5), settings(slowness=-1.0),
        settings(quality=1.5), settings(quality=-0.1), settings(quality="good"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_an_error_and_nothing_else(data):
    with pytest.raises((FleetError, PolicyError)):
        decode_settings(data)


def test_what_a_run_names_itself_its_own_hosts_may_import(module):
    from somebodys.engines import Mine

    assert modules_of(replica_settings(FleetSpec(engine=Mine()), "replica/0", 0)) == ["somebodys.engines"]


def test_operations_may_name_what_the_specification_names_and_what_its_user_did(module):
    from somebodys.engines import Mine

    head = LiveHead(FleetSpec(pools={"a": {"engine": Mine()}}), seed=0, allow_modules=["others"])
    head.node.close()
    assert head.modules == ["others", "somebodys.engines"]
    for named in ("somebodys.engines:Mine", "others.engines:Theirs"):
        demand_importable({"spec": {"engine": {"engine": named}}}, head.modules)
    for named in ("somebodys.policies:Mine", "somebodys:Mine", "antigravity:x"):
        with pytest.raises(FleetError, match=r"\$\.spec\.engine\.engine: module"):
            demand_importable({"spec": {"engine": {"engine": named}}}, head.modules)


# --- the host -------------------------------------------------------------------------------------------


class FakeRuntime:
    """What a host does to its runtime."""

    node = None

    def __init__(self) -> None:
        self.sent, self.added = [], []
        self.loop = self
        self.stop = object()

    def send(self, to, sender, message):
        self.sent.append((to, sender, message))

    def add(self, address, actor):
        self.added.append(address)

    def call_later(self, delay_s, what):
        self.stopping = what


class FakeContext:
    address = "host/a"


@pytest.mark.parametrize("data", [settings(engine=MINE), b"", b"{}", settings(iteration={"policy": "x"})])
def test_a_host_that_cannot_be_what_it_is_told_reports_that_as_the_replica_and_says_so(module, data):
    runtime = FakeRuntime()
    host = ReplicaHost(runtime)
    host.start(FakeContext())
    host.receive(HostReplica("replica/0", data))
    ((to, sender, report),) = runtime.sent
    assert (to, sender) == ("observers", "replica/0")
    assert isinstance(report, ReplicaReported)
    assert report.state == "failed"
    assert host.problem.startswith("it cannot be replica/0: ")
    assert not was_imported(module)
    assert not runtime.added


@pytest.mark.parametrize("replica", ["router", "client/x", "replica/x", "", "host/a"])
def test_a_host_becomes_a_replica_and_nothing_else(replica):
    runtime = FakeRuntime()
    host = ReplicaHost(runtime)
    host.start(FakeContext())
    host.receive(HostReplica(replica, settings()))
    assert not runtime.sent + runtime.added
    host.receive(HostReplica("replica/0", settings()))
    assert runtime.added == ["replica/0"]


def test_distributions_are_read_once_however_many_modules_are_named(monkeypatch):
    import importlib.metadata

    reads = []
    monkeypatch.setattr(
        importlib.metadata, "packages_distributions", lambda: reads.append(1) or {"numpy": ["numpy"]}
    )

    demand_importable({"spec": {"many": ["numpy:array"] * 1_000}})
    with pytest.raises(FleetError, match=r"\$.last: module `os` is not of an installed distribution"):
        demand_importable({"many": ["numpy:array"] * 1_000, "last": "os:system"})

    assert len(reads) == 2
