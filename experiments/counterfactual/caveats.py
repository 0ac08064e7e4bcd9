"""What a reader of a regret must know to read it rightly, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute as pc

from experiments.counterfactual.asking import not_fed
from experiments.counterfactual.result import Estimated, Exact
from fleet.telemetry.calls import MOST_CALLS
from fleet.telemetry.run import Run
from policies.base import RoutingPolicy

LITTLE = 0.5
"""Of the variance: a line that explains less is not to be relied on."""


def caveats_of(
    run: Run, policy: RoutingPolicy, estimated: Estimated | None, exact: Exact | None, stuck: str | None
) -> Iterator[str]:
    """All that hold for this one, the most general first; `stuck`: why the whole run with the policy never ended."""
    yield (
        f"one decision at a time: whatever {policy.name()} answered, it was next shown and told what came of the "
        "logged decision; with decisions of its own it would have seen other queues"
    )
    yield "one run, one seed: the intervals are about the decisions of this run, not about other runs or other traffic"
    if estimated is not None:
        yield from _of_estimate(estimated)
    if exact is not None and exact.other_outcomes:
        yield (
            f"in {exact.other_outcomes:,} of {exact.tried:,} decisions that were tried other requests completed; the "
            "figures are of those that completed either way"
        )
    if stuck is not None:
        yield f"the whole run with {policy.name()} could not go on: {stuck}"
    yield from _of_log(run, policy)


def _of_estimate(estimated: Estimated) -> Iterator[str]:
    if estimated.each is not None:
        yield (
            "the estimate is of the request alone: it leaves out what the decision does to those that come later, and "
            "takes it that what was seen at unequal queues was the queue's doing"
        )
    if estimated.without:
        yield (
            f"{estimated.without:,} decisions that differ have no estimate: one of the two sent nothing, or too few "
            "were sent to replicas of that kind, or the number in flight tells nothing of what they took"
        )
    for line in estimated.lines:
        if line.tells and line.explained < LITTLE:
            yield (
                f"the number in flight explains {line.explained:.0%} of what requests took on {line.label}: the "
                "estimate says little there"
            )


def _of_log(run: Run, policy: RoutingPolicy) -> Iterator[str]:
    for hook in not_fed(policy):
        yield f"{policy.name()} listens to {hook}, which no log has: it decided without"
    decided = run.decisions
    degraded = pc.sum(pc.equal(decided["decision"], "Degrade")).as_py() or 0
    if degraded:
        yield f"{degraded:,} requests were degraded on admission: {policy.name()} was shown them as they came"
    if len(run.calls) >= MOST_CALLS:
        ended_s = run.calls["time_s"][-1].as_py()
        yield f"the log was full at {ended_s:,.6g} s: later decisions are not in it"
