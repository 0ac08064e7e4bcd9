"""`python -m tests.bench.ratios`: every speed that the project promises, beside its target.

Exits with 1 when a target was missed.
"""

from __future__ import annotations

import sys

from rich.console import Console

from tests.bench import simulation
from tests.bench.table import show


def main() -> int:
    """Measure everything, one table after the other."""
    console = Console()
    tables = {
        "Simulation (CPU time)": simulation.speed_rows,
        "Growth of a simulation": simulation.growth_rows,
    }
    passed = [show(rows(), title, console) for title, rows in tables.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
