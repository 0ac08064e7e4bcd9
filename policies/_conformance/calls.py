"""How the kit calls a policy, and what it remembers of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from policies.base import Policy, PolicyError
from policies.views import Completion, Failure, PoolView, ProbeOutcome, ReplicaView
from traces.schema import Request

Ask = Callable[..., Any]
"""`ask(policy, method, *arguments)`: how a drive calls a policy; Any: whatever the policy answers."""
LONGEST_S = 1e9
"""What an actor takes for a time: 30 years."""


class Call(Struct):
    """One decision: what was asked, and what the policy answered."""

    question: str
    answer: object
    now_s: float = 0.0
    request: Request | None = None
    replicas: Sequence[ReplicaView] = ()
    waiting: tuple[str, ...] = ()
    """Ids in the queue."""
    probe: ProbeOutcome | None = None
    completion: Completion | None = None
    probed: bool = False
    """It was asked whom to ask for their load."""
    failure: Failure | None = None
    pool: PoolView | None = None
    served: tuple[str, ...] = ()
    """Versions or variants that were shown."""
    asked: tuple[str, ...] = ()
    """Variants whose answers there are already."""


def fail(policy: Policy, text: str) -> NoReturn:
    """The policy breaks its contract: say how."""
    raise PolicyError(f"{type(policy).__name__} {text}")


def demand(policy: Policy, holds: bool, question: str, answer: object, expected: str) -> None:
    """Fail unless what was answered to the question is as expected."""
    if not holds:
        fail(policy, f"answered {answer!r} to {question}; {expected}")


def ask(policy: Policy, method: str, *arguments: object) -> Any:
    """Call it; what it raises becomes an error that says where."""
    try:
        return getattr(policy, method)(*arguments)
    except PolicyError:
        raise
    except Exception as error:
        cause = f"raised {type(error).__name__} in `{method}`: {error}"
        raise PolicyError(f"{type(policy).__name__} {cause}") from error


def is_time(value: object) -> bool:
    """A number of seconds that can be waited for, 0 or more."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0.0 <= value < LONGEST_S  # type: ignore[arg-type, operator]  # a number
