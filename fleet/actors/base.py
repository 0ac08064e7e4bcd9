"""Moved: see `fleet.actor`."""

from fleet.actor import Actor, Context, FleetError, Timer

__all__ = ["Actor", "Context", "FleetError", "Timer"]
