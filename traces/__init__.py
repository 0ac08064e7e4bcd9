"""Requests, faults and operations as recorded: schema, readers and writers, transforms, synthesis, statistics.

Importing this package loads none of its parts: they come when first named, because policies import the schema
and must not pay for numpy and Arrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.errors import ReadReport, TraceError
    from traces.fault_files import load_faults, random_faults, save_faults
    from traces.faults import Fault, FaultTrace
    from traces.laws import choice, uniform, zipf
    from traces.operations import Operation, OperationsTrace, load_operations
    from traces.rates import RateSeries, load_rates
    from traces.readers import load_trace
    from traces.schema import Header, Observed, Request, Slo, TraceEntry, Transform
    from traces.statistics import Statistics, describe
    from traces.synthesis import (
        Lengths,
        bernoulli_surge,
        diurnal,
        from_rates,
        gamma,
        mmpp,
        poisson,
        sessions,
        surge,
    )
    from traces.trace import Trace
    from traces.transforms import merge
    from traces.writers import WriteReport, save_trace

_HOMES = {
    "traces.errors": ("ReadReport", "TraceError"),
    "traces.fault_files": ("load_faults", "random_faults", "save_faults"),
    "traces.faults": ("Fault", "FaultTrace"),
    "traces.laws": ("choice", "uniform", "zipf"),
    "traces.operations": ("Operation", "OperationsTrace", "load_operations"),
    "traces.rates": ("RateSeries", "load_rates"),
    "traces.readers": ("load_trace",),
    "traces.schema": ("Header", "Observed", "Request", "Slo", "TraceEntry", "Transform"),
    "traces.statistics": ("Statistics", "describe"),
    "traces.synthesis": (
        "Lengths",
        "bernoulli_surge",
        "diurnal",
        "from_rates",
        "gamma",
        "mmpp",
        "poisson",
        "sessions",
        "surge",
    ),
    "traces.trace": ("Trace",),
    "traces.transforms": ("merge",),
    "traces.writers": ("WriteReport", "save_trace"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Fault",
    "FaultTrace",
    "Header",
    "Lengths",
    "Observed",
    "Operation",
    "OperationsTrace",
    "RateSeries",
    "ReadReport",
    "Request",
    "Slo",
    "Statistics",
    "Trace",
    "TraceEntry",
    "TraceError",
    "Transform",
    "WriteReport",
    "bernoulli_surge",
    "choice",
    "describe",
    "diurnal",
    "from_rates",
    "gamma",
    "load_faults",
    "load_operations",
    "load_rates",
    "load_trace",
    "merge",
    "mmpp",
    "poisson",
    "random_faults",
    "save_faults",
    "save_trace",
    "sessions",
    "surge",
    "uniform",
    "zipf",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'traces' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
