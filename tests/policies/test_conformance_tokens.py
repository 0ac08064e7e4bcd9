"""The kit catches iteration and eviction policies that break the contract, and says what they did.

Each violator is a class inside its test or maker, so that it is gone when the test is.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from policies import (
    EvictionPolicy,
    IterationPolicy,
    Lru,
    Policy,
    ReplicaView,
    Request,
    Route,
    RoutingPolicy,
    Step,
    VllmTokenBudget,
    Wait,
)
from policies._conformance.kv import FakeKv, FakeSequence
from policies._conformance.replica import FakeReplica, Script
from policies.testing import check_policy
from policies.views import KvView, SequenceView
from tests.policies.makers import reset
from tests.policies.test_conformance_kit import failed_checks

Sequences = Sequence[SequenceView]


def planner(change: Callable[[Any, Step, Sequences, Sequences, KvView, float], object]) -> type[Policy]:
    """An iteration policy that answers this in place of the step that VllmTokenBudget plans."""

    class Sketch(IterationPolicy):
        def reset(self, rng: random.Random) -> None:
            self.good = VllmTokenBudget(max_sequences=4, max_step_tokens=64)
            self.plans = 0

        def plan(self, waiting: Sequences, running: Sequences, kv: KvView, now_s: float) -> Any:
            self.plans += 1
            step = self.good.plan(waiting, running, kv, now_s)
            return change(self, step, waiting, running, kv, now_s) if isinstance(step, Step) else step

    return Sketch


def changed(step: Step, **fields: Any) -> Step:
    return msgspec.structs.replace(step, **fields)


def test_the_planner_that_the_violators_are_made_of_is_right() -> None:
    check_policy(planner(lambda policy, step, *_: step))


VIOLATIONS: list[tuple[str, Callable[..., object], str]] = [
    ("nothing", lambda p, step, *_: None, "expected Step or Wait"),
    ("unknown", lambda p, step, *_: changed(step, decode=(99_999,)), "name sequences that are here"),
    (
        "twice",
        lambda p, step, *_: changed(step, prefill=step.prefill * 2) if step.prefill else step,
        "name each sequence at most once",
    ),
    (
        "list",
        lambda p, step, *_: changed(step, prefill=list(step.prefill)),
        "`prefill`, `decode` and `preempt` must be tuples",
    ),
    (
        "no-tokens",
        lambda p, step, *_: changed(step, prefill=tuple((id, 0) for id, _ in step.prefill)),
        "what remains",
    ),
    (
        "more-than-the-prompt",
        lambda p, step, waiting, *_: changed(
            step, prefill=tuple((one.id, one.total_tokens + 1) for one in waiting[:1]), repeat=1
        ),
        "what remains",
    ),
    (
        "decode-waiting",
        lambda p, step, waiting, *_: Step(decode=(waiting[0].id,)) if waiting else step,
        "`decode` must name sequences that run",
    ),
    (
        "decode-prompt",
        lambda p, step, waiting, running, *_: (
            Step(decode=tuple(one.id for one in running))
            if any(one.remaining_tokens > 1 for one in running)
            else step
        ),
        "and have 1 token remaining",
    ),
    (
        "preempt-waiting",
        lambda p, step, waiting, *_: changed(step, prefill=(), preempt=(waiting[0].id,)) if waiting else step,
        "`preempt` must name sequences that run",
    ),
    (
        "repeat-none",
        lambda p, step, *_: changed(step, repeat=0),
        "`repeat` must be a whole number, 1 or more",
    ),
    (
        "repeat-prefill",
        lambda p, step, *_: changed(step, repeat=2),
        "`repeat` above 1 is for steps that only decode",
    ),
    ("empty", lambda p, step, *_: Step(), "it plans nothing; say Wait, or plan something"),
    ("wait", lambda p, *_: Wait(), "it would wait for ever"),
    (
        "wait-while-running",
        lambda p, step, waiting, running, *_: Wait() if running else step,
        "it would wait for ever",
    ),
    ("wait-past", lambda p, step, w, r, kv, now_s: Wait(now_s), "`until_s` must be a time after `now_s`"),
    ("wait-again", lambda p, step, w, r, kv, now_s: Wait(now_s + 1.0), "wait number 1001 in a row"),
]


@pytest.mark.parametrize(
    ("change", "says"), [case[1:] for case in VIOLATIONS], ids=[case[0] for case in VIOLATIONS]
)
def test_a_step_that_cannot_be_is_caught(change: Callable[..., object], says: str) -> None:
    failed = failed_checks(planner(change))
    assert any(says in failed.get(check, "") for check in ("answers", "progresses")), failed


def test_a_step_that_takes_more_blocks_than_there_are_is_caught() -> None:
    class Blind(IterationPolicy):
        def plan(self, waiting: Sequences, running: Sequences, kv: KvView, now_s: float) -> Step:
            prompts = [*running, *waiting]
            return Step(
                prefill=tuple(
                    (one.id, one.total_tokens - (one.computed_tokens or kv.cached_tokens(one)))
                    for one in prompts
                )
            )

    failed = failed_checks(Blind)
    assert "more blocks, and" in failed["answers"]
    assert "are left" in failed["answers"]


def test_one_that_preempts_and_never_gets_on_is_caught() -> None:
    """What it computed of a prompt it throws away again."""

    def turn_about(policy: Any, step: Step, waiting: Sequences, running: Sequences, *_: object) -> Step:
        return Step(preempt=tuple(one.id for one in running)) if running else step

    failed = failed_checks(planner(turn_about))
    assert failed["progresses"]  # every prompt that takes more than one step
    assert "without one output token" in failed["progresses"]


def test_one_that_only_preempts_is_caught() -> None:
    class Ditherer(IterationPolicy):
        def plan(self, waiting: Sequences, running: Sequences, kv: KvView, now_s: float) -> Step:
            if running:
                return Step(preempt=(running[0].id,))
            return Step(prefill=((waiting[0].id, 1),))

    assert "without one output token" in failed_checks(Ditherer)["progresses"]


def test_one_that_leaves_a_sequence_out_for_ever_is_caught() -> None:
    class Choosy(IterationPolicy):
        """Serves no long prompts, and says that it waits for something better."""

        def reset(self, rng: random.Random) -> None:
            self.good = reset(VllmTokenBudget())

        def plan(self, waiting: Sequences, running: Sequences, kv: KvView, now_s: float) -> Step | Wait:
            short = [one for one in waiting if one.prompt_tokens < 30]
            return self.good.plan(short, running, kv, now_s) if short or running else Wait(now_s + 1.0)

    assert "in a row" in failed_checks(Choosy)["progresses"]


# --- repeat --------------------------------------------------------------------------------------------------


def only_repeats(change: Callable[..., object]) -> str:
    """The policy fails that law and no other; what it says."""
    failed = failed_checks(planner(change))
    assert failed.keys() == {"repeats_honestly"}
    return failed["repeats_honestly"]


def test_a_repeat_of_a_plan_that_changes_with_what_was_generated_is_caught() -> None:
    def takes_turns(policy: Any, step: Step, waiting: Sequences, running: Sequences, *_: object) -> Step:
        if step.prefill or step.preempt or len(running) < 2:
            return step
        behind = min(running, key=lambda one: (one.generated_tokens, one.id))
        return Step(decode=(behind.id,), repeat=5)

    assert "by its `repeat`" in only_repeats(takes_turns)


def test_a_repeat_of_a_plan_that_changes_with_time_is_caught() -> None:
    def pauses(policy: Any, step: Step, waiting: Sequences, running: Sequences, *rest: Any) -> Step:
        now_s = rest[-1]
        if step.prefill or step.preempt or len(running) < 2:
            return step
        return changed(step, decode=(running[int(now_s / 0.03) % 2].id,))

    assert "plans other steps when asked at each" in only_repeats(pauses)


def test_a_repeat_of_a_plan_that_changes_with_how_often_it_was_asked_is_caught() -> None:
    def counts(policy: Any, step: Step, waiting: Sequences, running: Sequences, *_: object) -> Step:
        if step.prefill or step.preempt or len(running) < 2:
            return step
        return changed(step, decode=(running[policy.plans % 2].id,))

    only_repeats(counts)


def test_a_repeat_while_one_that_waits_would_be_admitted_is_caught() -> None:
    def later(policy: Any, step: Step, waiting: Sequences, running: Sequences, *_: object) -> Step:
        """Leaves the place of one that waits empty until those that run have an even number of tokens."""
        decodes = [one for one in running if one.remaining_tokens == 1]
        if step.preempt or not decodes or sum(one.generated_tokens for one in decodes) % 2 == 0:
            return step
        return Step(decode=None, repeat=1000)

    only_repeats(later)


# --- what they may see ---------------------------------------------------------------------------------------


def test_an_iteration_policy_that_changes_a_sequence_is_caught() -> None:
    def age(policy: Any, step: Step, waiting: Any, *_: object) -> Step:
        for one in waiting:
            one.queued_s += 1.0
        return step

    assert "changed the list that `plan` showed it" in failed_checks(planner(age))["leaves_views_alone"]


def test_a_sequence_does_not_show_how_long_its_answer_will_be() -> None:
    """What an iteration policy may read is what `SequenceView` names, and that the kit's own names no more."""
    script = Script.drawn(random.Random(1))
    replica = FakeReplica(reset(VllmTokenBudget()), script)
    next(replica.calls())
    shown = {name for one in replica.waiting for name, _ in one}
    own = {"running", "held", "private"}
    assert shown - own <= {name for name in dir(SequenceView) if not name.startswith("_")}
    assert {arrival.output_tokens for arrival in script.arrivals} != {1}


def test_the_kits_sequences_and_cache_have_all_that_policies_may_ask_for() -> None:
    sequence = FakeSequence(0, Request(id="r", arrived_s=0.0, prompt_tokens=3), 0.0)
    cache = FakeKv(4, 8, 1, 0)
    for shown, view in ((sequence, SequenceView), (cache, KvView)):
        assert not [name for name in dir(view) if not name.startswith("_") and not hasattr(shown, name)]


@pytest.mark.parametrize("seed", range(20))
def test_the_kits_cache_conserves_blocks(seed: int) -> None:
    replica = FakeReplica(reset(VllmTokenBudget()), Script.drawn(random.Random(seed), small=True))
    kv = replica.kv
    for _ in replica.calls():
        holding = [one for one in replica.waiting + replica.running if one.running]
        assert kv.private == sum(one.private for one in holding)
        assert sum(kv.holders.values()) == sum(one.held for one in holding)
        assert 0 <= kv.free_blocks <= kv.total_blocks
        assert all(one.blocks * kv.block_tokens >= one.computed_tokens for one in holding)
        assert not any(one.blocks for one in replica.waiting if one not in holding)
    assert kv.free_blocks == kv.total_blocks


# --- eviction ------------------------------------------------------------------------------------------------


def test_a_victim_that_is_no_candidate_is_caught() -> None:
    class Stale(EvictionPolicy):
        """Names first what was released first, found again since or not."""

        def reset(self, rng: random.Random) -> None:
            self.order: list[int] = []
            self.count = 0

        def released(self, blocks: Sequence[int], now_s: float) -> None:
            self.order += blocks
            self.count += len(blocks)

        def reused(self, block: int, now_s: float) -> None:
            self.count -= 1

        def victim(self, now_s: float) -> int:
            self.count -= 1
            return self.order.pop(0)

        def __len__(self) -> int:
            return self.count

    assert "expected one of the candidates" in failed_checks(Stale)["conserves"]


def test_a_victim_that_is_not_forgotten_is_caught() -> None:
    class Insistent(EvictionPolicy):
        def reset(self, rng: random.Random) -> None:
            self.blocks: dict[int, None] = {}

        def released(self, blocks: Sequence[int], now_s: float) -> None:
            self.blocks |= dict.fromkeys(blocks)

        def reused(self, block: int, now_s: float) -> None:
            del self.blocks[block]

        def victim(self, now_s: float) -> int:
            return next(iter(self.blocks))

        def __len__(self) -> int:
            return len(self.blocks)

    failed = failed_checks(Insistent)
    assert "len() after victim" in failed["conserves"]
    assert "exactly once as a victim" in failed["empties"]


def test_a_length_that_is_not_the_number_of_candidates_is_caught() -> None:
    class Miscounting(Lru):
        def __len__(self) -> int:
            return super().__len__() + 1

    assert "candidates" in failed_checks(Miscounting)["conserves"]


def test_one_that_loses_candidates_when_there_are_many_is_caught() -> None:
    class Bounded(EvictionPolicy):
        def reset(self, rng: random.Random) -> None:
            self.blocks: list[int] = []
            self.count = 0

        def released(self, blocks: Sequence[int], now_s: float) -> None:
            self.blocks = (self.blocks + list(blocks))[-200:]
            self.count += len(blocks)

        def reused(self, block: int, now_s: float) -> None:
            self.count -= 1
            if block in self.blocks:
                self.blocks.remove(block)

        def victim(self, now_s: float) -> int:
            self.count -= 1
            return self.blocks.pop(0) if self.blocks else -1

        def __len__(self) -> int:
            return self.count

    assert failed_checks(Bounded).keys() == {"empties"}


def test_a_victim_that_depends_on_chance_of_its_own_is_caught() -> None:
    class Whimsical(Lru):
        def reset(self, rng: random.Random) -> None:
            super().reset(rng)
            self.rng = random.Random()

        def victim(self, now_s: float) -> int:
            first = super().victim(now_s)
            if len(self) and self.rng.random() < 0.5:
                second = super().victim(now_s)
                self.released((first,), now_s)
                return second
            return first

    assert "is_deterministic" in failed_checks(Whimsical)


# --- what routing policies are shown -------------------------------------------------------------------------


def test_a_routing_policy_is_told_of_first_tokens_and_of_what_was_generated() -> None:
    seen: list[str] = []
    signals: list[bool] = []

    class Watcher(RoutingPolicy):
        def reset(self, rng: random.Random) -> None:
            self.dispatched: dict[str, str] = {}
            self.answering: set[str] = set()

        def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
            signals.extend(view.tokens is not None for view in replicas)
            return Route(replicas[0].id)

        def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
            self.dispatched[request.id] = replica

        def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
            assert self.dispatched[request.id] == replica
            assert request.id not in self.answering
            self.answering.add(request.id)
            seen.append("first token")

        def on_completed(self, completion: Any, now_s: float) -> None:
            assert completion.request.id in self.dispatched
            if completion.output_tokens is not None:
                assert completion.request.id in self.answering
                seen.append("output tokens")

    assert "answers" not in failed_checks(Watcher)
    assert set(seen) == {"first token", "output tokens"}
    assert set(signals) == {True, False}


def test_more_empty_blocks_than_there_are_wanted_is_caught() -> None:
    class Generous(Lru):
        def empties(self, at_most: int, now_s: float) -> int:
            return super().empties(at_most, now_s) + 1

    assert "blocks without content" in failed_checks(Generous)["conserves"]
