"""`python -m tests.bench.ratios`: every speed that the project promises, beside its target.

A missed target is a finding, and printed as one; with `--strict` it is an exit status of 1 too. These are no tests: a
machine that is shared with other work misses what it meets alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from rich.console import Console

from tests.bench import decisions, exports, live_fleet, overload, reading, simulation, sweeping, token_steps
from tests.bench.table import Row, show

TABLES: dict[str, Callable[..., Iterator[Row]]] = {
    "Simulation (CPU time)": simulation.speed_rows,
    "Growth of a simulation": simulation.growth_rows,
    "Pools that have nothing in common (CPU time)": simulation.pool_rows,
    "Decisions, at 8, 64 and 512 replicas (CPU time)": decisions.rows,
    "The log of views (CPU time)": simulation.log_rows,
    "A simulation under overload (CPU time)": overload.rows,
    "Simulation of language models (CPU time)": token_steps.simulated_rows,
    "Sweeps": sweeping.rows,
    "Reading trace files (CPU time)": reading.rows,
    "Runs and traces written for other tools (CPU time)": exports.rows,
    "Live: client, head and two replicas, a process each": live_fleet.rows,
    "Live: a decode step, streamed": token_steps.live_rows,
}
"""What measures each; the arguments, all with defaults, say how much. `tests/test_benches.py` runs every one, tiny."""


def main() -> int:
    """Measure everything, one table after the other."""
    console = Console()
    passed = [show(rows(), title, console) for title, rows in TABLES.items()]
    return 1 if "--strict" in sys.argv[1:] and not all(passed) else 0


if __name__ == "__main__":
    sys.exit(main())
