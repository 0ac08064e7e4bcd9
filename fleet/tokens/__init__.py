"""Token by token: sequences, the paged key-value cache, and the planning of steps. State only: no time, no I/O.

One implementation for both runtimes. A replica's actor drives it, an engine executes what it plans.
"""
