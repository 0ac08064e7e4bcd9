"""What is demanded of the slots that serve token by token: plans of steps, and eviction."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from policies._conformance.calls import ask, fail
from policies._conformance.common import Make, made
from policies._conformance.drive import drive
from policies._conformance.replica import FakeReplica, Script

SEEDS = (1, 2, 3)
MANY_SEEDS = range(1, 13)


def run_script(make: Make, script: Script, *, stepwise: bool = False) -> FakeReplica:
    """Run a script to its end under a new policy; fails one that makes no progress, or leaves something out."""
    policy = made(make)
    ask(policy, "reset", random.Random(1))
    if policy.oracle:
        lengths = {arrival.request.id: arrival.output_tokens for arrival in script.arrivals}
        ask(policy, "reveal", lengths.get)
    replica = FakeReplica(policy, script, stepwise=stepwise)
    for _ in replica.calls():
        replica.check_progress()
    return replica


# --- iteration ---------------------------------------------------------------------------------------------


def check_iteration_answers(make: Make) -> None:
    """Each plan is a step that can be, or a `Wait` that ends; the replica that is driven checks each.

    It names sequences that are here, each once, tokens that remain, and takes no more blocks than are free.
    """
    for seed in SEEDS:
        for _ in drive(made(make), seed):
            pass


def check_iteration_progresses(make: Make) -> None:
    """Everything that comes ends: no plan of nothing, no endless preempting, nothing that waits or runs for ever.

    What the cache could never hold is not shown to the policy. So when nothing runs, the first that waits has room, and
    when one runs alone, it can grow.
    """
    for seed in MANY_SEEDS:
        run_script(make, Script.drawn(random.Random(f"progress {seed}"), small=True, count=24))


def check_iteration_repeats_honestly(make: Make) -> None:
    """Asked at each step it plans the same steps as when it is asked only when it must be.

    That is when its `repeat` has run out, when something came or ended, and when the blocks did not suffice.
    """
    for seed in MANY_SEEDS:
        script = Script.drawn(random.Random(f"repeat {seed}"), small=bool(seed % 3), count=24)
        spans, steps = run_script(make, script), run_script(make, script, stepwise=True)
        for (at, *one), (number, *other) in zip(spans.log, steps.log, strict=False):
            if (at, one) != (number, other):
                fail(
                    spans.policy,
                    f"plans other steps when asked at each: step {number} {_text(one)} by its `repeat`, {_text(other)} "
                    "when asked; `repeat` is for plans that nothing but a sequence that comes or ends would change",
                )
        if len(spans.log) != len(steps.log) or spans.ended != steps.ended:
            fail(spans.policy, "plans another number of steps when it is asked at each of them")


def _text(entry: list[object]) -> str:
    prefill, decode, preempt, _ = entry
    return f"is (prefill {prefill}, decode {decode}, preempt {preempt})"


# --- eviction ----------------------------------------------------------------------------------------------


def check_eviction_conserves(make: Make) -> None:
    """A victim is a candidate, and then none any more; a reused one is none; `len` says how many there are.

    The drive compares with a model.
    """
    for seed in SEEDS:
        for _ in drive(made(make), seed):
            pass


def check_eviction_empties(make: Make) -> None:
    """Every candidate is named once, when hundreds were released and many of them reused and released again."""
    policy: Any = made(make)  # Any: an eviction policy, which is all that this check is given
    rng = random.Random(1)
    ask(policy, "reset", random.Random(1))
    candidates = dict.fromkeys(range(400))
    for first in range(0, 400, 8):
        ask(policy, "released", tuple(range(first, first + 8)), first * 0.01)
    for round_ in range(3):
        now_s = 5.0 + round_
        for block in rng.sample(sorted(candidates), 100):
            ask(policy, "reused", block, now_s)
            if rng.random() < 0.7:
                ask(policy, "released", (block,), now_s + 0.5)
            else:
                del candidates[block]
    named = [ask(policy, "victim", 10.0) for _ in range(len(candidates))]
    if sorted(named) != sorted(candidates) or ask(policy, "__len__") != 0:
        fail(policy, "does not name each candidate exactly once as a victim")


ITERATION_LAWS: dict[str, Callable[[Make], None]] = {
    "answers": check_iteration_answers,
    "progresses": check_iteration_progresses,
    "repeats_honestly": check_iteration_repeats_honestly,
}
EVICTION_LAWS: dict[str, Callable[[Make], None]] = {
    "conserves": check_eviction_conserves,
    "empties": check_eviction_empties,
}
