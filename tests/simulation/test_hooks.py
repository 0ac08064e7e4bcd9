"""What policies hear of what came of their decisions: each slot gets its hooks, once and right, and no others."""

from collections import Counter
from collections.abc import Callable

import pytest

from fleet import AffineLatency, EmulatedEngine
from fleet.actors.token_replica import TokenReplica
from fleet.messages import RunFinished
from fleet.runs.assembly import Head
from fleet.serving_checks import NEEDS_EARLY
from fleet.telemetry.sink import Telemetry
from policies import (
    Composed,
    ConsecutiveFailures,
    Dispatch,
    ExponentialBackoff,
    Fifo,
    Greedy,
    HealthPolicy,
    LeastOutstanding,
    PolicyError,
    RoundRobin,
    RoutingPolicy,
    Verdict,
    Wait,
)
from policies.base import HOOKS, SLOTS, BatchingPolicy, Policy, is_settled, listeners
from tests.fleets import in_slot
from tests.policies.listening import listening, told
from tests.policies.makers import reset
from tests.simulation.building import (
    arrivals,
    column,
    decisions,
    entry,
    faults,
    fleet,
    play,
    simulation,
    trace_of,
)
from tests.simulation.building_tokens import asks, serving
from traces import Fault

PARTS = ("filter", "scorer", "picker")


def spec_that_hears(slot: str, policy: Policy, spec):
    """`spec` with this policy in its slot; a part of a router goes into a composed one."""
    if slot in SLOTS:
        return spec.replace(**in_slot(slot, policy))
    parts = {
        "filter": {"filters": [policy]},
        "scorer": {"scorers": [(1.0, policy)]},
        "picker": {"picker": policy},
    }
    return spec.replace(routing=Composed(**parts[slot]))


def bound(*slots):
    """Each slot with each binding that it may have."""
    return [
        (slot, binding)
        for slot in slots
        for binding in ("early", "late")
        if not (binding == "late" and slot in NEEDS_EARLY)
    ]


WHOLE = arrivals(0.0, 0.0, 0.5, 3.0)
TOKENS = trace_of(*(asks(f"r{n}", 0.3 * n) for n in range(4)))


@pytest.mark.parametrize(("slot", "binding"), bound(*SLOTS, *PARTS))
def test_every_slot_hears_the_hooks_that_are_its_own_and_no_others(slot, binding):
    policy, heard = listening(slot)

    play(WHOLE, spec_that_hears(slot, policy, fleet(replicas=2, binding=binding)))
    of_tokens = len(heard)
    play(TOKENS, spec_that_hears(slot, policy, serving(replicas=2, binding=binding)))

    # With late binding nobody routes, and so nobody asks for a load.
    never = {"on_load"} if binding == "late" else set()
    assert {name for name, *_ in heard} == set(policy.hears) - never
    assert not {"on_first_token", "on_tokens"} & {name for name, *_ in heard[:of_tokens]}


@pytest.mark.parametrize(
    ("slot", "binding"), bound(*(slot for slot in SLOTS if slot not in {"iteration", "eviction"}))
)
def test_who_hears_that_an_attempt_was_sent_hears_once_that_it_ended(slot, binding):
    policy, heard = listening(slot)
    trace = trace_of(*(entry(f"r{n}", 0.1 * n, deadline_s=1.0 if n % 3 else None) for n in range(60)))
    failing = faults(
        Fault(at_s=0.5, kind="hang", replica="replica/1", for_s=2.0),
        Fault(at_s=1.0, kind="preempt", replica="replica/2", notice_s=1.0),
        Fault(at_s=4.0, kind="crash", replica="replica/1"),
    )
    spec = fleet(
        0.6, replicas=4, max_replicas=6, binding=binding, queue_capacity=12, retry=ExponentialBackoff()
    )
    if slot == "retry":
        policy, heard = listening(slot, parent=ExponentialBackoff)

    made = simulation(trace, spec_that_hears(slot, policy, spec), faults=failing)
    made.run()
    made.runtime.stopped = False
    made.runtime.run(until_s=made.runtime.now + 5.0)  # what nobody waits for ends too

    sent = Counter((request.id, replica) for request, replica, _ in told(heard, "on_dispatched"))
    ended = Counter((done.request.id, done.replica) for done, _ in told(heard, "on_completed"))
    assert sent == ended
    assert sum(sent.values()) > 20
    assert {done.failure for done, _ in told(heard, "on_completed")} >= {None, "withdrawn"}


def test_the_head_hears_the_same_in_every_slot():
    logs = {}
    for slot in ("admission", "routing", "retry", "hedge", "breaker", "scaling", "warm_pool", "health"):
        policy, heard = listening(slot)
        play(
            TOKENS,
            serving(replicas=2, **{slot: policy}),
            faults=faults(Fault(at_s=0.5, kind="hang", for_s=0.3)),
        )
        logs[slot] = [call for call in heard if call[0] not in {"on_replicas", "on_load"}]

    assert len(logs["routing"]) > 16
    for slot, heard in logs.items():
        assert heard == logs["routing"], slot


def test_a_batching_policy_hears_size_and_service_time_of_each_batch_before_it_forms_the_next():
    order = []

    class Watches(BatchingPolicy):
        def next_batch(self, queue, idle, now_s):
            order.append(("asked", len(queue)))
            return Dispatch(min(2, len(queue)))

        def on_batch_completed(self, batch, now_s):
            order.append((batch.size, [request.id for request in batch.requests], batch.service_s, now_s))
            assert (batch.replica, batch.failure, batch.elapsed_s) == ("replica/0", None, batch.service_s)

    play(arrivals(0.0, 0.1, 0.2, 0.3), fleet(batching=Watches()))

    assert order == [
        ("asked", 1), (1, ["r0"], 1.0, 1.0),
        ("asked", 3), (2, ["r1", "r2"], 2.0, 3.0),
        ("asked", 1), (1, ["r3"], 1.0, 4.0),
    ]  # fmt: skip


def test_a_batch_that_did_not_run_says_why_and_has_no_service_time():
    policy, heard = listening("batching", "on_batch_completed")
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))

    play(arrivals(0.0, 0.0), fleet(batching=policy, binding="late", max_replicas=2), faults=crash)

    (lost, at_s), (one, _), *_ = told(heard, "on_batch_completed")
    assert (lost.failure, lost.service_s, lost.elapsed_s, at_s) == ("replica-lost", None, 0.5, 0.5)
    assert (one.failure, one.replica) == (None, "replica/1")


@pytest.mark.parametrize("binding", ["early", "late"])
@pytest.mark.parametrize("slot", ["admission", "scaling", "health"])
def test_the_end_of_each_request_is_told_once_even_where_no_replica_ever_had_it(slot, binding):
    policy, heard = listening(slot)
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))
    spec = fleet(replicas=1, max_replicas=2, binding=binding, queue_capacity=3, **{slot: policy})
    trace = trace_of(*(entry(f"r{n}", 0.01 * n, deadline_s=None if n % 2 else 1.4) for n in range(8)))

    run = play(trace, spec.replace(retry=ExponentialBackoff()), faults=crash)

    endings = told(heard, "on_request_ended")
    assert {ending.request.id: ending.outcome for ending, _ in endings} == column(run, "outcome")
    assert {ending.request.id: ending.attempts for ending, _ in endings} == column(run, "attempts")
    assert len(endings) == 8
    assert {"completed", "shed", "expired"} <= {ending.outcome for ending, _ in endings}
    for ending, at_s in endings:
        assert ending.e2e_s == pytest.approx(at_s - ending.request.arrived_s)


def test_an_iteration_policy_hears_what_its_steps_took_and_equal_ones_in_a_row_at_once():
    policy, heard = listening("iteration", "on_step_completed")

    play(trace_of(asks("r0", prompt_tokens=6, output_tokens=5)), serving(iteration=policy))

    (prompt, first_s), (decodes, last_s) = told(heard, "on_step_completed")
    assert (prompt.prefill_tokens, prompt.decodes, prompt.steps) == (6, 0, 1)
    assert (decodes.prefill_tokens, decodes.decodes, decodes.steps) == (0, 1, 4)
    assert (prompt.service_s, first_s) == pytest.approx((0.16, 0.16))
    assert (decodes.service_s, last_s) == pytest.approx((0.48, 0.64))


def test_what_nobody_wants_any_more_is_told_as_withdrawn_when_its_replica_is_rid_of_it():
    policy, heard = listening("queueing")

    play(
        trace_of(entry("r0", deadline_s=0.4), entry("r1")),
        fleet(queueing=policy, batching=Greedy(max_batch=1)),
    )

    ended = {
        done.request.id: (done.failure, done.service_s, at_s) for done, at_s in told(heard, "on_completed")
    }
    assert ended["r0"][0] == "withdrawn"
    assert ended["r1"][0] is None
    batches = {batch.requests[0].id: batch.failure for batch, _ in told(heard, "on_batch_completed")}
    assert batches == {"r0": None, "r1": None}, "the engine ran it to its end all the same"


@pytest.mark.parametrize("slot", ["routing", "queueing", "scaling", "iteration"])
def test_tokens_are_counted_as_they_come_and_change_nothing_of_the_run(slot):
    deaf = play(TOKENS, serving())
    policy, heard = listening(slot)

    run = play(TOKENS, serving(**{slot: policy}))

    for id in ("r0", "r3"):
        counts = [tokens for request, _, tokens, _ in told(heard, "on_tokens") if request.id == id]
        assert counts == [1, 2, 3, 4]
        (done,) = [done for done, _ in told(heard, "on_completed") if done.request.id == id]
        first_s = next(at_s for request, _, at_s in told(heard, "on_first_token") if request.id == id)
        assert (done.output_tokens, done.resumed_tokens, done.failure) == (4, 0, None)
        assert done.ttft_s == pytest.approx(column(run, "ttft_s")[id])
        assert first_s == pytest.approx(done.request.arrived_s + done.ttft_s)
        assert done.e2e_s == pytest.approx(column(run, "e2e_s")[id])
    for ending, _ in told(heard, "on_request_ended"):
        assert (ending.outcome, ending.output_tokens) == ("completed", 4)
        assert ending.ttft_s == pytest.approx(column(run, "ttft_s")[ending.request.id])
    assert column(run, "e2e_s") == pytest.approx(column(deaf, "e2e_s")), (
        "to the last digit but for the order of sums"
    )
    assert column(run, "ttft_s") == column(deaf, "ttft_s")


def test_a_resumed_attempt_says_what_it_went_on_after():
    policy, heard = listening("queueing", "on_completed", "on_tokens")
    spec = serving(replicas=2, queueing=policy, retry=ExponentialBackoff(jitter="none"))
    crash = faults(Fault(at_s=0.45, kind="crash", replica="replica/0"))

    play(trace_of(asks("r0", output_tokens=9)), spec, faults=crash, stream=True)

    lost, done = [done for done, _ in told(heard, "on_completed")]
    assert (lost.failure, lost.output_tokens) == ("replica-lost", None)
    assert (done.failure, done.output_tokens) == (None, 9)
    assert 0 < done.resumed_tokens < 9
    counts = [tokens for _, replica, tokens, _ in told(heard, "on_tokens") if replica == "replica/1"]
    assert counts == list(range(done.resumed_tokens + 1, 10))


# --- policies in policies --------------------------------------------------------------------------------------


class Owner(RoutingPolicy):
    """Says nothing of hooks."""

    inner: LeastOutstanding

    def route(self, request, replicas, now_s):
        return self.inner.route(request, replicas, now_s)


class Listener(Owner):
    """Hears for itself, and passes it on."""

    def reset(self, rng):
        super().reset(rng)
        self.seen = 0

    def on_completed(self, completion, now_s):
        self.seen += 1
        super().on_completed(completion, now_s)


class Outer(RoutingPolicy):
    """Keeps others in a dict."""

    inside: dict[str, Owner]

    def route(self, request, replicas, now_s):
        return self.inside["a"].route(request, replicas, now_s)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda inner: Owner(inner=inner),
        lambda inner: Listener(inner=inner),
        lambda inner: Outer(inside={"a": Listener(inner=inner)}),
    ],
)
def test_a_policy_in_a_policy_hears_what_its_owner_hears_once(wrapped: Callable[..., RoutingPolicy]):
    alone, expected = listening("routing")
    play(TOKENS, serving(replicas=2, routing=alone))
    inner, heard = listening("routing")

    play(TOKENS, serving(replicas=2, routing=wrapped(inner)))

    assert heard == expected
    assert {name for name, *_ in heard} == set(inner.hears)


# --- what nobody hears -----------------------------------------------------------------------------------------


def test_no_policy_of_a_default_fleet_hears_anything():
    spec = fleet()
    head = Head(spec, Telemetry(), seed=0)

    assert [policy for policy in head.policies() for hook in HOOKS if listeners(policy, hook)] == []
    assert not any(head._hear(spec.serving[0]).values())


def test_what_nobody_hears_is_not_told(monkeypatch):
    def never(*arguments, **fields):
        raise AssertionError("nobody listens")

    monkeypatch.setattr("fleet.actors.pending.Completion", never)
    monkeypatch.setattr("fleet.actors.pending.Ending", never)
    monkeypatch.setattr("fleet.actors.queue_hearing.Sent", never)
    monkeypatch.setattr("fleet.actors.hearing.Told", never)
    monkeypatch.setattr(TokenReplica, "_tell_tokens", never)

    assert play(WHOLE, fleet(replicas=2)).summary.completed == 4
    assert play(TOKENS, serving(replicas=2)).summary.completed == 4


@pytest.mark.parametrize("slot", SLOTS)
def test_a_hook_that_raises_is_its_policys_own_whichever_actor_calls_it(slot):
    quiet, _ = listening(slot, "on_completed")

    class Breaks(type(quiet)):
        def on_completed(self, completion, now_s):
            raise KeyError("weights")

    with pytest.raises(
        PolicyError, match=rf"^{slot} policy breaks raised KeyError.*asked about r0, in on_completed"
    ):
        play(TOKENS, serving(**in_slot(slot, Breaks())))


# --- what can be written with it -------------------------------------------------------------------------------


class Outlier(HealthPolicy):
    """Passive outlier detection: a replica with `failures` failed attempts in a row is failed at its next probe."""

    failures: int = 3

    def reset(self, rng):
        self.in_a_row: Counter[str] = Counter()
        self.judged: set[str] = set()

    def observe(self, probe, now_s):
        if probe.replica not in self.judged and self.in_a_row[probe.replica] >= self.failures:
            self.judged.add(probe.replica)
            return Verdict(probe.replica, "failed", "attempts failed in a row")
        return None

    def on_completed(self, completion, now_s):
        if completion.failure is None:
            self.in_a_row[completion.replica] = 0
        elif completion.failure != "withdrawn":
            self.in_a_row[completion.replica] += 1


class OneIsIll(EmulatedEngine):
    """On replica/1 every batch ends in an error; its probes are answered all the same."""

    def run(self, batch, work):
        if self._ctx.address == "replica/1":
            self._ctx.after(0.01, RunFinished(batch, 0.01, error="CUDA error"))
        else:
            super().run(batch, work)


def test_a_health_policy_can_judge_by_what_fails_where_every_probe_is_answered():
    ill = OneIsIll(latency=AffineLatency(base_s=0.01, per_item_s=0.0))
    spec = fleet(engine=ill, replicas=3, max_replicas=4, retry=ExponentialBackoff(), routing=RoundRobin())

    run = play(arrivals(*(0.1 * n for n in range(40))), spec.replace(health=Outlier()))

    assert run.summary.completed == 40
    assert [(row["subject"], row["choice"]) for row in decisions(run, "health")] == [("replica/1", "failed")]
    assert run.manifest.counters["retries"] == 9, "those of the first second, until its first probe"
    assert play(arrivals(*(0.1 * n for n in range(40))), spec).manifest.counters["retries"] == 39


def test_one_that_hears_more_than_its_parent_is_asked_in_every_period():
    class Hears(ConsecutiveFailures):
        def on_completed(self, completion, now_s):
            self.last_s = now_s

    class Says(Hears):
        def settled(self):
            return True

    assert is_settled(reset(ConsecutiveFailures()), "observe")
    assert not is_settled(reset(Hears()), "observe")
    assert is_settled(reset(Says()), "observe")


class Waits(BatchingPolicy):
    """Runs what waits once two replicas may take it."""

    def reset(self, rng):
        self.able = 0

    def next_batch(self, queue, idle, now_s):
        return Dispatch(1) if self.able == 2 or now_s > 5.0 else Wait(now_s + 1.0)

    def on_replicas(self, replicas, now_s):
        self.able = len(replicas)


def test_a_queue_hears_which_replicas_may_take_from_it():
    queue, heard = listening("queueing", "on_replicas", parent=Fifo)
    crash = faults(Fault(at_s=2.0, kind="crash", replica="replica/0"))

    play(
        arrivals(0.5, 3.0), fleet(replicas=2, binding="late", batching=Waits(), queueing=queue), faults=crash
    )

    assert [[view.id for view in views] for views, _ in told(heard, "on_replicas")][:3] == [
        ["replica/0"], ["replica/0", "replica/1"], ["replica/1"],
    ]  # fmt: skip
