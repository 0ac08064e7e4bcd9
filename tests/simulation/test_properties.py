"""Whatever arrives, however the fleet is made, and whatever fails: the invariants of docs/invariants.md hold."""

import os
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel, simulate
from fleet.messages import OUTCOMES
from fleet.pools import DEFAULT, MODEL_COMPONENTS
from fleet.serving_checks import NEEDS_EARLY
from policies import Composed, FreshFilter, InFlightScorer, NoRetry, NotFullFilter, PolicyError, SoftmaxPicker
from policies.base import SLOTS
from policies.building import build
from policies.registry import classes
from tests.simulation.building import play
from traces import Fault, FaultTrace, Request, Trace, TraceEntry
from traces.values import fields_of

PATIENCE_S = 20.0
"""A deadline where none is given: some fleets and faults leave requests that nobody will ever serve."""
"""A run with nothing left to do but lost messages ends this soon."""


def maybe(strategy):
    return st.none() | strategy


def shipped(slot):
    """Every policy of a slot that this project ships, and that can do with its default parameters."""
    ours = [cls for cls in classes(SLOTS[slot]) if cls.__module__.startswith("policies.")]
    return [cls for cls in ours if not any(field.required for field in fields_of(cls))]


def made(cls, **ranges):
    """A policy of `cls` with some of its parameters drawn."""
    known = {name: strategy for name, strategy in ranges.items() if name in cls.__struct_fields__}
    return st.fixed_dictionaries(known).map(lambda parameters: cls(**parameters)).filter(sound)


def sound(policy):
    """Its parameters are within its bounds: what has one name may have another meaning in another policy."""
    try:
        build(type(policy), policy)
    except PolicyError:
        return False
    return True


SMALL = {
    "choices": st.integers(1, 4),
    "max_batch": st.integers(1, 5),
    "window_s": st.sampled_from([0.0, 0.05, 1.0]),
    "max_queue_depth": st.integers(1, 8),
    "max_in_flight": maybe(st.integers(1, 8)),
    "up_at": st.sampled_from([1.0, 3.0]),
    "down_at": st.sampled_from([0.0, 0.5]),
    "step": st.integers(1, 3),
    "target": st.sampled_from([0.2, 0.7]),
    "down_stabilization_s": st.sampled_from([0.0, 2.0]),
    "size": st.integers(0, 2),
    "failures": st.integers(1, 3),
    "recoveries": st.integers(1, 2),
    "max_attempts": st.integers(1, 4),
    "jitter": st.sampled_from(["full", "equal", "none"]),
    "budget_tokens": st.sampled_from([0.0, 2.0, 100.0]),
}
"""Parameters that make something happen within a few virtual seconds."""


def policies(slot):
    return st.sampled_from(shipped(slot)).flatmap(lambda cls: made(cls, **SMALL))


@st.composite
def slots_of(draw, policies):
    """A policy for each slot but routing; those of a model are of the only one."""
    chosen = {slot: draw(policies(slot)) for slot in SLOTS if slot != "routing"}
    model = {slot: chosen.pop(slot) for slot in MODEL_COMPONENTS}
    return {**chosen, "models": {DEFAULT: model}}


def choosing(slots, binding):
    """The slots of a fleet: where nobody chooses a replica, there is no hedge and no breaker."""
    return slots if binding == "early" else {**slots, **{slot: cls() for slot, cls in NEEDS_EARLY.items()}}


composed = st.builds(
    Composed,
    filters=st.lists(st.sampled_from([NotFullFilter(), FreshFilter(max_age_s=0.3)]), max_size=2),
    scorers=st.just([(1.0, InFlightScorer())]),
    picker=st.just(SoftmaxPicker()),
    when_empty=st.sampled_from(["ignore", "hold", "reject"]),
)
networks = st.builds(
    NetworkModel,
    delay_s=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    jitter_s=st.sampled_from([0.0, 0.0, 0.05]),
    loss=st.sampled_from([0.0, 0.0, 0.2]),
    reorder=st.booleans(),
)
periods = st.sampled_from([0.1, 0.25, 1.0])


@st.composite
def specs(draw):
    low = draw(st.integers(0, 2))
    high = low + draw(st.integers(1, 3))
    latency = AffineLatency(
        base_s=draw(st.sampled_from([0.0, 0.01, 0.2])),
        per_item_s=draw(st.sampled_from([0.0, 0.02, 0.3])),
        jitter_cv=draw(st.sampled_from([0.0, 0.5])),
    )
    slots = draw(slots_of(policies))
    binding = draw(st.sampled_from(["early", "late"]))
    return FleetSpec(
        engine=EmulatedEngine(latency=latency, cold_start_s=draw(st.sampled_from([0.0, 0.4]))),
        replicas=draw(st.integers(max(low, 1), high)),
        min_replicas=low,
        max_replicas=high,
        binding=binding,
        routing=draw(policies("routing") | composed),
        max_inflight_batches=draw(st.integers(1, 3)),
        queue_capacity=draw(st.sampled_from([1, 3, 100_000])),
        deadline_s=draw(maybe(st.sampled_from([0.3, 5.0]))),
        weights=draw(st.sampled_from([(), (1.0, 2.0)])),
        control_interval_s=draw(periods),
        report_interval_s=draw(periods),
        probe_interval_s=draw(periods),
        probe_timeout_s=draw(st.sampled_from([0.05, 0.5])),
        deep_probe_interval_s=draw(maybe(st.just(0.5))),
        failed_grace_s=draw(st.sampled_from([0.0, 1.0])),
        provision_s=draw(st.sampled_from([0.0, 0.3])),
        network=draw(networks),
        **choosing(slots, binding),
    )


@st.composite
def traces(draw):
    """Up to 40 requests; many share an instant, some follow an earlier one of their session."""
    rows = []
    for number in range(draw(st.integers(0, 40))):
        follows = draw(st.integers(0, 9)) == 0 and rows
        parent = draw(st.sampled_from(rows)).request if follows else None
        at_s = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.0, 6.0))
        request = Request(
            f"r{number}",
            at_s if parent is None else parent.arrived_s + at_s,
            prompt_tokens=draw(maybe(st.integers(0, 500))),
            session=None if parent is None else "s",
            parent=None if parent is None else parent.id,
            priority=draw(maybe(st.integers(-1, 1))),
            deadline_s=draw(maybe(st.sampled_from([0.0, 0.2, 2.0]))),
            work=draw(maybe(st.floats(0.0, 5.0))),
        )
        rows.append(TraceEntry(request, draw(maybe(st.integers(0, 300))), think_s=draw(maybe(st.just(0.5)))))
    return Trace.from_entries(rows)


@st.composite
def faults(draw):
    return Fault(
        at_s=draw(st.sampled_from([0.0, 1.0]) | st.floats(0.0, 8.0)),
        kind=draw(st.sampled_from(["crash", "hang", "slow", "partition", "drop", "fail-load", "preempt"])),
        replica=draw(maybe(st.sampled_from(["replica/0", "replica/1", "replica/7"]))),
        for_s=draw(maybe(st.floats(0.01, 5.0))),
        factor=draw(st.sampled_from([1.0, 4.0])),
        probability=draw(st.sampled_from([0.3, 1.0])),
        notice_s=draw(st.sampled_from([0.0, 0.5])),
    )


fault_traces = st.lists(faults(), max_size=4).map(lambda some: FaultTrace(faults=tuple(some)))


EXPLORE = int(os.environ.get("FLEETLAB_EXPLORE", "0"))
"""Set it to a number of examples to look for new failures; by default the same ones run every time."""


def law(examples):
    """The settings of a law that is tried on this many examples."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=EXPLORE or examples, derandomize=not EXPLORE, suppress_health_check=slow)


def patient(spec):
    """The same fleet, in which no request waits for ever."""
    return spec.replace(deadline_s=spec.deadline_s or PATIENCE_S)


def books_balance(run, trace):
    """Conservation, from the records and the trace alone; the summary says the same."""
    summary, records = run.summary, run.records
    outcomes = Counter(records["outcome"].to_pylist())
    assert outcomes[None] == summary.in_flight
    assert {name: outcomes[name] for name in OUTCOMES} == {name: getattr(summary, name) for name in OUTCOMES}
    assert summary.submitted == len(records) == sum(outcomes.values())
    assert set(records["id"].to_pylist()) <= {entry.request.id for entry in trace}


def columns_agree(run):
    """Every row of the records tells one story."""
    for row in run.records.to_pylist():
        if row["outcome"] == "completed":
            assert row["attempts"] >= 1
            assert row["batch_size"] >= 1
            assert row["e2e_s"] == row["ended_s"] - row["arrived_s"] >= 0.0
            assert row["queue_s"] >= 0.0
        else:
            assert row["e2e_s"] is row["queue_s"] is row["service_s"] is None
    completed = sum(outcome == "completed" for outcome in run.records["outcome"].to_pylist())
    assert completed <= sum(run.dispatches["size"].to_pylist())


@law(100)
@given(traces(), specs(), fault_traces, st.booleans(), st.integers(0, 3))
def test_every_request_ends_exactly_once_whatever_the_fleet_and_its_faults(
    trace, spec, failing, sessions, seed
):
    run = play(trace, patient(spec), faults=failing, sessions=sessions, seed=seed)

    books_balance(run, trace)
    columns_agree(run)
    assert run.summary.in_flight == 0
    assert run.summary.submitted == len(trace)


@law(30)
@given(traces(), specs(), st.booleans(), st.integers(0, 3))
def test_without_faults_nothing_is_lost_and_nothing_waits_for_ever(trace, spec, sessions, seed):
    # From no replicas at all some scaling policies never come back, and where a probe must wait for the network or
    # for a batch, every replica looks dead: both are what was asked for.
    spec = spec.replace(min_replicas=1, network=NetworkModel(), deep_probe_interval_s=None, retry=NoRetry())

    run = play(trace, spec, sessions=sessions, seed=seed)

    assert run.manifest.counters.get("lost_messages", 0) == 0
    assert run.summary.failed == 0
    assert run.summary.cancelled == 0


@law(25)
@given(traces(), specs(), fault_traces, st.floats(0.0, 6.0))
def test_at_a_horizon_every_request_has_ended_or_is_in_flight(trace, spec, failing, until_s):
    run = play(trace, spec, faults=failing, until_s=until_s)

    books_balance(run, trace)
    assert run.summary.submitted == sum(entry.request.arrived_s <= until_s for entry in trace)


@law(25)
@given(traces(), specs(), fault_traces, st.booleans())
def test_the_same_inputs_give_the_same_digest_and_checking_changes_nothing(trace, spec, failing, sessions):
    options, spec = {"faults": failing, "sessions": sessions}, patient(spec)

    first = simulate(trace, spec, **options)
    second = simulate(trace, spec, check=False, **options)

    assert first.digest == second.digest
