"""Turning an exception inside a policy into an error that says whose it is, and where it happened."""

from __future__ import annotations

from policies.base import Policy, PolicyError


def blaming(policy: Policy, error: Exception, subject: str, now_s: float) -> PolicyError:
    """A `PolicyError` that names the policy, what it was asked about, and when."""
    if isinstance(error, PolicyError):
        return error
    return PolicyError(
        f"{policy.slot} policy {policy.name()} raised {type(error).__name__}: {error} "
        f"(asked about {subject} at {now_s:.6f} s)"
    )
