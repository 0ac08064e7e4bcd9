"""The commands that change a running fleet: what they send, what they print, and what they say is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

import fleet as package
from fleet import FleetError, load_run
from fleet.cli.operating import pool_table
from fleet.cli.values import UsageError
from tests.cli.conftest import SMALL, Fleet

HEAD = "tcp://127.0.0.1:5555"
VERSION = {
    "model": "m", "ready": 1, "in_flight": 2, "queue_depth": 0, "completions": 1_200, "failures": 3,
    "error_fraction": 0.0025, "attainment": None, "quality": 0.71234, "cost_per_hour": None,
    "expected_service_s": 0.005, "as_of_s": 1.0, "e2e_s_p50": 0.0061, "e2e_s_p99": 0.0127, "ttft_s_p50": None,
    "ttft_s_p99": None, "pools": ["v1", "v1-spot"],
}  # fmt: skip
POOL = {
    "model": "m", "version": "1", "variant": "default", "device": "l4", "cost_per_hour": None,
    "replicas": {"ready": 1}, "min_replicas": 1, "max_replicas": 1, "desired": 1, "retired": False, "failed_starts": 0,
    "failure": None, "in_flight": 2, "queue_depth": 1, "completed": 1_200, "not_completed": 3,
}  # fmt: skip
STATUS = {
    "now_s": 12.5,
    "requests": {"submitted": 1_205, "in_flight": 2, "completed": 1_200, "failed": 3},
    "models": {"m": {
        "rollout": "canary", "stage": "canary 5 %", "variants": "fixed-variant", "versions": {"1": VERSION},
    }},
    "pools": {
        "v1": POOL,
        "v2": {**POOL, "version": "2", "variant": "small", "replicas": {"draining": 1, "ready": 1}, "retired": True,
               "failed_starts": 2, "failure": "replica/v2/3: the engine failed to load: no such file"},
    },
}  # fmt: skip


class Head:
    """Stands in for a connection to a head: keeps what it was asked, and answers from a list."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.connected: tuple[str, dict[str, Any]] | None = None
        self.statuses: list[dict[str, Any]] = [STATUS]
        self.error: str | None = None

    def operator(self, head: str, **connection: Any) -> "Head":
        self.connected = head, connection
        return self

    async def __aenter__(self) -> "Head":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def ask(self, operation: dict[str, Any]) -> None:
        self.asked.append(operation)
        if self.error is not None:
            raise FleetError(self.error)

    async def status(self) -> dict[str, Any]:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    async def wait_until(self, reached: Any, within_s: float) -> bool:
        for _ in range(5):
            if reached(await self.status()):
                return True
        return False

    def operate(self, head: str, operation: dict[str, Any], **connection: Any) -> dict[str, Any]:
        self.connected = head, connection
        self.asked.append(operation)
        return self.statuses[0]


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    stand_in = Head()
    monkeypatch.setattr(package, "FleetOperator", stand_in.operator)
    monkeypatch.setattr(package, "operate", stand_in.operate)
    return stand_in


# --- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "operation"), [
    (("retire", HEAD, "v1"), {"kind": "retire", "pool": "v1"}),
    (("scale", HEAD, "v1", 4), {"kind": "scale", "pool": "v1", "replicas": 4}),
    (("scale", HEAD, "v1", 0), {"kind": "scale", "pool": "v1", "replicas": 0}),
    (("scale", HEAD, "v1", "--min", 0, "--max", 8),
     {"kind": "scale", "pool": "v1", "min_replicas": 0, "max_replicas": 8}),
    (("rollout", "promote", HEAD, "m"), {"kind": "promote", "model": "m"}),
    (("rollout", "rollback", HEAD, "m"), {"kind": "rollback", "model": "m"}),
    (("rollout", "start", HEAD, "m", "canary", "--set", "share=0.1", "--set", 'version="3"',
      "--set", "gates.alpha=0.05"),
     {"kind": "rollout", "model": "m",
      "policy": {"policy": "canary", "share": 0.1, "version": "3", "gates": {"alpha": 0.05}}}),
    (("deploy", HEAD, "v2"), {"kind": "deploy", "pool": "v2", "spec": {}}),
    (("deploy", HEAD, "v2", "--set", 'version="2"', "--set", "routing=round-robin"),
     {"kind": "deploy", "pool": "v2", "spec": {"version": "2", "routing": {"policy": "round-robin"}}}),
])  # fmt: skip
def test_a_command_asks_for_one_operation(
    fleet: Fleet, head: Head, command: Any, operation: dict[str, Any]
) -> None:
    done = fleet(*command)

    assert done.status == 0, done.err
    assert head.asked == [operation]
    assert done.out.count("\n") == 1
    assert head.connected == (HEAD, {"keys": None, "server_key": None, "insecure": False, "timeout_s": 30.0})


def test_keys_and_patience_are_passed_on(fleet: Fleet, head: Head) -> None:
    fleet("status", HEAD, "--keys", "me.toml", "--server-key", "abc", "--timeout-s", 5)

    assert head.connected == (
        HEAD,
        {"keys": Path("me.toml"), "server_key": "abc", "insecure": False, "timeout_s": 5.0},
    )


# --- files -------------------------------------------------------------------------------------------------------

FLEET_FILE = (
    SMALL
    + """
queue_capacity = 500
admission = { policy = "queue-limit" }
[pools.v1]
version = "1"
[pools.v2]
version = "2"
replicas = 3
queue_capacity = 9
"""
)


def test_a_file_is_a_pools_table_or_a_fleets_file_that_has_one(tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text('version = "2"\nreplicas = 3\n')
    (tmp_path / "fleet.toml").write_text(FLEET_FILE)

    assert pool_table(tmp_path / "pool.toml", "v2", ["replicas=5"]) == {"version": "2", "replicas": 5}
    assert pool_table(tmp_path / "fleet.toml", "v2", []) == {
        "version": "2", "replicas": 3, "queue_capacity": 9,
        "engine": {"engine": "emulated", "latency": {"latency": "affine", "base_s": 0.005, "per_item_s": 0.002}},
    }, "what the file says for all its pools goes with it, and what is the fleet's alone does not"  # fmt: skip
    assert pool_table(None, "v2", []) == {}


def test_a_change_within_what_the_file_says_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET_FILE)

    table = pool_table(tmp_path / "fleet.toml", "v2", ["engine.latency.base_s=0.5"])

    assert table["engine"]["latency"] == {"latency": "affine", "base_s": 0.5, "per_item_s": 0.002}


def test_a_fleets_file_without_that_pool_is_a_mistake_that_says_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET_FILE)

    with pytest.raises(UsageError, match=r"\$.pools.v3: there is no such pool; there are v1, v2"):
        pool_table(tmp_path / "fleet.toml", "v3", [])


# --- waiting -----------------------------------------------------------------------------------------------------


def of_v1(**changes: Any) -> dict[str, Any]:
    return {**STATUS, "pools": {"v1": {**POOL, **changes}}}


def test_a_command_that_waits_says_that_it_got_there(fleet: Fleet, head: Head) -> None:
    loading, there = (
        of_v1(replicas={"loading": 1, "ready": 1}, desired=2),
        of_v1(replicas={"ready": 2}, desired=2),
    )

    head.statuses = [{**STATUS, "pools": {}}, loading, there]
    assert fleet("deploy", HEAD, "v1", "--wait-s", 9).out == "pool v1 is ready\n"
    head.statuses = [
        of_v1(replicas={"ready": 2}, desired=1),
        of_v1(replicas={"draining": 1, "ready": 1}),
        of_v1(),
    ]
    assert fleet("scale", HEAD, "v1", 1, "--wait-s", 9).out == "pool v1 has its replicas\n"
    assert len(head.statuses) == 1, "it waited for the one that drained"
    head.statuses = [of_v1(retired=True), {**STATUS, "pools": {}}]
    assert fleet("retire", HEAD, "v1", "--wait-s", 9).out == "pool v1 is gone\n"


def test_a_command_that_waited_in_vain_fails_and_says_how_far_it_got_and_why(
    fleet: Fleet, head: Head
) -> None:
    head.statuses = [of_v1(replicas={"loading": 1, "ready": 1}, desired=3, failure="replica/v1/7: no memory")]

    done = fleet("deploy", HEAD, "v1", "--wait-s", 9)

    assert done.status == 1
    assert done.out == ""
    assert done.line == (
        "pool v1 is deployed, and not there after 9 s: 1 loading, 1 ready, 3 wanted; replica/v1/7: no memory"
    )


# --- what is printed ---------------------------------------------------------------------------------------------


def test_a_status_shows_requests_pools_and_versions(fleet: Fleet, head: Head) -> None:
    lines = [line.split() for line in fleet("status", HEAD).out.splitlines()]

    assert [
        "requests",
        "1,205",
        "submitted,",
        "2",
        "in",
        "flight,",
        "1,200",
        "completed,",
        "3",
        "failed",
    ] in lines
    assert ["v1", "m@1", "1", "ready", "1", "to", "1", "l4", "2", "1", "1,200", "3"] in lines
    assert [
        "v2",
        "m@2",
        "small",
        "1",
        "draining,",
        "1",
        "ready",
        "retired",
        "l4",
        "2",
        "1",
        "1,200",
        "3",
    ] in lines
    failure = "v2: 2 failed starts in a row: replica/v2/3: the engine failed to load: no such file"
    assert failure.split() in lines
    assert ["model", "m:", "canary,", "canary", "5", "%"] in lines
    assert ["1", "v1,", "v1-spot", "1", "2", "1,200", "3", "6.1", "12.7", "0.2%", "-", "0.712"] in lines


def test_what_nobody_knows_is_a_dash(fleet: Fleet, head: Head) -> None:
    unknown = dict.fromkeys(
        ("completions", "failures", "e2e_s_p50", "e2e_s_p99", "error_fraction", "quality")
    )
    head.statuses = [
        {**STATUS, "models": {"m": {**STATUS["models"]["m"], "versions": {"1": {**VERSION, **unknown}}}}}
    ]

    assert fleet("rollout", "status", HEAD, "m").out.splitlines()[-1].split() == (
        ["1", "v1,", "v1-spot", "1", "2", "-", "-", "-", "-", "-", "-", "-"]
    )


def test_as_json_it_is_what_the_head_said(fleet: Fleet, head: Head) -> None:
    assert json.loads(fleet("status", HEAD, "--json").out) == STATUS
    assert json.loads(fleet("rollout", "status", HEAD, "m", "--json").out) == STATUS["models"]["m"]


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "complaint"), [
    (("scale", HEAD, "v1"), "scale: needs N, the number of replicas, or --min N, or --max N"),
    (("scale", HEAD, "v1", "many"), "must be a whole number, not 'many'"),
    (("scale", HEAD, "v1", "--min", -1), "must be a whole number, not '-1'"),
    (("scale", "localhost", "v1", 1), "must be an endpoint such as tcp://127.0.0.1:5555"),
    (("rollout", "sart", HEAD, "m"), "invalid choice: 'sart'"),
    (("rollout", "status", HEAD, "n"), "rollout status: no pool serves n"),
    (("deploy", HEAD, "v1", "missing.toml"), "missing.toml: cannot be read: No such file or directory"),
    (("deploy", HEAD, "v1", "--set", "replicas"), "--set and --vary take PATH=VALUE"),
    (("deploy", HEAD, "v1", "--set", "cost_per_hour=nan"), "$.spec.cost_per_hour: expected a finite number, got nan"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_asked(
    fleet: Fleet, head: Head, command: Any, complaint: str
) -> None:
    done = fleet(*command)

    assert done.status == 2
    assert complaint in done.line
    assert head.asked in ([], [{"kind": "status"}])


def test_what_the_head_says_is_wrong_is_said_in_words_of_the_command_line(fleet: Fleet, head: Head) -> None:
    head.error = '$.spec.version: the name of a version is text, not 2; write "2"'

    done = fleet("deploy", HEAD, "v2", "--set", "version=2")

    assert (done.status, done.line) == (2, f"{head.error}; on the command line, 'version=\"2\"'")


# --- an operations trace -----------------------------------------------------------------------------------------

RELEASE = """
[[operations]]
at_s = 1.0
kind = "deploy"
pool = "v2"
spec = { version = "2" }
[[operations]]
at_s = 2.0
kind = "rollout"
model = "default"
policy = { policy = "pinned", version = "2" }
[[operations]]
at_s = 900.0
kind = "retire"
pool = "default"
"""


def test_a_simulation_plays_operations_and_says_which_come_too_late(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text(RELEASE)

    done = fleet(
        "simulate", "demo-surge", "small.toml", "--first-s", 5, "--operations", "release.toml", "--out", "run"
    )

    assert done.status == 0, done.err
    assert "release.toml: 1 of 3 operations come after the last request (" in done.err
    run = load_run(tmp_path / "run")
    kinds = [item["kind"] for item in run.manifest.options["operations"]["operations"]]
    assert kinds == ["deploy", "rollout", "retire"]
    assert {pool.split("/")[1] for pool in run.records["replica"].to_pylist()} == {"0", "v2"}
    assert (
        "\noperations\n       1.0 s  v2: deploy (default@2, 1 replicas)\n       2.0 s  default: rollout (pinned)\n"
        in done.out
    )


def test_what_operators_did_to_one_pool_is_printed_too_and_what_nobody_serves_says_so(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "scale.toml").write_text(
        "[[operations]]\nat_s = 0.5\nkind = 'scale'\npool = 'default'\nreplicas = 2\n"
        "[[operations]]\nat_s = 1.0\nkind = 'retire'\npool = 'default'\n"
    )
    asked = ("simulate", "demo-surge", "small.toml", "--first-s", 2, "--operations", "scale.toml")

    done = fleet(*asked)

    assert (
        "\noperations\n       0.5 s  default: scale (2 to 2 replicas)\n       1.0 s  default: retire\n"
        in done.out
    )
    assert "it asks for no model; served are none\n" in done.out
    shown = json.loads(fleet(*asked, "--json").out)
    assert [item["operation"] for item in shown["operations"]] == ["scale", "retire"]
    assert "operations" not in json.loads(fleet(*asked[:-2], "--json").out)


def test_a_trace_without_an_operation_is_said_to_be_so(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text("# nothing yet\n")

    done = fleet("simulate", "demo-surge", "small.toml", "--first", 5, "--operations", "release.toml")

    assert (done.status, done.err) == (
        0, "release.toml: holds no operation; each is an [[operations]] of its own\n",
    )  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), [
    ("operations = 3", "is not an operations trace: Expected `array`"),
    ("[[operations]]\nat_s = 1.0\nkind = 'retire'", "pool: missing; retire needs pool"),
    ("[[operations]]\nat_s = 1.0\nkind = 'retire'\npool = 'v9'", "operations[0] at 1 s: $.pool: there is no pool 'v9'"),
    ("[[operations]]\nat_s = 1.0\nkind = 'promote'\nmodel = 'default'",
     "operations[0] at 1 s: pinned has no stages to promote"),
    ("[[operations]]\nat_s = 1.0\nkind = 'rollback'\nmodel = 'x'",
     "operations[0] at 1 s: no model 'x' is served; served are default"),
    ("", "release.toml: is empty; expected {\"operations\": [{\"at_s\": 20.0"),
    ("[[operations", "is not an operations trace: Expected"),
])  # fmt: skip
def test_an_operations_trace_that_cannot_be_is_one_line(
    fleet: Fleet, tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "release.toml").write_text(text)

    done = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5, "--operations", "release.toml")

    assert done.status == 2
    assert complaint in done.line
