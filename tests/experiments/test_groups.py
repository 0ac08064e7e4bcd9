"""Figures by group: of each tenant, class, replica or field of one's own, and of how evenly they are shared."""

import json
import math

import numpy as np
import pytest

from experiments import Metric, NoValue, compare, metric
from experiments.measured import MOST_GROUPS, measure
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, load_run, simulate
from policies import RoundRobin
from traces import Request, Slo, Trace, TraceEntry

LATENCY = EmulatedEngine(latency=AffineLatency(base_s=0.010, per_item_s=0.0))
ONE = FleetSpec(engine=LATENCY, replicas=1, slo=Slo(e2e_s=0.012))
TWO = ONE.replace(replicas=2, routing=RoundRobin(), binding="early")


def asked(at_s: float, number: int, **fields: object) -> TraceEntry:
    return TraceEntry(Request(id=str(number), arrived_s=at_s, **fields))


def trace_of(*entries: TraceEntry) -> Trace:
    return Trace.from_entries(entries)


@pytest.fixture(scope="module")
def tenants() -> Trace:
    # a's come alone; b's two at a time, of which the second waits; one request is nobody's
    return trace_of(
        asked(0.0, 0, tenant="a", priority=1, extra={"team": "red", "gold": True}),
        asked(1.0, 1, tenant="b", priority=10, extra={"team": "blue"}),
        asked(1.005, 2, tenant="b", priority=2),
        asked(2.0, 3),
    )


@pytest.fixture(scope="module")
def run(tenants: Trace) -> Run:
    return simulate(tenants, ONE)


def values(run: Run, *names: str) -> dict[str, float | None]:
    return measure(run, [metric(name) for name in names], "it", 0).values


def test_each_group_has_the_figures_of_its_own_requests(run: Run) -> None:
    assert values(run, "e2e_s.max@tenant") == pytest.approx(
        {"e2e_s.max@tenant=a": 0.010, "e2e_s.max@tenant=b": 0.015, "e2e_s.max@no tenant": 0.010}
    )
    assert values(run, "submitted@tenant", "slo_attainment@tenant") == {
        "submitted@tenant=a": 1.0, "submitted@tenant=b": 2.0, "submitted@no tenant": 1.0,
        "slo_attainment@tenant=a": 1.0, "slo_attainment@tenant=b": 0.5, "slo_attainment@no tenant": 1.0,
    }  # fmt: skip


def test_rates_of_groups_add_up_to_that_of_all(run: Run) -> None:
    by_tenant = values(run, "throughput_per_s@tenant")
    assert sum(by_tenant.values()) == pytest.approx(run.summary.throughput_per_s)


def test_groups_by_several_columns_and_by_fields_of_ones_own(run: Run) -> None:
    assert list(values(run, "completed@tenant+priority")) == [
        "completed@tenant=a, priority=1", "completed@tenant=b, priority=2", "completed@tenant=b, priority=10",
        "completed@no tenant, no priority",
    ]  # fmt: skip
    assert values(run, "completed@team") == {
        "completed@team=blue": 1.0, "completed@team=red": 1.0, "completed@no team": 2.0
    }  # fmt: skip
    assert values(run, "completed@gold") == {"completed@gold=true": 1.0, "completed@no gold": 3.0}


def test_what_a_trace_says_more_of_its_requests_is_recorded_and_no_part_of_the_digest(
    run: Run, tenants: Trace, tmp_path
) -> None:
    assert json.loads(run.records["extra"][0].as_py()) == {"team": "red", "gold": True}
    plain = Run({**run.tables, "records": run.records.drop_columns(["extra"])}, run.summary, run.manifest)
    assert plain.digest == run.digest
    folder = run.save(tmp_path / "run")
    assert load_run(folder).records.equals(run.records)


def test_fairness_is_one_value_over_all_groups(run: Run) -> None:
    counts = [1.0, 2.0, 1.0]
    jain = sum(counts) ** 2 / (3 * sum(x * x for x in counts))
    assert values(run, "completed@tenant:jain", "completed@tenant:max_min") == {
        "completed@tenant:jain": pytest.approx(jain), "completed@tenant:max_min": 2.0
    }  # fmt: skip


def test_a_group_without_a_value_leaves_fairness_without_one(tenants: Trace) -> None:
    starved = simulate(tenants, ONE.replace(deadline_s=0.012))  # b's second is too late
    late = trace_of(asked(0.0, 0, tenant="a"), asked(0.0, 1, tenant="b"))
    found = measure(
        simulate(late, ONE.replace(deadline_s=0.012)), [metric("e2e_s.mean@tenant:jain")], "it", 0
    )
    assert starved.summary.expired == 1
    assert found.values == {"e2e_s.mean@tenant:jain": None}
    assert found.why == {"e2e_s.mean@tenant:jain": "tenant=b has no value of it"}


def test_the_load_of_a_replica_is_how_many_requests_it_had_on_average() -> None:
    # Round robin: the first, third and fourth... of three requests replica 0 gets two, replica 1 one.
    run = simulate(trace_of(*(asked(float(n), n) for n in range(3))), TWO)
    busy = np.array([2 * 0.010, 0.010])
    expected = busy / run.summary.duration_s
    assert metric("busiest_over_mean").read(run) == pytest.approx(expected.max() / expected.mean())
    assert metric("load_variation").read(run) == pytest.approx(expected.std() / expected.mean())


def test_one_replica_has_nothing_to_be_uneven_with(run: Run) -> None:
    with pytest.raises(NoValue, match="one replica"):
        metric("load_variation").read(run)


def test_a_metric_of_ones_own_sees_the_whole_run_or_the_part_that_a_group_is(run: Run) -> None:
    waits = Metric("waits", "%", lambda part: float(np.mean(part.records["queue_s"].to_numpy() > 0.001)))
    assert measure(run, [waits, waits.grouped("tenant")], "it", 0).values == {
        "waits": 0.25, "waits@tenant=a": 0.0, "waits@tenant=b": 0.5, "waits@no tenant": 0.0
    }  # fmt: skip


def test_a_metric_that_raises_has_no_value_and_says_what_it_raised(tenants: Trace) -> None:
    broken = Metric("broken", "", lambda run: 1 / 0)
    report = compare(
        tenants, {"one": ONE, "two": TWO}, seeds=[0], metrics=[broken, "e2e_s.max"], progress=False
    )
    assert report.row("e2e_s.max", "two").mean == pytest.approx(0.010)
    assert report.notes[0] == (
        "No value of broken for one, two: it raised ZeroDivisionError: division by zero."
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("12 ms", "it answered '12 ms', which is no number"),
        ([1.0], "it answered [1.0], which is no number"),
        (np.array([1.0, 2.0]), "it answered array([1., 2.]), which is no number"),
        (math.nan, "it answered nan, which is no finite number"),
        (math.inf, "it answered inf, which is no finite number"),
    ],
)
def test_a_metric_that_answers_no_number_costs_its_own_value_and_nothing_else(
    tenants: Trace, answer: object, said: str
) -> None:
    odd = Metric("odd", "", lambda run: answer)
    report = compare(tenants, {"one": ONE, "two": TWO}, seeds=[0], metrics=[odd, "e2e_s.max"], progress=False)
    assert {row.metric for row in report.rows} == {"e2e_s.max"}
    assert report.notes[0] == f"No value of odd for one, two: {said}."


@pytest.mark.parametrize("answer", [1, 1.0, np.float32(1.0), np.int64(1), np.array(1.0)])
def test_any_one_number_is_an_answer(run: Run, answer: float) -> None:
    assert measure(run, [Metric("one", "", lambda run: answer)], "it", 0).values == {"one": 1.0}


def test_more_groups_than_a_table_holds_are_counted_and_not_listed() -> None:
    many = trace_of(*(asked(float(n), n, user=f"u{n}") for n in range(MOST_GROUPS + 1)))
    found = measure(simulate(many, ONE), [metric("e2e_s.max@user"), metric("completed@user:jain")], "it", 0)
    assert found.values == {"e2e_s.max@user": None, "completed@user:jain": pytest.approx(1.0)}
    assert found.why["e2e_s.max@user"] == "201 groups are more than the 200 that are told apart"


def test_compare_by_a_column_has_a_verdict_for_each_group(tenants: Trace) -> None:
    report = compare(
        lambda seed: tenants.scale_time(1.0 + 0.01 * seed), {"one": ONE, "two": TWO}, seeds=range(3),
        metrics=["e2e_s.max", "utilization"], by="tenant", progress=False,
    )  # fmt: skip
    keys = list(dict.fromkeys(row.metric for row in report.rows))
    assert keys == [
        "e2e_s.max",
        *(f"e2e_s.max@{of}" for of in ("tenant=a", "tenant=b", "no tenant")),
        "utilization",
    ]
    assert report.row("e2e_s.max@tenant=b", "two").label == "e2e max, tenant=b (ms)"


def test_a_group_that_a_seed_does_not_have_is_said(tenants: Trace) -> None:
    report = compare(
        lambda seed: tenants if seed else tenants.first(requests=1), {"one": ONE}, seeds=(0, 1),
        metrics=["e2e_s.max@tenant"], progress=False,
    )  # fmt: skip
    assert report.notes[0] == (
        "No value of e2e max, tenant=b for one in 1 of 2 seeds, which count in no mean: it has no request of tenant=b."
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("e2e_s.p99@", "names no column after @"),
        ("e2e_s.p99@tenant+", "names no column after @"),
        ("e2e_s.p99@tenant:gini", "there is no 'gini' over groups; there are jain, max_min"),
        ("utilization@tenant", "utilization is of the whole fleet, and cannot be told apart by tenant"),
    ],
)
def test_a_grouping_that_means_nothing_is_refused(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("+", r"\+")):
        metric(name)


def test_a_column_that_nothing_has_is_refused_before_any_work(tenants: Trace) -> None:
    with pytest.raises(
        ValueError, match=r"'tenent' is nothing to group requests by; there are tenant, priority, "
    ):
        compare(tenants, {"one": ONE}, seeds=[0], by="tenent", progress=False)


def test_the_unit_of_a_name_may_be_left_out() -> None:
    assert metric("goodput").key == "goodput_per_s"
    assert metric("ttft.p99@tenant").key == "ttft_s.p99@tenant"


def test_the_metric_of_a_group_reads_that_group_alone(run: Run) -> None:
    of_b = metric("e2e_s.max@tenant").of_group("tenant=b")
    assert of_b.read(run) == pytest.approx(0.015)
    with pytest.raises(NoValue, match="it has no request of tenant=c"):
        metric("e2e_s.max@tenant").of_group("tenant=c").read(run)


def test_no_two_groups_have_one_label() -> None:
    named = (("a, model=b", "c"), ("a", "b, model=c"))
    trace = trace_of(*(asked(float(n), n, tenant=t, model=m) for n, (t, m) in enumerate(named)))
    assert values(simulate(trace, ONE), "submitted@tenant+model") == {
        'submitted@tenant=a, model="b, model=c"': 1.0, 'submitted@tenant="a, model=b", model=c': 1.0
    }  # fmt: skip


def test_groups_that_are_too_many_are_counted_before_their_parts_are_made(monkeypatch) -> None:
    many = trace_of(*(asked(float(n), n, user=f"u{n}") for n in range(MOST_GROUPS + 1)))
    run = simulate(many, ONE)
    monkeypatch.setattr(Run, "part", lambda *_: pytest.fail("a part was made"))
    assert measure(run, [metric("e2e_s.max@user")], "it", 0).values == {"e2e_s.max@user": None}
