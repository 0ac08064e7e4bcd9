"""What a run is asked for besides its spec, held to the same rule: a value is checked, and named."""

from __future__ import annotations

from fleet.actor import FleetError
from traces.schema import Seconds
from traces.values import BadValue, checked


def demand_seconds(**durations: float | None) -> None:
    """Raise `FleetError` unless each is a duration in seconds, finite and not below 0; None is none given."""
    for name, value in durations.items():
        try:
            checked(Seconds | None, value, name)
        except BadValue as error:
            raise FleetError(str(error)) from None
