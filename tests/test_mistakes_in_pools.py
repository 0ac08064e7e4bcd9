"""Each mistake in pools and models is an error that names its path and its remedy, whatever way it is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from fleet import load_spec
from fleet.reading import read_table
from fleet.spec import from_mapping
from policies import LeastOutstanding, PolicyError
from tests.fleets import LLM, TWO, WAYS, Way, changed, toml

MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown device": (
        changed("pools.large.engine", {**LLM, "kv": {"model": "llama-3.1-8b", "device": "l5"}}),
        "$.pools.large.engine.kv.device",
        "l4",
    ),
    "a rollout share out of bounds": (
        changed("models.chat.rollout", {"policy": "newest", "least": 0.5}),
        "$.models.chat.rollout.least",
        "Expected `int`",
    ),
    "a parameter out of bounds": (
        changed("pools.large.routing.choices", 0),
        "$.pools.large.routing.choices",
        "Expected `int` >= 1",
    ),
    "an unknown policy": (
        changed("pools.large.routing", {"policy": "power-of-tow-choices"}),
        "$.pools.large.routing.policy",
        "did you mean `power-of-two-choices`",
    ),
    "a policy of another slot": (
        changed("models.chat.rollout", {"policy": "fixed-variant"}),
        "$.models.chat.rollout.policy",
        "it is a policy of another slot: variants",
    ),
    "a rollout that is null": (
        changed("models.chat.rollout", ""),
        "$.models.chat.rollout",
        'a table such as {policy = "..."}',
    ),
    "a model without a pool": (
        changed("models.code", {}),
        "$.models.code",
        'no pool serves it; give one `model = "code"` (small serves chat, large serves chat)',
    ),
    "a misspelt field": (
        changed("pools.large.replica", 2),
        "$.pools.large.replica",
        "did you mean `replicas`",
    ),
    "a field of the fleet in a pool": (
        changed("pools.large.slo", {"e2e_s": 1.0}),
        "$.pools.large.slo",
        "a pool has no such field; it belongs to the whole fleet, outside of [pools] and [models]",
    ),
    "health in a pool": (
        changed("pools.large.health", {"policy": "consecutive-failures"}),
        "$.pools.large.health",
        "it belongs to the whole fleet",
    ),
    "a field of a model in a pool": (
        changed("pools.large.rollout", {"policy": "pinned"}),
        "$.pools.large.rollout",
        "it belongs to a model, in [models.NAME]",
    ),
    "the plural of a pool's field": (
        changed("pools.large.variants", "large"),
        "$.pools.large.variants",
        "did you mean `variant`",
    ),
    "a field of a pool in a model": (
        changed("models.chat.replicas", 2),
        "$.models.chat.replicas",
        "a model has no such field; it belongs to a pool, in [pools.NAME]",
    ),
    "a field of a pool in the fleet": (
        changed("version", "2"),
        "$.version",
        "it belongs to a pool, in [pools.NAME]",
    ),
    "a rollout in the fleet": (
        changed("rollout", {"policy": "pinned"}),
        "$.rollout",
        "it belongs to a model, in [models.NAME]",
    ),
    "a pool with a space": (
        changed("pools.very large", {}),
        "$.pools.very large",
        "'very large' cannot name a pool: letters, digits",
    ),
    "a pool with a slash": (changed("pools.a/b", {}), "$.pools.a/b", "cannot name a pool"),
    "a pool with a line break": (
        changed("pools.large\n", {}),
        "$.pools.large\n",
        "'large\\n' cannot name a pool",
    ),
    "a model with a line break": (
        changed("pools.large.model", "chat\n"),
        "$.pools.large.model",
        "'chat\\n' cannot name a model",
    ),
    "a model with an @": (
        changed("models.chat@2", {}),
        "$.models.chat@2",
        "no `@`, which parts model and version",
    ),
    "a pool of a model with an @": (
        changed("pools.large.model", "chat@2"),
        "$.pools.large.model",
        "'chat@2' cannot name a model",
    ),
    "a version that is a number": (
        changed("pools.large.version", 2),
        "$.pools.large.version",
        'the name of a version is text, not 2; write "2"',
    ),
    "a capability with a space": (
        changed("pools.large.capabilities", ["vision", "a b"]),
        "$.pools.large.capabilities[1]",
        "cannot name a capability",
    ),
    "a pool that is no table": (changed("pools.large", 3), "$.pools.large", "expected a table, got 3"),
    "pools in an array": (
        changed("pools", [{"replicas": 2}]),
        "$.pools",
        "expected a table for each pool, `[pools.NAME]`",
    ),
    "an engine that is missing": (
        changed("engine", ...),
        "$.pools.small.engine",
        "missing; each pool needs one of its own",
    ),
    "more replicas than its own bound": (
        changed("pools.large", {"replicas": 4, "max_replicas": 3}),
        "$.pools.large.replicas",
        "4 is not within min_replicas=4 and max_replicas=3",
    ),
    "more replicas than the fleet's bound": (
        {**changed("pools.large.replicas", 9), "max_replicas": 8, "min_replicas": 1},
        "$.pools.large.replicas",
        "9 is not within min_replicas=1 and max_replicas=8 (of the fleet, as the pool says none of its own: "
        "min_replicas, max_replicas)",
    ),
    "the fleet's replicas over a pool's bound": (
        {**changed("pools.large.max_replicas", 2), "replicas": 3},
        "$.pools.large.replicas",
        "3 is not within min_replicas=3 and max_replicas=2 (of the fleet, as the pool says none of its own: replicas)",
    ),
    "a hedge where nobody chooses": (
        changed("pools.large", {"binding": "late", "hedge": {"policy": "takes"}}),
        "$.pools.large.hedge",
        'takes needs binding = "early"',
    ),
    "the fleet's hedge where nobody chooses": (
        {**changed("pools.large.binding", "late"), "hedge": {"policy": "takes"}},
        "$.pools.large.hedge",
        "(of the fleet, as the pool says none of its own: hedge)",
    ),
    "one variant, two routings": (
        changed("pools.small", {"model": "chat", "variant": "large"}),
        "$.pools.large.routing",
        "pools small and large both serve variant large of version 1 of model chat, and are one heterogeneous fleet: "
        "one routing policy sees the replicas of both",
    ),
    "one variant, two sets of capabilities": (
        changed("pools", {"a": {"capabilities": ["tools", "vision"]}, "b": {}}) | {"models": {}},
        "$.pools.b.capabilities",
        "a request goes to either, and the one has tools, vision, the other none. Say the same in both; or give one of "
        "them another `variant`",
    ),
    "one variant, two hedges": (
        changed(
            "pools",
            {
                "a": {},
                "b": {"hedge": {"policy": "takes"}},
            },
        )
        | {"models": {}},
        "$.pools.b.hedge",
        "one hedge policy sees",
    ),
    "one variant, two bindings": (
        changed("pools", {"a": {"binding": "late"}, "b": {}}) | {"models": {}},
        "$.pools.b.binding",
        'with "late" there is a queue for each pool',
    ),
    "one variant, two kinds of engine": (
        changed("pools", {"a": {}, "b": {"engine": LLM}}) | {"models": {}},
        "$.pools.b.engine",
        "one answers token by token and the other whole requests",
    ),
}


@WAYS
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_path_and_its_remedy(mistake: str, way: Way, tmp_path: Path) -> None:
    values, path, says = MISTAKES[mistake]
    with pytest.raises(PolicyError) as caught:
        way(values, tmp_path)
    told = str(caught.value).removeprefix(f"{tmp_path}/fleet.{way.__name__[3:]}: ")
    assert told.startswith(f"{path}: ")
    assert says in told


def test_a_null_is_as_the_fleet_says_in_a_pool_and_a_mistake_in_a_model() -> None:
    assert from_mapping(changed("pools.large.routing", None)).serving[1].routing == LeastOutstanding()
    with pytest.raises(PolicyError, match=r"^\$\.models\.chat\.rollout: expected a table"):
        from_mapping(changed("models.chat.rollout", None))


# --- a name that is written twice ----------------------------------------------------------------------------

TWICE = {
    "two.toml": (
        "[pools.large]\nreplicas = 1\n\n[pools.large]\nreplicas = 2\n",
        "$.pools.large: written twice, the second time at line 4; say it once, or under another name",
    ),
    "within.toml": (
        "[pools.large]\nreplicas = 1\nreplicas = 2\n",
        "line 3: `replicas` is written twice in one table",
    ),
    "braces.toml": ("pools = {a = {}, a = {}}\n", "line 1: `a` is written already"),
    "after.toml": ("[pools]\na = {}\n[pools.a]\nreplicas = 2\n", "$.pools.a: written twice"),
    "two.json": ('{"pools": {"a": {}, "a": {"replicas": 2}}}', "$.pools.a: written twice in one object"),
    "deep.json": (
        '{"pools": {"a": {"routing": {"policy": "random", "policy": "fifo"}}}}',
        "$.pools.a.routing.policy: written twice",
    ),
    "array.json": ('{"weights": [{"a": 1, "a": 1}]}', "$.weights[0].a: written twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_name_that_is_written_twice_is_refused_and_never_dropped(name: str, tmp_path: Path) -> None:
    text, says = TWICE[name]
    (tmp_path / name).write_text(text)
    for read in (load_spec, read_table):
        with pytest.raises(PolicyError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {says}")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'{"replicas": NaN}', "NaN is no JSON"),
        ("a.json", b"[1]", "expected a table of a fleet's fields, got an array"),
        ("a.json", b"", "line 1 column 1"),
        ("a.json", b"[" * 100_000, "is nested too deeply"),
        ("a.toml", b"x = " + b"[" * 100_000, "is nested too deeply"),
        ("a.toml", b"\xff", "is not text"),
    ],
)
def test_what_is_no_table_at_all_is_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PolicyError) as caught:
        load_spec(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert says in str(caught.value)


def test_both_ways_to_write_a_table_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(toml(TWO))
    (tmp_path / "a.json").write_text(json.dumps(TWO))
    assert read_table(tmp_path / "a.toml") == read_table(tmp_path / "a.json") == TWO
