"""A fleet of two pools, written in every way there is, and policies of one's own for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, load_spec
from fleet.pools import MODEL_COMPONENTS, ModelPolicies, PoolSpec
from fleet.spec import from_mapping
from policies import RolloutPolicy, Route, RoutingPolicy, Serve
from policies.base import HedgePolicy, Policy

ENGINE = {"engine": "emulated", "latency": {"latency": "affine", "base_s": 0.01, "per_item_s": 0.002}}
LLM = {
    "engine": "emulated-llm",
    "latency": {"latency": "affine", "base_s": 0.1},
    "kv": {"model": "llama-3.1-8b", "device": "l4"},
}
BUILT = EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.002))
TWO: dict[str, Any] = {
    "engine": ENGINE,
    "models": {"chat": {"rollout": {"policy": "pinned", "version": "1"}}},
    "pools": {
        "small": {"model": "chat", "variant": "small"},
        "large": {"model": "chat", "variant": "large", "routing": {"policy": "power-of-two-choices"}},
    },
}


class Takes(HedgePolicy):
    """A hedge policy that is not the null one."""

    def after_s(self, request, attempts, now_s):
        return None


class Newest(RolloutPolicy):
    """Serves the last version."""

    least: int = 0

    def choose(self, request, versions, now_s):
        return Serve(versions[-1].version)


class First(RoutingPolicy):
    """Takes the first."""

    def route(self, request, replicas, now_s):
        return Route(replicas[0].id)


def in_slot(slot: str, policy: Policy) -> dict[str, Any]:
    """The fields of a flat fleet that has this policy in this slot."""
    return {"models": {"default": {slot: policy}}} if slot in MODEL_COMPONENTS else {slot: policy}


def changed(path: str, value: Any) -> dict[str, Any]:
    """`TWO` with one value changed, or taken out if it is `...`."""
    result: dict[str, Any] = json.loads(json.dumps(TWO))
    *above, last = path.split(".")
    table = result
    for key in above:
        table = table.setdefault(key, {})
    table[last] = value
    if value is ...:
        del table[last]
    return result


def toml(values: dict[str, Any]) -> str:
    """The values in TOML: every value within one line."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return f"[{', '.join(map(inline, value))}]"
        return json.dumps(value)

    return "".join(f"{key} = {inline(value)}\n" for key, value in values.items())


def of_python(values: dict[str, Any], folder: Path) -> FleetSpec:
    return from_mapping(values)


def of_structs(values: dict[str, Any], folder: Path) -> FleetSpec:
    """With pools and models as structs where Python lets them be."""
    kinds: dict[str, Any] = {"pools": PoolSpec, "models": ModelPolicies}
    made = dict(values)
    for section, kind in kinds.items():
        members = values.get(section, {})
        if isinstance(members, dict):
            made[section] = {
                name: kind(**member)
                if isinstance(member, dict) and set(member) <= set(kind.__struct_fields__)
                else member
                for name, member in members.items()
            }
    return from_mapping(made)


def of_toml(values: dict[str, Any], folder: Path) -> FleetSpec:
    (folder / "fleet.toml").write_text(toml(values))
    return load_spec(folder / "fleet.toml")


def of_json(values: dict[str, Any], folder: Path) -> FleetSpec:
    (folder / "fleet.json").write_text(json.dumps(values))
    return load_spec(folder / "fleet.json")


WAYS = pytest.mark.parametrize(
    "way", [of_python, of_structs, of_toml, of_json], ids=["python", "structs", "toml", "json"]
)
Way = Callable[[dict[str, Any], Path], FleetSpec]
