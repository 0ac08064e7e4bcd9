"""The accounts of whole simulated runs: what the actors tell of attempts, pools and requests adds up."""

from collections import Counter

import pyarrow.compute as pc
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, load_run, simulate
from fleet.spec import from_mapping
from fleet.telemetry.attempts import answers
from policies import Hedge, HedgePolicy, RolloutPolicy, Serve, Shadow
from tests.simulation.building import faults
from traces import Fault, Trace, TraceEntry, poisson
from traces.operations import Operation, OperationsTrace
from traces.schema import Request


class AfterAWhile(HedgePolicy):
    """A second attempt after 50 ms."""

    def after_s(self, request, attempts, now_s):
        return Hedge(0.05) if len(attempts) == 1 else None


class Half(RolloutPolicy):
    """Every second request to the last version; every fifth in its shadow too."""

    def reset(self, rng):
        self.stage, self.number = "half", 0

    def choose(self, request, versions, now_s):
        self.number += 1
        first, last = versions[0].version, versions[-1].version
        if first != last and self.number % 5 == 0:
            return Shadow(first, last)
        return Serve((first, last)[self.number % 2])


def engine(base_s):
    return EmulatedEngine(latency=AffineLatency(base_s=base_s, per_item_s=0.004, jitter_cv=0.6))


def spec(**changes) -> FleetSpec:
    chat = {"model": "chat", "engine": engine(0.02)}
    return from_mapping({
        "models": {"chat": {"rollout": Half()}},
        "pools": {
            "old": {**chat, "version": "1", "replicas": 3, "cost_per_hour": 1.0},
            "new": {**chat, "version": "2", "replicas": 2, "cost_per_hour": 5.0, "engine": engine(0.04)},
            "idle": {"model": "other", "engine": engine(0.02), "cost_per_hour": 9.0},
        },
        "hedge": AfterAWhile(),
        **changes,
    })  # fmt: skip


def chats(duration_s=12.0, rate_per_s=80.0) -> Trace:
    entries = poisson(rate_per_s=rate_per_s, duration_s=duration_s, seed=4)
    return Trace.from_entries(
        TraceEntry(
            Request(entry.request.id, entry.request.arrived_s, model="chat", tenant="ab"[row % 2]), None
        )
        for row, entry in enumerate(entries)
    )


CRASH = faults(*(Fault(at_s=0.5 + n, kind="crash", replica=f"replica/old/{n % 3}") for n in range(6)))
DEPLOY = OperationsTrace(
    operations=(
        Operation(at_s=2.0, kind="retire", pool="new"),
        Operation(
            at_s=6.0, kind="deploy", pool="newer",
            spec={"model": "chat", "version": "3", "cost_per_hour": 20.0, "engine": {"engine": "emulated", "latency": {
                "latency": "affine", "base_s": 0.01, "per_item_s": 0.001}}},
        ),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return simulate(chats(), spec(), seed=1, faults=CRASH, operations=DEPLOY)


def test_of_every_completed_request_one_attempt_is_the_answer_and_of_no_other_any(run):
    every = run.every_attempt()
    answered = [*answers(run.attempts, run.records), *[True] * (len(every) - len(run.attempts))]
    counts = Counter(pc.filter(every["request"], answered).to_pylist())

    completed = run.records.filter(pc.equal(run.records["outcome"], "completed"))["id"].to_pylist()
    assert counts == Counter(completed)
    assert len(completed) > 900


def test_attempts_of_every_role_are_there_and_each_is_of_a_pool_and_its_version(run):
    rows = run.attempts.to_pylist()

    roles = {row["role"] for row in rows}
    assert {"primary", "retry", "hedge", "shadow"} <= roles
    assert {(row["pool"], row["version"]) for row in rows} <= {("old", "1"), ("new", "2"), ("newer", "3")}
    for row in rows:
        assert row["replica"] is None or row["replica"].startswith(f"replica/{row['pool']}/")
        assert row["started_s"] is None or row["started_s"] >= row["sent_s"]
        assert row["ended_s"] is None or row["ended_s"] >= (row["started_s"] or row["sent_s"])
        assert (row["end"] is None) == (row["ended_s"] is None)


def test_counts_of_the_summary_are_those_of_the_rows(run):
    roles = Counter(run.attempts["role"].to_pylist())

    assert run.summary.hedges == roles["hedge"] > 0
    assert run.summary.retries == roles["retry"] > 0
    assert 0.0 < run.summary.wasted_fraction < 0.5


def test_what_requests_cost_and_what_nobody_used_is_what_devices_cost(run):
    of_requests = pc.sum(run.records["cost"]).as_py()

    assert of_requests + run.unattributed_cost == pytest.approx(run.summary.cost, rel=1e-12)
    assert run.unattributed_cost == pytest.approx(9.0 * run.summary.duration_s / 3600.0)
    assert pc.sum(run.pools["gpu_seconds"]).as_py() == pytest.approx(run.summary.gpu_seconds)
    assert pc.sum(run.by("pool")["pool_cost"]).as_py() == pytest.approx(run.summary.cost)


def test_pools_cost_from_when_they_are_deployed_until_they_are_gone(run):
    pools = {row["pool"]: row for row in run.pools.to_pylist()}

    assert list(pools) == ["old", "new", "idle", "newer"]
    assert pools["new"]["gpu_seconds"] == pytest.approx(2 * 2.0, rel=0.1), (
        "two replicas, retired after two seconds"
    )
    assert pools["newer"]["gpu_seconds"] == pytest.approx(run.summary.duration_s - 6.0, rel=0.05)
    assert pools["newer"]["cost"] == pytest.approx(pools["newer"]["gpu_seconds"] * 20.0 / 3600.0)


def test_records_say_which_version_served_when(run):
    arrived = {version: [] for version in "123"}
    for row in run.records.select(["version", "arrived_s"]).to_pylist():
        arrived[row["version"]].append(row["arrived_s"])

    assert max(arrived["2"]) < 2.5
    assert min(arrived["3"]) > 5.5
    assert [len(times_s) > 20 for times_s in arrived.values()] == [True] * 3


def test_each_pool_has_its_rows_in_the_series(run):
    names = set(run.series["pool"].to_pylist())

    assert names == {"old", "new", "idle", "newer"}


def test_the_same_inputs_give_the_same_bytes_and_files_give_them_back(run, tmp_path):
    again = simulate(chats(), spec(), seed=1, faults=CRASH, operations=DEPLOY)

    assert again.digest == run.digest
    assert load_run(run.save(tmp_path)).attempts.equals(run.attempts)


def test_what_a_horizon_cuts_off_is_of_the_version_that_was_to_serve_it():
    cut = simulate(chats(2.0, 600.0), spec(), seed=1, until_s=1.5)
    unfinished = cut.records.filter(pc.is_null(cut.records["outcome"]))

    assert len(unfinished) > 50
    assert set(unfinished["version"].to_pylist()) == {"1", "2"}
    assert sum(row["requests"] for row in cut.by("version").to_pylist()) == len(cut.records)


def test_one_pool_by_name_serves_as_a_flat_fleet_does():
    flat = from_mapping({"engine": engine(0.02), "replicas": 3, "cost_per_hour": 2.0})
    pooled = from_mapping({"pools": {"only": {"engine": engine(0.02), "replicas": 3, "cost_per_hour": 2.0}}})

    one, other = (simulate(chats(3.0), each, seed=1) for each in (flat, pooled))

    assert one.summary.cost == pytest.approx(other.summary.cost, rel=0.05), "jitter is drawn by address"
    assert one.summary.wasted_s is None
    assert other.summary.wasted_s == 0.0
    assert set(other.records.column_names) - set(one.records.column_names) == {"pool", "version", "variant"}
