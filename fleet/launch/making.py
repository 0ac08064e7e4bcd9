"""Which replica goes with which engine."""

from __future__ import annotations

from collections.abc import Callable

from fleet.actor import FleetError
from fleet.actors.batch_replica import BatchReplica
from fleet.actors.replica import Replica, ReplicaSettings
from fleet.actors.token_replica import TokenReplica
from fleet.engines.base import BatchEngine, StepEngine


def make_replica(
    settings: ReplicaSettings,
    *,
    observers: str = "observers",
    on_end: Callable[[], None] | None = None,
    reveal: Callable[[str], int | None] | None = None,
) -> Replica:
    """The actor that runs `settings.engine`. `reveal` shows true output lengths to an oracle, in simulation."""
    if isinstance(settings.engine, StepEngine):
        return TokenReplica(settings, observers=observers, on_end=on_end, reveal=reveal)
    if isinstance(settings.engine, BatchEngine):
        return BatchReplica(settings, observers=observers, on_end=on_end)
    raise FleetError(
        f"{type(settings.engine).__name__} is neither a BatchEngine nor a StepEngine; an engine subclasses one of them"
    )
