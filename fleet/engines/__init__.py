"""What executes a batch: emulated, or a real model. Importing this loads no torch."""

from fleet.engines.base import BatchEngine, Engine, StepEngine
from fleet.engines.devices.kv_spec import KvSpec
from fleet.engines.devices.signals import DeviceSignals
from fleet.engines.devices.specs import DEVICES, MODELS, DeviceSpec, ModelSpec
from fleet.engines.emulated.batches import EmulatedEngine
from fleet.engines.emulated.steps import EmulatedLlmEngine
from fleet.engines.latency.batches.affine import AffineLatency
from fleet.engines.latency.batches.base import LatencyModel
from fleet.engines.latency.batches.profiled import ProfiledLatency
from fleet.engines.latency.batches.roofline import RooflineLatency
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.engines.latency.steps.base import StepLatency, StepShape
from fleet.engines.latency.steps.profiled import ProfiledSteps
from fleet.engines.latency.steps.roofline import RooflineSteps
from fleet.engines.latency.steps.timed import TimedSteps
from fleet.engines.latency.tables.batch_profile import Profile, ProfilePoint
from fleet.engines.latency.tables.step_profile import StepPoint, StepProfile
from fleet.engines.profiling.batches import profile_engine
from fleet.engines.profiling.steps import StepGrid, profile_step_engine
from fleet.engines.profiling.timed import timed_latency
from fleet.engines.torch.engine import Collates, TorchEngine
from fleet.engines.transformers.engine import TransformersEngine

__all__ = [
    "DEVICES",
    "MODELS",
    "AffineLatency",
    "AffineSteps",
    "BatchEngine",
    "Collates",
    "DeviceSignals",
    "DeviceSpec",
    "EmulatedEngine",
    "EmulatedLlmEngine",
    "Engine",
    "KvSpec",
    "LatencyModel",
    "ModelSpec",
    "Profile",
    "ProfilePoint",
    "ProfiledLatency",
    "ProfiledSteps",
    "RooflineLatency",
    "RooflineSteps",
    "StepEngine",
    "StepGrid",
    "StepLatency",
    "StepPoint",
    "StepProfile",
    "StepShape",
    "TimedSteps",
    "TorchEngine",
    "TransformersEngine",
    "profile_engine",
    "profile_step_engine",
    "timed_latency",
]
