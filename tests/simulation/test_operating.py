"""An operator over the wire: each question has one answer, and whatever is wrong with it, the fleet goes on."""

import re

import msgspec
import pytest

from fleet.actor import Actor
from fleet.messages import Operate, Operated, Tick
from fleet.runs.deadlock import DeadlockError
from policies import RolloutPolicy, RoutingPolicy, Serve
from policies.decisions import Route
from tests.simulation.building import arrivals, column, engine, entry, fleet, play, simulation, trace_of
from traces import Operation, OperationsTrace

V2 = {
    "version": "2",
    "engine": {"engine": "emulated", "latency": {"latency": "affine", "base_s": 0.1, "per_item_s": 0.0}},
}


class Console(Actor):
    """Somebody who asks for given operations at given times, and keeps the answers."""

    def __init__(self, *lines) -> None:
        self.lines, self.answers = lines, {}

    def start(self, ctx) -> None:
        super().start(ctx)
        for number, (at_s, _) in enumerate(self.lines):
            ctx.after(at_s, Tick("ask", number=number))

    def handlers(self):
        return {Tick: self.on_tick, Operated: self.on_operated}

    def on_tick(self, message) -> None:
        operation = self.lines[message.number][1]
        data = operation if isinstance(operation, bytes) else msgspec.json.encode(operation)
        self.ctx.send("operator", Operate(str(message.number), data, self.ctx.address))

    def on_operated(self, message) -> None:
        assert message.id not in self.answers, "each question is answered once"
        self.answers[message.id] = message


def played(*lines, spec=None, trace=None, until_s=None):
    """A run with a console beside it, and the answers in the order of the questions."""
    made = simulation(trace or arrivals(*range(30)), spec or fleet(0.1))
    console = Console(*lines)
    made.runtime.add("operator/console", console)
    made.checker.moves = True
    run = made.run(until_s)
    assert len(console.answers) == len(lines)
    return run, [console.answers[str(number)] for number in range(len(lines))], made


def errors(*operations, spec=None):
    """What is said of each; the run goes on to its end."""
    run, answers, _ = played(*((1.5, operation) for operation in operations), spec=spec)
    assert set(column(run, "outcome").values()) == {"completed"}
    return [answer.error for answer in answers]


class Fragile(RoutingPolicy):
    """Cannot be reset."""

    def reset(self, rng):
        raise ZeroDivisionError("no seeds left")

    def route(self, request, replicas, now_s):
        return Route(replicas[0].id)


class FragileRollout(RolloutPolicy):
    def reset(self, rng):
        raise ZeroDivisionError("no seeds left")

    def choose(self, request, versions, now_s):
        return Serve(versions[0].version)


class Haunted(RoutingPolicy):
    """Cannot even be made."""

    def __post_init__(self):
        raise OSError("the floor is wet")

    def route(self, request, replicas, now_s):
        return Route(replicas[0].id)


DEEP = b'{"kind": "deploy", "pool": "x", "spec": ' + b'{"engine":' * 900 + b"1" + b"}" * 900 + b"}"


def deploy(pool="x", **spec):
    return {"kind": "deploy", "pool": pool, "spec": {"version": "2", **spec}}


def routed(policy):
    return deploy(routing={"policy": policy})


def rollout(policy="pinned", model="default", **parameters):
    return {"kind": "rollout", "model": model, "policy": {"policy": policy, **parameters}}


def scale(**bounds):
    return {"kind": "scale", "pool": "default", **bounds}


@pytest.mark.parametrize(
    ("operation", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"\xff", "JSON is malformed"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (DEEP, r"it is nested too deeply|\$.spec.engine: `engine` must be a name"),
        ({}, r"\$.kind: None is no operation; there are deploy, retire, .*status"),
        ({"kind": ["deploy"]}, r"\$.kind: \['deploy'\] is no operation"),
        ({"kind": "status", "model": "m"}, r"\$.model: status over the wire has no model"),
        ({"kind": "retire", "pool": "default", "at_s": 3.0}, r"\$.at_s: retire over the wire has no at_s"),
        ({"kind": "retire"}, r"\$.pool: missing; retire needs pool"),
        ({"kind": "retire", "pool": "x"}, r"\$.pool: there is no pool 'x'; there are default"),
        ({"kind": "retire", "pool": "default", "replicas": 3}, r"\$.replicas: retire has no replicas"),
        (scale(replcas=3), "unknown field `replcas`"),
        (scale(), r"\$.replicas: missing; scale needs replicas, or min_replicas or max_replicas"),
        (scale(replicas=-1), r"\$.replicas: Expected `int` >= 0"),
        (scale(replicas="3"), r"\$.replicas: Expected `int"),
        (scale(replicas=3, min_replicas=1), r"\$.replicas: is both bounds at once"),
        (scale(min_replicas=3), r"\$.min_replicas: 3 is above max_replicas, 1"),
        (deploy("a/b"), r"\$.pool: .a/b. cannot name a pool"),
        (deploy("x\n"), r"\$.pool: .* cannot name a pool"),
        (deploy("default"), r"there is a pool 'default' already; retire it first"),
        (deploy(version=2), r'\$.spec.version: the name of a version is text, not 2; write "2"'),
        (deploy(version="2\n"), r"\$.spec.version: '2\\n' cannot name a version"),
        (deploy(replica=3), r"\$.spec.replica: a pool has no such field; did you mean"),
        (routed("fragile"), "routing policy fragile raised ZeroDivisionError: no seeds left"),
        (routed("haunted"), r"\$.spec: OSError: the floor is wet"),
        (routed("os:Mine"), r"\$.spec.routing.policy: module `os` is not of an installed"),
        (
            routed("least-work-oracle"),
            r"\$.spec.routing: least-work-oracle is an oracle, and needs one in the",
        ),
        (rollout(model="x"), r"\$.model: no pool serves 'x'; served are default"),
        (rollout("fragile-rollout"), "rollout policy fragile-rollout raised ZeroDivisionError"),
        (rollout("canary", share=2.0), r"\$.policy.share: "),
        (
            rollout("canary", version="22"),
            r"\$.policy.version: no pool serves version 22 of model default; they serve 1; deploy it first",
        ),
        (rollout("pinned", version="11"), r"\$.policy.version: no pool serves version 11 of model default"),
        (rollout("ab-test", a="1", b="x"), r"\$.policy.b: no pool serves version x of model default"),
        ({"kind": "promote", "model": "default"}, "pinned has no stages to promote"),
        ({"kind": "rollback", "model": "x"}, "no model 'x' is served; served are default"),
    ],
)
def test_what_is_wrong_is_said_to_whoever_asked_and_the_fleet_goes_on(operation, complaint):
    (error,) = errors(operation)

    assert error is not None
    assert re.search(complaint, error), error


PROMOTE, ROLLBACK = {"kind": "promote", "model": "default"}, {"kind": "rollback", "model": "default"}
TWO = {"old": {"engine": engine(0.1)}, "new": {"engine": engine(0.1), "version": "2"}}


@pytest.mark.parametrize(
    ("policy", "move", "complaint"),
    [
        ({"policy": "canary", "version": "22"}, PROMOTE, "22"),
        ({"policy": "canary", "stable": "11"}, ROLLBACK, "11"),
        ({"policy": "ramp", "version": "22"}, PROMOTE, "22"),
        ({"policy": "blue-green", "green": "22"}, PROMOTE, "22"),
        ({"policy": "feature-flag", "version": "22"}, PROMOTE, "22"),
        ({"policy": "feature-flag", "stable": "11"}, ROLLBACK, "11"),
        ({"policy": "ab-test", "a": "11"}, ROLLBACK, "11"),
        ({"policy": "canary", "version": "22"}, ROLLBACK, None),
        ({"policy": "blue-green", "blue": "11"}, PROMOTE, None),
    ],
)
def test_a_rollout_is_moved_to_a_version_that_some_pool_serves_or_not_at_all(policy, move, complaint):
    spec = fleet(pools=TWO, models={"default": {"rollout": policy}})

    (error,) = errors(move, spec=spec)

    no_pool = f"no pool serves version {complaint} of model default; they serve 1, 2"
    assert error == (None if complaint is None else no_pool)


def test_a_rollout_goes_back_when_its_new_version_is_retired_and_not_forward():
    spec = fleet(pools=TWO, models={"default": {"rollout": {"policy": "canary", "share": 0.5}}})
    retire = {"kind": "retire", "pool": "new"}

    _, answers, _ = played((1.5, retire), (3.5, PROMOTE), (4.5, ROLLBACK), spec=spec)

    assert [answer.error for answer in answers] == [
        None, "no pool serves version 2 of model default; they serve 1", None,
    ]  # fmt: skip


ZERO = OperationsTrace(operations=(Operation(at_s=2.5, kind="scale", pool="default", replicas=0),))


def test_a_pool_scaled_to_zero_keeps_what_comes_until_it_is_scaled_again():
    again = Operation(at_s=8.0, kind="scale", pool="default", replicas=1)

    run = play(
        arrivals(*range(6)), fleet(0.1), operations=OperationsTrace(operations=(*ZERO.operations, again))
    )

    ended = column(run, "ended_s")
    assert set(column(run, "outcome").values()) == {"completed"}
    assert [ended[f"r{n}"] > 8.0 for n in range(6)] == [False] * 3 + [True] * 3


def test_a_deadlock_names_the_pool_that_has_no_replica_and_who_took_them_away():
    with pytest.raises(DeadlockError) as caught:
        play(arrivals(*range(6)), fleet(0.1), operations=ZERO)

    assert str(caught.value).splitlines()[1:] == [
        "  pool default has no ready replica (none; it may have 0 to 0, the last operation on it was scale at 2.5 s), "
        "and 3 of its requests wait",
        *(f"  request r{n} waits for a replica it may go to" for n in (3, 4, 5)),
    ]


def test_what_is_said_of_a_mistake_is_short_however_long_that_was():
    (error,) = errors({"kind": "deploy", "pool": "x", "spec": {"version": ["x" * 500_000]}})

    assert 0 < len(error) <= 4_000


@pytest.mark.parametrize("operation", [{"kind": "status", "a\nb\x1b[31m": 1}, deploy(**{"a\nb\x1b[31m": 1})])
def test_what_is_said_of_a_mistake_is_one_line_and_says_nothing_to_a_terminal(operation):
    (error,) = errors(operation)

    assert r"a\nb\x1b[31m" in error
    assert error.isprintable()


def test_a_pool_that_is_retired_is_neither_scaled_nor_deployed_again_before_it_is_gone():
    trace = trace_of(entry("long"), *(entry(f"r{n}", 8.0 + n) for n in range(5)))
    spec = fleet(
        pools={"a": {"engine": engine(5.0), "version": "1"}, "b": {"engine": engine(0.1), "version": "2"}}
    )
    lines = (
        (1.0, {"kind": "retire", "pool": "a"}),
        (2.0, {"kind": "retire", "pool": "a"}),
        (2.0, {"kind": "scale", "pool": "a", "replicas": 4}),
        (2.0, {"kind": "deploy", "pool": "a", "spec": V2}),
        (2.0, {"kind": "status"}),
        (6.0, {"kind": "status"}),
        (6.0, {"kind": "retire", "pool": "a"}),
        (6.0, {"kind": "deploy", "pool": "a", "spec": {**V2, "version": "3"}}),
    )

    run, answers, made = played(*lines, spec=spec, trace=trace)

    assert [answer.error for answer in answers] == [
        None, None, "$.pool: pool 'a' is retired",
        "$.pool: there is a pool 'a' already; wait until its last replica has gone, or choose another name",
        None, None, "$.pool: there is no pool 'a'; there are b", None,
    ]  # fmt: skip
    during, after = (msgspec.json.decode(answer.status)["pools"] for answer in answers if answer.status)
    assert (during["a"]["retired"], during["a"]["replicas"], during["a"]["in_flight"]) == (
        True,
        {"draining": 1},
        1,
    )
    assert list(after) == ["b"]
    assert set(column(run, "outcome").values()) == {"completed"}
    assert set(made.head.pools) == {"b", "a"}


def test_a_fleet_whose_last_pool_is_retired_refuses_with_the_reason_and_serves_again_after_a_deploy():
    lines = (
        (2.5, {"kind": "retire", "pool": "default"}),
        (6.5, {"kind": "deploy", "pool": "next", "spec": {}}),
    )
    run, answers, _ = played(*lines, trace=arrivals(*range(10)))

    assert [answer.error for answer in answers] == [None, None]
    outcomes = column(run, "outcome")
    assert [outcomes[f"r{n}"] for n in range(10)] == ["completed"] * 3 + ["rejected"] * 4 + ["completed"] * 3


def test_the_status_says_what_a_pool_has_done_and_why_it_does_not_start():
    broken = {
        "engine": "emulated",
        "latency": {"latency": "affine", "base_s": 0.1, "per_item_s": 0.0},
        "fail_load": True,
    }
    lines = (
        (1.5, {"kind": "deploy", "pool": "bad", "spec": {"version": "2", "engine": broken}}),
        (4.25, {"kind": "status"}),
    )
    _, answers, _ = played(*lines)
    status = msgspec.json.decode(answers[1].status)

    assert status["now_s"] == 4.25
    assert status["requests"] == {"in_flight": 0, "delayed": 0, "submitted": 5, "completed": 5}
    default, bad = status["pools"]["default"], status["pools"]["bad"]
    assert (default["replicas"], default["completed"], default["failure"]) == ({"ready": 1}, 5, None)
    assert bad["failed_starts"] >= 1
    assert "the load was told to fail" in bad["failure"]
    version = status["models"]["default"]["versions"]["1"]
    assert (version["completions"], version["pools"]) == (None, ["default"]), (
        "no policy looks, so nobody counts"
    )


def test_an_oracle_may_be_deployed_where_the_specification_shows_lengths_to_one():
    spec = fleet(pools={"a": {"engine": engine(0.1), "routing": {"policy": "least-work-oracle"}}})
    deploy = {"kind": "deploy", "pool": "b", "spec": {**V2, "routing": {"policy": "least-work-oracle"}}}
    trace = trace_of(
        *(entry(f"r{n}", float(n), output_tokens=5, model="m@2" if n > 5 else None) for n in range(12))
    )

    run, answers, _ = played((3.5, deploy), spec=spec, trace=trace)

    assert answers[0].error is None
    assert column(run, "replica")["r11"] == "replica/b/0"
