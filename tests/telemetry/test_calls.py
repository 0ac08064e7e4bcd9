"""The log of calls: it has all that a routing policy is shown and told, and a run that is watched is what it was."""

import pytest

from fleet import FleetSpec, Run, load_run, load_spec, simulate
from fleet.runs.simulate import Simulation
from fleet.telemetry.calls import CALLS, VIEWS, CallLog
from policies import PolicyError, Route, RoutingPolicy
from policies.views import Completion, Ending, ReplicaView, TokenSignals
from tests.simulation.building import arrivals, fleet
from traces import Fault, FaultTrace, Trace, load_trace

SURGE = load_trace("demo-surge").first(requests=400)
CHAT = load_trace("chat-small").first(requests=120)
CRASH = FaultTrace(faults=(Fault(at_s=0.5, kind="crash", replica="replica/1"),))


class FirstOfAll(RoutingPolicy):
    """Everything to the first replica."""

    def route(self, request, replicas, now_s) -> Route:
        return Route(replicas[0].id)


def rows(run: Run, call: str) -> list[dict]:
    return [row for row in run.calls.to_pylist() if row["call"] == call]


@pytest.mark.parametrize(
    ("trace", "spec", "options"),
    [
        (SURGE, "examples/small.toml", {"seed": 3}),
        (SURGE, "examples/hedged.toml", {"faults": CRASH}),
        (SURGE.assign(model="choice:chat=0.8,code=0.2", seed=0), "examples/two-models.toml", {}),
        (CHAT, "examples/llm.toml", {"sessions": True}),
    ],
    ids=["flat", "hedges and a crash", "pools", "tokens"],
)
def test_a_run_with_the_log_is_the_run_without_it(trace: Trace, spec: str, options: dict) -> None:
    made = load_spec(spec)

    plain, logged = (simulate(trace, made, log_views=log, **options) for log in (False, True))

    assert plain.digest == logged.digest
    assert len(plain.calls) == len(plain.views) == 0
    assert len(rows(logged, "route")) >= len(trace)


def test_each_view_is_logged_where_it_has_changed_as_it_was_seen() -> None:
    spec = fleet(replicas=2, routing=FirstOfAll(), report_interval_s=100.0)

    run = simulate(arrivals(0.0, 0.25, 0.5), spec, log_views=True)

    asked = [number for number, row in enumerate(run.calls.to_pylist()) if row["call"] == "route"]
    seen = [
        (row["call"], row["id"], row["in_flight"]) for row in run.views.to_pylist() if row["call"] in asked
    ]
    assert seen == [(asked[1], "replica/0", 1), (asked[2], "replica/0", 2)]
    assert [row["replica"] for row in rows(run, "route")] == ["replica/0"] * 3
    assert [row["e2e_s"] for row in rows(run, "on_completed")] == pytest.approx([1.0, 1.75, 2.5])


def test_the_candidates_are_logged_where_they_are_others_than_before() -> None:
    crash = FaultTrace(faults=(Fault(at_s=1.0, kind="crash", replica="replica/0"),))
    spec = fleet(replicas=2, routing=FirstOfAll(), provision_s=100.0)

    run = simulate(arrivals(0.0, 5.0), spec, faults=crash, log_views=True)

    shown = [(row["call"], row["shown"]) for row in run.calls.to_pylist() if row["shown"] is not None]
    assert shown[:3] == [
        ("on_replicas", "replica/0"), ("on_replicas", "replica/0 replica/1"), ("on_replicas", "replica/1"),
    ]  # fmt: skip


def test_the_log_has_every_field_that_policies_are_shown_or_told() -> None:
    tokens = {f"tokens.{name}" for name in TokenSignals.__struct_fields__}

    assert set(VIEWS.names) == ({"call"} | set(ReplicaView.__struct_fields__) | tokens) - {"tokens"}
    assert (set(Completion.__struct_fields__) | set(Ending.__struct_fields__)) <= set(CALLS.names)


def test_a_saved_log_is_read_back_and_held_against_its_digest(tmp_path) -> None:
    run = simulate(arrivals(0.0, 0.1), fleet(replicas=2), log_views=True)

    again = load_run(run.save(tmp_path / "run"))

    assert again.calls.equals(run.calls)
    assert again.views.equals(run.views)
    assert not (simulate(arrivals(0.0), fleet()).save(tmp_path / "plain") / "calls.parquet").exists()
    (tmp_path / "run" / "views.parquet").write_bytes((tmp_path / "run" / "series.parquet").read_bytes())
    with pytest.raises(ValueError, match="do not match the digest"):
        load_run(tmp_path / "run")


def test_a_log_that_is_full_ends_and_the_run_goes_on() -> None:
    spec = fleet(replicas=2, routing=FirstOfAll())
    trace = arrivals(0.0, 0.1, 0.2, 0.3)

    run = Simulation(trace, spec, watcher=CallLog(most=5)).run()

    assert len(run.calls) == 5
    assert run.digest == simulate(trace, spec).digest


class Broken(RoutingPolicy):
    """Raises, where it is told to."""

    where: str = "route"

    def route(self, request, replicas, now_s) -> Route:
        return Route("replica/9") if self.where == "nobody" else Route(replicas[self._at("route")].id)

    def on_completed(self, completion, now_s) -> None:
        self._at("on_completed")

    def _at(self, where: str) -> int:
        if where == self.where:
            raise RuntimeError("oh")
        return 0


@pytest.mark.parametrize("where", ["route", "on_completed", "nobody"])
def test_an_error_of_a_watched_policy_reads_as_that_of_one_that_is_not(where: str) -> None:
    spec: FleetSpec = fleet(replicas=2, routing=Broken(where=where))

    said = []
    for log in (False, True):
        with pytest.raises(PolicyError) as raised:
            simulate(arrivals(0.0, 0.5), spec, log_views=log)
        said.append(str(raised.value))

    assert said[0] == said[1]
    assert "routing policy broken" in said[0]
