"""What executes a batch: emulated, or a real model. Importing this loads no torch."""

from fleet.engines.affine_steps import AffineSteps
from fleet.engines.base import BatchEngine, DeviceSignals, Engine, StepEngine
from fleet.engines.emulated import EmulatedEngine
from fleet.engines.emulated_llm import EmulatedLlmEngine
from fleet.engines.kv_spec import KvSpec
from fleet.engines.latency import AffineLatency, LatencyModel
from fleet.engines.profile import Profile, ProfilePoint, profile_engine
from fleet.engines.profiled import ProfiledLatency
from fleet.engines.profiled_steps import ProfiledSteps
from fleet.engines.roofline import RooflineLatency
from fleet.engines.roofline_steps import RooflineSteps
from fleet.engines.specs import DEVICES, MODELS, DeviceSpec, ModelSpec
from fleet.engines.step_latency import StepLatency, StepShape
from fleet.engines.step_profile import StepPoint, StepProfile
from fleet.engines.step_profiling import StepGrid, profile_step_engine
from fleet.engines.torch_module import Collates, TorchEngine
from fleet.engines.transformers_engine import TransformersEngine

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
    "TorchEngine",
    "TransformersEngine",
    "profile_engine",
    "profile_step_engine",
]
