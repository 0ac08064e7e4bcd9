"""What a device says of itself while it works."""

from __future__ import annotations

from msgspec import Struct


class DeviceSignals(Struct, frozen=True):
    """What the device's own counters say; None where there are none."""

    gpu_utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


NO_SIGNALS = DeviceSignals()
