"""The fleet: actors, engines, runtimes, telemetry.

Importing this package loads none of its parts: they come when first named, so that a command that needs one of
them does not pay for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.actor import FleetError
    from fleet.engines import (
        AffineLatency,
        AffineSteps,
        EmulatedEngine,
        EmulatedLlmEngine,
        Engine,
        KvSpec,
        LatencyModel,
        ModelSpec,
        ProfiledLatency,
        ProfiledSteps,
        RooflineLatency,
        RooflineSteps,
        TorchEngine,
    )
    from fleet.network import NetworkModel
    from fleet.pools import ModelPolicies, PoolSpec
    from fleet.runs.again import again
    from fleet.runs.client import FleetClient
    from fleet.runs.operate import FleetOperator, operate
    from fleet.runs.replay import replay
    from fleet.runs.serve import drive, join, serve
    from fleet.runs.simulate import simulate
    from fleet.spec import FleetSpec, load_spec
    from fleet.telemetry.run import Run, load_run
    from fleet.telemetry.summary import Summary

_HOMES = {
    "fleet.actor": ("FleetError",),
    "fleet.engines": (
        "AffineLatency",
        "AffineSteps",
        "EmulatedEngine",
        "EmulatedLlmEngine",
        "Engine",
        "KvSpec",
        "LatencyModel",
        "ModelSpec",
        "ProfiledLatency",
        "ProfiledSteps",
        "RooflineLatency",
        "RooflineSteps",
        "TorchEngine",
    ),
    "fleet.network": ("NetworkModel",),
    "fleet.pools": ("ModelPolicies", "PoolSpec"),
    "fleet.runs.again": ("again",),
    "fleet.runs.client": ("FleetClient",),
    "fleet.runs.operate": ("FleetOperator", "operate"),
    "fleet.runs.replay": ("replay",),
    "fleet.runs.serve": ("drive", "join", "serve"),
    "fleet.runs.simulate": ("simulate",),
    "fleet.spec": ("FleetSpec", "load_spec"),
    "fleet.telemetry.run": ("Run", "load_run"),
    "fleet.telemetry.summary": ("Summary",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AffineLatency",
    "AffineSteps",
    "EmulatedEngine",
    "EmulatedLlmEngine",
    "Engine",
    "FleetClient",
    "FleetError",
    "FleetOperator",
    "FleetSpec",
    "KvSpec",
    "LatencyModel",
    "ModelPolicies",
    "ModelSpec",
    "NetworkModel",
    "PoolSpec",
    "ProfiledLatency",
    "ProfiledSteps",
    "RooflineLatency",
    "RooflineSteps",
    "Run",
    "Summary",
    "TorchEngine",
    "again",
    "drive",
    "join",
    "load_run",
    "load_spec",
    "operate",
    "replay",
    "serve",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fleet' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
