"""Turning an exception inside a policy into an error that says whose it is, and where it happened."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from policies.base import Policy, PolicyError, RolloutPolicy
from policies.views import BatchCompletion, Completion, Ending, StepCompletion
from traces.schema import Request


def blaming(policy: Policy, error: Exception, subject: str, now_s: float) -> PolicyError:
    """A `PolicyError` that names the policy, what it was asked about, and when."""
    if isinstance(error, PolicyError):
        return error
    return PolicyError(
        f"{policy.slot} policy {policy.name()} raised {type(error).__name__}: {error} "
        f"(asked about {subject} at {now_s:.6f} s)"
    )


def tell(hooks: Iterable[Callable[..., None]], now_s: float, *arguments: object) -> None:
    """Call observation hooks, bound methods of policies, with these arguments and the time.

    What one of them raises is its policy's own.
    """
    for hook in hooks:
        try:
            hook(*arguments, now_s)
        except Exception as error:
            policy: Policy = hook.__self__  # type: ignore[attr-defined]  # hooks are bound methods
            raise blaming(policy, error, f"{_subject(arguments[0])}, in {hook.__name__}", now_s) from error


def _subject(told: object) -> str:
    """What a hook with this first argument tells of."""
    if isinstance(told, Request):
        return told.id
    if isinstance(told, Completion | Ending):
        return told.request.id
    if isinstance(told, BatchCompletion):
        return f"a batch of {told.size}"
    return "a step" if isinstance(told, StepCompletion) else "the replicas"


def reset(policy: Policy, rng: random.Random) -> None:
    """Reset a policy before a run; what it raises is its own."""
    try:
        policy.reset(rng)
    except Exception as error:
        raise blaming(policy, error, "nothing yet, in reset", 0.0) from error
    if isinstance(policy, RolloutPolicy):
        demand_stage(policy)


def demand_stage(policy: RolloutPolicy) -> None:
    """Raises `PolicyError` where what it says of its stage is no text."""
    stage: object = policy.stage
    if not isinstance(stage, str):
        raise PolicyError(
            f"rollout policy {policy.name()} has the stage {stage!r}; `stage` is text, such as 'canary 5 %'"
        )
