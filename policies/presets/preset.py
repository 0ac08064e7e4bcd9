"""What a preset is: the fields of a fleet that make it behave as one system's documented defaults do."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Serves = Literal["requests", "tokens", "both"]
Plain = str | int | float | bool | None


class Knob(Struct, frozen=True):
    """One setting of the system: where a fleet has it, and what the system's documentation calls it."""

    path: str
    """In a fleet: ``batching.window_s``."""
    value: Plain
    """There, in the unit of its name."""
    key: str
    """As documented, with its default: ``max_queue_delay_microseconds = 0``."""
    note: str | None = None
    """What is different here."""


class Preset(Struct, frozen=True, kw_only=True):
    """A system's control plane as a bundle. Engine, replicas and what clients want are the fleet's own.

    ``fleet.replace(**preset.fields)`` is the fleet as that system would run it. What a system leaves to whoever deploys
    it (its replicas, the devices, a model's speed) is no part of it.
    """

    name: str
    source: str
    """Documentation that the defaults are from, with its version or date."""
    serves: Serves
    """What it is for: engines that answer whole requests, such that serve token by token, or both."""
    fields: dict[str, Any]  # Any: policies and plain values of a FleetSpec's fields
    knobs: tuple[Knob, ...]
    left_out: tuple[str, ...] = ()
    """What the system does, or has by default, that this does not show."""
