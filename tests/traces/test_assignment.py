"""What a trace does not say of its requests, drawn by a law and on record."""

import math
from collections import Counter

import pytest

from traces import Trace, TraceError, choice, load_trace, poisson, sessions, uniform, zipf
from traces.assignment import law_of

PLAIN = poisson(100.0, 100.0, 1)


def shares(trace: Trace, name: str) -> dict[str, float]:
    counts = Counter(trace.column(name).to_pylist())
    return {value: count / len(trace) for value, count in counts.items()}


def test_a_zipf_law_gives_the_k_th_value_its_share_and_names_it_by_the_column():
    seen = shares(PLAIN.assign(tenant=zipf(5, 1.0)), "tenant")

    total = sum(1 / k for k in range(1, 6))
    for rank in range(5):
        expected = 1 / (rank + 1) / total
        assert seen[f"tenant-{rank}"] == pytest.approx(expected, abs=4 * math.sqrt(expected / len(PLAIN)))


def test_values_of_ones_own_by_share_and_one_value_for_all():
    made = PLAIN.assign(
        model=choice({"chat": 0.7, "code": 0.3}), adapter="none", priority=choice({0: 0.9, 1: 0.1})
    )

    assert shares(made, "model")["chat"] == pytest.approx(0.7, abs=0.02)
    assert shares(made, "adapter") == {"none": 1.0}
    assert shares(made, "priority")[1] == pytest.approx(0.1, abs=0.015)


def test_a_capability_is_put_beside_what_else_there_is():
    made = PLAIN.assign(capability=choice({"vision": 1.0, "": 1.0}))

    assert {entry.request.extra["capability"] for entry in made} == {"vision", ""}


def test_one_more_column_changes_none_of_the_others():
    one = PLAIN.assign(tenant=zipf(9), seed=3)
    two = PLAIN.assign(user=uniform(50), tenant=zipf(9), seed=3)

    assert one.column("tenant").equals(two.column("tenant"))
    assert not one.column("tenant").equals(PLAIN.assign(tenant=zipf(9), seed=4).column("tenant"))


def test_a_session_keeps_its_tenant_and_each_request_has_a_priority_of_its_own():
    chats = sessions(2.0, 100.0, seed=0)
    made = chats.assign(tenant=uniform(20), priority=choice({0: 1.0, 1: 1.0}))

    of_session: dict[str, set[str]] = {}
    priorities: dict[str, set[int]] = {}
    for entry in made:
        of_session.setdefault(entry.request.session, set()).add(entry.request.tenant)
        priorities.setdefault(entry.request.session, set()).add(entry.request.priority)
    assert {len(tenants) for tenants in of_session.values()} == {1}
    assert max(len(values) for values in priorities.values()) == 2
    alone = chats.assign(tenant=uniform(20), per="request")
    assert not alone.column("tenant").equals(made.column("tenant"))


def test_the_header_says_enough_to_do_it_again():
    made = PLAIN.assign(tenant=zipf(20, 1.1), model=choice({"a": 1, "b": 3}), seed=7)

    step = made.header.transforms[-1]
    assert (step.name, step.seed) == ("assign", 7)
    assert step.parameters == {"tenant": "zipf:20:1.1", "model": "choice:a=1,b=3"}
    assert PLAIN.assign(seed=step.seed, **step.parameters) == made


def test_what_is_there_is_not_overwritten_unless_that_is_meant():
    made = PLAIN.assign(tenant=zipf(3))

    with pytest.raises(TraceError, match="the trace has tenant already"):
        made.assign(tenant=zipf(4))
    assert shares(made.assign(tenant="one", overwrite=True), "tenant") == {"one": 1.0}


@pytest.mark.parametrize(
    "law", ["zipf:none", "zipf:0", "uniform:-1", "choice:a", "choice:a=x", "choice:a=-1", "choice:a=0"]
)
def test_a_law_that_is_none_is_refused(law):
    with pytest.raises(TraceError):
        law_of(law)


def test_only_what_a_request_can_be_given_is_given():
    with pytest.raises(TraceError, match=r"assign\(deadline_s=...\) is not possible"):
        PLAIN.assign(deadline_s="3")
    with pytest.raises(TraceError, match="a priority is a whole number"):
        PLAIN.assign(priority="high")


FUNCTIONS = """app,func,end_timestamp,duration
a,f,10.5,0.5
a,g,9.0,2.0
b,h,12.0,0.25
"""


def test_invocations_of_many_functions_are_requests_of_many_models(tmp_path):
    """They arrived when they ended less what they took: 10.0, 7.0 and 11.75."""
    file = tmp_path / "functions.txt"
    file.write_text(FUNCTIONS)

    trace = load_trace(file)

    rows = [(e.request.model, e.request.tenant, e.request.arrived_s, e.observed.e2e_s) for e in trace]
    assert rows == [("g", "a", 0.0, 2.0), ("f", "a", 3.0, 0.5), ("h", "b", 4.75, 0.25)]
    assert (trace.header.offset_s, trace.report.reordered) == (7.0, 1)


def test_an_invocation_that_began_before_the_recording_is_the_first(tmp_path):
    file = tmp_path / "functions.txt"
    file.write_text(FUNCTIONS + "b,h,1.0,3.0\n")

    assert [entry.request.arrived_s for entry in load_trace(file)] == [0.0, 9.0, 12.0, 13.75]


def test_a_bad_row_is_named(tmp_path):
    file = tmp_path / "functions.txt"
    file.write_text(FUNCTIONS + "b,h,x,3.0\n")

    with pytest.raises(TraceError, match="end_timestamp"):
        load_trace(file)
    assert load_trace(file, on_bad="drop").report.dropped == {"end_timestamp is not a number": 1}
