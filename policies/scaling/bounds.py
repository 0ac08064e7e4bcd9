"""What scaling policies have in common: what there is to begin with, and the bounds of what they may ask for."""

from __future__ import annotations

import math

from policies.views import PoolView

ROUNDING = 1e-9
"""What arithmetic in floats may be off by: 3 · 0.8 / 0.6 is a rounding error above 4, and means 4."""


def whole(replicas: float) -> int:
    """So many replicas, rounded up, but not for the sake of a rounding error."""
    return math.ceil(replicas - ROUNDING)


def within(pool: PoolView, replicas: int) -> int:
    """`replicas`, within the bounds of the pool."""
    return max(pool.min_replicas, min(replicas, pool.max_replicas))


def at_work(pool: PoolView, replicas: int) -> int:
    """`replicas`, within the bounds of the pool, and not none while a request is in flight."""
    return within(pool, max(replicas, 1) if pool.in_flight or pool.queue_depth else replicas)


def asked_so_far(pool: PoolView, asked: int | None) -> int:
    """What was asked for last, within the bounds as they are now; before anything was: what there is."""
    return within(pool, pool.ready + pool.starting if asked is None else asked)


def is_known(pool: PoolView, asked: int | None) -> bool:
    """False before the first report, when there is nothing to go by, and so nothing to remember."""
    return asked is not None or pool.requested > 0
