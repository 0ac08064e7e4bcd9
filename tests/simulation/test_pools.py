"""Many pools: which of them a request goes to, what they share, and what becomes of requests as they come and go."""

import msgspec
import pytest

from fleet import FleetError, FleetSpec
from fleet.messages import Operate, Operated, Reply
from fleet.runs.assembly import demand_no_oracle
from policies import (
    Pinned,
    PolicyError,
    QueueLimit,
    Reject,
    RolloutPolicy,
    RoutingPolicy,
    Serve,
    Use,
    VariantsPolicy,
)
from policies.decisions import Route, Shadow
from tests.simulation.building import (
    arrivals,
    column,
    engine,
    entry,
    faults,
    fleet,
    play,
    simulation,
    trace_of,
)
from traces import Fault, Operation, OperationsTrace

ONE = {"engine": engine(1.0)}


def pooled(models=None, **pools) -> FleetSpec:
    """Pools of one replica that takes a second a request, unless told otherwise."""
    return fleet(pools={name: {**ONE, **table} for name, table in pools.items()}, models=models or {})


def served(run) -> dict[str, str | None]:
    return column(run, "replica")


# --- finding a pool --------------------------------------------------------------------------------------------


CHAT_AND_CODE = pooled(chat={"model": "chat"}, code={"model": "code", "version": "7"})


def asked(*models):
    return trace_of(*(entry(f"r{n}", 0.1 * n, model=model) for n, model in enumerate(models)))


def test_a_request_goes_to_a_pool_of_its_model():
    run = play(asked("chat", "code", "code@7"), CHAT_AND_CODE)

    assert served(run) == {"r0": "replica/chat/0", "r1": "replica/code/0", "r2": "replica/code/0"}


@pytest.mark.parametrize("model", ["poetry", "code@8", None])
def test_what_nobody_serves_is_refused_with_what_is_served(model):
    run = play(asked(model), CHAT_AND_CODE)

    assert column(run, "outcome") == {"r0": "rejected"}
    assert "served are chat@1, code@7" in column(run, "detail")["r0"]


@pytest.mark.parametrize("named", [{}, {"model": "default"}])
def test_a_pool_of_no_model_and_one_of_the_model_default_answer_for_all_that_no_pool_names(named):
    spec = pooled(chat={"model": "chat"}, rest=named)
    trace = trace_of(
        *(entry(f"r{n}", model=model) for n, model in enumerate(("chat", "code", None, "default")))
    )

    run = play(trace, spec)

    assert list(column(run, "pool").values()) == ["chat", "rest", "rest", "rest"]


def test_a_request_that_names_no_model_goes_to_the_one_there_is():
    assert served(play(asked(None), pooled(chat={"model": "chat"}))) == {"r0": "replica/chat/0"}


def test_a_client_that_pins_a_version_is_not_asked_about():
    spec = pooled(
        {"chat": {"rollout": Pinned(version="1")}},
        old={"model": "chat"},
        new={"model": "chat", "version": "2"},
    )

    assert served(play(asked("chat", "chat@2", "chat@1"), spec)) == {
        "r0": "replica/old/0",
        "r1": "replica/new/0",
        "r2": "replica/old/0",
    }


# --- what pools share ------------------------------------------------------------------------------------------


def test_replicas_of_different_pools_never_share_a_queue_nor_its_bound():
    spec = pooled(busy={"model": "busy", "queue_capacity": 2}, calm={"model": "calm", "queue_capacity": 2})
    trace = trace_of(*(entry(f"b{n}", 0.0, model="busy") for n in range(5)), entry("c0", 0.1, model="calm"))

    run = play(trace, spec)

    assert [column(run, "outcome")[f"b{n}"] for n in range(5)] == ["completed"] * 3 + ["shed"] * 2
    assert column(run, "e2e_s")["c0"] == pytest.approx(1.0)


def test_each_pool_has_policies_and_bounds_of_its_own():
    spec = pooled(
        a={"model": "a", "engine": engine(0.5), "replicas": 2, "binding": "late"},
        b={"model": "b", "engine": engine(2.0)},
    )
    trace = trace_of(*(entry(f"{m}{n}", 0.0, model=m) for m in "ab" for n in range(2)))

    assert column(play(trace, spec), "e2e_s") == {"a0": 0.5, "a1": 0.5, "b0": 2.0, "b1": 4.0}


def test_what_one_pool_draws_changes_nothing_for_another():
    """Policies of each pool have random streams of their own, whoever else is there."""
    mine = {"model": "m", "replicas": 4, "routing": {"policy": "power-of-two-choices"}}
    trace = trace_of(*(entry(f"r{n}", 0.2 * n, model="m") for n in range(30)))
    other = trace_of(*(entry(f"x{n}", 0.2 * n, model="x") for n in range(30)))

    alone = play(trace, pooled(m=mine, x={"model": "x"}))
    beside = play(trace.merge(other), pooled(m=mine, x={"model": "x", "replicas": 3}))

    there = served(beside)
    assert {id: there[id] for id in served(alone)} == served(alone)


def test_routing_among_pools_of_one_variant_sees_all_replicas_with_device_and_price():
    seen = set()

    class Cheapest(RoutingPolicy):
        def route(self, request, replicas, now_s):
            seen.update(
                (view.id, view.pool, view.device, view.cost_per_hour, view.expected_service_s)
                for view in replicas
            )
            return Route(min(replicas, key=lambda view: view.cost_per_hour).id)

    spec = fleet(
        routing=Cheapest(),
        pools={
            "a100": {"engine": engine(1.0), "device": "a100", "cost_per_hour": 4.0},
            "l4": {"engine": engine(3.0), "device": "l4", "cost_per_hour": 0.7},
        },
    )
    run = play(arrivals(0.0, 0.0), spec)

    assert seen == {
        ("replica/a100/0", "a100", "a100", 4.0, 1.0),
        ("replica/l4/0", "l4", "l4", 0.7, 3.0),
    }
    assert set(served(run).values()) == {"replica/l4/0"}


def test_the_demand_of_a_heterogeneous_variant_is_counted_in_the_pool_that_was_chosen():
    spec = fleet(
        pools={"a": {**ONE, "replicas": 1}, "b": {**ONE, "replicas": 1}}, routing={"policy": "round-robin"}
    )
    made = simulation(arrivals(*[0.1 * n for n in range(10)]), spec)
    made.run()

    desks = made.head.router.catalogue.desks
    assert {name: desk.demand.completions for name, desk in desks.items()} == {"a": 5, "b": 5}
    assert {name: desk.demand.moved for name, desk in desks.items()} == {"a": 0, "b": 0}


# --- policies of versions and variants -------------------------------------------------------------------------


class ByParity(RolloutPolicy):
    """Even requests to version 1, odd ones to version 2."""

    def reset(self, rng):
        self.stage = "even"

    def choose(self, request, versions, now_s):
        self.stage = "odd" if int(request.id[1:]) % 2 else "even"
        return Serve(versions[int(request.id[1:]) % 2].version)


TWO_VERSIONS = {"old": {"model": "m", "version": "1"}, "new": {"model": "m", "version": "2"}}


def test_a_rollout_policy_chooses_the_version_and_its_stages_are_in_the_decisions():
    run = play(arrivals(0.0, 0.1, 0.2, model="m"), pooled({"m": {"rollout": ByParity()}}, **TWO_VERSIONS))

    assert served(run) == {"r0": "replica/old/0", "r1": "replica/new/0", "r2": "replica/old/0"}
    stages = [row for row in run.decisions.to_pylist() if row["slot"] == "rollout"]
    assert [(row["time_s"], row["subject"], row["decision"]) for row in stages] == [
        (0.0, "m", "even"), (0.1, "m", "odd"), (0.2, "m", "even"),
    ]  # fmt: skip


def test_views_of_versions_say_what_came_of_them_and_how_old_that_is():
    seen = {}

    class Watches(ByParity):
        def choose(self, request, versions, now_s):
            seen[request.id] = [
                (v.version, v.ready, v.in_flight, v.completions, v.failures, v.e2e_s.values_s, v.as_of_s)
                for v in versions
            ]
            return super().choose(request, versions, now_s)

    spec = pooled({"m": {"rollout": Watches()}}, **TWO_VERSIONS).replace(control_interval_s=2.0)
    play(arrivals(0.0, 0.0, 2.5, model="m"), spec)

    assert seen["r1"] == [("1", 1, 1, 0, 0, (), 0.0), ("2", 1, 0, 0, 0, (), 0.0)]
    assert seen["r2"] == [("1", 1, 0, 1, 0, (1.0,), 1.0), ("2", 1, 0, 1, 0, (1.0,), 1.0)]


class Shadows(RolloutPolicy):
    """Version 1 serves, version 2 answers unheard."""

    def choose(self, request, versions, now_s):
        return Shadow("1", "2")


@pytest.mark.parametrize("binding", ["early", "late"])
def test_a_shadow_is_recorded_and_changes_nothing_for_anybody(binding):
    trace = arrivals(*[0.7 * n for n in range(8)], model="m")
    plain = play(trace, pooled(**TWO_VERSIONS).replace(binding=binding))
    crash = faults(Fault(at_s=1.0, kind="crash", replica="replica/new/0"))

    spec = pooled({"m": {"rollout": Shadows()}}, **TWO_VERSIONS).replace(binding=binding)
    made = simulation(trace, spec, faults=crash)
    run = made.run()

    for name in ("ended_s", "outcome", "replica", "attempts"):
        assert column(run, name) == column(plain, name), name
    rows = [row for row in run.attempts.to_pylist() if row["role"] == "shadow"]
    assert len(rows) + made.telemetry.counters["shadows_dropped"] == 8
    assert {row["pool"] for row in rows} == {"new"}
    assert rows[0]["end"] == "replica-lost"
    assert "completed" in {row["end"] for row in rows}


class ShadowsWhereThereAreTwo(RolloutPolicy):
    """The first version serves, and any other answers unheard."""

    def choose(self, request, versions, now_s):
        first, *others = (view.version for view in versions)
        return Shadow(first, others[0]) if others else Serve(first)


@pytest.mark.parametrize("binding", ["early", "late"])
def test_a_request_that_moves_to_where_its_shadow_waits_takes_its_place(binding):
    spec = pooled({"m": {"rollout": ShadowsWhereThereAreTwo()}}, **TWO_VERSIONS).replace(binding=binding)
    retire = OperationsTrace(operations=(Operation(at_s=0.5, kind="retire", pool="old"),))

    made = simulation(arrivals(0.0, 0.0, 0.0, model="m"), spec, operations=retire)
    run = made.run()

    assert served(run) == {"r0": "replica/old/0", "r1": "replica/new/0", "r2": "replica/new/0"}
    ends = {row["request"]: row["end"] for row in run.attempts.to_pylist() if row["role"] == "shadow"}
    assert ends == {"r0": "completed", "r1": "withdrawn", "r2": "withdrawn"}
    assert made.head.batcher.depth == 0
    assert not made.head.router.shadows


class Picks(VariantsPolicy):
    variant: str

    def choose(self, request, variants, now_s):
        return Use(self.variant)


def test_a_policy_that_names_what_is_not_served_is_told_what_is():
    sizes = {size: {"model": "m", "variant": size} for size in ("small", "large")}
    spec = pooled({"m": {"variants": Picks("huge")}}, **sizes)

    with pytest.raises(
        PolicyError, match=r"variants policy picks named 'huge' for request 'r0'.*small, large"
    ):
        play(arrivals(0.0, model="m"), spec)


def test_a_variants_policy_may_refuse():
    class Never(Picks):
        def choose(self, request, variants, now_s):
            return Reject("not today")

    spec = pooled({"m": {"variants": Never("a")}}, a={"model": "m", "variant": "small"}, b={"model": "m"})
    run = play(arrivals(0.0, model="m"), spec)

    assert (column(run, "outcome"), column(run, "detail")) == ({"r0": "rejected"}, {"r0": "not today"})


def test_admission_sees_the_whole_fleet():
    spec = pooled(a={"model": "a"}, b={"model": "b"}).replace(admission=QueueLimit(max_queue_depth=1))
    trace = trace_of(*(entry(f"a{n}", 0.1 * n, model="a") for n in range(2)), entry("b0", 0.3, model="b"))

    assert column(play(trace, spec), "outcome")["b0"] == "rejected"


# --- operations ------------------------------------------------------------------------------------------------


def operate(*operations):
    return OperationsTrace(operations=tuple(Operation(**item) for item in operations))


LATENCY = {"latency": "affine", "base_s": 1.0, "per_item_s": 0.0}
V2 = {"model": "m", "version": "2", "engine": {"engine": "emulated", "latency": LATENCY}}


@pytest.mark.parametrize("binding", ["early", "late"])
def test_a_version_retired_with_requests_in_flight_loses_none_of_them(binding):
    """What runs ends there, what waits goes to the new version, and the old pool's actors are gone in the end."""
    spec = pooled(v1={"model": "m", "version": "1"}).replace(binding=binding)
    deployed = operate(
        {"at_s": 1.0, "kind": "deploy", "pool": "v2", "spec": V2},
        {"at_s": 2.5, "kind": "retire", "pool": "v1"},
    )

    made = simulation(arrivals(*[0.1 * n for n in range(8)], 20.0, model="m"), spec, operations=deployed)
    run = made.run()

    assert set(column(run, "outcome").values()) == {"completed"}
    by = served(run)
    assert [by[f"r{n}"] for n in range(3)] == ["replica/v1/0"] * 3
    assert {by[f"r{n}"] for n in range(3, 9)} == {"replica/v2/0"}
    assert set(column(run, "attempts").values()) == {1}, "a move is no attempt"
    assert set(made.head.pools) == {"v2"}
    assert not [address for address in made.runtime.contexts if "v1" in address]


def test_requests_of_a_model_whose_last_pool_is_retired_end_and_say_why():
    spec = pooled(a={"model": "a"}, b={"model": "b"})
    retired = operate({"at_s": 0.5, "kind": "retire", "pool": "a"})
    trace = trace_of(*(entry(f"a{n}", 0.1 * n, model="a") for n in range(3)), entry("late", 5.0, model="a"))

    run = play(trace, spec, operations=retired)

    assert column(run, "outcome") == {"a0": "completed", "a1": "failed", "a2": "failed", "late": "rejected"}
    assert "served no more" in column(run, "detail")["a1"]
    assert "served are b@1" in column(run, "detail")["late"]


def test_a_flat_fleet_can_be_deployed_to_and_its_own_pool_retired():
    spec = fleet(replicas=1)
    changed = operate(
        {"at_s": 0.5, "kind": "deploy", "pool": "next", "spec": {"version": "2", "replicas": 2}},
        {"at_s": 3.5, "kind": "retire", "pool": "default"},
    )

    run = play(arrivals(*[0.5 * n for n in range(10)]), spec, operations=changed)

    assert set(column(run, "outcome").values()) == {"completed"}
    assert served(run)["r0"] == "replica/0"
    assert served(run)["r9"].startswith("replica/next/")


def test_scaling_moves_the_bounds():
    spec = pooled(a={"model": "m", "max_replicas": 1})
    scaled = operate(
        {"at_s": 2.0, "kind": "scale", "pool": "a", "replicas": 3},
        {"at_s": 6.0, "kind": "scale", "pool": "a", "min_replicas": 1, "max_replicas": 1},
    )

    run = play(arrivals(*[0.3 * n for n in range(30)], model="m"), spec, operations=scaled)

    ready = {row["time_s"]: row["ready"] for row in run.series.to_pylist()}
    assert (ready[1.0], ready[4.0]) == (1, 3)
    assert run.series["ready"].to_pylist()[-1] == 1


def test_a_rollout_is_replaced_promoted_and_rolled_back_by_an_operator():
    class Steps(RolloutPolicy):
        def reset(self, rng):
            self.stage = "1"

        def choose(self, request, versions, now_s):
            return Serve(self.stage)

        def promote(self, now_s):
            self.stage = "2"

        def rollback(self, now_s):
            self.stage = "1"

    spec = pooled({"m": {"rollout": Steps()}}, **TWO_VERSIONS)
    steered = operate(
        {"at_s": 1.0, "kind": "promote", "model": "m"},
        {"at_s": 3.0, "kind": "rollback", "model": "m"},
        {"at_s": 5.0, "kind": "rollout", "model": "m", "policy": {"policy": "pinned", "version": "2"}},
    )

    by = served(play(arrivals(0.5, 2.5, 4.5, 6.5, model="m"), spec, operations=steered))

    assert [by[f"r{n}"].split("/")[1] for n in range(4)] == ["old", "new", "old", "new"]


WRONG = [
    ({"kind": "deploy", "pool": "v1", "spec": {}}, r"\$.pool: there is a pool 'v1' already"),
    ({"kind": "deploy", "pool": "v2", "spec": {"replica": 3}}, r"\$.spec.replica: a pool has no such field; did you"),
    (
        {"kind": "deploy", "pool": "v2", "spec": {"model": "m", "routing": {"policy": "random"}}},
        r"one routing policy sees",
    ),
    ({"kind": "retire", "pool": "v9"}, r"there is no pool 'v9'; there are v1"),
    ({"kind": "scale", "pool": "v1", "min_replicas": 5}, r"5 is above max_replicas, 1"),
    ({"kind": "rollout", "model": "x", "policy": {"policy": "pinned"}}, r"no pool serves 'x'; served are m"),
    ({"kind": "rollout", "model": "m", "policy": {"policy": "canary-bird"}}, r"\$.policy.policy: there is no rollout"),
    ({"kind": "promote", "model": "m"}, r"pinned has no stages to promote"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "complaint"), WRONG)
def test_an_operation_that_cannot_be_done_says_what_would_be_right(operation, complaint):
    spec = pooled(v1={"model": "m", "version": "1"})

    with pytest.raises(PolicyError, match=complaint):
        play(arrivals(0.0, 2.0, model="m"), spec, operations=operate({"at_s": 1.0, **operation}))


def test_an_operator_over_the_wire_hears_what_is_wrong_and_how_things_stand():
    made = simulation(arrivals(0.0, 3.0, model="m"), pooled({"m": {"rollout": ByParity()}}, **TWO_VERSIONS))
    answers = []
    made.client.ctx.inbox[Operated] = answers.append
    for number, operation in enumerate(
        ({"kind": "status"}, {"kind": "fly"}, {"kind": "rollback", "model": "m"})
    ):
        made.client.ctx.send(
            "operator", Operate(str(number), msgspec.json.encode(operation), made.client.ctx.address)
        )
    made.run()

    by = {answer.id: answer for answer in answers}
    status = msgspec.json.decode(by["0"].status)
    assert status["models"]["m"]["stage"] == "even"
    assert set(status["pools"]) == {"old", "new"}
    assert "there are deploy, retire, scale, rollout, promote, rollback, status" in by["1"].error
    assert by["2"].error == "by-parity has nothing to roll back"
    assert len(answers) == 3


def test_replies_say_what_served_them():
    made = simulation(arrivals(0.0, 0.1, model="m"), pooled({"m": {"rollout": ByParity()}}, **TWO_VERSIONS))
    replies = []
    before = made.client.ctx.inbox[Reply]
    made.client.ctx.inbox[Reply] = lambda reply: (replies.append(reply), before(reply))
    made.run()

    assert [(reply.pool, reply.version, reply.variant) for reply in replies] == [
        ("old", "1", "default"), ("new", "2", "default"),
    ]  # fmt: skip


def test_a_pool_deployed_under_the_name_of_a_retired_one_numbers_its_replicas_on():
    spec = pooled(a={"model": "a"}, b={"model": "b"})
    again = operate(
        {"at_s": 1.0, "kind": "retire", "pool": "a"},
        {"at_s": 4.0, "kind": "deploy", "pool": "a", "spec": {**V2, "model": "a"}},
    )
    trace = trace_of(entry("first", 0.0, model="a"), entry("again", 5.0, model="a"))

    assert served(play(trace, spec, operations=again)) == {"first": "replica/a/0", "again": "replica/a/1"}


def test_an_oracle_is_refused_live_wherever_in_the_fleet_it_is():
    spec = pooled(a={"routing": {"policy": "least-work-oracle"}})

    with pytest.raises(FleetError, match=r"\$\.pools\.a\.routing: least-work-oracle is an oracle"):
        demand_no_oracle(spec)
