"""What a run is asked for besides its spec, held to the same rule: a value is checked, and named."""

from __future__ import annotations

from typing import Any

from fleet.actor import FleetError
from traces.schema import Seconds
from traces.values import BadValue, checked


def demand_seconds(**durations: float | None) -> None:
    """Raise `FleetError` unless each is a duration in seconds, finite and not below 0; None is none given."""
    for name, value in durations.items():
        _demand(Seconds | None, value, name)


def demand_seed(seed: int) -> None:
    """Raise `FleetError` unless `seed` is a whole number."""
    _demand(int, seed, "seed")


def _demand(annotation: Any, value: object, name: str) -> None:  # Any: a type
    try:
        checked(annotation, value, name)
    except BadValue as error:
        raise FleetError(str(error)) from None
