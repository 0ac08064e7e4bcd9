"""Faults strike the places of pools: each pool has its own, and no other feels it."""

import pytest

from fleet.launch.places import FleetPlaces
from fleet.messages import StartReplica
from tests.simulation.building import arrivals, column, engine, faults, fleet, play, simulation, states
from traces import Fault, Operation, OperationsTrace


def pooled(**pools):
    """Pools of one replica that takes 0.1 s a request, each for the model of its own name."""
    tables = {name: {"engine": engine(0.1), "model": name, **table} for name, table in pools.items()}
    return fleet(pools=tables)


def crash(at_s, replica=None, for_s=None):
    return Fault(at_s=at_s, kind="crash", replica=replica, for_s=for_s)


def failed(run):
    return [row["replica"] for row in run.replicas.to_pylist() if row["state"] == "failed"]


def operate(*operations):
    return OperationsTrace(operations=tuple(Operation(**item) for item in operations))


SECONDS = arrivals(*range(40), model="a")


# --- whom a fault hits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replica/b/0", "place/b/0"])
def test_a_fault_hits_whoever_holds_that_place_of_that_pool(name):
    run = play(SECONDS, pooled(a={}, b={}), faults=faults(crash(1.5, name), crash(10.5, name)))

    assert failed(run) == ["replica/b/0", "replica/b/1"]
    assert set(column(run, "attempts").values()) == {1}, "the other pool felt nothing"


def test_a_place_without_a_pool_is_one_of_the_pool_that_has_no_name():
    run = play(
        SECONDS,
        pooled(a={}, default={}),
        faults=faults(crash(1.5, "place/0"), crash(9.5, "replica/default/0")),
    )

    assert failed(run) == ["replica/0", "replica/1"]


@pytest.mark.parametrize("name", ["replica/c/0", "place/c/0", "replica/0", "place/a/7", "replica/a/9"])
def test_a_place_that_is_not_there_is_hit_in_vain(name):
    run = play(SECONDS, pooled(a={}, b={}), faults=faults(crash(1.5, name, for_s=5.0)))

    assert not failed(run)
    assert run.manifest.counters["faults_without_victim"] == 1


def test_a_fault_that_names_nobody_hits_the_replica_of_all_pools_that_has_been_ready_longest():
    run = play(SECONDS, pooled(a={}, b={}), faults=faults(crash(1.5, "replica/a/0"), crash(9.5), crash(19.5)))

    assert failed(run) == ["replica/a/0", "replica/b/0", "replica/a/1"]


def test_a_load_fails_at_the_place_of_the_pool_that_is_named():
    slow = engine(0.1, cold_start_s=0.5)
    spec = pooled(a={"engine": slow}, b={"engine": slow})
    fails = Fault(at_s=0.5, kind="fail-load", replica="place/b/0")

    run = play(SECONDS, spec, faults=faults(fails, crash(1.5, "replica/a/0"), crash(4.5, "replica/b/0")))

    injected = [row["replica"] for row in run.replicas.to_pylist() if "injected" in (row["detail"] or "")]
    assert injected == ["replica/b/1"]


# --- how long a place is out of order --------------------------------------------------------------------------


def test_an_outage_takes_room_from_its_own_pool_only():
    spec = pooled(a={}, b={"replicas": 2})
    given = faults(crash(1.5, "replica/b/1", for_s=20.0), crash(5.5, "replica/a/0"))

    run = play(SECONDS, spec, faults=given)

    assert [state for _, state in states(run, "replica/b/2")][:2] == ["provisioning", "waiting"]
    assert states(run, "replica/b/2")[-1] == (21.5, "ready")
    assert states(run, "replica/a/1")[-1][1] == "ready"
    assert "waiting" not in [state for _, state in states(run, "replica/a/1")]


def test_a_start_that_waits_in_one_pool_holds_up_no_start_of_another():
    """Both wait for a repair; the second pool's comes first."""
    given = faults(crash(1.5, "replica/a/0", for_s=30.0), crash(2.5, "replica/b/0", for_s=10.0))

    run = play(SECONDS, pooled(a={}, b={}), faults=given)

    assert states(run, "replica/a/1")[-1] == (31.5, "ready")
    assert states(run, "replica/b/1")[-1] == (12.5, "ready")


def test_an_outage_that_names_nobody_while_nobody_is_ready_is_one_of_the_first_place_in_order_of_any_pool():
    given = faults(
        crash(1.1, "replica/a/0", for_s=30.0),
        crash(1.2, "replica/b/0", for_s=30.0),
        crash(1.3, None, for_s=9.0),
    )
    spec = pooled(a={}, b={"max_replicas": 2})

    made = simulation(SECONDS, spec, faults=given)
    made.run(until_s=1.9)

    assert {pool: sorted(made.launcher.places.of(f"place/{pool}/0").repaired_s) for pool in "ab"} == {
        "a": [0],
        "b": [0, 1],
    }


# --- pools that come and go ------------------------------------------------------------------------------------


DEPLOY_B = {"kind": "deploy", "pool": "b", "spec": {"model": "b", "replicas": 2, "engine": {
    "engine": "emulated", "latency": {"latency": "affine", "base_s": 0.1, "per_item_s": 0.0}}}}  # fmt: skip


def test_a_pool_that_is_deployed_later_has_as_many_places_as_it_may_have_replicas():
    given = faults(crash(1.0, "place/b/1"), crash(10.5, "place/b/1", for_s=10.0), crash(12.5, "place/b/0"))

    run = play(SECONDS, pooled(a={}), faults=given, operations=operate({"at_s": 5.0, **DEPLOY_B}))

    assert failed(run) == ["replica/b/1", "replica/b/0"]
    assert run.manifest.counters["faults_without_victim"] == 1, "the first came before there was such a pool"
    back = {name: states(run, name)[-1] for name in ("replica/b/2", "replica/b/3")}
    assert sorted(at_s for at_s, state in back.values() if state == "ready") == [
        pytest.approx(13.0, abs=1.0),
        20.5,
    ]


def test_the_places_of_a_pool_that_is_gone_are_hit_no_more():
    spec = pooled(a={}, b={"replicas": 2})
    outages = [crash(10.5, "place/b/0", 20.0), crash(10.5, "replica/a/0", 20.0), crash(11.5, None, 20.0)]
    changed = operate({"at_s": 2.0, "kind": "retire", "pool": "b"}, {"at_s": 13.0, **DEPLOY_B})

    run = play(SECONDS, spec, faults=faults(*outages), operations=changed)

    assert failed(run) == ["replica/a/0"]
    assert run.manifest.counters["faults_without_victim"] == 2
    assert [states(run, f"replica/b/{n}")[-1] for n in (2, 3)] == [(13.0, "ready")] * 2, (
        "none of its places is broken"
    )


def test_a_pool_of_the_same_name_comes_again_with_numbers_of_its_own_and_the_places_that_are_out_of_order():
    spec = pooled(a={}, b={"replicas": 2})
    given = faults(crash(1.5, "replica/b/1", for_s=30.0))
    again = operate({"at_s": 3.0, "kind": "retire", "pool": "b"}, {"at_s": 6.0, **DEPLOY_B})

    run = play(SECONDS, spec, faults=given, operations=again)

    assert states(run, "replica/b/2")[-1][1] == "stopped", "it waited for the place, and was called off"
    assert states(run, "replica/b/3")[-1] == (6.0, "ready")
    assert states(run, "replica/b/4")[-1] == (31.5, "ready")


# --- the books -------------------------------------------------------------------------------------------------


def test_nothing_is_kept_of_names_that_nobody_started():
    places = FleetPlaces({"a": 1})
    for name in ("replica/x/0", "place/y/0", "replica/3"):
        assert places.named(name) is None
        assert places.found(name) is None
        assert places.place_of(name) is None
        places.of(name).leave(name)
    places.wanted(StartReplica("replica/b/0", places=2)).take("replica/b/0")
    assert places.lowest_in_order() == ("a", 0)
    assert (places.place_of("replica/b/0"), places.named("place/b/1")) == (("b", 0), ("b", 1))
    places.forget("b")
    assert places.named("place/b/0") is None
