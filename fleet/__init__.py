"""The fleet: actors, engines, runtimes, telemetry. Importing it loads no torch."""

from fleet.actor import FleetError
from fleet.engines import AffineLatency, EmulatedEngine, ProfiledLatency, RooflineLatency
from fleet.network import NetworkModel
from fleet.runtime.replay import replay
from fleet.runtime.serve import drive, join, serve
from fleet.runtime.simulate import simulate
from fleet.spec import FleetSpec, load_spec
from fleet.telemetry.run import Run, Summary, load_run

__all__ = [
    "AffineLatency",
    "EmulatedEngine",
    "FleetError",
    "FleetSpec",
    "NetworkModel",
    "ProfiledLatency",
    "RooflineLatency",
    "Run",
    "Summary",
    "drive",
    "join",
    "load_run",
    "load_spec",
    "replay",
    "serve",
    "simulate",
]
