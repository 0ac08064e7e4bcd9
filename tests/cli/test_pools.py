"""Pools on the command line: what `fleet show` says of a fleet, and `--set` and `--vary` that reach into its pools."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fleet import load_spec
from fleet.cli.comparing import candidates_of
from fleet.outline import outline
from policies import RolloutPolicy, Serve, VersionView
from tests.cli.conftest import SMALL, Fleet
from tests.conftest import ROOT
from traces import Request

POOLS = (
    SMALL
    + """
queue_capacity = 500
slo = { e2e_s = 2.0 }
routing = { policy = "power-of-two-choices", choices = 3 }

[models.chat]
rollout = { policy = "pinned", version = "2" }

[pools.small]
model = "chat"
variant = "small"
replicas = 4
min_replicas = 1
max_replicas = 8
device = "l4"
cost_per_hour = 0.8
quality = 0.7
capabilities = ["tools"]

[pools.large]
model = "chat"
variant = "large"
replicas = 2
cost_per_hour = 4.1
quality = 0.9
scaling = { policy = "queue-depth", up_at = 10, down_at = 3 }

[pools.large-2]
model = "chat"
variant = "large"
cost_per_hour = 2.0

[pools.embed]
model = "embed"
binding = "late"
cost_per_hour = 1.0
"""
)


@pytest.fixture
def pools(fleet: Fleet, tmp_path: Path) -> Fleet:
    (tmp_path / "pools.toml").write_text(POOLS)
    return fleet


def rows(out: str, first: str) -> list[str]:
    """The lines whose first word is this."""
    return [re.sub(r"\s+", " ", line).strip() for line in out.splitlines() if line.split()[:1] == [first]]


# --- show ------------------------------------------------------------------------------------------------------


def test_show_says_who_serves_what_with_which_policies_at_what_cost(pools: Fleet) -> None:
    ended = pools("show", "pools.toml")
    assert (ended.status, ended.err) == (0, "")
    out = ended.out
    assert out.startswith(
        "pools.toml: 2 models, 4 pools, 8 replicas (5 to 12), 14.40 an hour (12.00 to 17.60)\n"
    )
    assert rows(out, "chat")[0] == "chat 1 small small 4 0.7"
    assert "large large, large-2 3 0.9" in rows(out, "large")
    assert "small l4 early 4 1 to 8 0.80 0.7 500 2" in rows(out, "small")
    assert "embed - late 1 1 1.00 - 500 2" in rows(out, "embed")
    assert rows(out, "routing") == ["routing small, large, large-2 power-of-two-choices (choices = 3)"], (
        "embed: late"
    )
    assert rows(out, "queueing") == ["queueing every pool fifo"], "what is as it comes goes by its name"
    assert rows(out, "scaling") == ["scaling small, large-2, embed fixed"]
    assert re.search(r"^ +large +queue-depth \(up_at = 10.0, down_at = 3.0", out, re.MULTILINE)
    assert rows(out, "retry") == ["retry the fleet exponential-backoff"]
    assert rows(out, "capabilities") == ["capabilities small tools"]
    assert rows(out, "slo") == ["slo {e2e_s = 2.0}"]
    assert rows(out, "cost") == ["cost an hour 12.00 at least, 14.40 at first, 17.60 at most"]
    assert not rows(out, "iteration"), "nobody serves token by token"


def test_show_notes_what_is_odd_and_no_error(pools: Fleet) -> None:
    notes = [line for line in pools("show", "pools.toml").out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: $.models.chat.rollout.version: no pool serves version 2 of model chat yet; served: 1",
        "note: model chat, version 1: all go to variant small, none to large",
        "note: large, large-2: one heterogeneous fleet, variant large of version 1 of model chat; one routing policy "
        "sees the replicas of all",
    ]


NOTED = {
    "a version that gets nothing": (
        ['pools.large.version="2"', 'pools.large-2.version="2"', 'models.chat.rollout.version="1"'],
        "model chat: all go to version 1; 2 gets only requests that pin it, as chat@2",
    ),
    "a field that nobody has of the fleet": (
        ["device=a100", *(f"pools.{name}.device=l4" for name in ("large", "large-2", "embed"))],
        "$.device: has no effect, every pool says its own",
    ),
    "a price that is missing": (
        ["pools.more={model = \"embed\", binding = \"late\", variant = \"b\"}"],
        "no cost of the fleet: no cost_per_hour is said for more",
    ),
    "a variant that nobody serves": (
        ["models.chat.variants.policy=fixed-variant", "models.chat.variants.variant=huge"],
        "$.models.chat.variants.variant: no pool serves variant huge of model chat yet; served: small, large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTED)
def test_show_notes_each_of_these(case: str, pools: Fleet) -> None:
    changes, says = NOTED[case]
    out = pools("show", "pools.toml", *(word for change in changes for word in ("--set", change))).out
    assert f"note: {says}\n" in out
    assert f"note: {says}\n" not in pools("show", "pools.toml").out


CANARY = """
[models.chat]
rollout = { policy = "canary", version = "22" }
variants = { policy = "cascade", order = ["small", "lrage"] }
[pools.old]
model = "chat"
variant = "small"
[pools.new]
model = "chat"
version = "2"
variant = "small"
"""
CANARY_NOTES = """\
note: $.models.chat.rollout.version: no pool serves version 22 of model chat yet; served: 1, 2
note: $.models.chat.variants.order: no pool serves variant lrage of model chat yet; served: small
"""


@pytest.mark.parametrize("command", ["simulate", "replay", "compare", "serve"])
def test_whatever_runs_a_fleet_says_first_what_is_odd_in_it(
    command: str, fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "canary.toml").write_text(SMALL + CANARY)
    given: dict[str, tuple[object, ...]] = {
        "simulate": ("demo-surge", "canary.toml", "--first", 3),
        "replay": ("demo-surge", "canary.toml", "--first", 3),
        "compare": (
            "demo-surge",
            "canary.toml",
            "--first",
            3,
            "--seeds",
            2,
            "--vary",
            "queue_capacity=10,20",
        ),
        "serve": ("canary.toml", "--bind", "tcp://127.0.0.1:0", "--for-s", 0.1),
    }

    ended = fleet(command, *given[command])

    assert ended.err.startswith(CANARY_NOTES)
    assert "note: " not in ended.out
    assert CANARY_NOTES in fleet("show", "canary.toml").out


def test_compare_says_whose_is_odd_where_not_all_are(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "canary.toml").write_text(SMALL + CANARY)
    vary = 'models.chat.rollout.stable="1","2","3"'

    ended = fleet(
        "compare", "demo-surge", "canary.toml", "--first", 3, "--seeds", 1,
        "--vary", vary, "--set", "models.chat.variants=fixed-variant",
    )  # fmt: skip

    assert ended.err.splitlines() == [
        CANARY_NOTES.splitlines()[0],
        'note: "3": $.models.chat.rollout.stable: no pool serves version 3 of model chat yet; served: 1, 2',
    ]


def test_a_cost_is_not_made_up_where_a_pool_names_none(pools: Fleet) -> None:
    priced = 'pools.more={model = "embed", binding = "late", variant = "b"}'
    ended = json.loads(pools("show", "pools.toml", "--set", priced, "--json").out)
    assert ended["cost_per_hour"] == {"least": None, "now": None, "most": None}
    assert "an hour" not in pools("show", "pools.toml", "--set", priced).out.splitlines()[0]


def test_show_works_for_a_fleet_of_one_pool(fleet: Fleet) -> None:
    out = fleet("show", "small.toml", "--set", "replicas=2").out
    assert out.startswith("small.toml: one pool, 2 replicas\n")
    assert rows(out, "default") == ["default - early 2 2 - - 100,000 2"]
    assert "affine (base_s = 0.005, per_item_s = 0.002" in out
    assert "note: " not in out


def test_show_as_json_says_it_all(pools: Fleet) -> None:
    shown: dict[str, Any] = json.loads(pools("show", "pools.toml", "--json").out)
    chat = shown["models"][0]
    assert chat["versions"] == [
        {
            "version": "1",
            "variants": [
                {"variant": "small", "pools": ["small"]},
                {"variant": "large", "pools": ["large", "large-2"]},
            ],
        }
    ]
    assert chat["rollout"] == {"policy": "pinned", "version": "2"}
    small = shown["pools"][0]
    assert (small["replicas"], small["min_replicas"], small["max_replicas"]) == (4, 1, 8)
    assert small["components"]["routing"] == {"policy": "power-of-two-choices", "choices": 3}
    assert "routing" not in shown["pools"][3]["components"], "with late binding nobody routes"
    assert shown["replicas"] == {"least": 5, "now": 8, "most": 12}
    assert sorted(shown["policies"]) == ["admission", "health", "retry"]


def test_show_answers_a_mistake_in_one_line(pools: Fleet) -> None:
    ended = pools("show", "pools.toml", "--set", "pools.small.model=code")
    assert ended.status == 0, "a model need not have a table of its own"
    ended = pools("show", "pools.toml", "--set", "models.code.rollout=pinned")
    assert ended.status == 2
    assert ended.line.startswith("pools.toml: $.models.code: no pool serves it")


def test_names_in_nested_parameters_are_found() -> None:
    from fleet.serving_checks import NAMING, _names_in

    table = {
        "policy": "x",
        "version": "2",
        "inner": {"policy": "y", "versions": ["3", "4"]},
        "note": "none",
        "rules": {"b": ["x"]},
    }
    found = list(_names_in(table, NAMING["rollout"], "$"))
    assert found == [("$.version", "2"), ("$.inner.versions", "3"), ("$.inner.versions", "4")]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda file: file.name)
def test_every_example_can_be_shown_without_a_note(file: Path) -> None:
    if "[[faults]]" in file.read_text():
        return
    assert outline(load_spec(file)).notes == ()


def test_a_version_given_as_a_number_is_told_how_to_be_text(pools: Fleet) -> None:
    for path in ("pools.large.version", "models.chat.rollout.version"):
        ended = pools("show", "pools.toml", "--set", f"{path}=2")
        assert ended.line.endswith(f"""; on the command line, '{path}="2"'""")
        assert pools("show", "pools.toml", "--set", f'{path}="2"').status == 0


class SeveralLines(RolloutPolicy):
    """A stage that only a file could hold."""

    def reset(self, rng: Random) -> None:
        self.stage = "held:\n\x1b[2Jerrors"

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        return Serve(versions[0].version)


def test_a_stage_of_several_lines_is_printed_in_one(pools: Fleet) -> None:
    ended = pools(
        "simulate", "demo-surge", "pools.toml", "--first", 5, "--assign", "model=chat", "--set",
        f"models.chat.rollout={SeveralLines.__module__}:SeveralLines", "--set", 'pools.large.version="2"',
        "--set", 'pools.large-2.version="2"',
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert "0.0 s  chat: held: \\x1b[2Jerrors\n" in ended.out


# --- set and vary ------------------------------------------------------------------------------------------------


def test_set_reaches_into_a_pool(pools: Fleet) -> None:
    changes = ("--set", "pools.embed.replicas=3", "--set", "pools.small.engine.latency.base_s=0.02")
    shown = json.loads(pools("show", "pools.toml", *changes, "--json").out)
    by_name = {pool["pool"]: pool for pool in shown["pools"]}
    assert by_name["embed"]["replicas"] == 3
    latencies = {name: pool["components"]["engine"]["latency"]["base_s"] for name, pool in by_name.items()}
    assert latencies == {"small": 0.02, "large": 0.005, "large-2": 0.005, "embed": 0.005}


def test_a_pool_that_is_not_there_is_answered_with_those_that_are(pools: Fleet) -> None:
    ended = pools("show", "pools.toml", "--set", "pools.smal.replicas=3")
    assert ended.status == 2
    assert ended.line.startswith(
        "pools.toml: $.pools.smal: there is no such pool; did you mean `small`?; there are "
    )
    assert ended.line.endswith("small, large, large-2, embed")
    ended = pools("show", "small.toml", "--set", "pools.small.replicas=3")
    assert "the fleet names none, it is one pool by itself" in ended.line


@pytest.mark.parametrize(
    ("change", "name"), [("pools.v1.5={}", "v1"), ("pools.v1.5.replicas=2", "v1.5"), ("pools.v1.5.x=2", "v1")]
)
def test_a_new_name_with_dots_is_told_how_to_be_written(pools: Fleet, change: str, name: str) -> None:
    line = pools("show", "pools.toml", "--set", change).line
    assert line.startswith(f"pools.toml: $.pools.{name}: there is no such pool")
    assert line.endswith("""; a name with dots in it is written in quotes, as in `pools."v1.5"`""")
    assert pools("show", "pools.toml", "--set", 'pools."v1.5"={version = "3"}').status == 0
    quoted = ("--set", 'pools."v1.5"={}', "--set", 'pools."v1.5".version=3')
    assert pools("show", "pools.toml", *quoted).line.endswith(
        """; on the command line, 'pools."v1.5".version="3"'"""
    )


def test_a_field_of_the_fleet_that_nothing_takes_is_not_set(fleet: Fleet, tmp_path: Path) -> None:
    own = SMALL.removeprefix("engine = ")
    (tmp_path / "own.toml").write_text(f"[pools]\na = {{ engine = {own.strip()} }}\n")
    assert fleet("show", "own.toml", "--set", "engine.latency.base_s=0.1").line == (
        "own.toml: $.engine: nothing takes it, for every pool says its own; say whose, as in "
        "`pools.a.engine.latency.base_s`"
    )
    assert fleet("show", "own.toml", "--set", "pools.a.engine.latency.base_s=0.1").status == 0


def test_candidates_of_pools_have_readable_names(pools: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    assert list(candidates_of([file], [], ["pools.large.replicas=1,2"])) == ["1", "2"]
    both = candidates_of([file], [], ["pools.large.replicas=1,2", 'models.chat.rollout.version="1","2"'])
    assert next(iter(both)) == 'large.replicas=1, chat.rollout.version="1"'
    assert len(both) == 4
    assert [spec.pools["large"].replicas for spec in both.values()] == [1, 1, 2, 2]


def test_compare_varies_a_pool(pools: Fleet) -> None:
    ended = pools(
        "compare", "demo-surge", "pools.toml", "--first-s", 2, "--set", "pools.other={}",
        "--vary", "pools.other.replicas=1,3", "--seeds", 2, "--metrics", "e2e_s.p99",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert "baseline: 1" in ended.out


def test_profile_asks_whose_engine_where_there_are_several(pools: Fleet) -> None:
    asked = ("profile", "pools.toml", "--batch-sizes", 1, "--repeats", 1, "--warmup", 0)
    assert pools(*asked).status == 0, "all pools have the fleet's"
    several = (*asked, "--set", "pools.embed.engine.latency.base_s=0.05")
    assert pools(*several).line == (
        "profile: pools.toml has several engines; say whose with --pool: small, large, large-2, embed"
    )
    assert "52.000" in pools(*several, "--pool", "embed").out
    assert "did you mean embed?" in pools(*several, "--pool", "embd").line
