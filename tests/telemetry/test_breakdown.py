"""What served each request, and the figures of requests that are alike in something."""

import pytest

from fleet import FleetSpec, simulate
from fleet.spec import from_mapping
from policies.views import PoolView
from tests.simulation.building import arrivals, fleet
from tests.telemetry.building import ENGINE, NEW, OLD, Told, both_ready, two_versions
from traces import Slo

FLAT = {"pool", "version", "variant", "quality", "cost"}
"""Columns that records of a flat fleet without a price do not have."""


def rows(run, *columns):
    """By group: the figures."""
    table = run.by(*columns).to_pylist()
    return {tuple(row[name] for name in columns): row for row in table}


def mixed() -> Told:
    """Two versions, of which the new one is slow, better, and fails; one request that nobody chose a version for."""
    told = both_ready(Told(two_versions(slo=Slo(e2e_s=1.5))))
    told.request(quality=0.5, tenant="a").request(quality=0.7, tenant="b")
    told.request(replica=NEW, ended_s=2.0, quality=0.9, tenant="a").request("failed", NEW, tenant="a")
    told.request("cancelled", NEW, tenant="b")
    return told.request("rejected", None, tenant="b", ended_s=0.0).request(None, tenant="a")


# --- records ---------------------------------------------------------------------------------------------------


def test_records_of_a_flat_fleet_have_the_columns_that_they_had():
    run = simulate(arrivals(0.0, 0.1, model="chat"), fleet())

    assert not FLAT & set(run.records.column_names)
    assert "pool" not in run.series.column_names


def test_records_say_what_served_a_request_or_was_to():
    run = mixed().run()

    assert run.records["pool"].to_pylist() == ["old", "old", "new", "new", "new", None, None]
    assert run.records["version"].to_pylist() == ["1", "1", "2", "2", "2", None, None]
    assert run.records["variant"].to_pylist() == ["default"] * 5 + [None] * 2
    assert run.records["quality"].to_pylist() == [0.5, 0.7, 0.9, None, None, None, None]


def test_of_requests_that_the_end_of_the_run_cuts_off_their_last_attempt_says_what_was_to_serve_them():
    told = both_ready(Told()).request(None)
    told.attempt("r0", "primary", OLD, end="engine-error")
    told.attempt("r0", "retry", NEW, end=None, ended_s=None, number=2)
    told.attempt("r0", "shadow", OLD, end=None, ended_s=None, number=3)

    assert told.run().records["version"].to_pylist() == ["2"]


def test_a_pooled_fleet_has_the_columns_even_where_no_request_came_to_a_pool():
    run = both_ready(Told()).request("rejected", None).run()

    assert run.records["version"].to_pylist() == [None]
    assert "quality" not in run.records.column_names


def test_a_flat_fleet_whose_answers_have_a_quality_has_that_column_alone():
    told = Told(fleet()).request(replica="replica/0", quality=0.25).request(replica="replica/0")

    run = told.run()

    assert run.records["quality"].to_pylist() == [0.25, None]
    assert FLAT & set(run.records.column_names) == {"quality"}
    assert run.summary.quality_mean == 0.25


def test_quality_is_of_completed_requests():
    told = both_ready(Told()).request(quality=0.5).request("expired", quality=1.0)

    assert told.run().summary.quality_mean == 0.5


@pytest.mark.parametrize("pooled", [False, True])
def test_the_series_names_its_pools_last_where_there_are_several(pooled):
    told = Told(two_versions() if pooled else fleet())
    told.telemetry.pool_sampled(1.0, PoolView(name="old", ready=2))

    series = told.request().run().series

    assert (series.column_names[-1] == "pool") is pooled
    assert series["ready"].to_pylist() == [2]
    assert not pooled or series["pool"].to_pylist() == ["old"]


def test_the_range_of_replicas_is_of_all_pools_together():
    told = both_ready(Told()).replica("replica/new/1", (1.0, "ready"), (2.0, "stopped"))

    replicas = told.request(ended_s=5.0).run().summary.replicas

    assert (replicas.min, replicas.max) == (2, 3)


# --- groups ----------------------------------------------------------------------------------------------------


def test_by_version_has_the_figures_of_each_and_of_what_had_none():
    by = rows(mixed().run(ended_s=10.0), "version")

    assert list(by) == [("1",), ("2",), (None,)]
    old, new, none = by.values()
    assert (old["requests"], old["completed"], old["error_fraction"], old["slo_attainment"]) == (
        2,
        2,
        0.0,
        1.0,
    )
    assert (new["requests"], new["completed"], new["error_fraction"]) == (3, 1, 0.5), "cancelled is no error"
    assert new["slo_attainment"] == 0.0
    assert (new["e2e_p50_s"], new["e2e_p99_s"], new["quality_mean"]) == (2.0, 2.0, 0.9)
    assert (none["requests"], none["completed"], none["error_fraction"]) == (2, 0, 1.0)
    assert (
        none["e2e_p50_s"] is none["quality_mean"] is none["cost_per_request"] is none["gpu_seconds"] is None
    )


def test_a_group_of_which_nothing_has_ended_has_no_error_fraction():
    run = both_ready(Told()).request(None, tenant="a").request(tenant="b").run()

    assert rows(run, "tenant")["a",]["error_fraction"] is None


def test_costs_are_of_requests_and_where_groups_are_of_pools_of_those_too():
    told = both_ready(Told()).request().request(None)
    by = rows(told.run(ended_s=10.0), "version", "device")

    assert list(by) == [("1", "l4"), ("2", "a100"), (None, None)]
    old, new, _ = by.values()
    assert (old["cost"], old["cost_per_request"], old["pool_cost"], old["gpu_seconds"]) == (
        10.0,
        10.0,
        10.0,
        10.0,
    )
    assert (new["requests"], new["cost"], new["pool_cost"]) == (0, 0.0, 20.0), "idle, and not free"


def test_a_group_that_is_of_no_pool_has_no_device_seconds():
    by = rows(mixed().run(ended_s=10.0), "model", "tenant")

    assert set(by) == {("chat", "a"), ("chat", "b"), (None, "a"), (None, "b")}
    assert all(row["gpu_seconds"] is row["pool_cost"] is None for row in by.values())


def test_a_model_is_what_served_whatever_version_was_asked_for():
    told = both_ready(Told()).request(model="chat").request(replica=NEW, model="chat@2")
    told.request("rejected", None, model="chta@9")

    assert {group: row["requests"] for group, row in rows(told.run(), "model").items()} == {
        ("chat",): 2,
        ("chta",): 1,
    }


def test_where_a_pool_answers_for_every_model_it_is_the_one_that_was_asked_for():
    told = Told(from_mapping({"engine": ENGINE, "pools": {"old": {}}})).replica(OLD, (0.0, "ready"))
    told.request(model="a").request(model="b").request(model="b")

    by = rows(told.run(), "model")

    assert {group: row["requests"] for group, row in by.items()} == {("a",): 1, ("b",): 2}
    assert by["a",]["gpu_seconds"] is None, "the pool is of neither"


@pytest.mark.parametrize("columns", [("model",), ("model", "pool")])
def test_a_pool_that_answers_for_the_other_models_has_a_row_of_its_own_and_takes_nobodys_cost(columns):
    pools = {"old": {"model": "chat", "cost_per_hour": 3600.0}, "new": {"cost_per_hour": 7200.0}}
    told = both_ready(Told(from_mapping({"engine": ENGINE, "pools": pools})))
    told.request(model="chat").request(replica=NEW, model="other").request(replica=NEW)
    run = told.run()

    by = {group[0]: row for group, row in rows(run, *columns).items()}

    assert {name: (row["requests"], row["cost"], row["pool_cost"]) for name, row in by.items()} == {
        "chat": (1, 1.0, 1.0), "default": (1, 1.0, 2.0), "other": (1, 1.0, None),
    }  # fmt: skip
    assert sum(row["pool_cost"] or 0.0 for row in by.values()) == run.summary.cost


def test_a_flat_fleet_is_one_pool():
    told = Told(fleet(device="l4")).replica("replica/0", (0.0, "ready"))
    run = told.request(replica="replica/0", model="a@b").request("shed", None, model="a@b").run()

    assert [row["requests"] for row in rows(run, "pool").values()] == [1, 1]
    assert rows(run, "device")["l4",]["requests"] == 1
    assert list(rows(run, "model")) == [("a@b",)], "a name like any other, where there are no versions"


def test_a_run_that_knows_nothing_of_pools_is_grouped_by_what_its_trace_says():
    run = simulate(arrivals(0.0, 0.1, tenant="x"), FleetSpec(engine=ENGINE))
    run.pools = run.pools.slice(0, 0)

    assert rows(run, "tenant")["x",]["completed"] == 2
    with pytest.raises(
        ValueError, match="'version' is nothing to group requests by; there are outcome, replica"
    ):
        run.by("version")


@pytest.mark.parametrize("columns", [(), ("e2e_s",), ("verison",), ("id",)])
def test_what_cannot_be_grouped_by_is_answered_with_what_can(columns):
    with pytest.raises(ValueError, match=r"there are outcome, .*tenant.*version.*device"):
        mixed().run().by(*columns)
