"""The scheduler: it applies what a policy plans to the account, or says why it cannot be."""

import random

import pytest

from fleet import FleetError
from fleet.messages import Work
from fleet.tokens.paged_cache import PagedKvCache
from fleet.tokens.scheduler import MOST_EMPTY, StepScheduler
from fleet.tokens.sequence import SequenceState
from policies import IterationPolicy, Lru, PolicyError, Step, Wait
from traces import Request

NOW_S = 12.5


class Says(IterationPolicy):
    """Plan what the test put into `answers`: steps, or functions of what a policy is shown."""

    def plan(self, waiting, running, kv, now_s):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(waiting, running, kv, now_s) if callable(answer) else answer


class Bench:
    """A scheduler with a cache of so many blocks of 4 tokens, and what it told the engine to forget."""

    def __init__(self, *answers, blocks=10, host_blocks=0):
        self.policy = Says()
        self.policy.answers = list(answers)
        eviction = Lru()
        eviction.reset(random.Random(0))
        self.cache = PagedKvCache(blocks, 4, eviction, host_blocks=host_blocks)
        self.forgotten = []
        self.scheduler = StepScheduler(
            self.policy, self.cache, forget=lambda one: self.forgotten.append(one.id)
        )

    def add(self, id, prompt_tokens=4, resume=(), **request):
        work = Work(Request(f"r{id}", 0.0, prompt_tokens=prompt_tokens, **request), 1, 50, resume=resume)
        sequence = SequenceState(id, work, 1, 0.0)
        self.scheduler.add(sequence)
        return sequence

    def step(self):
        work = self.scheduler.plan(NOW_S)
        self.scheduler.check()
        return work

    def ran(self, steps=1):
        output = self.scheduler.ran(steps, NOW_S)
        self.scheduler.check()
        return output

    def run(self, steps=1):
        self.step()
        return self.ran(steps)


def prefill(*pairs, **more):
    return Step(prefill=pairs, **more)


DECODE = Step(decode=None)


# --- what a step does ----------------------------------------------------------------------------------------


def test_computing_the_last_token_of_a_prompt_yields_the_first_of_the_answer():
    bench = Bench(prefill((1, 3)), prefill((1, 4)), DECODE)
    sequence = bench.add(1, 7)

    assert bench.run() == []
    assert (sequence.computed_tokens, sequence.generated_tokens, sequence.blocks) == (3, 0, 1)
    assert bench.run() == [sequence]
    assert (sequence.computed_tokens, sequence.generated_tokens, sequence.total_tokens) == (7, 1, 8)
    assert sequence.decodes
    assert bench.run() == [sequence]
    assert (sequence.computed_tokens, sequence.generated_tokens, sequence.total_tokens) == (8, 2, 9)


def test_a_resumed_sequence_computes_what_the_client_has_and_goes_on_after_it():
    bench = Bench(prefill((1, 9)))
    sequence = bench.add(1, 6, resume=(7, 7, 7))

    assert bench.run() == [sequence]
    assert (sequence.computed_tokens, sequence.generated_tokens) == (9, 4)


def test_blocks_are_taken_when_a_step_is_planned_and_tokens_count_when_it_has_run():
    bench = Bench(prefill((1, 8)))
    sequence = bench.add(1, 8)

    bench.step()

    assert (sequence.blocks, sequence.computed_tokens) == (2, 0)
    bench.ran()
    assert (sequence.blocks, sequence.computed_tokens) == (2, 8)


def test_decode_none_names_all_that_have_one_token_remaining_and_are_not_prefilled():
    bench = Bench(prefill((1, 4), (2, 4)), prefill((3, 4), (2, 1), decode=None))
    first, second, third = (bench.add(id, 4 if id < 3 else 9) for id in (1, 2, 3))
    bench.run()

    work = bench.step()

    assert work.decodes == [first]
    assert work.prefills == [(third, 4), (second, 1)]


def test_a_step_may_be_repeated_only_while_it_decodes_and_its_blocks_last():
    bench = Bench(
        prefill((1, 4), repeat=9), Step(decode=None, repeat=9), Step(decode=None, repeat=50), blocks=3
    )
    bench.add(1)

    assert bench.step().most == 1, "it prefills"
    bench.ran()
    assert bench.step().most == 8, "4 tokens are there, and 8 of the 12 left"
    assert bench.ran(3)[0].generated_tokens == 4
    assert bench.step().most == 5


def test_a_repeated_step_is_worth_as_many_tokens_as_times_it_ran():
    bench = Bench(prefill((1, 4)), Step(decode=None, repeat=9))
    sequence = bench.add(1)
    bench.run()
    bench.step()
    bench.ran(6)

    assert (sequence.generated_tokens, sequence.computed_tokens, sequence.blocks) == (7, 10, 3)


@pytest.mark.parametrize("steps", [0, 10, -1])
def test_an_engine_cannot_have_run_more_steps_than_it_was_given_or_none(steps):
    bench = Bench(prefill((1, 4)), Step(decode=None, repeat=9))
    bench.add(1)
    bench.run()
    bench.step()

    with pytest.raises(FleetError, match="the engine says that it ran"):
        bench.scheduler.ran(steps, NOW_S)


def test_preempted_sequences_wait_first_of_all_in_the_order_they_are_named():
    bench = Bench(prefill((1, 4), (2, 4), (3, 4)), Step(preempt=(3, 1), decode=None))
    first, second, third = (bench.add(id) for id in (1, 2, 3))
    bench.run()
    fourth = bench.add(4)

    bench.step()

    assert bench.scheduler.waiting == [third, first, fourth]
    assert bench.scheduler.running == [second]
    assert (first.preemptions, first.computed_tokens, first.blocks, first.generated_tokens) == (1, 0, 0, 1)
    assert bench.forgotten == [3, 1]


def test_a_swapped_sequence_keeps_what_it_computed_and_both_ways_are_counted():
    bench = Bench(prefill((1, 6)), Step(preempt=(1,), swap=True), prefill((1, 1)), host_blocks=2)
    sequence = bench.add(1, 6)
    bench.run()

    work = bench.step()  # out and, as nothing else is planned, in again

    assert (sequence.preemptions, sequence.swapped, sequence.running, sequence.computed_tokens) == (
        1,
        False,
        True,
        6,
    )
    assert work.moved_blocks == 2 + 2
    assert bench.forgotten == []


def test_without_room_in_host_memory_a_preempted_sequence_is_computed_anew():
    bench = Bench(prefill((1, 6)), Step(preempt=(1,), swap=True), prefill((1, 7)), host_blocks=1)
    sequence = bench.add(1, 6)
    bench.run()

    work = bench.step()

    assert not sequence.swapped
    assert (work.moved_blocks, work.prefills) == (0, [(sequence, 3)]), (
        "but for its full block, which it finds again"
    )
    assert bench.forgotten == [1]


@pytest.mark.parametrize(("order", "found"), [((4, 3), 12), ((3, 4), 8)])
def test_those_that_a_step_admits_find_their_prefix_and_take_their_blocks_one_after_the_other(order, found):
    """vLLM 0.19, `Scheduler.schedule`: what the first evicts, the next does not find any more."""
    bench = Bench(prefill((1, 12), (2, 12)), prefill(*((id, 4) for id in order)), blocks=6)
    first, second = bench.add(1, 12, blocks=(1, 2, 3), block_tokens=4), bench.add(2, 12)
    bench.run()
    for one in (first, second):  # so that the three with content were released before those without
        bench.scheduler.ended(one, NOW_S)
    bench.add(3, 4)
    finds = bench.add(4, 16, blocks=(1, 2, 3, 4), block_tokens=4)

    bench.step()

    assert (finds.cached_tokens, bench.cache.evictions) == (found, 12 - found >> 2)


def test_wait_is_passed_on_and_nothing_to_do_is_none():
    bench = Bench(Wait(NOW_S + 1.0))

    assert bench.scheduler.plan(NOW_S) is None
    bench.add(1)
    assert bench.scheduler.plan(NOW_S) == Wait(NOW_S + 1.0)


# --- in and out ----------------------------------------------------------------------------------------------


def test_what_is_removed_during_its_step_holds_its_blocks_until_the_step_ends_and_gets_no_output():
    bench = Bench(prefill((1, 4), (2, 8)))
    first, second = bench.add(1), bench.add(2, 8)
    bench.step()

    bench.scheduler.remove(first, NOW_S)
    bench.scheduler.check()

    assert bench.cache.used_blocks == 3
    assert bench.forgotten == []
    assert bench.ran() == [second]
    assert bench.cache.used_blocks == 2
    assert bench.forgotten == [1]


def test_what_runs_but_is_not_in_the_step_is_gone_at_once():
    bench = Bench(prefill((1, 4), (2, 4)), Step(decode=(1,)))
    bench.add(1)
    second = bench.add(2)
    bench.run()
    bench.step()

    bench.scheduler.remove(second, NOW_S)

    assert bench.forgotten == [2]
    assert bench.cache.used_blocks == 2, "of the first one, that grows"


def test_to_remove_twice_or_what_has_ended_changes_nothing():
    bench = Bench(prefill((1, 4), (2, 4)))
    first, second = bench.add(1), bench.add(2)
    bench.run()
    bench.scheduler.ended(first, NOW_S)
    bench.scheduler.remove(first, NOW_S)
    bench.scheduler.remove(second, NOW_S)
    bench.scheduler.remove(second, NOW_S)
    bench.scheduler.check()

    assert bench.forgotten == [1, 2]
    assert bench.cache.used_blocks == 0


def test_of_a_failed_step_nothing_is_kept_and_the_others_stay():
    bench = Bench(prefill((1, 4), (2, 8), (3, 4)), Step(decode=(1, 2)))
    first = bench.add(1, 4, blocks=(7,), block_tokens=4)
    second, third = bench.add(2, 8), bench.add(3)
    bench.run()
    bench.step()
    bench.scheduler.remove(second, NOW_S)

    assert bench.scheduler.failed(NOW_S) == [first], "the second one was not wanted any more"
    bench.scheduler.check()

    assert bench.scheduler.running == [third]
    assert (bench.cache.used_blocks, bench.cache.cached_blocks) == (1, 0)
    assert bench.forgotten == [1, 2]


def test_a_step_that_is_not_under_way_can_neither_run_nor_fail():
    bench = Bench(DECODE)

    with pytest.raises(FleetError):
        bench.scheduler.ran(1, NOW_S)
    with pytest.raises(FleetError, match="not under way"):
        bench.scheduler.failed(NOW_S)


def test_a_sequence_of_as_many_tokens_as_the_cache_has_can_be_served_and_one_more_cannot():
    bench = Bench(DECODE, blocks=2)

    assert bench.scheduler.why_never(bench.add(1, 8)) is None
    assert bench.scheduler.why_never(bench.add(2, 7, resume=(5, 5))) == (
        "its 7 prompt and 2 output tokens need 3 blocks of 4; the cache has 2"
    )


# --- plans that cannot be ------------------------------------------------------------------------------------


def raises(waiting, running, kv, now_s):
    raise KeyError("nobody")


IMPOSSIBLE = {
    "names one that is not here": (prefill((9, 1)), "named sequence 9, which is not here"),
    "decodes one that is not here": (Step(decode=(9,)), "named sequence 9, which is not here"),
    "preempts one that is not here": (Step(preempt=(9,)), "named sequence 9, which is not here"),
    "prefills one twice": (prefill((3, 1), (3, 1)), "named sequence 3 twice"),
    "prefills and decodes one": (prefill((1, 1), decode=(1,)), "named sequence 1 twice"),
    "decodes one twice": (Step(decode=(1, 1)), "named sequence 1 twice"),
    "preempts one twice": (Step(preempt=(1, 1)), "preempts sequence 1, which does not run"),
    "preempts and prefills one": (prefill((1, 1), preempt=(1,)), "named sequence 1 twice"),
    "preempts and decodes one": (Step(preempt=(1,), decode=(1,)), "decodes sequence 1, which waits"),
    "preempts one that waits": (Step(preempt=(3,)), "preempts sequence 3, which does not run"),
    "decodes one that waits": (Step(decode=(3,)), "decodes sequence 3, which waits"),
    "decodes one in its prompt": (Step(decode=(2,)), "decodes sequence 2, which has 6 tokens remaining"),
    "computes nothing of one": (prefill((2, 0)), "computes 0 tokens of sequence 2, of which 6 remain"),
    "computes less than nothing": (prefill((2, -1)), "computes -1 tokens of sequence 2, of which 6 remain"),
    "computes more than there is": (prefill((2, 7)), "computes 7 tokens of sequence 2, of which 6 remain"),
    "admits one for whom there is no room": (prefill((4, 25)), "admits sequence 4 with 25 tokens"),
    "admits two for whom there is no room": (prefill((4, 12), (5, 12)), "admits sequence 5 with 12 tokens"),
    "plans nothing": (Step(), "planned a step of nothing; to leave the engine idle it says Wait"),
    "waits until now": (Wait(NOW_S), "waits until 12.5 s; until_s must be in the future"),
    "waits until before": (Wait(NOW_S - 1.0), "waits until 11.5 s; until_s must be in the future"),
    "waits until no time": (Wait(float("nan")), "waits until nan s; until_s must be in the future"),
    "answers something else": ("a step", "answered 'a step'; expected Step or Wait"),
    "answers nothing": (None, "answered None; expected Step or Wait"),
    "raises": (raises, "raised KeyError: 'nobody'"),
}


@pytest.mark.parametrize("mistake", IMPOSSIBLE)
def test_a_plan_that_cannot_be_is_an_error_that_names_the_policy_what_and_when(mistake):
    answer, what = IMPOSSIBLE[mistake]
    bench = Bench(prefill((1, 4), (2, 2)), answer, blocks=6)
    for id, prompt_tokens in ((1, 4), (2, 8), (3, 4), (4, 30), (5, 12)):
        bench.add(id, prompt_tokens)
    bench.run()

    with pytest.raises(PolicyError) as raised:
        bench.scheduler.plan(NOW_S)

    text = str(raised.value)
    assert text.startswith(f"iteration policy says {what}"), text
    assert "12.500000 s)" in text
    assert "running sequences" in text


def test_blocks_that_are_not_free_are_an_error_where_a_running_one_needs_them():
    bench = Bench(prefill((1, 4), (2, 4)), DECODE, blocks=3)
    bench.add(1)
    bench.add(2)
    bench.run()

    with pytest.raises(PolicyError, match="computes 1 tokens of sequence 2: 1 blocks for 1 tokens"):
        bench.scheduler.plan(NOW_S)


def test_a_swapped_sequence_for_which_there_is_no_room_is_the_policys_error():
    bench = Bench(
        prefill((1, 8)),
        prefill((2, 8), preempt=(1,), swap=True),
        prefill((1, 1), decode=None),
        blocks=3,
        host_blocks=9,
    )
    bench.add(1, 8)
    bench.add(2, 8)
    bench.run()
    bench.run()

    with pytest.raises(PolicyError, match="admits sequence 1 with 1 tokens"):
        bench.scheduler.plan(NOW_S)


def test_a_policy_that_only_preempts_and_admits_in_turn_is_stopped():
    def goes_round(waiting, running, kv, now_s):
        return Step(preempt=(running[0].id,)) if running else prefill((waiting[0].id, 1))

    bench = Bench(goes_round)
    bench.add(1)
    bench.run()
    bench.policy.answers = [
        lambda waiting, running, kv, now_s: Step(preempt=tuple(one.id for one in running))
    ]

    with pytest.raises(PolicyError, match="planned a step of nothing"):
        bench.scheduler.plan(NOW_S)


def test_to_preempt_one_after_the_other_is_no_mistake_as_long_as_it_ends():
    bench = Bench(prefill(*((id, 1) for id in range(1, MOST_EMPTY))), blocks=MOST_EMPTY)
    for id in range(1, MOST_EMPTY):
        bench.add(id)
    bench.run()
    bench.policy.answers = [
        *(Step(preempt=(id,)) for id in range(1, MOST_EMPTY)),
        prefill((1, 4)),
    ]

    assert bench.step().prefills == [(bench.scheduler.by_id[1], 4)]


def test_what_comes_back_from_host_memory_may_be_found_by_one_that_is_admitted_with_it():
    """Planned as 9 tokens to compute; by the time it is admitted, 8 of them are there again."""
    shared = {"blocks": (1, 2), "block_tokens": 4}
    bench = Bench(
        prefill((1, 8)),
        Step(preempt=(1,), prefill=((2, 20),), swap=True),
        prefill((1, 1), (3, 9), preempt=(2,)),
        blocks=6,
        host_blocks=6,
    )  # fmt: skip
    swapped = bench.add(1, 8, **shared)
    bench.run()
    bench.add(2, 20)
    bench.run()  # takes five of six blocks, so that what was kept on the device goes, but for one block
    late = bench.add(3, 9, **shared)
    assert swapped.swapped
    assert bench.cache.cached_tokens(late) <= 4

    work = bench.step()

    assert work.prefills == [(swapped, 1), (late, 1)]
    assert late.cached_tokens == 8
