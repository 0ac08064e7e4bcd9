"""The least SimPy program of the same queue: the yardstick for the simulator's speed, not a competitor.

Power-of-two-choices over one store per replica, batches of up to `max_batch`, affine service. No records but the
latencies, no policies, no replicas that fail. It draws as our policy does, so that both route by the same law.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import simpy


def run(
    arrivals_s: Sequence[float],
    *,
    replicas: int,
    max_batch: int,
    base_s: float,
    per_item_s: float,
    seed: int = 0,
) -> list[float]:
    """The latency of each request in seconds, in the order of completion."""
    environment = simpy.Environment()
    stores = [simpy.Store(environment) for _ in range(replicas)]
    in_flight = [0] * replicas
    latencies: list[float] = []
    draw = random.Random(seed).random

    def source() -> simpy.events.ProcessGenerator:
        for arrived_s in arrivals_s:
            yield environment.timeout(arrived_s - environment.now)
            first, second = int(draw() * replicas), int(draw() * replicas)
            chosen = second if in_flight[second] < in_flight[first] else first
            in_flight[chosen] += 1
            yield stores[chosen].put(arrived_s)

    def replica(number: int) -> simpy.events.ProcessGenerator:
        store = stores[number]
        while True:
            batch = [(yield store.get())]
            while store.items and len(batch) < max_batch:
                batch.append((yield store.get()))
            yield environment.timeout(base_s + per_item_s * len(batch))
            in_flight[number] -= len(batch)
            latencies.extend([environment.now - arrived_s for arrived_s in batch])

    environment.process(source())
    for number in range(replicas):
        environment.process(replica(number))
    environment.run()
    return latencies
