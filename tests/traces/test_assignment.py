"""What a trace does not say of its requests, drawn by a law and on record."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.test_trace import of
from traces import Trace, TraceError, choice, load_trace, poisson, save_trace, sessions, uniform, zipf
from traces.assignment import ASSIGNABLE

PLAIN = poisson(100.0, 100.0, 1)
CHATS = sessions(2.0, 100.0, seed=0)
LAWS = {"tenant": zipf(9, 1.2), "user": uniform(50), "model": choice({"chat": 0.7, None: 0.3})}
LAWS |= {
    "adapter": uniform(3),
    "priority": choice({0: 9, 5: 1}),
    "capability": choice({"vision": 1, None: 4}),
}


def column(trace: Trace, name: str) -> list[object]:
    if name == "capability":
        return [(entry.request.extra or {}).get("capability") for entry in trace]
    return trace.column(name).to_pylist()


def shares(values: list[object]) -> dict[object, float]:
    return {value: count / len(values) for value, count in Counter(values).items()}


def by(trace: Trace, whom: str, name: str) -> dict[object, set[object]]:
    """The values of a column that each session, or each user, has."""
    values: dict[object, set[object]] = {}
    for one, value in zip(column(trace, whom), column(trace, name), strict=True):
        values.setdefault(one, set()).add(value)
    return values


# --- by which law ------------------------------------------------------------------------------------------------


def test_a_zipf_law_gives_each_rank_its_share_and_names_it_by_the_column():
    seen = shares(column(PLAIN.assign(tenant=zipf(5, 1.1)), "tenant"))

    total = sum(k**-1.1 for k in range(1, 6))
    for rank in range(5):
        expected = (rank + 1) ** -1.1 / total
        error = 4 * math.sqrt(expected * (1 - expected) / len(PLAIN))
        assert seen[f"tenant-{rank}"] == pytest.approx(expected, abs=error)


def test_values_of_ones_own_by_share_and_one_value_for_all():
    made = PLAIN.assign(
        model=choice({"chat@2": 7, "code": 3}), adapter="none", priority=choice({0: 0.9, -1: 0.1}), user=7
    )

    assert shares(column(made, "model"))["chat@2"] == pytest.approx(0.7, abs=0.02)
    assert shares(column(made, "adapter")) == {"none": 1.0}
    assert shares(column(made, "priority"))[-1] == pytest.approx(0.1, abs=0.015)
    assert shares(column(made, "user")) == {"7": 1.0}


def test_no_value_is_null_and_nothing_else():
    made = PLAIN.assign(tenant=choice({"a": 1, None: 3}), capability=choice({"vision": 1, None: 3}))

    assert shares(column(made, "tenant"))[None] == pytest.approx(0.75, abs=0.02)
    assert {None if entry.request.extra is None else entry.request.extra["capability"] for entry in made} == {
        None,
        "vision",
    }


def test_a_capability_is_put_beside_what_else_there_is():
    trace = of(0.0, 1.0, 2.0, extra=['{"a":1}', '{"b":null,"capability":null}', None])

    made = trace.assign(capability="tools,vision")

    assert [entry.request.extra for entry in made] == [
        {"a": 1, "capability": "tools,vision"},
        {"b": None, "capability": "tools,vision"},
        {"capability": "tools,vision"},
    ]
    assert made.table["extra"][0].as_py() == '{"a":1,"capability":"tools,vision"}'


# --- for whom ----------------------------------------------------------------------------------------------------


def test_a_session_keeps_what_is_its_own_and_each_request_has_a_priority_and_a_capability_of_its_own():
    made = CHATS.assign(**LAWS)

    for name in ("tenant", "user", "model", "adapter"):
        assert {len(values) for values in by(made, "session", name).values()} == {1}
    for name in ("priority", "capability"):
        assert max(len(values) for values in by(made, "session", name).values()) == 2


def test_shares_are_of_sessions_where_sessions_are_drawn():
    made = sessions(50.0, 100.0, seed=0, turns=6).assign(tenant=choice({"a": 1, "b": 3}))

    of_sessions = [values.pop() for values in by(made, "session", "tenant").values()]
    error = 4 * math.sqrt(0.25 * 0.75 / len(of_sessions))
    assert shares(of_sessions)["a"] == pytest.approx(0.25, abs=error)


def test_each_request_may_be_drawn_by_itself():
    made = CHATS.assign(tenant=uniform(20), per="request")

    assert max(len(values) for values in by(made, "session", "tenant").values()) > 1
    assert made.header.transforms[-1].parameters == {"tenant": "uniform:20", "per": "request"}


def test_a_user_may_keep_all_whichever_is_named_first():
    made = CHATS.assign(tenant=uniform(5), priority=choice({0: 1, 1: 1}), user=uniform(10), per="user")

    for name in ("tenant", "priority"):
        assert {len(values) for values in by(made, "user", name).values()} == {1}
    assert {len(users) for users in by(made, "session", "user").values()} == {1}
    assert made == CHATS.assign(
        user=uniform(10), tenant=uniform(5), priority=choice({0: 1, 1: 1}), per="user"
    )


def test_who_has_no_session_has_a_value_of_its_own():
    trace = of(*map(float, range(300)), session=["s", None, "t"] * 100)

    made = trace.assign(tenant=uniform(1000))

    values = by(made, "session", "tenant")
    assert (len(values["s"]), len(values["t"])) == (1, 1)
    assert len(values[None]) > 80


@pytest.mark.parametrize("per", ["session", "user"])
def test_for_whom_there_is_none_nothing_is_drawn(per):
    with pytest.raises(TraceError, match=f"the trace has no {per}s"):
        PLAIN.assign(tenant=uniform(5), per=per)


# --- the same again ----------------------------------------------------------------------------------------------


@given(
    names=st.lists(st.sampled_from(ASSIGNABLE), min_size=1, unique=True),
    per=st.sampled_from([None, "request", "session"]),
    seed=st.integers(0, 2**70),
)
@strategies.few
def test_one_column_more_changes_none_of_the_others(names, per, seed):
    together = CHATS.assign(**{name: LAWS[name] for name in names}, per=per, seed=seed)

    for name in names:
        alone = CHATS.assign(**{name: LAWS[name]}, per=per, seed=seed)
        assert column(alone, name) == column(together, name)


def test_columns_of_one_law_and_one_seed_are_independent():
    made = PLAIN.assign(tenant=uniform(2), user=uniform(2), seed=3)

    pairs = zip(column(made, "tenant"), column(made, "user"), strict=True)
    equal = sum(tenant[-1] == user[-1] for tenant, user in pairs)
    assert equal / len(made) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(made)))
    assert column(made, "tenant") != column(PLAIN.assign(tenant=uniform(2), seed=4), "tenant")


@given(requests=st.integers(0, 300))
@strategies.few
def test_the_beginning_of_a_trace_is_given_what_the_whole_is_given_there(requests):
    assert list(CHATS.assign(**LAWS).first(requests=requests)) == list(
        CHATS.first(requests=requests).assign(**LAWS)
    )


def test_the_header_says_enough_to_do_it_again(tmp_path):
    chats = sessions(2.0, 100.0, seed=0)
    made = chats.assign(**LAWS, seed=7).assign(tenant=zipf(3, 1 / 3), overwrite=True, per="request")
    save_trace(made, tmp_path / "x.parquet")

    first, second = load_trace(tmp_path / "x.parquet").header.transforms[-2:]
    again = chats.assign(seed=first.seed, **first.parameters)
    again = again.assign(seed=second.seed, **second.parameters)

    assert again == made
    assert (first.name, first.seed, first.parameters["tenant"]) == ("assign", 7, "zipf:9:1.2")
    assert second.parameters == {"tenant": "zipf:3:0.3333333333333333", "per": "request", "overwrite": True}


def test_what_is_drawn_stays_what_it_is():
    made = PLAIN.first(requests=6).assign(tenant=zipf(20, 1.1), seed=0)

    drawn = ["tenant-15", "tenant-5", "tenant-4", "tenant-0", "tenant-0", "tenant-8"]
    assert column(made, "tenant") == drawn


def test_provenance_is_that_of_any_transform():
    assert of(0.0).assign(tenant="a").header.provenance == "derived"
    assert PLAIN.assign(tenant="a").header.provenance == "synthetic"


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNABLE)
def test_what_is_there_is_replaced_only_when_that_is_meant(name):
    made = PLAIN.first(requests=9).assign(**{name: "1"})

    with pytest.raises(TraceError, match=f"the trace has a column {name} already; overwrite=True"):
        made.assign(**{name: "2"})
    with pytest.raises(TraceError, match="already"):
        made.first(requests=1).merge(of(5.0, id=["x"])).assign(**{name: "2"})  # of some rows
    assert {str(value) for value in column(made.assign(**{name: "2"}, overwrite=True), name)} == {"2"}
    gone = made.assign(**{name: choice({None: 1})}, overwrite=True)
    assert set(column(gone, name)) == {None}
    assert gone.sha256 == PLAIN.first(requests=9).sha256


def test_a_column_without_any_value_is_none():
    trace = of(0.0, 1.0, extra=['{"note":"\\"capability\\""}', None])

    assert set(column(trace.assign(capability="vision"), "capability")) == {"vision"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, r"assign\(\) needs a law"),
        ({"deadline_s": "3"}, r"assign\(deadline_s=...\) is not possible; give one of model, adapter"),
        ({"priority": "high"}, r"a priority is a whole number; priority=choice"),
        ({"priority": 2**63}, "a priority is a whole number"),
        ({"priority": uniform(3)}, "a priority is a whole number"),
        ({"tenant": "zipf:0"}, r"zipf\(count=0\) is not possible"),
        ({"tenant": None}, "None is no value"),
        ({"tenant": "a", "per": "tenant"}, "one of request, session, user"),
        ({"tenant": "a", "seed": -1}, "give a whole number from 0 on"),
        ({"tenant": "a", "seed": 1.5}, "give a whole number from 0 on"),
    ],
)
def test_what_cannot_be_assigned_is_refused(arguments, complaint):
    with pytest.raises(TraceError, match=complaint):
        PLAIN.assign(**arguments)


def test_a_trace_without_requests_stays_without():
    empty = PLAIN.first(requests=0)

    assert len(empty.assign(**LAWS)) == 0
