"""Models and pools in a spec: one value whatever way it is written, with what each pool has of its fleet."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fleet import FleetSpec
from fleet.pools import ModelPolicies, PoolSpec, pool_of
from fleet.spec import components_of, from_mapping, policies_of
from fleet.telemetry.attempts import several_attempts
from policies import (
    Composed,
    Hedge,
    InFlightScorer,
    LeastOutstanding,
    LeastWorkOracle,
    NoBreaker,
    NoHedge,
    Pinned,
    PolicyError,
    PowerOfTwoChoices,
)
from tests.fleets import BUILT, ENGINE, TWO, WAYS, First, Newest, Takes, Way, changed, of_json, toml


@WAYS
def test_a_fleet_of_pools_is_one_value_whatever_way_it_is_written(way: Way, tmp_path: Path) -> None:
    spec = FleetSpec(
        engine=BUILT,
        models={"chat": ModelPolicies(rollout=Pinned(version="1"))},
        pools={
            "small": PoolSpec(model="chat", variant="small"),
            "large": PoolSpec(model="chat", variant="large", routing=PowerOfTwoChoices()),
        },
    )
    assert way(TWO, tmp_path) == spec


# --- what a pool has of its fleet ------------------------------------------------------------------------------


def test_a_pool_has_of_the_fleet_what_it_does_not_say() -> None:
    spec = from_mapping(
        {
            **TWO,
            "replicas": 2,
            "min_replicas": 1,
            "max_replicas": 4,
            "weights": [1.0, 2.0],
            "cost_per_hour": 3.0,
        }
    )
    small, large = spec.serving
    assert (small.replicas, small.bounds, small.weights, small.cost_per_hour) == (2, (1, 4), (1.0, 2.0), 3.0)
    assert type(small.routing) is LeastOutstanding
    assert type(large.routing) is PowerOfTwoChoices
    assert (spec.all_replicas, spec.bounds) == (4, (2, 8))


def test_a_pool_may_say_that_it_has_no_weights() -> None:
    spec = from_mapping({**changed("pools.large.weights", []), "weights": [1.0, 2.0]})
    assert spec.serving[1].weights == ()
    assert from_mapping(spec.to_dict()).serving[1].weights == ()


def test_a_pool_may_be_called_default_and_its_replicas_go_by_the_short_name() -> None:
    spec = from_mapping({"engine": ENGINE, "pools": {"default": {"replicas": 2}, "more": {"model": "b"}}})
    assert [pool.replica(1) for pool in spec.serving] == ["replica/1", "replica/more/1"]
    assert [pool_of(pool.replica(1)) for pool in spec.serving] == ["default", "more"]
    assert [pool.model for pool in spec.serving] == ["default", "b"]


# --- there and back --------------------------------------------------------------------------------------------

FLAT_KEYS = [
    "engine", "replicas", "min_replicas", "max_replicas", "binding", "admission", "routing", "queueing", "batching",
    "iteration", "eviction", "scaling", "warm_pool", "health", "retry", "max_inflight_batches", "queue_capacity",
    "poison_limit", "deadline_s", "slo", "weights", "control_interval_s", "report_interval_s", "probe_interval_s",
    "probe_timeout_s", "deep_probe_interval_s", "failed_grace_s", "start_timeout_s", "failed_starts_limit", "lease_s",
    "provision_s", "network",
]  # fmt: skip
"""In this order they are in the manifests of runs of flat fleets, and so in their digests."""


def test_a_flat_fleet_says_of_itself_what_it_always_said() -> None:
    assert list(FleetSpec(engine=BUILT).to_dict()) == FLAT_KEYS
    assert list(FleetSpec(engine=BUILT, hedge=NoHedge(), breaker=NoBreaker()).to_dict()) == FLAT_KEYS
    more = FleetSpec(engine=BUILT, hedge=Takes(), device="a100", cost_per_hour=2.0, quality=0.5).to_dict()
    assert sorted(set(more) - set(FLAT_KEYS)) == ["cost_per_hour", "device", "hedge", "quality"]


def test_plain_values_of_pools_and_models_build_the_same_fleet_again(tmp_path: Path) -> None:
    spec = FleetSpec(
        models={"chat": ModelPolicies(rollout=Newest(least=3))},
        pools={
            "a.b": PoolSpec(
                model="chat", version="2", engine=BUILT, device="a100", cost_per_hour=4.0, quality=0.9,
                capabilities=("vision", "tools"), replicas=2, min_replicas=0, max_replicas=8,
                routing=Composed(scorers=[(1.0, InFlightScorer())]), hedge=Takes(), weights=(1.0, 0.5), provision_s=2.0,
            ),
            "c": PoolSpec(model="chat", engine=BUILT, binding="late", max_inflight_batches=1, queue_capacity=7),
            "d": PoolSpec(engine=BUILT, routing=First()),
        },
    )  # fmt: skip
    plain = spec.to_dict()
    assert plain["models"]["chat"]["rollout"] == {"policy": "tests.fleets:Newest", "least": 3}
    assert plain["pools"]["d"]["routing"] == {"policy": "tests.fleets:First"}
    assert from_mapping(plain) == spec
    assert of_json(plain, tmp_path) == spec
    assert from_mapping(tomllib.loads(toml(without_nulls(plain)))) == spec


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


# --- walking ---------------------------------------------------------------------------------------------------


def test_policies_are_found_wherever_they_are_said_and_in_use() -> None:
    spec = FleetSpec(
        engine=BUILT,
        routing=LeastWorkOracle(),
        models={"chat": ModelPolicies(rollout=Newest())},
        pools={"a": PoolSpec(model="chat", routing=First()), "b": PoolSpec(queueing={"policy": "fifo"})},
    )
    found = dict(policies_of(spec))
    assert type(found["$.routing"]) is LeastWorkOracle, "of pool b"
    assert type(found["$.pools.a.routing"]) is First
    assert type(found["$.models.chat.rollout"]) is Newest
    assert found["$.pools.b.queueing"].name() == "fifo", "though it is empty, and so false"
    assert "$.engine" not in found
    every = spec.replace({"pools.b.routing": First(), "pools.a.queueing": "fifo"})
    assert not {"$.routing", "$.queueing"} & set(dict(policies_of(every))), "every pool has its own"


def test_a_flat_fleet_has_the_components_it_always_had() -> None:
    names = [".".join(keys) for keys, _ in components_of(FleetSpec(engine=BUILT))]
    assert names == [
        "engine", "admission", "routing", "queueing", "batching", "iteration", "eviction", "scaling", "warm_pool",
        "health", "retry",
    ]  # fmt: skip
    assert ("hedge",) in dict(components_of(FleetSpec(engine=BUILT, hedge=Takes())))


def test_what_is_made_of_a_null_policy_is_none() -> None:
    class Hedges(NoHedge):
        """Decides otherwise."""

        def after_s(self, request, attempts, now_s):
            return Hedge(after_s=0.1)

    spec = FleetSpec(engine=BUILT, hedge=Hedges())
    assert spec.to_dict()["hedge"]["policy"].endswith("Hedges")
    assert ("hedge",) in dict(components_of(spec))
    assert several_attempts(spec)
    with pytest.raises(PolicyError, match=r'^\$\.hedge: hedges needs binding = "early"'):
        spec.replace(binding="late")
