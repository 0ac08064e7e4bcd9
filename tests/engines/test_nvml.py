"""The sampler of device counters, against a driver that is made up."""

import sys
import threading
import time
import types

import pytest

from fleet.engines import DeviceSignals
from fleet.engines.devices.nvml import DeviceSampler


class FakeError(Exception):
    """Stands for `pynvml.NVMLError`."""


@pytest.fixture
def driver(monkeypatch):
    """A module in the place of pynvml; `sampled` is set once it has been read."""
    fake = types.ModuleType("pynvml")
    fake.NVMLError = FakeError
    fake.sampled = threading.Event()
    fake.asked = []
    fake.nvmlInit = fake.nvmlShutdown = lambda: None
    fake.nvmlDeviceGetHandleByUUID = lambda uuid: fake.asked.append(uuid) or uuid
    fake.nvmlDeviceGetMemoryInfo = lambda device: types.SimpleNamespace(used=3, total=8)

    def utilization(device):
        fake.sampled.set()
        return types.SimpleNamespace(gpu=25)

    fake.nvmlDeviceGetUtilizationRates = utilization
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_counters_are_sampled_by_the_devices_own_identity(driver):
    sampler = DeviceSampler("1234-abcd", interval_s=0.001)
    assert driver.sampled.wait(timeout=10.0)
    driver.sampled.clear()
    assert driver.sampled.wait(timeout=10.0)  # the second sample: the first is in place
    sampler.close()

    assert driver.asked == ["GPU-1234-abcd"]
    assert sampler.latest == DeviceSignals(0.25, 3, 8)


def test_a_device_that_does_not_tell_has_no_signals(driver):
    failed = threading.Event()

    def refuse(uuid):
        failed.set()
        raise FakeError("not supported")

    driver.nvmlDeviceGetHandleByUUID = refuse
    sampler = DeviceSampler("GPU-1", interval_s=0.001)

    assert failed.wait(timeout=10.0)
    assert sampler.latest == DeviceSignals()


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("nvmlDeviceGetUtilizationRates", DeviceSignals(None, 3, 8)),
        ("nvmlDeviceGetMemoryInfo", DeviceSignals(0.25, None, None)),
    ],
)
def test_a_device_without_one_counter_still_tells_the_other(driver, missing, told):
    def refuse(device):
        raise FakeError("not supported")

    setattr(driver, missing, refuse)
    sampler = DeviceSampler("GPU-1", interval_s=0.001)
    deadline = time.monotonic() + 10.0
    while sampler.latest == DeviceSignals() and time.monotonic() < deadline:
        time.sleep(0.001)
    sampler.close()

    assert sampler.latest == told


def test_the_driver_is_let_go_when_the_device_is_unknown(driver):
    let_go = threading.Event()
    driver.nvmlShutdown = let_go.set

    def refuse(uuid):
        raise FakeError("not found")

    driver.nvmlDeviceGetHandleByUUID = refuse
    DeviceSampler("GPU-1")

    assert let_go.wait(timeout=10.0)


def test_reading_does_not_wait_for_the_driver(driver):
    answered = threading.Event()
    driver.nvmlInit = lambda: answered.wait(timeout=10.0)
    sampler = DeviceSampler("GPU-1")

    assert sampler.latest == DeviceSignals()
    sampler.close()
    answered.set()
