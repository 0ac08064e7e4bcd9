"""A path changes a fleet that is built and the plain values of a file alike; `--set` and `--vary` are such paths."""

from typing import Any

import pytest

from fleet import AffineLatency, EmulatedEngine, EmulatedLlmEngine, FleetSpec, KvSpec, RooflineSteps
from fleet.changes import changed as with_changes
from fleet.cli.inputs import changed as of_the_command
from fleet.spec import from_mapping
from policies import Composed, NoHedge, Pinned, PolicyError, PowerOfTwoChoices, Random, RoundRobin
from policies.base import RoutingPolicy
from policies.building import build
from tests.fleets import BUILT, ENGINE, TWO, First, Newest, Takes
from traces import Slo

P2C = PowerOfTwoChoices
FLEET: dict[str, Any] = {
    **TWO,
    "routing": {"policy": "power-of-two-choices", "choices": 3},
    "slo": {"e2e_s": 2.0},
}
DOTTED: dict[str, Any] = {
    "engine": ENGINE,
    "pools": {"chat-1.5": {"model": "llama-3.1-8b"}, "chat-1": {"model": "llama-3"}},
}
SLOWER = EmulatedEngine(latency=AffineLatency(base_s=0.5, per_item_s=0.002))

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str, Any]] = {
    "a number of a pool": (FLEET, {"pools.large.replicas": 4}, "pools/large/replicas", 4),
    "a policy by its name": (
        FLEET,
        {"pools.large.routing": "round-robin"},
        "pools/large/routing",
        RoundRobin(),
    ),
    "a policy as a table": (
        FLEET,
        {"pools.large.routing": {"policy": "random"}},
        "pools/large/routing",
        Random(),
    ),
    "a policy's own name": (FLEET, {"routing": "power-of-two-choices"}, "routing", P2C(choices=3)),
    "another class, by its tag": (FLEET, {"routing.policy": "random"}, "routing", Random()),
    "a parameter of a pool's own": (
        FLEET,
        {"pools.large.routing.choices": 5},
        "pools/large/routing",
        P2C(choices=5),
    ),
    "a parameter of the fleet's": (
        FLEET,
        {"pools.small.routing.choices": 5},
        "pools/small/routing",
        P2C(choices=5),
    ),
    "...which stays what it was": (FLEET, {"pools.small.routing.choices": 5}, "routing", P2C(choices=3)),
    "the fleet's own name": (
        FLEET,
        {"pools.small.routing": "power-of-two-choices"},
        "pools/small/routing",
        P2C(choices=3),
    ),
    "deep within the fleet's engine": (
        FLEET,
        {"pools.large.engine.latency.base_s": 0.5},
        "pools/large/engine",
        SLOWER,
    ),
    "a rollout by its name": (FLEET, {"models.chat.rollout": "newest"}, "models/chat/rollout", Newest()),
    "a rollout's parameter": (
        FLEET,
        {"models.chat.rollout.version": "2"},
        "models/chat/rollout",
        Pinned(version="2"),
    ),
    "a model that only pools name": (
        DOTTED,
        {"models.llama-3.1-8b.rollout": "newest"},
        "models/llama-3.1-8b/rollout",
        Newest(),
    ),
    "a name with a dot": (DOTTED, {"pools.chat-1.5.replicas": 2}, "pools/chat-1.5/replicas", 2),
    "a name with a dot, in quotes": (DOTTED, {'pools."chat-1.5".replicas': 2}, "pools/chat-1.5/replicas", 2),
    "a name that another begins with": (DOTTED, {"pools.chat-1.replicas": 2}, "pools/chat-1/replicas", 2),
    "a pool more": (FLEET, {"pools.more": {"model": "chat", "version": "2"}}, "pools/more/version", "2"),
    "within a struct of the fleet's": (FLEET, {"$.slo.ttft_s": 1.0}, "slo", Slo(e2e_s=2.0, ttft_s=1.0)),
    "several, in order": (
        FLEET,
        {"routing": "random", "pools.small.routing": "round-robin"},
        "pools/small/routing",
        RoundRobin(),
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_plain_values_and_a_built_fleet_are_changed_alike(case: str) -> None:
    values, changes, path, expected = CHANGES[case]
    before = from_mapping(values)
    after = before.replace(changes)
    assert after == from_mapping(with_changes(values, changes))
    assert from_mapping(values) == before, "neither has changed itself"
    found: Any = after
    for key in path.split("/"):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == expected


WRONG: dict[str, tuple[str, Any, str]] = {
    "no such pool": (
        "pools.larg.replicas",
        2,
        "$.pools.larg: there is no such pool; did you mean `large`?; there are small, large",
    ),
    "no such field": (
        "pools.large.replica",
        2,
        "$.pools.large.replica: a pool has no such field; did you mean `replicas`",
    ),
    "a field of the fleet": (
        "pools.large.slo.e2e_s",
        2.0,
        "$.pools.large.slo: a pool has no such field; it belongs to the",
    ),
    "no such parameter": (
        "pools.large.routing.choises",
        2,
        "$.pools.large.routing.choises: power-of-two-choices has no",
    ),
    "a parameter out of bounds": (
        "pools.large.routing.choices",
        0,
        "$.pools.large.routing.choices: Expected `int` >= 1",
    ),
    "through a number": ("queue_capacity.x", 1, "$.queue_capacity: `queue_capacity` is no table, it is 7"),
    "a model that nobody serves": ("models.code.rollout", "newest", "$.models.code: no pool serves it"),
    "no path": ("pools..replicas", 2, "'pools..replicas' is no path, such as"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_path_that_leads_nowhere_is_named(case: str) -> None:
    path, value, says = WRONG[case]
    values = {**TWO, "queue_capacity": 7}
    with pytest.raises(PolicyError) as of_plain:
        from_mapping(with_changes(values, {path: value}))
    with pytest.raises(PolicyError) as of_built:
        from_mapping(values).replace({path: value})
    assert str(of_plain.value) == str(of_built.value)
    assert str(of_plain.value).startswith(says)


def test_a_fleet_of_one_pool_names_none() -> None:
    with pytest.raises(
        PolicyError, match=r"^\$\.pools\.large: .*the fleet names none, it is one pool by itself"
    ):
        FleetSpec(engine=BUILT).replace({"pools.large.replicas": 2})


def test_values_that_are_right_together_only_may_come_one_by_one() -> None:
    llama = EmulatedLlmEngine(
        latency=RooflineSteps(model="llama-3.1-8b", device="l4"), kv=KvSpec(model="llama-3.1-8b", device="l4")
    )
    spec = FleetSpec(engine=llama, pools={"a": {}, "b": {"model": "big"}})
    changed = spec.replace(
        {
            "pools.b.engine.kv.model": "qwen3-32b",  # which an L4 has no room for
            "pools.b.engine.kv.device": "h100",
            "pools.b.engine.latency.device": "h100",
        }
    )
    assert [pool.device for pool in changed.serving] == ["l4", "h100"]
    assert changed.engine == llama


def test_a_policy_of_ones_own_keeps_its_class_wherever_it_was_defined() -> None:
    class Local(RoutingPolicy):
        """Known to this function alone."""

        skip: int = 0

        def route(self, request, replicas, now_s):
            raise NotImplementedError

    mine = Local

    class Local(RoutingPolicy):  # type: ignore[no-redef]  # as a notebook's cell that is run again
        """Its namesake."""

        def route(self, request, replicas, now_s):
            raise NotImplementedError

    spec = FleetSpec(engine=BUILT, pools={"a": {"routing": mine()}}).replace({"pools.a.routing.skip": 2})
    assert type(spec.serving[0].routing) is mine
    assert spec.serving[0].routing == mine(skip=2)


def test_a_table_may_name_a_class_itself() -> None:
    assert build(RoutingPolicy, {"policy": P2C, "choices": 3}) == P2C(choices=3)
    with pytest.raises(PolicyError, match=r"^\$\.policy: .*Pinned` is not of kind routing policy"):
        build(RoutingPolicy, {"policy": Pinned})


def test_fields_and_paths_go_together() -> None:
    spec = from_mapping(TWO).replace({"pools.large.replicas": 3}, replicas=2, routing=First())
    assert [pool.replicas for pool in spec.serving] == [2, 3]
    assert type(spec.serving[0].routing) is First


# --- as the command line says it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["routing=round-robin"], RoundRobin()),
        (["routing=round-robin", "routing=power-of-two-choices"], P2C()),
        (["routing.choices=7", "routing=power-of-two-choices"], P2C(choices=7)),
        (['routing={policy = "power-of-two-choices"}'], P2C()),
        (["routing=random", "routing=power-of-two-choices", "routing.choices=4"], P2C(choices=4)),
        (["routing=composed", "routing.hold_s=0.5"], Composed(hold_s=0.5)),
    ],
)
def test_changes_of_the_command_line_are_made_in_order(changes: list[str], expected: RoutingPolicy) -> None:
    assert from_mapping(of_the_command(FLEET, changes)).routing == expected
    pooled = [f"pools.small.{change}" for change in changes]
    spec = from_mapping(of_the_command(FLEET, pooled))
    assert (spec.serving[0].routing, spec.routing) == (expected, P2C(choices=3))


def test_the_engine_of_a_pool_called_engine_is_no_tag() -> None:
    values = {"engine": ENGINE, "pools": {"engine": {"engine": ENGINE}, "routing": {"model": "b"}}}
    spec = from_mapping(
        of_the_command(values, ["pools.engine.engine=emulated", "pools.routing.routing=random"])
    )
    assert spec.pools["engine"].engine == BUILT
    assert spec.pools["routing"].routing == Random()


def test_a_hedge_of_one_pool_is_not_the_fleets() -> None:
    spec = from_mapping(of_the_command(TWO, ["pools.large.hedge=takes"]))
    assert [type(pool.hedge) for pool in spec.serving] == [NoHedge, Takes]
