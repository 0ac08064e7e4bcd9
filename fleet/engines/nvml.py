"""The counters of an NVIDIA device, sampled on a thread of their own: reading them never waits."""

from __future__ import annotations

import threading

from fleet.engines.base import DeviceSignals


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
            device = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            while not self._closed.is_set():
                memory = pynvml.nvmlDeviceGetMemoryInfo(device)
                utilization = pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0
                self.latest = DeviceSignals(utilization, int(memory.used), int(memory.total))
                self._closed.wait(self._interval_s)
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:  # no driver, or a device (such as a MIG slice) that does not tell
            self.latest = DeviceSignals()
