"""Drive a policy the way its actor does: the same kinds of calls in the same order, from one seed.

A drive is a generator of `Call`s, so that two can be run in turns. What is asked depends on the seed and on
the answers alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from policies._conformance.attempt_drives import drive_breaker, drive_hedge
from policies._conformance.cache import drive_eviction
from policies._conformance.calls import Ask, Call, ask, demand
from policies._conformance.inputs import (
    FAILURES,
    FakeQueue,
    idle_replicas,
    later,
    maybe,
    random_request,
)
from policies._conformance.life import Life
from policies._conformance.replica import FakeReplica, Script
from policies._conformance.served import drive_rollout, drive_variants
from policies._conformance.world import World
from policies.base import Policy
from policies.decisions import Delay, Dispatch, Drop, Reject, Retry, Route, Scale, Warm
from policies.views import Failure, FleetView, Latencies, PoolView, ProbeOutcome, ProbeStatus, ReplicaView
from traces.schema import Request

STEPS = 127  # prime: a counter that goes round a few replicas is not back where it began


def drive(policy: Policy, seed: int, ask: Ask = ask) -> Iterator[Call]:
    """Reset `policy` and take it through `STEPS` events."""
    ask(policy, "reset", random.Random(seed))
    rng = random.Random(f"world {seed}")  # a string seeds the same way in every process
    if policy.oracle:
        lengths = random.Random(f"lengths {seed}")
        known: dict[str, int | None] = {}
        ask(policy, "reveal", lambda name: known.setdefault(name, maybe(lengths, lengths.randint(1, 999))))
    return DRIVERS[policy.slot](policy, rng, ask)


def answers(policy: Policy, seed: int, ask: Ask = ask) -> list[tuple[str, object]]:
    """Every question and its answer."""
    return [(call.question, call.answer) for call in drive(policy, seed, ask)]


# --- the slots ---------------------------------------------------------------------------------------------


def _drive_admission(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    now_s, world = 0.0, World(policy, rng, ask)
    delayed: list[tuple[float, Request]] = []
    for number in range(STEPS):
        now_s = later(rng, now_s)
        world.goes_on(now_s)
        due = delayed and delayed[0][0] <= now_s
        request = delayed.pop(0)[1] if due else random_request(rng, number, now_s)
        depth = rng.choice([0, 1, rng.randrange(10_000)])
        fleet = FleetView(
            in_flight=depth + rng.randrange(50), queue_depth=depth, ready_replicas=rng.randrange(5),
            delayed=len(delayed),
        )  # fmt: skip
        answer = ask(policy, "admit", request, fleet, now_s)
        yield Call(f"admit({request.id}, {fleet}, {now_s!r})", answer, now_s, request)
        if isinstance(answer, Delay):
            delayed.append((answer.until_s, request))
        elif not isinstance(answer, Reject):
            world.somebody_serves(request)


def _drive_routing(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    world = World(policy, rng, ask)
    for number in range(STEPS):
        now_s = later(rng, world.now_s)
        world.goes_on(now_s)
        request, replicas = random_request(rng, number, now_s), world.some(world.views())
        named = ask(policy, "probes", request, list(replicas), now_s)
        question = f"probes({request.id}, {_names(replicas)}, {now_s!r})"
        yield Call(question, named, now_s, request, replicas, probed=True)
        world.asked += [(replica, now_s) for replica in named]
        world.ask_somebody()
        answer = ask(policy, "route", request, list(replicas), now_s)
        yield Call(f"route({request.id}, {_names(replicas)}, {now_s!r})", answer, now_s, request, replicas)
        if isinstance(answer, Route) and answer.replica in {replica.id for replica in replicas}:
            world.life.dispatched([request], answer.replica, now_s)


def _drive_queueing(policy: Any, rng: random.Random, ask: Ask) -> Iterator[Call]:
    now_s, waiting, popped = 0.0, dict[str, Request](), list[Request]()
    life = Life(policy, rng, ask)
    life.replicas(idle_replicas(2, now_s), now_s)
    for number in range(3 * STEPS):
        now_s, chance = later(rng, now_s), rng.random()
        life.goes_on(now_s)
        # In turns of 40 it fills up and empties, so that both a long and an empty queue are met.
        if chance < (0.75 if number // 40 % 2 == 0 else 0.25):
            request = random_request(rng, number, now_s)
            waiting[request.id] = request
            question, answer = f"push({request.id})", ask(policy, "push", request, now_s)
        elif chance > 0.92:
            name = rng.choice([*waiting, "nobody"])
            question, answer = f"remove({name!r})", ask(policy, "remove", name)
            demand(policy, answer is (name in waiting), question, answer, f"expected {name in waiting}")
            taken = waiting.pop(name, None)
            if taken is not None and rng.random() < 0.5:  # a batching policy picked it by name
                life.dispatched([taken], "replica/0", now_s)
        elif waiting:
            question, answer = "pop()", ask(policy, "pop", now_s)
            expected = "expected one of the waiting requests, as it was pushed"
            same = isinstance(answer, Request) and waiting.pop(answer.id, None) == answer
            demand(policy, same, question, answer, expected)
            popped.append(answer)
            if not waiting or rng.random() < 0.5:
                life.dispatched(popped, f"replica/{rng.randrange(2)}", now_s)
                popped.clear()
        else:
            continue
        if rng.random() < 0.2:
            named = ask(policy, "drops", now_s)
            expected = "expected the ids of requests that wait, each once"
            fine = len({*named}) == len(named) and all(name in waiting for name in named)
            demand(policy, fine, f"drops({now_s!r})", named, expected)
            for name in named:
                ask(policy, "remove", name)
                del waiting[name]
        length = ask(policy, "__len__")
        demand(policy, length == len(waiting), f"len() after {question}", length, f"{len(waiting)} wait")
        yield Call(question, answer, now_s, waiting=tuple(waiting))


def _drive_batching(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    queue, number, now_s, life = FakeQueue(), 0, 0.0, Life(policy, rng, ask)
    life.replicas(idle_replicas(5, now_s), now_s)
    for _ in range(STEPS):
        now_s = later(rng, now_s)
        life.goes_on(now_s)
        for _ in range(rng.choice([0, 1, 1, 2, 40]) if len(queue) < 40 else 0):
            number += 1
            queue.push(random_request(rng, number, now_s), now_s)
        idle = idle_replicas(rng.choice([1, 2, 5]), now_s)
        while queue and idle:
            waiting = tuple(request.id for request in queue)
            answer = ask(policy, "next_batch", queue, list(idle), now_s)
            question = f"next_batch({len(queue)} waiting, {_names(idle)}, {now_s!r})"
            yield Call(question, answer, now_s, replicas=tuple(idle), waiting=waiting)
            if isinstance(answer, Drop):
                queue.take(len(answer.ids), answer.ids)
                continue
            if not isinstance(answer, Dispatch):
                break
            taken, replica = queue.take(max(answer.size, 1), answer.ids), answer.replica or idle[0].id
            life.dispatched(taken, replica, now_s)
            idle = [other for other in idle if other.id != replica]


def _drive_pool(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    low = rng.choice([0, 1, 1])
    ready, starting, now_s = rng.randrange(1, 4), 0, 0.0
    depth, world = 0.0, World(policy, rng, ask)
    for step in range(STEPS):
        # Mostly a period of the control loop; now and then one in which nothing was asked, as when it was at rest.
        interval_s = 0.5 if step else 0.0
        interval_s += rng.uniform(30.0, 400.0) if step and rng.random() < 0.02 else 0.0
        now_s += interval_s
        world.goes_on(now_s)
        for number in range(rng.randrange(4)):
            world.somebody_serves(random_request(rng, 4 * step + number, now_s))
        ready, starting = ready + starting, 0
        depth = 0.0 if rng.random() < 0.05 else max(0.0, depth + rng.uniform(-20.0, 20.0))
        pool = _pool_view(rng, ready, int(depth), interval_s, now_s, min_replicas=low)
        answer = ask(policy, "desired", pool, now_s)
        yield Call(f"desired({pool}, {now_s!r})", answer, now_s, pool=pool)
        if isinstance(answer, Scale | Warm) and isinstance(answer.replicas, int):
            target = max(low, min(answer.replicas, 8))
            ready, starting = min(ready, target), max(0, target - ready)
        if rng.random() < 0.05:
            ready = max(0, ready - 1)


def _pool_view(
    rng: random.Random, ready: int, depth: int, interval_s: float, now_s: float, *, min_replicas: int
) -> PoolView:
    """A pool of so many replicas, where so many wait; signals that nobody may have are there or not."""
    quiet = depth == 0 and rng.random() < 0.5
    rate = 0.0 if quiet or interval_s == 0.0 else rng.uniform(0.0, 100.0)
    ends = 0.0 if quiet else rng.uniform(0.0, 100.0)
    latencies = Latencies(tuple(rng.expovariate(5.0) for _ in range(rng.choice([0, 0, 1, 20]))))
    return PoolView(
        interval_s=interval_s, ready=ready, requested=ready, min_replicas=min_replicas, max_replicas=8,
        warm=rng.randrange(2), queue_depth=depth, in_flight=0 if quiet else depth + ready,
        queue_depth_mean=0.0 if quiet else depth * rng.uniform(0.0, 2.0),
        in_flight_mean=0.0 if quiet else (depth + ready) * rng.uniform(0.0, 2.0), oldest_wait_s=depth / 50.0,
        arrivals_per_s=rate, ends_per_s=ends, completions_per_s=ends * rng.random(), as_of_s=now_s,
        ttft_s=latencies, e2e_s=latencies, attainment=maybe(rng, rng.random()),
        busy_fraction=maybe(rng, rng.random()) if ready else None,
        gpu_utilization=maybe(rng, rng.random()) if ready else None,
        kv_utilization=maybe(rng, rng.random()) if ready else None,
        kv_utilization_mean=maybe(rng, rng.random()) if ready else None,
        replicas=tuple(idle_replicas(ready, now_s)),
    )  # fmt: skip


def _drive_health(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    ill: set[str] = set()
    seen: set[str] = set()
    world = World(policy, rng, ask)
    for step in range(STEPS):
        world.goes_on(float(step))
        world.somebody_serves(random_request(rng, step, float(step)))
        done, world.life.completions = world.life.completions, []
        for completion in done:
            if completion.replica in seen:
                answer = ask(policy, "after_completion", completion, float(step))
                question = f"after_completion({completion}, {float(step)!r})"
                yield Call(question, answer, float(step), completion=completion)
        for name in ("replica/0", "replica/1", "replica/2"):
            if rng.random() < 0.15:
                ill ^= {name}
            lost = rng.random() < (0.9 if name in ill else 0.05)
            status: ProbeStatus = rng.choice(["failed", "timeout"]) if lost else "ok"
            probe = ProbeOutcome(
                replica=name,
                level=rng.choice(["live", "ready", "deep"]),
                status=status,
                sent_s=float(step),
                round_trip_s=None if status == "timeout" else rng.expovariate(100.0),
            )
            seen.add(name)
            answer = ask(policy, "observe", probe, step + 0.5)
            yield Call(f"observe({probe}, {step + 0.5!r})", answer, step + 0.5, probe=probe)


def _drive_retry(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    now_s, completions, world = 0.0, 0, World(policy, rng, ask)
    for number in range(STEPS // 2):
        now_s = later(rng, now_s)
        completions += rng.randrange(8)
        world.goes_on(now_s)
        request = random_request(rng, number, now_s)
        world.somebody_serves(request)
        for attempt in range(1, 6):
            limit_s = ask(policy, "attempt_limit_s", request, attempt, now_s)
            yield Call(f"attempt_limit_s({request.id}, {attempt}, {now_s!r})", limit_s, now_s, request)
            replica = maybe(rng, f"replica/{rng.randrange(3)}")
            kind = rng.choice(FAILURES)
            failure = Failure(kind=kind, attempt=attempt, replica=replica, completions=completions)
            answer = ask(policy, "after_failure", request, failure, now_s)
            question = f"after_failure({request.id}, {failure}, {now_s!r})"
            yield Call(question, answer, now_s, request, failure=failure)
            if not isinstance(answer, Retry) or rng.random() < 0.5:
                break


def _drive_filter(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    for request, replicas, now_s in _candidates(policy, rng, ask):
        answer = ask(policy, "keep", request, list(replicas), now_s)
        yield Call(f"keep({request.id}, {_names(replicas)}, {now_s!r})", answer, now_s, request, replicas)


def _drive_scorer(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    for request, replicas, now_s in _candidates(policy, rng, ask):
        answer = ask(policy, "scores", request, list(replicas), now_s)
        yield Call(f"scores({request.id}, {_names(replicas)}, {now_s!r})", answer, now_s, request, replicas)


def _drive_picker(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    for request, replicas, now_s in _candidates(policy, rng, ask):
        scores = [rng.choice([0.0, 0.5, 1.0, rng.random()]) for _ in replicas]
        answer = ask(policy, "pick", list(replicas), scores)
        yield Call(f"pick({_names(replicas)}, {scores})", answer, now_s, request, replicas)


def _candidates(
    policy: Policy, rng: random.Random, ask: Ask
) -> Iterator[tuple[Request, list[ReplicaView], float]]:
    world = World(policy, rng, ask)
    for number in range(STEPS):
        world.goes_on(later(rng, world.now_s))
        request, replicas = random_request(rng, number, world.now_s), world.views()
        yield request, replicas, world.now_s
        world.somebody_serves(request)


def _drive_iteration(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    replica = FakeReplica(policy, Script.drawn(rng), ask)
    for number, call in enumerate(replica.calls(), 1):
        yield call
        if number >= STEPS:
            return


DRIVERS: dict[str, Callable[[Any, random.Random, Ask], Iterator[Call]]] = {
    "admission": _drive_admission,
    "routing": _drive_routing,
    "queueing": _drive_queueing,
    "batching": _drive_batching,
    "iteration": _drive_iteration,
    "eviction": drive_eviction,
    "scaling": _drive_pool,
    "warm_pool": _drive_pool,
    "health": _drive_health,
    "retry": _drive_retry,
    "rollout": drive_rollout,
    "variants": drive_variants,
    "hedge": drive_hedge,
    "breaker": drive_breaker,
    "filter": _drive_filter,
    "scorer": _drive_scorer,
    "picker": _drive_picker,
}


def _names(replicas: Sequence[ReplicaView]) -> str:
    return f"[{', '.join(replica.id for replica in replicas)}]"
