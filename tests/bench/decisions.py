"""What a decision costs, of every policy that is asked once a request or once a look, at fleets of 8, 64 and 512.

Each is driven as its actor drives it: views whose counts the actor keeps, two requests in flight for each replica, and
every hook that the class defines, called once for each attempt. A decision is one question with all the hooks that
come with it. A queue of as many requests waits as there are replicas. CPU time of the policy's own calls, the least
mean of the rounds, less what an empty call takes.

What a whole fleet is looked at for grows with it: × 64 from 8 to 512. A policy of constant choice must not grow.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from msgspec.structs import force_setattr

from policies.base import HealthPolicy, Policy, QueueingPolicy, RetryPolicy, RoutingPolicy, listeners
from policies.decisions import Dispatch, Drop, Hold, Route
from policies.registry import classes
from policies.routing.composed import Composed
from policies.routing.in_flight_scorer import InFlightScorer
from policies.views import (
    AttemptView,
    BatchCompletion,
    Completion,
    Ending,
    Failure,
    FleetView,
    Latencies,
    PoolView,
    ProbeOutcome,
    ReplicaLoad,
    ReplicaView,
    TokenSignals,
)
from tests.bench.table import Row
from traces.schema import Request, Slo

SIZES = (8, 64, 512)
MOST_US = 50.0
"""The most that a decision may take at the largest fleet."""
LEAST_US = 0.05
"""Less is not told from nothing."""
STEP_S = 0.001
"""Between two requests."""
REFERENCE = "least-outstanding"

SPECIAL: dict[str, Callable[[], Policy]] = {
    "composed": lambda: Composed(scorers=[(1.0, InFlightScorer())]),
}
"""How to make those whose defaults would do nothing, or that cannot be made without an argument."""
NOT_TIMED: dict[str, str] = {
    "iteration": "asked once a step of an engine: `token_steps` measures it",
    "eviction": "asked once a block that is evicted: `token_steps` has it in its steps",
    "rollout": "looks at versions, of which there are two, whatever the fleet",
    "variants": "looks at variants, of which there are a few, whatever the fleet",
}
"""Slots that are not here, and why."""


class Watch:
    """Adds up the time that calls of the policy take."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.calls = 0

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What `call` answers."""
        began_s = time.process_time()
        answer = call(*arguments)
        self.spent_s += time.process_time() - began_s
        self.calls += 1
        return answer


@cache
def empty_call_s() -> float:
    """What the watch sees of a call that does nothing."""
    watch = Watch()
    for _ in range(20_000):
        watch(_nothing)
    return watch.spent_s / watch.calls


def _nothing() -> None:
    pass


class World:
    """Replicas, requests, and what is in flight; tells the policy through the hooks that it has."""

    def __init__(self, policy: Policy, replicas: int, watch: Watch) -> None:
        self.policy, self.watch, self.now_s, self.number = policy, watch, 0.0, 0
        self.rng = random.Random("world")
        self.views = tuple(self._view(number, replicas) for number in range(replicas))
        self.by_id = {view.id: view for view in self.views}
        self.flying: deque[tuple[Request, str]] = deque()
        heard = {hook: listeners(policy, hook) for hook in policy.hears}
        self.dispatched_to = heard.get("on_dispatched", [])
        self.completed_to = heard.get("on_completed", [])
        self.ended_to = heard.get("on_request_ended", [])
        self.batches_to = heard.get("on_batch_completed", [])
        policy.reset(random.Random(0))
        if policy.oracle:
            policy.reveal(lambda name: 100)
        for listener in heard.get("on_replicas", []):
            listener(self.views, 0.0)

    def _view(self, number: int, replicas: int) -> ReplicaView:
        tokens = TokenSignals(
            waiting=number % 3, running=8, used_blocks=number % 64, total_blocks=64, block_tokens=16
        )
        return ReplicaView(
            id=f"replica/{number}", in_flight=0, busy_fraction=0.5, gpu_utilization=0.5, tokens=tokens,
            memory_used_bytes=1, memory_total_bytes=2, expected_service_s=0.1 + 0.01 * (number % 5),
            cost_per_hour=1.0 + number % 2, zone=f"zone-{number % 3}", weight=1.0 + number % 2,
            pool="default", device="l4", as_of_s=0.0,
        )  # fmt: skip

    def request(self) -> Request:
        """The next one, `STEP_S` after the last."""
        self.now_s += STEP_S
        self.number += 1
        rng, number = self.rng, self.number
        session = rng.randrange(200)
        return Request(
            id=f"request-{number}", arrived_s=self.now_s, prompt_tokens=64 + rng.randrange(1000),
            blocks=tuple(1000 * session + block for block in range(16)), block_tokens=64,
            session=f"session-{session}", tenant=f"tenant-{rng.randrange(8)}", user=f"user-{session}",
            priority=rng.randrange(3), deadline_s=rng.uniform(1.0, 10.0), slo=Slo(e2e_s=1.0), work=1.0,
        )  # fmt: skip

    def dispatch(self, request: Request, replica: str) -> None:
        """It is at this replica now; beyond two for each replica, the oldest one ends."""
        view = self.by_id[replica]
        force_setattr(view, "in_flight", view.in_flight + 1)
        for listener in self.dispatched_to:
            self.watch(listener, request, replica, self.now_s)
        self.flying.append((request, replica))
        if len(self.flying) > 2 * len(self.views):
            self.complete()

    def complete(self) -> None:
        """The oldest attempt ends well, or one in a hundred badly; and its request."""
        request, replica = self.flying.popleft()
        view = self.by_id[replica]
        force_setattr(view, "in_flight", view.in_flight - 1)
        took_s = self.now_s - request.arrived_s
        failure = "engine-error" if self.number % 100 == 0 else None
        completion = Completion(
            request=request, replica=replica, attempt=1, failure=failure, service_s=0.05, e2e_s=took_s,
            ttft_s=took_s, output_tokens=100,
        )  # fmt: skip
        for listener in self.completed_to:
            self.watch(listener, completion, self.now_s)
        ending = Ending(
            request=request, outcome="completed" if failure is None else "failed", attempts=1, e2e_s=took_s,
            ttft_s=took_s, output_tokens=100, slo_met=took_s < 1.0,
        )  # fmt: skip
        for listener in self.ended_to:
            self.watch(listener, ending, self.now_s)

    def somewhere(self) -> str:
        """Any replica."""
        return self.views[int(self.rng.random() * len(self.views))].id

    def serve(self, request: Request) -> None:
        """Somebody serves it."""
        self.dispatch(request, self.somewhere())


class Queue:
    """What a batching policy is shown."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[float, Request]] = {}

    @property
    def oldest_s(self) -> float:
        """When the first was queued."""
        return next(iter(self.waiting.values()))[0]

    def queued_s(self, request_id: str) -> float:
        """When this one was."""
        return self.waiting[request_id][0]

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter([request for _, request in self.waiting.values()])

    def push(self, request: Request, now_s: float) -> None:
        """One more."""
        self.waiting[request.id] = (now_s, request)

    def take(self, ids: Sequence[str]) -> list[Request]:
        """These leave."""
        return [self.waiting.pop(name)[1] for name in ids]


# --- one decision of each slot -----------------------------------------------------------------------------


def _route(policy: Any, world: World) -> Iterator[None]:
    probing = type(policy).probes is not RoutingPolicy.probes
    while True:
        request = world.request()
        if probing:
            for name in world.watch(policy.probes, request, world.views, world.now_s):
                in_flight = world.by_id[name].in_flight
                load = ReplicaLoad(replica=name, in_flight=in_flight, latency_s=0.1, asked_s=world.now_s)
                world.watch(policy.on_load, load, world.now_s)
        answer = world.watch(policy.route, request, world.views, world.now_s)
        if type(answer) is Route:
            world.dispatch(request, answer.replica)
        elif type(answer) is Hold:
            world.serve(request)  # whoever holds everything keeps the others from being measured
        yield


def _keep(policy: Any, world: World) -> Iterator[None]:
    while True:
        request = world.request()
        world.watch(policy.keep, request, world.views, world.now_s)
        world.serve(request)
        yield


def _score(policy: Any, world: World) -> Iterator[None]:
    while True:
        request = world.request()
        world.watch(policy.scores, request, world.views, world.now_s)
        world.serve(request)
        yield


def _pick(policy: Any, world: World) -> Iterator[None]:
    while True:
        request = world.request()
        scores = [world.rng.random() for _ in world.views]
        world.dispatch(request, world.views[world.watch(policy.pick, world.views, scores)].id)
        yield


def _queue(policy: Any, world: World) -> Iterator[None]:
    dropping = type(policy).drops is not QueueingPolicy.drops
    for _ in world.views:
        policy.push(world.request(), world.now_s)
    while True:
        world.watch(policy.push, world.request(), world.now_s)
        for name in world.watch(policy.drops, world.now_s) if dropping else ():
            world.watch(policy.remove, name)
        if len(policy):
            world.serve(world.watch(policy.pop, world.now_s))
        yield


def _batch(policy: Any, world: World) -> Iterator[None]:
    queue = Queue()
    while True:
        while len(queue) < len(world.views):
            queue.push(world.request(), world.now_s)
        answer = world.watch(policy.next_batch, queue, world.views, world.now_s)
        taken: list[Request] = []
        if isinstance(answer, Dispatch):
            taken = queue.take(answer.ids or list(queue.waiting)[: answer.size])
        elif isinstance(answer, Drop):
            queue.take(answer.ids)
        else:
            queue.push(world.request(), world.now_s)
        replica = getattr(answer, "replica", None) or world.views[0].id
        for request in taken:
            world.dispatch(request, replica)
        if taken:
            batch = BatchCompletion(replica=replica, requests=tuple(taken), service_s=0.05, elapsed_s=0.05)
            for listener in world.batches_to:
                world.watch(listener, batch, world.now_s)
        yield


def _admit(policy: Any, world: World) -> Iterator[None]:
    while True:
        request, size = world.request(), len(world.views)
        fleet = FleetView(in_flight=len(world.flying), queue_depth=size, ready_replicas=size)
        world.watch(policy.admit, request, fleet, world.now_s)
        world.serve(request)
        yield


def _hedge(policy: Any, world: World) -> Iterator[None]:
    while True:
        request = world.request()
        world.serve(request)
        sent = AttemptView(role="primary", replica=world.flying[-1][1], pool="default", sent_s=world.now_s)
        world.watch(policy.after_s, request, (sent,), world.now_s)
        yield


def _break(policy: Any, world: World) -> Iterator[None]:
    while True:
        request = world.request()
        world.watch(_allowed, policy, world.views, world.now_s)
        world.serve(request)
        yield


def _allowed(policy: Any, views: Sequence[ReplicaView], now_s: float) -> list[ReplicaView]:
    """As the router asks: of every candidate."""
    allows = policy.allows
    return [view for view in views if allows(view, now_s)]


def _retry(policy: Any, world: World) -> Iterator[None]:
    limited = type(policy).attempt_limit_s is not RetryPolicy.attempt_limit_s
    while True:
        request = world.request()
        if limited:
            world.watch(policy.attempt_limit_s, request, 1, world.now_s)
        failure = Failure(
            kind="engine-error", attempt=1, replica=world.somewhere(), completions=10 * world.number
        )
        world.watch(policy.after_failure, request, failure, world.now_s)
        world.serve(request)
        yield


def _desire(policy: Any, world: World) -> Iterator[None]:
    size = len(world.views)
    latencies = Latencies(tuple(0.01 * (number % 50) for number in range(50)))
    while True:
        world.serve(world.request())
        world.now_s += 1.0
        depth = world.rng.randrange(2 * size)
        pool = PoolView(
            interval_s=1.0, ready=size, requested=size, min_replicas=1, max_replicas=2 * size,
            queue_depth=depth, queue_depth_mean=depth, in_flight=depth + size, in_flight_mean=depth + size,
            arrivals_per_s=10.0 * size, completions_per_s=10.0 * size, ends_per_s=10.0 * size,
            ttft_s=latencies, e2e_s=latencies, attainment=0.9, busy_fraction=0.5, gpu_utilization=0.5,
            memory_used_fraction=0.5, kv_utilization=0.5, kv_utilization_mean=0.5, as_of_s=world.now_s,
            replicas=world.views,
        )  # fmt: skip
        world.watch(policy.desired, pool, world.now_s)
        yield


def _observe(policy: Any, world: World) -> Iterator[None]:
    judges = type(policy).after_completion is not HealthPolicy.after_completion
    while True:
        request, replica = world.request(), world.somewhere()
        world.dispatch(request, replica)
        if judges:
            done = Completion(request=request, replica=replica, attempt=1, service_s=0.05, e2e_s=0.05)
            world.watch(policy.after_completion, done, world.now_s)
        probe = ProbeOutcome(
            replica=replica, level="ready", status="ok", sent_s=world.now_s, round_trip_s=0.001
        )
        world.watch(policy.observe, probe, world.now_s)
        yield


DRIVES: dict[str, Callable[[Any, World], Iterator[None]]] = {
    "admission": _admit, "routing": _route, "filter": _keep, "scorer": _score, "picker": _pick,
    "queueing": _queue, "batching": _batch, "scaling": _desire, "warm_pool": _desire, "health": _observe,
    "retry": _retry, "hedge": _hedge, "breaker": _break,
}  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------------


def timed() -> list[type[Policy]]:
    """Every policy of the library whose slot is here."""
    shipped = [cls for cls in classes(Policy) if cls.__module__.startswith("policies.")]
    return sorted(
        (cls for cls in shipped if cls.slot in DRIVES), key=lambda cls: list(DRIVES).index(cls.slot)
    )


def cost_us(cls: type[Policy], replicas: int, decisions: int, rounds: int) -> float:
    """Microseconds a decision, after as many that are not counted as there are requests in flight."""
    best = float("inf")
    for _ in range(rounds):
        watch, policy = Watch(), SPECIAL.get(cls.name(), cls)()
        drive = DRIVES[cls.slot](policy, World(policy, replicas, watch))
        for _ in range(2 * replicas):
            next(drive)
        watch.spent_s, watch.calls = 0.0, 0
        for _ in range(decisions):
            next(drive)
        spent_s = max(watch.spent_s - watch.calls * empty_call_s(), 0.0)
        best = min(best, 1e6 * spent_s / decisions)
    return best


def rows(sizes: Sequence[int] = SIZES, decisions: int = 1000, rounds: int = 3) -> Iterator[Row]:
    """A row for each policy: its cost by fleet size, how that grows, and beside least outstanding in the same run."""
    least, most = sizes[0], sizes[-1]
    policies = timed()
    reference = next(cls for cls in policies if cls.name() == REFERENCE)
    beside_us = cost_us(reference, most, decisions, rounds)
    for cls in policies:
        costs = [cost_us(cls, size, decisions, rounds) for size in sizes]
        shown = ", ".join(f"{cost:.1f}" for cost in costs)
        measured = (
            f"{shown} µs; × {costs[-1] / max(costs[0], LEAST_US):.1f} from {least} to {most}; "
            f"× {costs[-1] / beside_us:.2f} of {REFERENCE}"
        )
        yield Row(f"{cls.slot} {cls.name()}", measured, f"≤ {MOST_US:g} µs", costs[-1] <= MOST_US)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.what}: {row.measured} {'' if row.met else f'MISSED {row.target}'}")
