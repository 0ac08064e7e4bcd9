"""Which sequences each iteration policy puts into a step, and that a plan may be repeated as it says."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import (
    DeadlineFirst,
    FastServe,
    IterationPolicy,
    Orca,
    Sarathi,
    ShortestPredicted,
    ShortestRemainingOracle,
    StaticBatch,
    Step,
    VllmPrefillFirst,
    VllmTokenBudget,
    Wait,
)
from policies._conformance.kv import FakeKv, FakeSequence
from policies._conformance.replica import Script
from policies._conformance.token_laws import run_script
from policies.iteration.drafting import MANY_STEPS, StepDraft
from policies.iteration.fair_tokens import FairTokens
from policies.iteration.priority_preemptive import PriorityPreemptive
from tests.policies.makers import SHIPPED, completion, request, reset
from traces.schema import Slo

ITERATION = [cls for cls in SHIPPED if issubclass(cls, IterationPolicy)]
BLOCK = 10


class Cache(FakeKv):
    """A cache of `total_blocks` blocks of ten tokens, and sequences on it, numbered as they come."""

    def __init__(self, total_blocks: int = 100, watermark_blocks: int = 0) -> None:
        super().__init__(BLOCK, total_blocks, watermark_blocks, host_blocks=0)
        self.count = 0

    def waits(self, prompt_tokens: int, **fields: Any) -> FakeSequence:
        shown = request(str(self.count), prompt_tokens=prompt_tokens, block_tokens=BLOCK, **fields)
        sequence = FakeSequence(self.count, shown, queued_s=0.0)
        self.count += 1
        return sequence

    def runs(self, prompt_tokens: int, computed_tokens: int | None = None, **fields: Any) -> FakeSequence:
        """One whose prompt was computed so far; None: all of it, and it has its first output token."""
        sequence = self.waits(prompt_tokens, **fields)
        self.admit(sequence)
        self.compute(sequence, (computed_tokens or prompt_tokens) - sequence.computed_tokens)
        if computed_tokens is None:
            sequence.generated_tokens = 1
        return sequence

    def compute(self, sequence: FakeSequence, tokens: int) -> None:
        self.extend(sequence, tokens)
        sequence.computed_tokens += tokens


def plan(
    policy: IterationPolicy, waiting: Sequence[FakeSequence], running: Sequence[FakeSequence], kv: FakeKv
) -> Step | Wait:
    return reset(policy).plan(waiting, running, kv, 0.0)


# --- the laws, on random scripts -----------------------------------------------------------------------------

SEQUENCES = st.sampled_from([1, 2, 5, 256])
STEP_TOKENS = st.sampled_from([3, 17, 64, 2048])
PARAMETERS: dict[type[IterationPolicy], dict[str, st.SearchStrategy[Any]]] = {
    StaticBatch: {},
    Orca: {"reserve_tokens": st.integers(1, 100)},
    VllmPrefillFirst: {"max_step_tokens": STEP_TOKENS, "swap": st.booleans()},
    VllmTokenBudget: {"max_step_tokens": STEP_TOKENS, "reserve_full_prompt": st.booleans()},
    Sarathi: {"max_step_tokens": STEP_TOKENS},
    FastServe: {
        "max_step_tokens": STEP_TOKENS,
        "levels": st.integers(1, 5),
        "quantum_tokens": st.integers(1, 8),
        "ratio": st.integers(1, 3),
        "prompt_tokens_per_token": st.integers(1, 40),
        "starvation_s": st.sampled_from([None, 0.5, 10.0]),
        "swap": st.booleans(),
    },
    ShortestPredicted: {"max_step_tokens": STEP_TOKENS, "prior_tokens": st.floats(0.0, 100.0)},
    DeadlineFirst: {"max_step_tokens": STEP_TOKENS, "displaces": st.booleans()},
    PriorityPreemptive: {
        "max_step_tokens": STEP_TOKENS,
        "reserve_full_prompt": st.booleans(),
        "displaces": st.booleans(),
    },
    FairTokens: {
        "max_step_tokens": STEP_TOKENS,
        "prompt_weight": st.floats(0.0, 4.0),
        "output_weight": st.floats(0.0, 4.0),
    },
    ShortestRemainingOracle: {"max_step_tokens": STEP_TOKENS, "swap": st.booleans()},
}


def test_the_laws_below_are_tried_on_every_iteration_policy_with_all_its_parameters() -> None:
    assert set(PARAMETERS) == set(ITERATION)
    for cls, strategies in PARAMETERS.items():
        assert {"max_sequences", *strategies} == set(cls.__struct_fields__)


@pytest.mark.parametrize("cls", ITERATION)
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_planning_step_by_step_gives_the_same_steps_as_repeating(
    cls: type[IterationPolicy], data: st.DataObject, seed: int
) -> None:
    """Every plan on the way is checked too, and that everything ends."""
    strategies = {"max_sequences": SEQUENCES, **PARAMETERS[cls]}
    parameters = data.draw(st.fixed_dictionaries(strategies))
    script = Script.drawn(random.Random(seed), small=True, count=12)
    spans = run_script(lambda: cls(**parameters), script)
    steps = run_script(lambda: cls(**parameters), script, stepwise=True)
    assert spans.log == steps.log
    assert spans.ended == steps.ended


@pytest.mark.parametrize("cls", ITERATION)
def test_plans_are_repeated_where_nothing_changes_between_steps(cls: type[IterationPolicy]) -> None:
    kv = Cache()
    running = [kv.runs(25), kv.runs(31)]
    assert plan(cls(), [], running, kv) == Step(decode=None, repeat=MANY_STEPS)


# --- each policy ---------------------------------------------------------------------------------------------


def test_static_batch_admits_only_when_nothing_runs() -> None:
    kv = Cache()
    waiting = [kv.waits(50), kv.waits(20), kv.waits(30)]
    assert plan(StaticBatch(max_sequences=2), waiting, [], kv) == Step(prefill=((0, 50), (1, 20)))
    assert plan(StaticBatch(max_sequences=2), waiting, [kv.runs(7)], kv) == Step(
        decode=None, repeat=MANY_STEPS
    )


def test_orca_lets_whole_prompts_join_the_decodes() -> None:
    kv = Cache()
    running, waiting = [kv.runs(25)], [kv.waits(300)]
    assert plan(Orca(reserve_tokens=400), waiting, running, kv) == Step(prefill=((1, 300),), decode=None)


def test_orca_reserves_for_the_longest_that_each_may_become() -> None:
    kv = Cache(total_blocks=100)
    running, waiting = [kv.runs(25)], [kv.waits(20), kv.waits(20)]
    assert plan(Orca(reserve_tokens=500), waiting, running, kv) == Step(prefill=((1, 20),), decode=None)
    assert plan(Orca(reserve_tokens=510), waiting, running, kv) == Step(decode=None, repeat=MANY_STEPS)
    assert plan(Orca(reserve_tokens=2000), waiting, [], kv) == Step(prefill=((1, 20),))  # alone at least


def test_vllm_prefill_first_does_not_mix_prefills_and_decodes() -> None:
    kv = Cache()
    running, waiting = [kv.runs(25)], [kv.waits(30), kv.waits(40), kv.waits(40)]
    assert plan(VllmPrefillFirst(max_step_tokens=100), waiting, running, kv) == Step(
        prefill=((1, 30), (2, 40))
    )


def test_vllm_prefill_first_gives_a_prompt_longer_than_a_step_one_of_its_own() -> None:
    kv = Cache()
    waiting = [kv.waits(300), kv.waits(10)]
    assert plan(VllmPrefillFirst(max_step_tokens=100), waiting, [kv.runs(25)], kv) == Step(
        prefill=((0, 300),)
    )


def test_vllm_prefill_first_leaves_the_watermark_free_while_something_runs() -> None:
    kv = Cache(total_blocks=10, watermark_blocks=4)
    running, waiting = [kv.runs(25)], [kv.waits(31)]
    assert plan(VllmPrefillFirst(), waiting, running, kv) == Step(decode=None, repeat=MANY_STEPS)
    kv.release(running[0])
    assert plan(VllmPrefillFirst(), [kv.waits(91)], [], kv) == Step(prefill=((2, 91),))


@pytest.mark.parametrize("cls", [StaticBatch, Orca, VllmPrefillFirst, VllmTokenBudget, Sarathi])
def test_the_last_admitted_loses_its_place_when_a_decode_finds_no_block(cls: type[IterationPolicy]) -> None:
    kv = Cache(total_blocks=7)
    running = [kv.runs(20), kv.runs(25), kv.runs(20)]
    assert kv.free_blocks == 0
    assert plan(cls(), [kv.waits(5)], running, kv) == Step(decode=(0, 1), preempt=(2,))


def test_several_that_lose_their_places_wait_in_the_order_of_their_admission() -> None:
    kv = Cache(total_blocks=6)
    running = [kv.runs(40), kv.runs(10), kv.runs(10)]
    running[0].computed_tokens -= 1  # as after a long prompt of which two blocks are left to compute
    running[0].generated_tokens += 11
    assert plan(VllmTokenBudget(), [], running, kv) == Step(prefill=((0, 13),), preempt=(1, 2))


def test_vllm_token_budget_mixes_chunks_with_decodes_within_its_budget() -> None:
    kv = Cache()
    running, waiting = [kv.runs(25), kv.runs(90, 40)], [kv.waits(30), kv.waits(70), kv.waits(5)]
    answer = plan(VllmTokenBudget(max_step_tokens=100), waiting, running, kv)
    assert answer == Step(prefill=((1, 50), (2, 30), (3, 19)), decode=None)


def test_vllm_token_budget_advances_in_the_order_of_admission() -> None:
    kv = Cache()
    running = [kv.runs(90, 40), kv.runs(25), kv.runs(25)]
    assert plan(VllmTokenBudget(max_step_tokens=51), [], running, kv) == Step(prefill=((0, 50),), decode=(1,))
    assert plan(VllmTokenBudget(max_step_tokens=40), [], running, kv) == Step(prefill=((0, 40),))


def test_vllm_token_budget_admits_without_a_watermark_and_computes_only_what_is_not_cached() -> None:
    kv = Cache(total_blocks=10, watermark_blocks=9)
    running = [kv.runs(45, blocks=(1, 2, 3, 4))]
    waiting = [kv.waits(45, blocks=(1, 2, 3, 9))]
    assert plan(VllmTokenBudget(), waiting, running, kv) == Step(prefill=((1, 15),), decode=None)


def test_sarathi_never_lets_a_decode_stall_for_a_prompt() -> None:
    kv = Cache()
    running, waiting = [kv.runs(300, 40), kv.runs(25), kv.runs(25)], [kv.waits(30)]
    assert plan(Sarathi(max_step_tokens=50), waiting, running, kv) == Step(prefill=((0, 48),), decode=None)


def test_sarathi_admits_a_prompt_when_there_are_blocks_for_all_of_it() -> None:
    kv = Cache(total_blocks=20, watermark_blocks=2)
    running = [kv.runs(25)]
    fits, does_not = [kv.waits(150)], [kv.waits(151)]
    assert plan(Sarathi(max_step_tokens=50), fits, running, kv) == Step(prefill=((1, 49),), decode=None)
    assert plan(Sarathi(max_step_tokens=50), does_not, running, kv) == Step(decode=None, repeat=MANY_STEPS)


def test_sarathi_counts_what_a_prompt_in_progress_has_yet_to_take() -> None:
    kv = Cache(total_blocks=20)
    running, waiting = [kv.runs(100, 10), kv.runs(10, 5)], [kv.waits(95)]
    answer = plan(Sarathi(max_step_tokens=96), waiting, running, kv)
    assert answer == Step(prefill=((0, 90), (1, 5)))  # 10 + 1 blocks are spoken for, and 10 are not left
    kv.release(running[1])
    assert plan(Sarathi(max_step_tokens=96), waiting, running[:1], kv) == Step(prefill=((0, 90), (2, 6)))


def fast_serve(**parameters: Any) -> FastServe:
    """Prompts of up to 20 tokens count for nothing but the first of them."""
    defaults: dict[str, Any] = {
        "quantum_tokens": 4,
        "prompt_tokens_per_token": 20,
        "max_sequences": 1,
        "swap": False,
    }
    return reset(FastServe(**(defaults | parameters)))


def test_fast_serve_demotes_who_used_up_its_quantum_for_one_that_comes() -> None:
    kv, policy = Cache(), fast_serve(starvation_s=None)
    first, second = kv.waits(20), kv.waits(20)
    assert policy.plan([first], [], kv, 0.0) == Step(prefill=((0, 20),))
    kv.admit(first)
    kv.compute(first, 20)
    first.generated_tokens = 1
    left = 4 - 1 - 1  # of its quantum, after the prompt and the first token
    assert policy.plan([second], [first], kv, 0.1) == Step(decode=None, repeat=left)
    for _ in range(left):
        kv.compute(first, 1)
        first.generated_tokens += 1
    assert policy.plan([second], [first], kv, 0.2) == Step(prefill=((1, 20),), decode=None, preempt=(0,))


def test_fast_serve_lets_a_long_prompt_skip_the_levels_it_would_use_up() -> None:
    kv, policy = Cache(), fast_serve(starvation_s=None)
    long, short = kv.waits(150), kv.waits(20)
    assert policy.plan([long, short], [], kv, 0.0) == Step(prefill=((1, 20),))


def test_fast_serve_promotes_who_waited_long() -> None:
    kv, policy = Cache(), fast_serve(starvation_s=5.0, quantum_tokens=100, prompt_tokens_per_token=1)
    long, short = kv.waits(150), kv.runs(20)
    assert policy.plan([long], [short], kv, 0.0) == Step(decode=None)
    assert policy.records[long.id].level == 1
    policy.plan([long], [short], kv, 4.9)
    assert policy.records[long.id].level == 1
    policy.plan([long], [short], kv, 5.0)
    assert policy.records[long.id].level == 0


def test_fast_serve_forgets_sequences_that_are_gone() -> None:
    kv, policy = Cache(), fast_serve()
    for _ in range(1000):
        policy.plan([kv.waits(20)], [], kv, 0.0)
    assert len(policy.records) <= 66


def test_shortest_predicted_learns_from_what_ended_which_prompts_get_short_answers() -> None:
    kv, policy = Cache(), reset(ShortestPredicted(max_sequences=1))
    waiting = [kv.waits(10), kv.waits(100)]
    assert policy.plan(waiting, [], kv, 0.0) == Step(
        prefill=((0, 10),)
    )  # nothing is known: in the order of arrival
    for prompt_tokens, output_tokens in ((9, 500), (9, 100), (100, 200)):
        policy.on_completed(ended(prompt_tokens, output_tokens), 0.0)
    assert policy.plan(waiting, [], kv, 0.0) == Step(prefill=((1, 100),))
    policy.on_completed(ended(9, 0), 0.0)  # a mean of 200
    policy.on_completed(ended(9, 0), 0.0)
    assert policy.plan(waiting, [], kv, 0.0) == Step(prefill=((0, 10),))


def ended(prompt_tokens: int, output_tokens: int) -> Any:
    done = completion(output_tokens=output_tokens)
    shown = request(prompt_tokens=prompt_tokens)
    return type(done)(request=shown, replica="replica/0", attempt=1, output_tokens=output_tokens)


def test_deadline_first_goes_by_the_first_bound_that_a_request_has() -> None:
    kv = Cache()
    waiting = [
        kv.waits(1),
        kv.waits(2, slo=Slo(ttft_s=4.0)),
        kv.waits(3, slo=Slo(e2e_s=3.0, ttft_s=0.5)),
        kv.waits(4, deadline_s=2.0, slo=Slo(e2e_s=9.0)),
        kv.waits(5, deadline_s=1.0, arrived_s=0.5),
    ]
    answer = plan(DeadlineFirst(), waiting, [], kv)
    assert answer == Step(prefill=((4, 5), (3, 4), (2, 3), (1, 2), (0, 1)))


def test_deadline_first_takes_places_from_later_deadlines_only_when_told_to() -> None:
    kv = Cache()
    running, waiting = (
        [kv.runs(20, deadline_s=9.0), kv.runs(20, deadline_s=1.0)],
        [kv.waits(20, deadline_s=5.0)],
    )
    polite, rude = DeadlineFirst(max_sequences=2), DeadlineFirst(max_sequences=2, displaces=True)
    assert plan(polite, waiting, running, kv) == Step(decode=None, repeat=MANY_STEPS)
    assert plan(rude, waiting, running, kv) == Step(prefill=((2, 20),), decode=None, preempt=(0,))


def test_the_oracle_serves_those_with_the_fewest_tokens_to_go() -> None:
    kv, policy = Cache(), reset(ShortestRemainingOracle(max_sequences=2))
    policy.reveal({"0": 100, "1": 9, "2": 10, "3": 8}.get)
    running, waiting = [kv.runs(20), kv.runs(20)], [kv.waits(20), kv.waits(20), kv.waits(20)]
    assert policy.plan(waiting, running, kv, 0.0) == Step(prefill=((3, 20),), decode=None, preempt=(0,))


# --- drafting ------------------------------------------------------------------------------------------------


def test_a_draft_counts_tokens_places_and_blocks() -> None:
    kv = Cache(total_blocks=10)
    running, waiting = [kv.runs(20), kv.runs(15)], kv.waits(50)
    draft = StepDraft(kv, running, 40)
    assert draft.decode_all(running)
    assert (draft.tokens_left, draft.places, draft.free_blocks) == (
        38,
        2,
        5,
    )  # one needs a block, one does not
    assert draft.left(waiting) == 50
    assert draft.admit(waiting) == 38
    assert (draft.tokens_left, draft.places, draft.free_blocks) == (0, 3, 1)
    assert draft.step() == Step(prefill=((2, 38),), decode=None)


def test_a_draft_of_nothing_is_a_wait() -> None:
    assert StepDraft(Cache(), []).step() == Wait()


def test_what_is_shared_with_one_that_loses_its_place_does_not_become_free_twice() -> None:
    """One that was admitted in the same step may hold all that it found."""
    kv = Cache(total_blocks=6)
    running = [kv.runs(30, blocks=(1, 2, 3))]
    finds, other = kv.waits(35, blocks=(1, 2, 3)), kv.waits(30)
    draft = StepDraft(kv, running)
    assert draft.decode_all(running)
    assert draft.admit(finds) == 5
    assert draft.free_blocks == 1
    draft.preempt(running[0])
    assert draft.free_blocks == 2  # its last one; the three that it filled are held on
    assert draft.admit(other) == 0
    assert draft.step() == Step(prefill=((1, 5),), decode=None, preempt=(0,))


def test_a_plan_that_eviction_could_change_is_not_repeated() -> None:
    """The chunk takes 3 blocks that it would find and 2 for itself. Without the 3 it would fit: it begins earlier."""
    kv = Cache(total_blocks=6)
    gone = kv.runs(30, 30, blocks=(1, 2, 3))
    kv.release(gone)
    running, waiting = [kv.runs(15)], [kv.waits(60, blocks=(1, 2, 3))]
    assert kv.free_blocks == 4
    assert plan(VllmTokenBudget(max_step_tokens=21, reserve_full_prompt=False), waiting, running, kv) == Step(
        decode=None
    )
    assert plan(VllmTokenBudget(max_step_tokens=100), waiting, running, kv) == Step(
        decode=None, repeat=MANY_STEPS
    )
