"""Money: what pools cost, whose requests that was for, and that nothing is lost between the two."""

import random

import pyarrow.compute as pc
import pytest

from fleet.pools import PoolSpec
from fleet.telemetry.occupancy import held_by_pool_s, held_s
from fleet.telemetry.sink import PoolDescription
from tests.simulation.building import fleet
from tests.telemetry.building import NEW, OLD, PRICES, Told, both_ready, two_versions

HOUR_S = 3600.0


def costs(run):
    return run.records["cost"].to_pylist()


def pool_costs(run):
    return dict(zip(run.pools["pool"].to_pylist(), run.pools["cost"].to_pylist(), strict=True))


# --- pools -----------------------------------------------------------------------------------------------------


def test_a_pool_costs_its_price_for_as_long_as_its_replicas_hold_devices_in_any_state():
    told = Told().request(ended_s=30.0)
    told.replica(OLD, (0.0, "waiting"), (2.0, "provisioning"), (5.0, "loading"), (6.0, "ready"), (8.0, "draining"),
                 (10.0, "stopped"))  # fmt: skip
    told.replica(NEW, (4.0, "ready"), (5.0, "failed"))

    run = told.run()

    assert pool_costs(run) == {"old": 8.0, "new": 2.0}
    assert run.summary.cost == 10.0
    assert run.summary.gpu_seconds == 9.0


def test_devices_are_paid_for_to_the_end_of_the_run():
    assert pool_costs(both_ready(Told()).request(None).run(ended_s=7.0)) == {"old": 7.0, "new": 14.0}


def test_a_replica_is_of_the_pool_that_had_the_name_when_it_came():
    told = Told().replica(OLD, (0.0, "ready"))
    told.replica(OLD, (4.0, "draining"), (5.0, "stopped"))
    dearer = PoolSpec(model="chat", version="3", cost_per_hour=36_000.0)
    told.telemetry.describe_pool(told.spec.pool("old", dearer))
    told.replica(OLD, (6.0, "ready"))

    run = told.request(ended_s=8.0).run()

    assert run.pools.filter(pc.equal(run.pools["pool"], "old"))["cost"].to_pylist() == [5.0, 20.0]
    assert run.pools["version"].to_pylist() == ["1", "2", "3"]


def test_seconds_of_all_pools_together_are_those_of_the_fleet():
    rng = random.Random(3)
    states = ("provisioning", "loading", "ready", "draining", "stopped", "failed", "waiting")
    rows = sorted(
        (rng.uniform(0.0, 50.0), f"replica/{rng.choice('abc')}/{rng.randrange(4)}", rng.choice(states))
        for _ in range(300)
    )
    pools = [PoolDescription(name, name, "1", "default", None, 1.0) for name in "abc"]

    assert sum(held_by_pool_s(rows, pools, 40.0)) == pytest.approx(held_s(rows, 40.0))
    assert held_s(rows, 40.0) > 100.0


# --- requests --------------------------------------------------------------------------------------------------


def test_requests_share_the_whole_cost_of_their_pool_by_the_seconds_they_were_served():
    told = (
        both_ready(Told()).request(service_s=1.0).request(service_s=3.0).request(replica=NEW, service_s=0.1)
    )

    run = told.request("rejected", None, ended_s=0.0).request(None).run(ended_s=10.0)

    assert costs(run) == pytest.approx([2.5, 7.5, 20.0, 0.0, 0.0])
    assert run.summary.cost == 30.0
    assert run.unattributed_cost == 0.0


def test_an_attempt_that_came_to_nothing_is_paid_for_by_its_request():
    told = both_ready(Told()).request(service_s=4.0).request(replica=NEW, attempts=2)
    told.attempt("r1", "primary", OLD, end="replica-lost", started_s=2.0, ended_s=3.0)
    told.attempt("r1", "retry", NEW, service_s=1.0, number=2)

    assert costs(told.request(None).run(ended_s=10.0)) == pytest.approx([8.0, 2.0 + 20.0, 0.0])


def test_an_unfinished_attempt_pays_for_what_it_has_had():
    told = both_ready(Told()).request(None).request(service_s=1.0)
    told.attempt("r0", "primary", OLD, end=None, started_s=6.0, ended_s=None)

    assert costs(told.run(ended_s=10.0)) == pytest.approx([8.0, 2.0])


def test_where_serving_takes_no_time_all_pay_alike():
    told = both_ready(Told()).request(service_s=0.0).request(service_s=0.0).request(None)

    assert costs(told.run(ended_s=10.0)) == [5.0, 5.0, 0.0]


def test_what_never_began_pays_nothing_even_where_serving_takes_no_time():
    told = both_ready(Told()).request(service_s=0.0).request(replica=NEW).request(None)
    told.attempt("r1", "primary", NEW, service_s=1.0)
    told.attempt("r1", "tied", OLD, end="withdrawn", started_s=None)

    assert costs(told.run(ended_s=10.0)) == [10.0, 20.0, 0.0]


def test_a_pool_in_which_nothing_ran_is_nobodys_cost():
    run = both_ready(Told()).request().request(None).run(ended_s=10.0)

    assert costs(run) == [10.0, 0.0]
    assert run.summary.cost == 30.0
    assert run.unattributed_cost == 20.0


def test_costs_of_requests_add_up_to_those_of_pools():
    rng = random.Random(1)
    told = both_ready(Told())
    for number in range(200):
        replica, other = rng.sample([OLD, NEW], 2)
        outcome = rng.choice(["completed", "failed", "expired", "completed"])
        told.request(
            outcome, replica, arrived_s=0.1 * number, service_s=rng.random(), tenant=rng.choice("abc")
        )
        if outcome != "completed" or rng.random() < 0.3:
            end = "completed" if outcome == "completed" else "engine-error"
            told.attempt(f"r{number}", "primary", replica, end=end, service_s=rng.random())
            told.attempt(
                f"r{number}", "hedge", other, end="withdrawn", started_s=0.5, ended_s=0.5 + rng.random()
            )

    run = told.run()

    assert sum(costs(run)) == pytest.approx(run.summary.cost, rel=1e-12)
    for groups in (("tenant",), ("model", "version"), ("pool",), ("outcome", "tenant")):
        assert pc.sum(run.by(*groups)["cost"]).as_py() == pytest.approx(run.summary.cost, rel=1e-12)


# --- no price is not nothing -----------------------------------------------------------------------------------


def test_without_prices_there_are_no_costs():
    run = both_ready(Told(two_versions(prices={}))).request().run()

    assert "cost" not in run.records.column_names
    assert run.summary.cost is None
    assert run.unattributed_cost is None


def test_a_device_at_no_known_price_leaves_the_total_unknown_and_what_ran_there():
    told = both_ready(Told(two_versions(prices={"old": HOUR_S}))).request().request(replica=NEW).request(None)

    run = told.run(ended_s=10.0)

    assert costs(run) == [10.0, None, 0.0]
    assert pool_costs(run) == {"old": 10.0, "new": None}
    assert run.summary.cost is run.summary.cost_per_request is None


def test_a_pool_without_a_price_that_held_no_device_does_not_matter():
    told = Told(two_versions(prices={"old": HOUR_S})).replica(OLD, (0.0, "ready")).request(ended_s=10.0)

    assert told.run().summary.cost == 10.0


def test_what_costs_nothing_is_free_and_not_unknown():
    s = both_ready(Told(two_versions(prices={"old": 0.0, "new": 0.0}))).request().run().summary

    assert s.cost == s.cost_per_request == 0.0


def test_a_flat_fleet_with_a_price_has_costs_and_no_other_new_columns():
    told = Told(fleet(cost_per_hour=HOUR_S)).replica("replica/0", (0.0, "ready"))

    run = told.request(replica="replica/0", ended_s=10.0).run()

    assert costs(run) == [10.0]
    assert not {"pool", "version", "variant", "quality"} & set(run.records.column_names)
    assert run.summary.cost == run.summary.cost_per_request == 10.0
    assert run.summary.wasted_s is None


# --- the summary -----------------------------------------------------------------------------------------------


def test_costs_per_request_and_per_token_are_the_whole_cost_over_what_completed():
    told = (
        both_ready(Told()).request(tokens=300).request(replica=NEW, tokens=200).request("failed", tokens=100)
    )

    s = told.request(None).run(ended_s=10.0).summary

    assert s.cost_per_request == 30.0 / 2
    assert s.cost_per_1k_tokens == 30.0 / 0.5


def test_where_nothing_completed_there_is_a_cost_and_nothing_to_divide_it_by():
    s = both_ready(Told()).request("failed", ended_s=10.0).run().summary

    assert s.cost == 30.0
    assert s.cost_per_request is s.cost_per_1k_tokens is None


def test_prices_are_per_hour_of_each_replica():
    assert PRICES["old"] / HOUR_S == 1.0
    told = Told().replica(OLD, (0.0, "ready")).replica("replica/old/1", (0.0, "ready"))
    assert told.request(ended_s=5.0).run().summary.cost == 10.0
