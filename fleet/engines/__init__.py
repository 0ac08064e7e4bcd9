"""What executes a batch: emulated, or a real model. Importing this loads no torch."""

from fleet.engines.base import DeviceSignals, Engine
from fleet.engines.emulated import EmulatedEngine
from fleet.engines.latency import AffineLatency, LatencyModel
from fleet.engines.profile import Profile, ProfilePoint, profile_engine
from fleet.engines.profiled import ProfiledLatency
from fleet.engines.roofline import DEVICES, DeviceSpec, RooflineLatency
from fleet.engines.torch_module import Collates, TorchEngine

__all__ = [
    "DEVICES",
    "AffineLatency",
    "Collates",
    "DeviceSignals",
    "DeviceSpec",
    "EmulatedEngine",
    "Engine",
    "LatencyModel",
    "Profile",
    "ProfilePoint",
    "ProfiledLatency",
    "RooflineLatency",
    "TorchEngine",
    "profile_engine",
]
