"""A delay that grows with each failure, up to a cap: the one place where that is computed."""

from __future__ import annotations


def grown(base_s: float, factor: float, failures: int, cap_s: float) -> float:
    """`min(cap_s, base_s · factor^failures)`, for any number of failures: what outgrows a float is over any cap."""
    try:
        return min(cap_s, base_s * float(factor) ** failures)
    except OverflowError:
        return cap_s if base_s > 0.0 else 0.0
