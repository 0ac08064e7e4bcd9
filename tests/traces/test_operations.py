"""Operations traces: which fields go together, what is refused and how that is said, and the files that hold them."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.pools import checked_name
from policies import PolicyError
from traces import Operation, OperationsTrace, TraceError, load_operations, load_trace
from traces.names import check_name
from traces.values import BadValue

TABLES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text("ab-", max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text("xyz", max_size=3), values, max_size=3)
    ),
    max_leaves=5,
)
SPECS = st.dictionaries(st.sampled_from(["model", "version", "replicas", "engine"]), TABLES, max_size=4)
NAMES = st.sampled_from(["chat", "chat-2", "a.b", "0"])
COUNTS = st.integers(0, 9)


def operations(kind, **fields):
    return st.builds(Operation, at_s=st.floats(0, 1e6), kind=st.just(kind), **fields)


OPERATIONS = st.one_of(
    operations("deploy", pool=NAMES, spec=SPECS),
    operations("retire", pool=NAMES),
    operations("scale", pool=NAMES, replicas=COUNTS),
    operations(
        "scale", pool=NAMES, min_replicas=st.integers(0, 3), max_replicas=st.none() | st.integers(3, 9)
    ),
    operations("rollout", model=NAMES, policy=SPECS),
    operations("promote", model=NAMES),
    operations("rollback", model=NAMES),
)


@given(st.lists(OPERATIONS, max_size=4))
def test_what_is_written_is_read_back_equal_and_in_order(tmp_path_factory, made):
    trace = OperationsTrace(operations=tuple(made), source="by hand")
    path = tmp_path_factory.mktemp("operations") / "x"
    path.write_bytes(msgspec.json.encode(trace))

    assert load_operations(path) == trace
    assert [item.at_s for item in trace.operations] == sorted(item.at_s for item in made)


def test_those_of_one_instant_keep_their_order():
    made = [Operation(at_s=at_s, kind="retire", pool=pool) for at_s, pool in ((5, "b"), (1, "x"), (5, "a"))]

    assert [item.pool for item in OperationsTrace(operations=tuple(made)).operations] == ["x", "b", "a"]


def test_toml_is_read_and_a_spec_stays_plain_values(tmp_path):
    (tmp_path / "x").write_text(
        '[[operations]]\nat_s = 300.0\nkind = "deploy"\npool = "chat-2"\n'
        'spec = { model = "chat", version = "2", replicas = 2, engine = { engine = "nobody-knows" } }\n'
        '[[operations]]\nat_s = 60\nkind = "scale"\npool = "chat-1"\nmax_replicas = 4\n'
    )

    assert load_operations(tmp_path / "x") == OperationsTrace(
        operations=(
            Operation(at_s=60.0, kind="scale", pool="chat-1", max_replicas=4),
            Operation(
                at_s=300.0,
                kind="deploy",
                pool="chat-2",
                spec={"model": "chat", "version": "2", "replicas": 2, "engine": {"engine": "nobody-knows"}},
            ),
        ),
    )


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"kind": "deploy", "pool": "a"}, "spec", "missing; deploy needs pool and spec"),
        ({"kind": "deploy", "spec": {}}, "pool", "missing; deploy needs pool and spec"),
        ({"kind": "retire"}, "pool", "missing; retire needs pool"),
        ({"kind": "rollout", "model": "m"}, "policy", "missing; rollout needs model and policy"),
        ({"kind": "promote"}, "model", "missing; promote needs model"),
        ({"kind": "rollback", "pool": "a"}, "model", "missing; rollback needs model"),
        ({"kind": "retire", "pool": "a", "model": "m"}, "model", "retire has no model; it has at_s, kind, pool"),
        ({"kind": "promote", "model": "m", "policy": {}}, "policy", "promote has no policy"),
        ({"kind": "deploy", "pool": "a", "spec": {}, "replicas": 2}, "replicas", "deploy has no replicas"),
        ({"kind": "scale", "pool": "a"}, "replicas", "missing; scale needs replicas, or min_replicas or"),
        ({"kind": "scale", "pool": "a", "replicas": 2, "max_replicas": 3}, "replicas", "is both bounds at once"),
        ({"kind": "scale", "pool": "a", "min_replicas": 4, "max_replicas": 3}, "min_replicas", "4 is above max"),
        ({"kind": "scale", "pool": "a", "replicas": -1}, "replicas", "Expected `int` >= 0"),
        ({"kind": "retire", "pool": "a/b"}, "pool", "'a/b' cannot name a pool: letters, digits"),
        ({"kind": "retire", "pool": "-a"}, "pool", "'-a' cannot name a pool"),
        ({"kind": "retire", "pool": "a" * 64}, "pool", "cannot name a pool"),
        ({"kind": "promote", "model": "chat@2"}, "model", "'chat@2' cannot name a model: 1 to 200 characters"),
        ({"kind": "promote", "model": ""}, "model", "'' cannot name a model"),
        ({"kind": "close", "pool": "a"}, "kind", "Invalid enum value 'close'"),
        ({"kind": "retire", "pool": "a", "at_s": -1.0}, "at_s", "Expected `float` >= 0.0"),
        ({"kind": "retire", "pool": "a", "at_s": float("inf")}, "at_s", "expected a finite number"),
        ({"kind": "deploy", "pool": "a", "spec": {"x": float("nan")}}, "spec.x", "expected a finite number"),
    ],
)  # fmt: skip
def test_each_kind_has_its_own_fields_and_no_others(fields, path, problem):
    with pytest.raises(BadValue) as error:
        Operation(**{"at_s": 1.0, **fields})

    assert error.value.path == path
    assert problem in error.value.problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"operations": [{"at_s": 1, "kind": "retire"}]}', "pool: missing; retire needs pool - at `$.operations[0]`"),
        ('{"operations": [{"at_s": 1, "kind": "stop"}]}', "Invalid enum value 'stop' - at `$.operations[0].kind`"),
        ("[[operations]]\nkind = 'retire'\npool = 'a'", "missing required field `at_s` - at `$.operations[0]`"),
        ("[[operations]]\nat_s = 1\nkind = 'retire'\npool = 'a'\nwhy = 1", "unknown field `why`"),
        ('{"faults": []}', "is not an operations trace: Object contains unknown field `faults`"),
        ("[[operations", "is not an operations trace"),
        ("", 'is empty; expected {"operations": [{"at_s": 20.0, '),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_told_what_is_wrong_and_what_would_be_right(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(TraceError) as error:
        load_operations(tmp_path / "x")
    assert str(error.value).startswith(f"{tmp_path / 'x'}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("text", [json.dumps({"operations": []}), "[[operations]]\nat_s = 1"])
def test_a_trace_of_operations_is_not_taken_for_one_of_requests(tmp_path, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(TraceError, match="holds operations, not requests; read it with load_operations"):
        load_trace(tmp_path / "x")


@pytest.mark.parametrize("called", ["pool", "model"])
@given(name=st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,70}", fullmatch=True))
def test_what_names_a_pool_or_a_model_here_does_so_in_a_fleet_and_nothing_else_does(called, name):
    def accepted(check, *arguments):
        try:
            check(*arguments)
        except (BadValue, PolicyError):
            return False
        return True

    assert accepted(check_name, called, name) == accepted(checked_name, called, name, "$")
