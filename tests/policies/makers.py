"""What the tests of policies share: the shipped classes, and short ways to make what policies are shown."""

import random
from typing import Any, TypeVar

from policies import Completion, Failure, Policy, PoolView, ProbeOutcome, ReplicaView
from policies.registry import classes
from traces.schema import Request

P = TypeVar("P", bound=Policy)

SHIPPED: list[type[Policy]] = [cls for cls in classes(Policy) if cls.__module__.startswith("policies.")]
"""Found as users' classes are, so that a new file is covered without a word here."""


def reset(policy: P, seed: int = 0) -> P:
    policy.reset(random.Random(seed))
    return policy


def request(name: str = "r", **fields: Any) -> Request:
    return Request(id=name, arrived_s=fields.pop("arrived_s", 0.0), **fields)


def replicas(*in_flight: int, **fields: Any) -> list[ReplicaView]:
    """`replica/0`, `replica/1`, ... with these requests in flight."""
    return [ReplicaView(id=f"replica/{n}", in_flight=count, **fields) for n, count in enumerate(in_flight)]


def pool(ready: int, queue_depth: int = 0, starting: int = 0, **fields: Any) -> PoolView:
    bounds = {"min_replicas": 1, "max_replicas": 8}
    requested = ready + starting
    return PoolView(
        ready=ready, queue_depth=queue_depth, starting=starting, requested=requested, **(bounds | fields)
    )


def probe(status: str, replica: str = "replica/0", sent_s: float = 0.0) -> ProbeOutcome:
    return ProbeOutcome(replica=replica, level="ready", status=status, sent_s=sent_s)


def failure(attempt: int, replica: str | None = "replica/0", completions: int = 0) -> Failure:
    return Failure(kind="engine-error", attempt=attempt, replica=replica, completions=completions)


def completion(name: str = "r", replica: str = "replica/0", **fields: Any) -> Completion:
    return Completion(request=request(name), replica=replica, attempt=1, **fields)
