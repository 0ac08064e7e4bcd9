"""The least SimPy program of the same queue: Poisson arrivals, one shared store, replicas that take up to a batch.

No routing, no records but the latency, no policies: the yardstick for the simulator's speed, not a competitor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import simpy


def run(arrivals_s: Sequence[float], *, replicas: int, max_batch: int, base_s: float, per_item_s: float) -> tuple[float, float]:
    """Requests per wall second, and the mean latency in seconds."""
    environment = simpy.Environment()
    queue: list[float] = []
    idle: list[simpy.Event] = []
    latencies: list[float] = []

    def source() -> simpy.events.ProcessGenerator:
        for arrived_s in arrivals_s:
            yield environment.timeout(arrived_s - environment.now)
            queue.append(arrived_s)
            if idle:
                idle.pop().succeed()

    def replica() -> simpy.events.ProcessGenerator:
        while True:
            while not queue:
                woken = environment.event()
                idle.append(woken)
                yield woken
            batch = queue[:max_batch]
            del queue[:max_batch]
            yield environment.timeout(base_s + per_item_s * len(batch))
            latencies.extend(environment.now - arrived_s for arrived_s in batch)

    environment.process(source())
    for _ in range(replicas):
        environment.process(replica())
    began = time.perf_counter()
    environment.run()
    return len(latencies) / (time.perf_counter() - began), sum(latencies) / len(latencies)
