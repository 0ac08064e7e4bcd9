"""The counters of an NVIDIA device, sampled on a thread of their own: reading them never waits."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import ModuleType

from msgspec.structs import replace

from fleet.engines.devices.signals import DeviceSignals


class DeviceSampler:
    """Keeps `latest` up to date until closed; it stays empty where NVML or its counters are missing."""

    def __init__(self, uuid: str, *, interval_s: float = 0.25) -> None:
        """`uuid` is the device's own, which no remapping of device numbers changes."""
        self.latest = DeviceSignals()
        self._uuid = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._interval_s = interval_s
        self._closed = threading.Event()
        threading.Thread(target=self._sample_until_closed, name="nvml", daemon=True).start()

    def close(self) -> None:
        """Stop sampling; does not wait for it."""
        self._closed.set()

    def _sample_until_closed(self) -> None:
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:  # no driver
            return
        try:
            device = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            while not self._closed.is_set():
                self.latest = _sample(pynvml, device)
                self._closed.wait(self._interval_s)
        except pynvml.NVMLError:  # a device that NVML does not know by this identity, such as a MIG slice
            return
        finally:
            pynvml.nvmlShutdown()


def _sample(pynvml: ModuleType, device: object) -> DeviceSignals:
    """What the device tells now. Each counter on its own: some devices have memory and no utilisation."""
    signals = DeviceSignals()
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        signals = DeviceSignals(None, int(memory.used), int(memory.total))
    with suppress(pynvml.NVMLError):
        utilization = pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0
        signals = replace(signals, gpu_utilization=utilization)
    return signals
