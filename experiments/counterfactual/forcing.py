"""Running a simulated run again with one decision changed, or with another policy: what really would have happened.

The one thing to know: simulation is exact, so that a run with decision k replaced by what it was anyway has the same
digest. Whatever differs in a run with another k is what that one decision did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from fleet.actor import FleetError
from fleet.runs.simulate import Simulation
from fleet.spec import FleetSpec
from fleet.telemetry.calls import Around
from fleet.telemetry.run import Run
from fleet.telemetry.sink import Watcher
from policies.base import RoutingPolicy
from policies.decisions import Hold, Reject, Route
from policies.views import ReplicaView
from traces import Trace
from traces.schema import Request


class Forced(Around):
    """Answers as its policy does, but one of its decisions is made for it. It is asked all the same."""

    at: int
    replica: str

    def __post_init__(self) -> None:
        self.asked = 0

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        decision = self.ask(request, replicas, now_s)
        number, self.asked = self.asked, self.asked + 1
        if number != self.at:
            return decision
        return replace(decision, replica=self.replica) if isinstance(decision, Route) else Route(self.replica)


class Forcing:
    """Has the decision number `at` of the policy of `pool`, from 0, send its request to `replica`."""

    def __init__(self, pool: str, at: int, replica: str) -> None:
        self.pool, self.at, self.replica = pool, at, replica

    def watch(self, pool: str, policy: RoutingPolicy) -> RoutingPolicy:
        """Only that one is touched."""
        return Forced(policy, self.at, self.replica) if pool == self.pool else policy

    def tables(self) -> dict[str, pa.Table]:
        return {}


class Saved(NamedTuple):
    """What one run took less than another, over the requests that both completed."""

    total_s: float
    only_logged: int
    """Requests that completed in the logged run alone: no figure of time says what that costs."""
    only_other: int

    @property
    def same_outcomes(self) -> bool:
        """The same requests completed."""
        return self.only_logged == self.only_other == 0


class Trials:
    """A simulated run, to be run again with something changed, and how much less of `metric` the other run took."""

    def __init__(self, run: Run, trace: Trace, metric: str, *, allow_changed: bool = False) -> None:
        """Raises `ValueError` for a run that nobody can run again, and what `Run.rebuild` raises."""
        if run.manifest.runtime != "simulated":
            raise ValueError(
                "the run is a live one: no other decision can be tried in it, only estimated (exact=0)"
            )
        self._run, self._metric = run, metric
        self._built = run.rebuild(trace=trace, allow_changed=allow_changed)

    def of_decision(self, pool: str, nth: int, replica: str) -> Saved:
        """The decision `nth` of the policy of `pool` sends its request to `replica`."""
        return saved(self._run, self._again(self._built.spec, Forcing(pool, nth, replica)), self._metric)

    def of_policy(self, policy: RoutingPolicy) -> tuple[Saved | None, str | None]:
        """This policy makes all decisions, wherever one routes; or why the fleet cannot go on with it."""
        spec = self._built.spec
        own = {
            f"pools.{name}.routing": policy for name, pool in spec.pools.items() if pool.routing is not None
        }
        try:
            other = self._again(spec.replace(own, routing=policy))
        except FleetError as error:
            return None, str(error).partition("\n")[0]
        return saved(self._run, other, self._metric), None

    def _again(self, spec: FleetSpec, watcher: Watcher | None = None) -> Run:
        """The run once more, on this fleet."""
        arguments = {**self._built.arguments, "spec": spec}
        until_s = arguments.pop("until_s")
        return Simulation(**arguments, check=False, watcher=watcher).run(until_s)


def saved(logged: Run, other: Run, metric: str) -> Saved:
    """How much less of `metric`, summed over requests, the `other` run of the same trace took than the `logged` one."""
    ours, theirs = _values(logged, metric), _values(other, metric)
    had, has = ~np.isnan(ours), ~np.isnan(theirs)
    both = had & has
    total_s = float(np.sum(ours[both] - theirs[both]))
    return Saved(total_s, int(np.sum(had & ~has)), int(np.sum(has & ~had)))


def _values(run: Run, metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of each request in the order of the trace; not a number where it has none, or did not complete."""
    completed = pc.equal(run.records["outcome"], "completed")
    values = pc.if_else(completed, run.records[metric], None)
    return np.asarray(values.to_numpy(), dtype=np.float64)
