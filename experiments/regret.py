"""`regret`: what the decisions of a run cost beside those that another routing policy would have made in their place.

Three figures answer three questions, and only the last is about using the other policy:

* *estimated*: what would this one request have taken elsewhere? A line through the log answers for every decision.
* *exact*: what if this one decision had been the other one, and all later ones the logged policy's? The run is
  simulated again for each of a random sample, so that the effect on later requests is in it.
* *whole*: what if the other policy had made all of them? One more run, as `compare` makes many.

Regret is the logged run's cost less the other's: above zero the other policy's decision was the better one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.compute as pc
from msgspec.structs import replace

from experiments.counterfactual.asking import Asked, Asking, demand_log
from experiments.counterfactual.caveats import caveats_of
from experiments.counterfactual.forcing import Trials
from experiments.counterfactual.result import Decision, Regret, estimated_of, exact_of
from experiments.counterfactual.waiting import alike, difference_s, lines_through
from experiments.progress import progress_bar
from fleet.telemetry.run import Run
from policies.base import RoutingPolicy
from policies.building import build
from policies.views import ReplicaView
from traces import Trace

METRICS = ("e2e_s", "queue_s", "ttft_s")
"""Columns of the records that a decision of routing changes, and that add up over requests."""


def regret(
    run: Run,
    policy: RoutingPolicy,
    *,
    metric: str = "e2e_s",
    exact: int = 0,
    seed: int = 0,
    trace: Trace | str | Path | None = None,
    allow_changed: bool = False,
    progress: bool = True,
) -> Regret:
    """Ask `policy` what the routing policies of `run` were asked, and say what the difference comes to.

    `run` was made with `log_views=True`. With `exact`, so many of the decisions that differ are drawn (`seed`) and each
    is tried in a simulation of its own. `metric` is one of `METRICS`; `trace` and `allow_changed` are those of
    `Run.rebuild`, and the fleet is rebuilt for what is tried only.

    Raises `ValueError` for a run without a log, or a live one that is to be tried exactly, `PolicyError` with number
    and time of the decision where `policy` breaks its contract, and what `Run.rebuild` raises.
    """
    if metric not in METRICS:
        raise ValueError(f"regret is of {', '.join(METRICS)}, not of {metric!r}")
    policy = build(RoutingPolicy, policy)  # type: ignore[type-abstract]  # it makes one of the policy's own class
    demand_log(run)
    found = run.find_trace(trace)
    trials = Trials(run, found, metric, allow_changed=allow_changed) if exact else None
    asked = _Decisions(Asking(run, found, policy))
    lines = lines_through(asked.outcomes(run, metric))
    decisions = [
        replace(one, estimate_s=difference_s(lines, here, there)) for one, here, there in asked.differing
    ]
    if trials is not None:
        _try(trials, decisions, exact, seed, progress=progress)
    whole, stuck = (None, None) if trials is None else trials.of_policy(policy)
    estimated, tried = estimated_of(decisions, lines.values()), exact_of(decisions)
    return Regret(
        policy=policy.name(), logged=_names(run), metric=metric, asked=asked.count,
        agreed=asked.count - len(decisions), decisions=tuple(decisions), estimated=estimated, exact=tried,
        whole=whole, caveats=tuple(caveats_of(run, policy, estimated, tried, stuck)),
    )  # fmt: skip


class _Decisions:
    """What came of asking."""

    def __init__(self, asking: Iterable[Asked]) -> None:
        self.count = 0
        self.differing: list[tuple[Decision, ReplicaView | None, ReplicaView | None]] = []
        """Each with the views of where the request was sent and where the other policy sends it."""
        self._sent: dict[str, ReplicaView | None] = {}
        """Likewise of each request that was routed once; None: it was more often, or not at all."""
        for one in asking:
            self.count += 1
            here = one.view(one.replica)
            if not one.agrees:
                there = one.view(one.other_replica)
                self.differing.append((_decision(one, alike=alike(here, there)), here, there))
            self._sent[one.request] = None if one.request in self._sent else here

    def outcomes(self, run: Run, metric: str) -> Iterator[tuple[ReplicaView, float]]:
        """How the replica looked to which a request was sent, and what it took: of those that were routed once."""
        completed = run.records.filter(pc.equal(run.records["outcome"], "completed"))
        for id, took_s in zip(completed["id"].to_pylist(), completed[metric].to_pylist(), strict=True):
            view = self._sent.get(id)
            if view is not None and took_s is not None:
                yield view, took_s


def _decision(one: Asked, *, alike: bool) -> Decision:
    return Decision(
        pool=one.pool, nth=one.nth, time_s=one.time_s, request=one.request, logged=one.logged, replica=one.replica,
        other=type(one.other).__name__, other_replica=one.other_replica, alike=alike,
    )  # fmt: skip


def _try(trials: Trials, decisions: list[Decision], exact: int, seed: int, *, progress: bool) -> None:
    """Put what they came to into those that are drawn, of those in which the other policy routes."""
    can = [number for number, one in enumerate(decisions) if one.other_replica is not None]
    drawn = sorted(random.Random(seed).sample(can, min(exact, len(can))))
    with progress_bar("decisions", len(drawn), shown=progress) as advance:
        for number in drawn:
            one = decisions[number]
            found = trials.of_decision(one.pool, one.nth, one.other_replica or "")
            decisions[number] = replace(one, exact=found)
            advance()


def _names(run: Run) -> str:
    """The policies whose decisions were logged."""
    spec = run.manifest.spec
    tables = [spec.get("routing"), *(pool.get("routing") for pool in spec.get("pools", {}).values())]
    return ", ".join(dict.fromkeys(table["policy"] for table in tables if table)) or "its own policy"
