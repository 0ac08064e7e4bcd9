"""One published effect: a claim, the smallest fleet in which it should show, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from experiments.paired import Difference, Verdict, paired_difference, verdict
from fleet import FleetSpec, Run, simulate
from traces import FaultTrace, Trace

Shown = Literal["as published", "not shown", "the other way"]
_SHOWN: dict[Verdict, Shown] = {"better": "as published", "worse": "the other way"}


class Effect(Struct, frozen=True, kw_only=True):
    """What is claimed of a policy, and the pair of fleets that tells."""

    policy: str
    """The class that it is claimed of."""
    claim: str
    """What its source says, in one line: ``half the tail latency of random choice at 90 % load``."""
    trace: Callable[[int], Trace]
    """The requests, by seed."""
    candidate: FleetSpec
    """With the policy."""
    baseline: FleetSpec
    """With what it is to be better than, and the same in everything else."""
    against: str
    """The name of that."""
    figure: str
    """What is measured, with its unit: ``e2e p99 (ms)``."""
    read: Callable[[Run], float]
    """Measures it."""
    better: Literal["lower", "higher"]
    """Which way the claim says it goes."""
    faults: Callable[[int], FaultTrace] | None = None
    """By seed."""
    seeds: int = 5
    note: str | None = None
    """Why it does not show, where it does not."""

    def job(self, seed: int) -> EffectJob:
        """The two runs of one seed, which can be sent to another process."""
        faults = None if self.faults is None else self.faults(seed)
        return EffectJob(
            trace=self.trace(seed), faults=faults, candidate=self.candidate, baseline=self.baseline,
            read=self.read, seed=seed,
        )  # fmt: skip

    def shown(self, difference: Difference, p_adjusted: float | None) -> Shown:
        """What a difference, candidate less baseline, says of the claim; `p_adjusted` over all that are tried."""
        said = verdict(difference, self.better, p_adjusted)
        if said == "exact" and difference.mean != 0.0:  # the same in every pair
            said = "better" if difference.favours(self.better) else "worse"
        return _SHOWN.get(said, "not shown")


def difference_of(pairs: list[tuple[float, float]]) -> Difference:
    """Candidate less baseline, over the seeds."""
    return paired_difference([one - other for one, other in pairs], distinct=len(set(pairs)))


class EffectJob(Struct, frozen=True, kw_only=True):
    """One pair of runs: same requests, same faults, same seed."""

    trace: Trace
    faults: FaultTrace | None
    candidate: FleetSpec
    baseline: FleetSpec
    read: Callable[[Run], float]
    seed: int

    def run(self) -> tuple[float, float]:
        """The figure with the policy, and without."""
        with_it, without = (
            self.read(simulate(self.trace, spec, seed=self.seed, faults=self.faults, check=False))
            for spec in (self.candidate, self.baseline)
        )
        return with_it, without
