"""The reference scenario: a surge, a batching window, queue-depth scaling, and one failure at t = 20 s.

A hundred-line serving loop in print reports 3,328 requests served of this trace. `printed_loop` keeps that
loop's books beside honest ones; `scenario` runs the same fleet with this project's actors and policies.
"""

from experiments.seed_fleet.printed_loop import Accounts, play
from experiments.seed_fleet.scenario import FAULTS, SPEC, TRACE_NAME, load

__all__ = ["FAULTS", "SPEC", "TRACE_NAME", "Accounts", "load", "play"]
