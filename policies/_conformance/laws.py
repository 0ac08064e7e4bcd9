"""What each slot demands of its answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, get_args

from policies._conformance.attempt_laws import BREAKER_LAWS, HEDGE_LAWS, check_retry_limits
from policies._conformance.calls import Call, ask, fail
from policies._conformance.common import Make, made
from policies._conformance.drive import drive
from policies._conformance.inputs import FakeQueue, idle_replicas, random_request
from policies._conformance.served_laws import SERVED_LAWS
from policies._conformance.token_laws import EVICTION_LAWS, ITERATION_LAWS
from policies.base import PeriodicPolicy, Policy, is_settled
from policies.decisions import (
    Admit,
    Decision,
    Degrade,
    Delay,
    Dispatch,
    Drop,
    GiveUp,
    Hold,
    Reject,
    Retry,
    Route,
    Scale,
    Verdict,
    Wait,
    Warm,
)
from policies.views import Completion, Failure, FleetView, ProbeOutcome, ProbeStatus, Trust

SEEDS = (1, 2, 3)


def _calls(make: Make) -> Iterator[tuple[Policy, Call]]:
    for seed in SEEDS:
        policy = made(make)
        for call in drive(policy, seed):
            yield policy, call


def _demand_type(policy: Policy, call: Call, *types: type[Decision] | None) -> None:
    """The answer is one of these decisions (None: or none at all)."""
    answer = call.answer
    if (answer is None and None in types) or type(answer) in types:
        return
    expected = " or ".join("None" if kind is None else kind.__name__ for kind in types)
    if answer is None:
        fail(
            policy,
            f"answered nothing to {call.question}; a branch ends without `return`? Expected {expected}",
        )
    fail(policy, f"answered {answer!r} to {call.question}; expected {expected}")


def _demand(policy: Policy, call: Call, holds: bool, expected: str) -> None:
    if not holds:
        fail(policy, f"answered {call.answer!r} to {call.question}; {expected}")


def _in_future(policy: Policy, call: Call, until_s: Any) -> None:  # Any: what types say need not be so
    later = isinstance(until_s, float | int) and math.isfinite(until_s) and until_s > call.now_s
    _demand(policy, call, later, "`until_s` must be a time after `now_s`")


# --- admission ---------------------------------------------------------------------------------------------


def check_admission_answers(make: Make) -> None:
    """It admits, rejects, degrades or delays; a degraded request keeps its id and arrival."""
    for policy, call in _calls(make):
        _demand_type(policy, call, Admit, Reject, Degrade, Delay)
        if isinstance(call.answer, Delay):
            _in_future(policy, call, call.answer.until_s)
        if isinstance(call.answer, Degrade) and call.request is not None:
            changed = call.answer.request
            same = (changed.id, changed.arrived_s) == (call.request.id, call.request.arrived_s)
            _demand(policy, call, same, "a degraded request keeps its id and arrival")
            most: Any = call.answer.max_output_tokens  # Any: what types say need not be so
            counts = most is None or (isinstance(most, int) and most >= 1)
            _demand(policy, call, counts, "`max_output_tokens` must be None, or 1 or more")


def check_admission_ends_delays(make: Make) -> None:
    """While the fleet is idle and nobody else comes it does not delay a request for ever."""
    policy, now_s = made(make), 0.0
    ask(policy, "reset", random.Random(1))
    if policy.oracle:
        ask(policy, "reveal", lambda name: 1)
    request = random_request(random.Random(1), 0, now_s)
    ask(policy, "on_replicas", tuple(idle_replicas(3, now_s)), now_s)
    for _ in range(1000):
        answer = ask(policy, "admit", request, FleetView(ready_replicas=3), now_s)
        if not isinstance(answer, Delay):
            return
        now_s = answer.until_s
    fail(policy, f"still delays a request after 1000 tries, at {now_s:g} s, with an idle fleet")


# --- routing -----------------------------------------------------------------------------------------------


def check_routing_answers(make: Make) -> None:
    """It names a candidate, or holds until a time to come, or rejects; it has only candidates probed."""
    for policy, call in _calls(make):
        if call.probed:
            named: Any = call.answer  # Any: what types say need not be so
            ids = {replica.id for replica in call.replicas}
            fine = isinstance(named, list | tuple) and all(name in ids for name in named)
            _demand(policy, call, fine, "it must name some of the replicas it was given, by `id`")
            continue
        _demand_type(policy, call, Route, Hold, Reject)
        if isinstance(call.answer, Route):
            known = call.answer.replica in {replica.id for replica in call.replicas}
            _demand(policy, call, known, "it must name one of the replicas it was given, by `id`")
        elif isinstance(call.answer, Hold):
            _in_future(policy, call, call.answer.until_s)


def check_routing_ends_holds(make: Make) -> None:
    """While every replica is idle it does not hold a request for ever."""
    policy, now_s = made(make), 0.0
    ask(policy, "reset", random.Random(1))
    if policy.oracle:
        ask(policy, "reveal", lambda name: 1)
    request = random_request(random.Random(1), 0, now_s)
    ask(policy, "on_replicas", tuple(idle_replicas(3, now_s)), now_s)
    for _ in range(1000):
        answer = ask(policy, "route", request, idle_replicas(3, now_s), now_s)
        if not isinstance(answer, Hold):
            return
        now_s = answer.until_s
    fail(policy, f"still holds a request after 1000 tries, at {now_s:g} s, with three idle replicas")


# --- queueing ----------------------------------------------------------------------------------------------


def check_queueing_conserves(make: Make) -> None:
    """What is pushed is popped or removed, once, and nothing else is: the drive compares with a model."""
    for seed in SEEDS:
        for _ in drive(made(make), seed):
            pass


def check_queueing_empties(make: Make) -> None:
    """Everything that waits comes out, under a backlog of hundreds with removals in between."""
    policy: Any = made(make)  # Any: a queueing policy, which is all that this check is given
    rng = random.Random(1)
    ask(policy, "reset", random.Random(1))
    requests = {f"request-{number}": random_request(rng, number, number * 0.01) for number in range(500)}
    for request in requests.values():
        ask(policy, "push", request, request.arrived_s)
    removed = set(rng.sample(list(requests), 200))
    for name in removed:
        if ask(policy, "remove", name) is not True:
            fail(policy, f"did not find {name!r} to remove it, though it waits")
    popped = [ask(policy, "pop", 6.0).id for _ in range(len(requests) - len(removed))]
    if len(set(popped)) != len(popped) or set(popped) != requests.keys() - removed or len(policy) != 0:
        fail(policy, "does not pop each waiting request exactly once after removals")


# --- batching ----------------------------------------------------------------------------------------------


def check_batching_answers(make: Make) -> None:
    """A batch is of waiting requests, within its own `max_batch`, for an idle replica; a wait ends later.

    What it gives up waits.
    """
    for policy, call in _calls(make):
        _demand_type(policy, call, Dispatch, Wait, Drop)
        if isinstance(call.answer, Drop):
            ids: Any = call.answer.ids  # Any: what types say need not be so
            named = isinstance(ids, tuple) and 0 < len({*ids}) == len(ids) and {*ids} <= {*call.waiting}
            _demand(policy, call, named, "`ids` must be of waiting requests, one or more, each once")
        if isinstance(call.answer, Dispatch):
            _check_dispatch(policy, call, call.answer)
        elif isinstance(call.answer, Wait) and call.answer.until_s is not None:
            _in_future(policy, call, call.answer.until_s)


def _check_dispatch(policy: Policy, call: Call, batch: Dispatch) -> None:
    size: Any = batch.size  # Any: what types say need not be so
    limit = getattr(policy, "max_batch", None)
    within = isinstance(size, int) and 1 <= size <= len(call.waiting)
    _demand(policy, call, within, f"`size` must be 1 to {len(call.waiting)}, as many as wait")
    _demand(policy, call, not isinstance(limit, int) or size <= limit, f"that is above max_batch={limit}")
    if batch.ids is not None:
        named = set(batch.ids)
        _demand(policy, call, len(named) == len(batch.ids) == size, "`ids` must be `size` different ones")
        _demand(policy, call, named <= set(call.waiting), "`ids` must be of waiting requests")
    known = batch.replica is None or batch.replica in {replica.id for replica in call.replicas}
    _demand(policy, call, known, "`replica` must be one of the idle ones it was given, or None")


def check_batching_conserves_work(make: Make) -> None:
    """With a request waiting and a replica idle it dispatches in the end; waiting for ever is no answer.

    A `Wait` with a time is waited out. A `Wait` without one is for a change, so an arrival follows it.
    """
    policy, queue, now_s = made(make), FakeQueue(), 0.0
    rng = random.Random(1)
    ask(policy, "reset", random.Random(1))
    for number in range(5000):
        if not queue:
            queue.push(random_request(rng, number, now_s), now_s)
        answer = ask(policy, "next_batch", queue, idle_replicas(1, now_s), now_s)
        if isinstance(answer, Dispatch):
            return
        if isinstance(answer, Drop):
            queue.take(len(answer.ids), answer.ids)
            continue
        until_s = getattr(answer, "until_s", None)
        if until_s is None:
            queue.push(random_request(rng, number + 1, now_s), now_s)
        now_s = now_s if until_s is None else until_s
    fail(policy, f"never runs a batch: {len(queue)} wait at {now_s:g} s, and a replica is idle")


# --- scaling and warm pool ---------------------------------------------------------------------------------


def check_scaling_answers(make: Make) -> None:
    """It asks for a whole number of replicas, 0 or more, and not for millions."""
    _check_counts(make, Scale)


def check_warm_pool_answers(make: Make) -> None:
    """It asks for a whole number of spares, 0 or more, and not for millions."""
    _check_counts(make, Warm)


def _check_counts(make: Make, kind: type[Decision]) -> None:
    for policy, call in _calls(make):
        _demand_type(policy, call, kind)
        count = getattr(call.answer, "replicas", None)
        _demand(policy, call, type(count) is int, "`replicas` must be an int (round it: math.ceil)")
        _demand(
            policy, call, 0 <= (count or 0) <= 1_000_000, "`replicas` must be 0 or more, and not millions"
        )


def check_settled(make: Make) -> None:
    """What says that it is settled says the same of the same pool at any later time: its periods are passed over."""
    for policy, call in _calls(make):
        if not isinstance(policy, PeriodicPolicy) or not is_settled(policy, "desired"):
            continue
        for later_s in (1.0, 3_600.0, 1e6):
            again = ask(policy, "desired", call.pool, call.now_s + later_s)
            same = getattr(again, "replicas", None) == getattr(call.answer, "replicas", None)
            _demand(
                policy, call, same and is_settled(policy, "desired"),
                f"it said that it is settled, and answered {again!r} to the same {later_s:g} s later",
            )  # fmt: skip


# --- health ------------------------------------------------------------------------------------------------


def check_health_answers(make: Make) -> None:
    """A verdict is a change of trust of a replica it has seen; a failed probe, or attempt, wins nobody trust."""
    for seed in SEEDS:
        policy, trust = made(make), dict[str, Trust]()
        for call in drive(policy, seed):
            _demand_type(policy, call, Verdict, None)
            if call.probe is not None:
                trust.setdefault(call.probe.replica, "healthy")
            if isinstance(call.answer, Verdict):
                _check_verdict(policy, call, call.answer, trust)


def _check_verdict(policy: Policy, call: Call, verdict: Verdict, trust: dict[str, Trust]) -> None:
    levels = get_args(Trust)
    _demand(policy, call, verdict.replica in trust, "it judges a replica that was never probed")
    _demand(policy, call, verdict.trust in levels, f"`trust` must be one of {', '.join(levels)}")
    before = trust[verdict.replica]
    _demand(
        policy, call, verdict.trust != before, f"it was {before} already; answer None when nothing changes"
    )
    probe = call.probe
    if probe is not None and probe.replica == verdict.replica and probe.status != "ok":
        worse = levels.index(verdict.trust) > levels.index(before)
        _demand(policy, call, worse, f"a probe that did not succeed cannot make it better than {before}")
    done = call.completion
    if done is not None:
        own = verdict.replica == done.replica
        _demand(policy, call, own, f"an attempt at {done.replica} says nothing of another replica")
        worse = levels.index(verdict.trust) > levels.index(before)
        _demand(
            policy, call, worse or done.failure is None,
            f"an attempt that failed cannot make it better than {before}",
        )  # fmt: skip
    trust[verdict.replica] = verdict.trust


def check_health_recovers(make: Make) -> None:
    """A replica that is merely suspect is trusted again after good probes, or it would be lost for ever."""
    policy, trust, now_s = made(make), "healthy", 0.0
    ask(policy, "reset", random.Random(1))
    for step in range(1100):
        status: ProbeStatus = "timeout" if step < 100 and trust == "healthy" else "ok"
        probe = ProbeOutcome(replica="replica/0", level="ready", status=status, sent_s=now_s)
        verdict = ask(policy, "observe", probe, now_s)
        trust = verdict.trust if isinstance(verdict, Verdict) else trust
        now_s += 1.0
    if trust == "suspect":
        fail(policy, "still suspects a replica after 1000 good probes in a row")


# --- retry -------------------------------------------------------------------------------------------------


def check_retry_answers(make: Make) -> None:
    """A delay is a number of seconds, 0 or more; what it excludes are ids."""
    for policy, call in _calls(make):
        if call.failure is None:
            continue  # asked how long an attempt may take
        _demand_type(policy, call, Retry, GiveUp)
        if isinstance(call.answer, Retry):
            after_s: Any = call.answer.after_s  # Any: what types say need not be so
            exclude: Any = call.answer.exclude
            real = isinstance(after_s, float | int) and math.isfinite(after_s) and after_s >= 0
            _demand(policy, call, real, "`after_s` must be a finite number of seconds, 0 or more")
            ids = isinstance(exclude, tuple) and all(isinstance(name, str) for name in exclude)
            _demand(policy, call, ids, "`exclude` must be a tuple of replica ids")


def check_retry_terminates(make: Make) -> None:
    """A request that always fails is given up, even while all others succeed."""
    policy, now_s = made(make), 0.0
    ask(policy, "reset", random.Random(1))
    request = random_request(random.Random(1), 0, now_s)
    other = Completion(request=random_request(random.Random(2), 1, 0.0), replica="replica/1", attempt=1)
    for attempt in range(1, 1001):
        for _ in range(20):
            ask(policy, "on_completed", other, now_s)
        failure = Failure(kind="engine-error", attempt=attempt, replica="replica/0", completions=20 * attempt)
        answer = ask(policy, "after_failure", request, failure, now_s)
        if not isinstance(answer, Retry):
            return
        now_s += answer.after_s
    fail(policy, "never gives up: it retried a request 1000 times; bound the attempts (`failure.attempt`)")


# --- the parts of a composed router ------------------------------------------------------------------------


def check_filter_answers(make: Make) -> None:
    """It keeps some of the candidates, in their order."""
    for policy, call in _calls(make):
        _demand(
            policy, call, isinstance(call.answer, list | tuple), "expected a list of the replicas to keep"
        )
        kept: Any = call.answer
        candidates = iter(call.replicas)
        ordered = all(any(replica is candidate for candidate in candidates) for replica in kept)
        _demand(policy, call, ordered, "expected some of the candidates, in the same order")


def check_scorer_answers(make: Make) -> None:
    """It gives each candidate a number in 0..1."""
    for policy, call in _calls(make):
        scores: Any = call.answer
        right = isinstance(scores, list | tuple) and len(scores) == len(call.replicas)
        _demand(policy, call, right, f"expected {len(call.replicas)} scores, one for each candidate")
        _demand(policy, call, all(0.0 <= score <= 1.0 for score in scores), "a score lies in 0..1")


def check_picker_answers(make: Make) -> None:
    """It answers the index of a candidate."""
    for policy, call in _calls(make):
        right = type(call.answer) is int and 0 <= call.answer < len(call.replicas)
        _demand(policy, call, right, f"expected an index below {len(call.replicas)}")


LAWS: dict[str, dict[str, Callable[[Make], None]]] = {
    "admission": {"answers": check_admission_answers, "ends_delays": check_admission_ends_delays},
    "routing": {"answers": check_routing_answers, "ends_holds": check_routing_ends_holds},
    "queueing": {"conserves": check_queueing_conserves, "empties": check_queueing_empties},
    "batching": {"answers": check_batching_answers, "conserves_work": check_batching_conserves_work},
    "iteration": ITERATION_LAWS,
    "eviction": EVICTION_LAWS,
    "scaling": {"answers": check_scaling_answers, "is_settled": check_settled},
    "warm_pool": {"answers": check_warm_pool_answers, "is_settled": check_settled},
    "health": {"answers": check_health_answers, "recovers": check_health_recovers},
    **SERVED_LAWS,
    "retry": {
        "answers": check_retry_answers,
        "terminates": check_retry_terminates,
        "limits": check_retry_limits,
    },
    "hedge": HEDGE_LAWS,
    "breaker": BREAKER_LAWS,
    "filter": {"answers": check_filter_answers},
    "scorer": {"answers": check_scorer_answers},
    "picker": {"answers": check_picker_answers},
}
