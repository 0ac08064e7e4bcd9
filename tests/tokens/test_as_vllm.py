"""What vLLM 0.19 does, step by step: recorded from its own scheduler and cache manager, and case by case.

`vllm_steps.json` has small random worlds: settings, requests (number, arrival, prompt and output tokens, hashes of the
full blocks of its prompt), and every step that `Scheduler` or `AsyncScheduler` (in the loop of
`EngineCore.step_with_batch_queue`) made of them: when it began, at one second a step, and the tokens of each request.
"""

import json
import random
from pathlib import Path

import pytest

from fleet import EmulatedLlmEngine, FleetSpec, KvSpec, simulate
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.messages import Work
from fleet.tokens.paged_cache import PagedKvCache
from fleet.tokens.scheduler import StepScheduler
from fleet.tokens.sequence import SequenceState
from policies import (
    IterationPolicy,
    Lru,
    PolicyError,
    PriorityPreemptive,
    ShortestRemainingOracle,
    StaticBatch,
    Step,
    VllmTokenBudget,
    Wait,
)
from policies.registry import classes
from tests.policies.makers import reset
from tests.tokens.test_macro_steps import StepwiseLlmEngine
from traces import Request, Trace, TraceEntry
from traces.answers import answer_blocks

WORLDS = json.loads((Path(__file__).parent / "vllm_steps.json").read_text())
BLOCK = 16
SHIPPED = [cls for cls in classes(IterationPolicy) if cls.__module__.startswith("policies.")]


class Recorder(StepwiseLlmEngine):
    """Notes when each step began, and what of whom it computed."""

    def run_step(self, work):
        computed = [*work.prefills, *((sequence, 1) for sequence in work.decodes)]
        STEPS.append([self._ctx.now, sorted([int(one.request.id), tokens] for one, tokens in computed)])
        super().run_step(work)


STEPS: list[object] = []


@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_each_step_is_the_one_that_vllm_made(number, monkeypatch):
    world = WORLDS[number]
    monkeypatch.setattr(StepScheduler, "join_ahead", lambda self: False)  # an event for each step
    STEPS.clear()
    trace = Trace.from_entries(
        TraceEntry(
            Request(str(id), at_s, prompt_tokens=prompt, blocks=tuple(keys), block_tokens=BLOCK), output
        )
        for id, at_s, prompt, output, keys in world["requests"]
    )
    spec = FleetSpec(
        engine=Recorder(
            latency=AffineSteps(base_s=1.0),
            kv=KvSpec(blocks=world["blocks"], block_tokens=BLOCK, prefix_caching=world["prefix_caching"]),
            async_scheduling=world["async_scheduling"],
        ),
        iteration=VllmTokenBudget(
            **{name: world[name] for name in ("max_sequences", "max_step_tokens", "reserve_full_prompt")}
        ),
        replicas=1, report_interval_s=100.0, probe_interval_s=100.0, control_interval_s=100.0,
    )  # fmt: skip

    simulate(trace, spec)

    assert world["steps"] == STEPS


# --- asynchronous scheduling ---------------------------------------------------------------------------------


def ttfts(*, async_scheduling=None, iteration=None):
    """One request that decodes in steps of a second, and one that comes in the middle of such a step."""
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=1.0), kv=KvSpec(blocks=1_000), async_scheduling=async_scheduling
    )
    trace = Trace.from_entries(
        [
            TraceEntry(Request("long", 0.0, prompt_tokens=4), 10),
            TraceEntry(Request("late", 2.5, prompt_tokens=4), 1),
        ]
    )
    run = simulate(trace, FleetSpec(engine=engine, replicas=1, iteration=iteration or VllmTokenBudget()))
    return run.records["ttft_s"].to_pylist()


def test_what_comes_during_a_step_is_computed_in_the_second_one_after_it():
    assert ttfts(async_scheduling=True) == [1.0, 2.5]
    assert ttfts(async_scheduling=False) == [1.0, 1.5]


@pytest.mark.parametrize("cls", [cls for cls in SHIPPED if cls is not StaticBatch])
def test_unless_the_engine_is_told_it_is_as_the_system_does_whose_scheduler_plans(cls):
    assert ttfts(iteration=cls())[1] == (2.5 if cls in {VllmTokenBudget, PriorityPreemptive} else 1.5)


@pytest.mark.parametrize(("async_scheduling", "began_s"), [(False, 3.0), (True, 5.0)])
def test_a_place_that_a_step_frees_is_taken_in_the_next_or_the_second_one(async_scheduling, began_s):
    """Two places: the second request has its two steps from 1 or 2 s on, and the third waits for its place."""
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=1.0), kv=KvSpec(blocks=100), async_scheduling=async_scheduling
    )
    trace = Trace.from_entries(
        TraceEntry(Request(str(tokens), at_s, prompt_tokens=4), tokens)
        for at_s, tokens in ((0.0, 20), (0.5, 2), (0.6, 1))
    )
    run = simulate(trace, FleetSpec(engine=engine, replicas=1, iteration=VllmTokenBudget(max_sequences=2)))

    assert run.records["queue_s"].to_pylist()[2] == pytest.approx(began_s - 0.6)


# --- the cache -----------------------------------------------------------------------------------------------


def test_blocks_scheduled_in_a_step_are_found_by_a_later_admission_of_the_same_step():
    """`KVCacheManager.allocate_slots` caches what it schedules: a cold burst computes what it shares once."""
    shared = tuple(range(128))
    trace = Trace.from_entries(
        TraceEntry(Request(str(n), 0.0, 128 * 16 + 32, (*shared, 1000 + 2 * n, 1001 + 2 * n), 16), 1)
        for n in range(16)
    )
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.0, per_prefill_token_s=0.001),
        kv=KvSpec(blocks=4_000),
        async_scheduling=False,
    )
    run = simulate(
        trace, FleetSpec(engine=engine, replicas=1, iteration=VllmTokenBudget(max_step_tokens=8192))
    )

    assert run.records["cached_tokens"].to_pylist() == [0, *[2048] * 15]
    assert run.summary.ttft_s.max == pytest.approx(0.001 * (2048 + 16 * 32))


def conversation(*, said: bool) -> Trace:
    """A prompt of 40 tokens, an answer of 30, and 20 that the user says to it. `said`: the trace has their session."""
    session = "s" if said else None
    return Trace.from_entries(
        [
            TraceEntry(Request("first", 0.0, 40, (1, 2, 30), 16, session=session), 30),
            TraceEntry(Request("second", 50.0, 90, (1, 2, 3, 4, 5, 60), 16, session=session), 5),
        ]
    )


def test_full_blocks_of_an_answer_are_found_by_the_next_turn():
    assert answer_blocks(conversation(said=True)) == {0: (3, 4)}
    assert answer_blocks(conversation(said=False)) == {}
    engine = EmulatedLlmEngine(latency=AffineSteps(base_s=0.1), kv=KvSpec(blocks=50))
    found = [
        simulate(conversation(said=said), FleetSpec(engine=engine, replicas=1))
        .records["cached_tokens"]
        .to_pylist()
        for said in (True, False)
    ]
    # The 69 tokens that were computed of the first fill four blocks, half of the third by its answer.
    assert found == [[0, 64], [0, 32]]


@pytest.mark.parametrize(
    "follower",
    [
        Request("second", 50.0, 60, (1, 2, 3), 16, session="s"),
        Request("second", 50.0, 90, (1, 9, 3, 4, 5), 16, session="s"),
        Request("second", 50.0, 90, (1, 2), 32, session="s"),
        Request("second", 50.0, 90, None, None, session="s"),
        Request("second", 50.0, 90, (1, 2, 3, 4, 5), 16, session="t"),
    ],
    ids=["too short", "another prompt", "other blocks", "no blocks", "another session"],
)
def test_what_does_not_contain_prompt_and_answer_names_no_block_of_the_answer(follower):
    first = TraceEntry(Request("first", 0.0, 40, (1, 2, 30), 16, session="s"), 30)
    assert answer_blocks(Trace.from_entries([first, TraceEntry(follower, 5)])) == {}


def sequence(id, prompt_tokens, blocks=()):
    request = Request(str(id), 0.0, prompt_tokens, tuple(blocks) or None, BLOCK if blocks else None)
    return SequenceState(id, Work(request, 1), 0, 0.0)


def compute(kv, one, tokens):
    kv.extend(one, tokens, 0.0)
    one.computed_tokens += tokens
    if one.computed_tokens >= one.total_tokens:
        one.generated_tokens += one.computed_tokens + 1 - one.total_tokens
        one.total_tokens = one.computed_tokens + 1


def test_a_sequence_that_lost_its_place_finds_its_own_blocks_again_those_of_its_answer_too():
    kv = PagedKvCache(20, BLOCK, reset(Lru()))
    one = sequence(1, 40, (1, 2))
    kv.admit(one, 0.0)
    compute(kv, one, 40)
    for _ in range(30):
        compute(kv, one, 1)
    kv.release(one, 0.0, comes_back=True)

    assert (kv.cached_tokens(one), kv.cached_tokens(sequence(2, 99, (1, 2)))) == (64, 32)
    other = sequence(3, 17 * BLOCK)
    kv.admit(other, 0.0)
    compute(
        kv, other, 17 * BLOCK
    )  # takes one of its five blocks, the last, of which nothing was to be found,
    assert kv.cached_tokens(one) == 48  # and the one before
    kv.admit(one, 0.0)
    kv.check()
    assert (one.computed_tokens, one.blocks) == (48, 3)


@pytest.mark.parametrize(("empty_first", "found"), [(False, 0), (True, 16)])
def test_cached_and_empty_blocks_are_taken_in_one_order_of_release(empty_first, found):
    """`FreeKVCacheBlockQueue`: what was cached first goes before what was emptied later."""
    kv = PagedKvCache(2, BLOCK, reset(Lru(empty_first=empty_first)))
    cached, empty, taker = sequence(1, 16, (1,)), sequence(2, 16), sequence(3, 16)
    for one in (cached, empty):
        kv.admit(one, 0.0)
        compute(kv, one, 16)
    kv.release(cached, 0.0)
    kv.release(empty, 0.0)
    kv.admit(taker, 0.0)
    compute(kv, taker, 16)

    assert kv.cached_tokens(sequence(4, 17, (1,))) == found


def test_two_admissions_that_find_the_same_cached_blocks_are_not_both_charged_for_them():
    kv = PagedKvCache(4, BLOCK, reset(Lru()))
    first = sequence(1, 32, (1, 2))
    kv.admit(first, 0.0)
    compute(kv, first, 32)
    kv.release(first, 0.0)
    scheduler = StepScheduler(reset(VllmTokenBudget()), kv, forget=lambda one: None)
    for id in (2, 3):
        scheduler.add(sequence(id, 33, (1, 2)))

    work = scheduler.plan(0.0)

    assert [(one.id, tokens) for one, tokens in work.prefills] == [(2, 1), (3, 1)]
    assert kv.used_blocks == 4


# --- plans against a cache that others take from in the same step ------------------------------------------------


MOST_OUTPUT = 35


class Asks(IterationPolicy):
    """Only asks what the cache has, before the step, and leaves all else to it."""

    def plan(self, waiting, running, kv, now_s):
        left, chosen = kv.total_blocks, []
        for one in (*running, *waiting):
            left -= -(-(one.prompt_tokens + MOST_OUTPUT) // kv.block_tokens)
            if left >= 0 and one not in running:
                chosen.append((one.id, one.total_tokens - kv.cached_tokens(one)))
        grow = tuple((one.id, one.remaining_tokens) for one in running if one.remaining_tokens > 1)
        return Step(prefill=(*grow, *chosen), decode=None) if running or chosen else Wait()


def world(seed):
    """A few requests that share beginnings, on a cache that is too small for all of them."""
    rng = random.Random(f"world {seed}")
    blocks = rng.choice([6, 9, 14])
    entries = []
    for id in range(rng.randint(3, 9)):
        prompt = rng.randint(1, min(90, blocks * BLOCK - 40))
        shared = rng.randint(0, prompt // BLOCK)
        hashes = [n if n < shared else 1000 * (id + 1) + n for n in range(prompt // BLOCK)]
        request = Request(str(id), round(rng.random(), 3), prompt, tuple(hashes) or None, BLOCK)
        entries.append(TraceEntry(request, rng.choice([0, 1, 2, 20, MOST_OUTPUT])))
    return blocks, Trace.from_entries(sorted(entries, key=lambda entry: entry.request.arrived_s))


@pytest.mark.parametrize("cls", [*SHIPPED, Asks])
def test_no_plan_computes_more_of_a_sequence_than_remains_whatever_others_took_in_the_same_step(cls):
    for seed in range(12):
        blocks, trace = world(seed)
        engine = EmulatedLlmEngine(
            latency=AffineSteps(base_s=0.01, per_prefill_token_s=0.001),
            kv=KvSpec(blocks=blocks, block_tokens=BLOCK, host_blocks=seed % 2 * 20),
            async_scheduling=seed % 3 == 0 if cls is not Asks else None,
        )
        run = simulate(trace, FleetSpec(engine=engine, replicas=1, iteration=cls()))

        assert run.summary.completed == len(trace), seed
        lengths = [entry.output_tokens for entry in trace]
        assert run.records["generated_tokens"].to_pylist() == lengths


def test_one_that_finds_what_another_computes_in_the_same_step_is_planned_with_what_remains():
    """Three that share a beginning: 18 tokens of the last were planned, of which 2 remain by then."""
    kv = PagedKvCache(8, BLOCK, reset(Lru()))
    policy = reset(ShortestRemainingOracle())
    policy.reveal({"1": 9, "2": 9, "3": 9}.get)
    scheduler = StepScheduler(policy, kv, forget=lambda one: None)
    for id in (1, 2, 3):
        scheduler.add(sequence(id, 18, (1,)))

    work = scheduler.plan(0.0)

    assert [(one.id, tokens) for one, tokens in work.prefills] == [(1, 18), (2, 2), (3, 2)]


class Greedy(VllmTokenBudget):
    """Takes its places from those that run, and does not say so."""

    def plan(self, waiting, running, kv, now_s):
        if running:
            kv.give_up(running[0])
            return Step(prefill=(), decode=())
        return super().plan(waiting, running, kv, now_s)


class Forgetful(VllmTokenBudget):
    """Plans with a draft, and then leaves the last admission out."""

    def plan(self, waiting, running, kv, now_s):
        step = super().plan(waiting, running, kv, now_s)
        return (
            Step(prefill=step.prefill[:1], decode=None) if isinstance(step, Step) and step.prefill else step
        )


def test_what_a_plan_took_and_its_step_does_not_name_is_given_back_and_what_it_gave_up_is_an_error():
    kv = PagedKvCache(8, BLOCK, reset(Lru()))
    scheduler = StepScheduler(reset(Forgetful()), kv, forget=lambda one: None)
    for id in (1, 2):
        scheduler.add(sequence(id, 18, (id,)))
    scheduler.plan(0.0)
    scheduler.check()
    assert (kv.used_blocks, [one.id for one in scheduler.waiting]) == (2, [2])
    assert kv.cached_tokens(sequence(9, 40, (2,))) == 0, "it was never computed"

    scheduler = StepScheduler(reset(Greedy()), PagedKvCache(8, BLOCK, reset(Lru())), forget=lambda one: None)
    scheduler.add(sequence(1, 18))
    scheduler.plan(0.0)
    scheduler.ran(1, 0.0)
    with pytest.raises(PolicyError, match="took its blocks from sequence 1, which its step does not preempt"):
        scheduler.plan(1.0)


# --- answers without tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("max_step_tokens", [2048, 9])
def test_an_answer_of_no_tokens_ends_when_its_prompt_is_computed(stream, async_scheduling, max_step_tokens):
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.1, per_prefill_token_s=0.01),
        kv=KvSpec(blocks=50),
        async_scheduling=async_scheduling,
    )
    trace = Trace.from_entries(
        [
            TraceEntry(Request("none", 0.0, prompt_tokens=10), 0),
            TraceEntry(Request("one", 0.0, prompt_tokens=10), 1),
        ]
    )
    spec = FleetSpec(engine=engine, replicas=1, iteration=VllmTokenBudget(max_step_tokens=max_step_tokens))
    run = simulate(trace, spec, stream=stream)

    assert run.records["outcome"].to_pylist() == ["completed"] * 2
    assert run.records["generated_tokens"].to_pylist() == [0, 1]
    assert run.records["tpot_s"].to_pylist() == [None, None]
    assert run.records["e2e_s"].to_pylist()[0] >= 0.2
