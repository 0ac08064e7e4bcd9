"""The reference scenario on real processes, in real time, the failure a real SIGKILL.

At its peak the surge offers more than two replicas can do, and a replica is given its next batch only after the
last one is back (`max_inflight_batches=1`). So the time that a batch takes to change hands, a millisecond or so,
is capacity lost, and waiting grows by much more than that millisecond. A simulation to hold the live run
against must have that time too: it is measured in the live run, from replicas with work waiting.
"""

from __future__ import annotations

import numpy as np

from experiments.calibrate import CalibrationReport
from experiments.seed_fleet.scenario import FAULTS, SPEC
from fleet import NetworkModel, Run, replay, simulate
from traces import Trace

METRICS = ("e2e_s.mean", "e2e_s.p50", "e2e_s.p99", "throughput_per_s", "completed", "replicas.max")
BASE_S, PER_ITEM_S, MAX_BATCH = 0.012, 0.003, 16


def replayed(trace: Trace, *, repeats: int = 1, seeds: int = 5) -> CalibrationReport:
    """Replay the scenario, which takes 30 s a time, and simulate it with a perfect network and the measured one."""
    live = [replay(trace, SPEC, faults=FAULTS) for _ in range(repeats)]
    delay_s = float(np.median([hand_over_s(run) for run in live])) / 2.0
    measured = SPEC.replace(network=NetworkModel(delay_s=0.8 * delay_s, jitter_s=0.2 * delay_s))
    return CalibrationReport(
        {
            "network perfect": [simulate(trace, SPEC, faults=FAULTS)],
            f"network {delay_s * 1000:.2f} ms": [
                simulate(trace, measured, faults=FAULTS, seed=seed) for seed in range(seeds)
            ],
        },
        {"network perfect": live, f"network {delay_s * 1000:.2f} ms": live},
        METRICS,
    )


def hand_over_s(run: Run) -> float:
    """Median time between a batch's end and the start of its replica's next, with work waiting; there and back."""
    table = run.dispatches
    begun_s, size, left = (table[name].to_numpy() for name in ("time_s", "size", "queue_depth"))
    replica = np.array(table["replica"].to_pylist())
    gaps = []
    for name in np.unique(replica):
        (own,) = np.nonzero(replica == name)
        due = left[own[:-1]] >= MAX_BATCH  # the next batch was there before this one ended
        gaps.append((np.diff(begun_s[own]) - BASE_S - PER_ITEM_S * size[own[:-1]])[due])
    return float(np.median(np.concatenate(gaps)))
