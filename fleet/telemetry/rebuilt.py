"""The inputs of a finished run, made again from its manifest: as much as `simulate` takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fleet.spec import FleetSpec
from fleet.telemetry.origin import Origin
from policies.base import PolicyError
from traces import FaultTrace, Header, OperationsTrace, Trace, TraceError
from traces.rebuilding import finished, reads_files
from traces.rebuilding import rebuilt as follow


@dataclass(frozen=True)
class Rebuilt:
    """What a run was made of; ``simulate(**rebuilt.arguments)`` makes it anew."""

    trace: Trace
    spec: FleetSpec
    seed: int
    faults: FaultTrace | None
    operations: OperationsTrace | None
    sessions: bool
    stream: bool
    until_s: float | None

    @property
    def arguments(self) -> dict[str, Any]:  # Any: each its own type
        """All of them, by the names that `simulate` has for them."""
        return dict(vars(self))


def rebuilt(
    trace: Trace, spec: FleetSpec, seed: int, faults: dict[str, Any] | None, options: dict[str, Any]
) -> Rebuilt:
    """Of the plain values in a manifest (`Any`: JSON values)."""
    operations = options.get("operations")
    return Rebuilt(
        trace=trace,
        spec=spec,
        seed=seed,
        faults=None if faults is None else msgspec.convert(faults, FaultTrace),
        operations=None if operations is None else msgspec.convert(operations, OperationsTrace),
        sessions=options.get("sessions", False),
        stream=options.get("stream", False),
        until_s=options.get("until_s"),
    )


def trace_again(
    recorded: dict[str, Any],
    origin: Origin | None,
    kept: Trace | Path | None,
    given: Trace | str | Path | None,
) -> Trace:
    """The trace of a run, whose manifest `recorded` its hash and header.

    What is `given` comes first, then what was `kept`: by the process that ran it, or in its folder; then its recipe.

    Raises:
        TraceError: It is not to be had, or is not what it was; says what to do.
    """
    sha256, header = recorded["sha256"], msgspec.convert(recorded["header"], Header)
    recipe = None if origin is None else origin.recipe
    if isinstance(given, Trace):
        return _held_against(given, sha256, header)
    if given is None and isinstance(kept, Trace):
        return kept
    file = Path(given) if given is not None else kept if isinstance(kept, Path) else None
    if recipe is not None and (file is None or (given is not None and reads_files(recipe))):
        return follow(recipe, sha256, header, file)
    if file is not None:
        return finished(file, sha256, header)
    raise TraceError(
        "the run does not say how to have its trace again: a table or a function of one's own made it",
        remedy="give it: rebuild(trace=...) (--trace FILE); save(..., with_trace=True) (--with-trace) keeps it",
    )


def _held_against(trace: Trace, sha256: str, header: Header) -> Trace:
    if trace.sha256 != sha256:
        raise TraceError(
            f"the trace is not that of the run: its SHA-256 is {trace.sha256[:16]}, and was {sha256[:16]}",
            remedy="give the very one, with all that was done to it",
        )
    return trace.headed(header)


def with_places(error: PolicyError, origin: Origin | None) -> PolicyError:
    """The error, with a note of where the modules were that this process cannot import."""
    for module, file in ({} if origin is None else origin.modules).items():
        if module == "__main__":
            error.add_note(f"the script was {file}")
        elif module not in sys.modules:
            path = Path(file)
            up = module.count(".") + (path.name == "__init__.py")
            error.add_note(
                f"{module} was {file}: put its folder on the import path, as in PYTHONPATH={path.parents[up]}"
            )
    return error
