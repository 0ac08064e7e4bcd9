"""What token-level serving takes, worked out by hand, and what the records and the summary say of it.

Unless a test says otherwise a step takes 0.1 s, 0.01 s more for each prompt token in it and 0.02 s for each decode.
"""

import random

import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.engines.latency.steps.affine import AffineSteps
from policies import (
    FastServe,
    NoBatching,
    Orca,
    RoundRobin,
    Sarathi,
    SessionAffinity,
    ShortestPrompt,
    StaticBatch,
    VllmPrefillFirst,
    VllmTokenBudget,
)
from tests.simulation.building import column, entry, play, trace_of
from tests.simulation.building_tokens import (
    DECODE_S,
    ONE_S,
    PROMPT_S,
    STEP_S,
    asks,
    llm,
    play_out,
    serving,
)
from traces import Lengths, Slo, poisson

DECODE_STEP_S = STEP_S + DECODE_S
"""Of one sequence alone."""


def prefill_s(tokens, *, steps=1, decodes=0):
    return steps * STEP_S + tokens * PROMPT_S + decodes * DECODE_S


def close(seconds):
    return pytest.approx(seconds, rel=1e-9)


# --- one request ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{}, {"deep_probe_interval_s": 100.0, "probe_timeout_s": 5.0}])
def test_an_answer_that_takes_half_an_hour_is_waited_for(spec):
    run = simulate(
        trace_of(asks("r", output_tokens=32_000)), serving(AffineSteps(base_s=0.05), blocks=10_000, **spec)
    )

    assert column(run, "outcome") == {"r": "completed"}
    assert column(run, "e2e_s")["r"] == pytest.approx(1_600.0)


def test_a_lone_request_takes_one_prefill_and_a_decode_for_each_further_token():
    run = play_out(trace_of(asks("r", 1.0, prompt_tokens=5, output_tokens=4)), serving())

    assert column(run, "ttft_s")["r"] == close(prefill_s(5))
    assert column(run, "tpot_s")["r"] == close(DECODE_STEP_S)
    assert column(run, "itl_max_s")["r"] == close(DECODE_STEP_S)
    assert column(run, "e2e_s")["r"] == close(prefill_s(5) + 3 * DECODE_STEP_S)
    assert column(run, "service_s")["r"] == column(run, "e2e_s")["r"]
    assert column(run, "queue_s")["r"] == 0.0


def test_each_decode_reads_one_token_more_of_context():
    per_context_s = 0.001
    latency = AffineSteps(base_s=0.1, per_context_token_s=per_context_s)

    run = play_out(trace_of(asks("r", prompt_tokens=7, output_tokens=6)), serving(latency))

    steps = [0.1 + per_context_s * (7 + number) for number in range(5)]
    assert column(run, "tpot_s")["r"] == close(sum(steps) / 5)
    assert column(run, "itl_max_s")["r"] == close(steps[-1])
    assert column(run, "e2e_s")["r"] == close(0.1 + sum(steps))


def test_an_answer_of_one_token_ends_with_its_prefill_and_has_no_gaps():
    run = play_out(trace_of(asks("r", prompt_tokens=8, output_tokens=1)), serving())

    assert column(run, "ttft_s")["r"] == column(run, "e2e_s")["r"] == close(prefill_s(8))
    assert column(run, "tpot_s")["r"] is None
    assert column(run, "itl_max_s")["r"] is None


@pytest.mark.parametrize("policy", [VllmTokenBudget, Sarathi, FastServe])
@pytest.mark.parametrize(("chunk", "steps"), [(10, 1), (9, 2), (4, 3), (1, 10)])
def test_a_prompt_longer_than_the_step_is_prefilled_in_chunks(policy, chunk, steps):
    run = play_out(trace_of(asks("r", prompt_tokens=10)), serving(iteration=policy(max_step_tokens=chunk)))

    # To compute the one token that is left of what is there is what a decode does.
    in_prompts = 9 if chunk in (1, 9) else 10
    assert column(run, "ttft_s")["r"] == close(prefill_s(in_prompts, steps=steps, decodes=10 - in_prompts))


def test_a_request_without_a_length_gives_the_engines_default_and_without_a_prompt_one_token_is_computed():
    run = play_out(trace_of(entry("r")), serving(engine=llm(default_output_tokens=3)))

    assert column(run, "generated_tokens")["r"] == 3
    assert column(run, "ttft_s")["r"] == close(prefill_s(1))


# --- more than one -------------------------------------------------------------------------------------------

TWO = trace_of(
    asks("a", 0.0, prompt_tokens=4, output_tokens=4), asks("b", 0.2, prompt_tokens=6, output_tokens=3)
)


def test_a_prompt_joins_the_next_step_and_makes_it_longer_for_those_that_decode():
    run = play_out(TWO, serving())

    first = prefill_s(4)
    joins = first + DECODE_STEP_S
    mixed = joins + prefill_s(6, decodes=1)
    both = mixed + STEP_S + 2 * DECODE_S
    assert joins > 0.2 > first
    assert column(run, "ended_s") == close({"a": both, "b": both + DECODE_STEP_S})
    assert column(run, "ttft_s") == close({"a": first, "b": mixed - 0.2})
    assert column(run, "queue_s")["b"] == close(joins - 0.2), "it waits for the step under way, and no longer"
    assert column(run, "itl_max_s")["a"] == close(mixed - joins), "the step with the prompt in it"


def test_prefilling_first_stalls_those_that_decode():
    run = play_out(TWO, serving(iteration=VllmPrefillFirst()))

    joins = prefill_s(4) + DECODE_STEP_S
    assert column(run, "ttft_s")["b"] == close(joins + prefill_s(6) - 0.2)
    assert column(run, "itl_max_s")["a"] == close(prefill_s(6) + STEP_S + 2 * DECODE_S)


def test_a_static_batch_lets_the_next_request_wait_for_its_last():
    run = play_out(TWO, serving(iteration=StaticBatch()))

    ended = prefill_s(4) + 3 * DECODE_STEP_S
    assert column(run, "ended_s")["a"] == close(ended)
    assert column(run, "queue_s")["b"] == close(ended - 0.2)
    assert column(run, "e2e_s")["b"] == close(ended - 0.2 + prefill_s(6) + 2 * DECODE_STEP_S)


def test_orca_lets_it_in_where_there_is_room_for_the_longest_that_both_may_become():
    roomy, tight = (
        play_out(TWO, serving(iteration=Orca(reserve_tokens=40), blocks=blocks)) for blocks in (20, 19)
    )

    assert column(roomy, "queue_s")["b"] < 0.1
    assert column(tight, "queue_s")["b"] == close(prefill_s(4) + 3 * DECODE_STEP_S - 0.2)


def test_where_there_is_one_place_the_fleet_is_a_server_of_whole_requests():
    # With this a policy of one place inherits every law of a single-server queue, M/D/1 among them.
    trace = poisson(2.0, 60.0, seed=5, prompt_tokens=Lengths.uniform(1, 40), output_tokens=1)
    tokens = play(trace, serving(iteration=VllmTokenBudget(max_sequences=1)))
    by_length = {entry.request.id: prefill_s(entry.request.prompt_tokens) for entry in trace}
    free_s, ended = 0.0, {}
    for item in trace:
        free_s = max(free_s, item.request.arrived_s) + by_length[item.request.id]
        ended[item.request.id] = free_s

    assert column(tokens, "ended_s") == close(ended)


def test_one_token_of_prompt_and_one_of_output_is_a_request_of_a_fixed_size():
    trace = poisson(6.0, 60.0, seed=2)
    whole = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.125, per_item_s=0.0)), batching=NoBatching(),
        max_inflight_batches=1,
    )  # fmt: skip
    tokens = serving(AffineSteps(base_s=0.125), iteration=VllmTokenBudget(max_sequences=1))
    one_token = trace_of(*(asks(one.request.id, one.request.arrived_s, 1, 1) for one in trace))

    assert column(play(one_token, tokens), "ended_s") == close(column(play(trace, whole), "ended_s"))


@pytest.mark.parametrize("seed", range(3))
def test_when_a_step_costs_as_much_as_its_tokens_those_that_run_share_the_processor(seed):
    # Egalitarian processor sharing: while the k shortest of n end, all longer ones have had as much as the k-th.
    rng = random.Random(seed)
    lengths = sorted(rng.randrange(1, 30) for _ in range(8))
    token_s = 0.01
    latency = AffineSteps(base_s=0.0, per_prefill_token_s=token_s, per_decode_s=token_s)

    # They come during a step of another one, and so begin together when it ends.
    shared = (asks(f"r{n}", token_s / 2, 1, tokens) for n, tokens in enumerate(lengths))
    run = play_out(trace_of(asks("first", 0.0, 1, 1), *shared), serving(latency))

    for n, tokens in enumerate(lengths):
        served = sum(min(other, tokens) for other in lengths)
        assert column(run, "ended_s")[f"r{n}"] == close((1 + served) * token_s)


# --- the cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_tokens", [3, 8, 9, 12, 13])
def test_a_prefix_hit_shortens_ttft_by_exactly_the_cached_tokens(prompt_tokens):
    hashes = tuple(range(100, 100 + -(-prompt_tokens // 4)))
    cached = (prompt_tokens - 1) // 4 * 4  # full blocks, and the last token is always computed
    trace = trace_of(
        *(
            asks(id, at_s, prompt_tokens, 1, blocks=hashes, block_tokens=4)
            for id, at_s in (("a", 0.0), ("b", 1.0))
        )
    )

    run = play_out(trace, serving())

    ttft_s = column(run, "ttft_s")
    assert ttft_s["a"] - ttft_s["b"] == pytest.approx(cached * PROMPT_S, abs=1e-12)
    assert column(run, "cached_tokens") == {"a": 0, "b": cached}
    assert run.summary.cached_fraction == close(cached / (2 * prompt_tokens))

    off = play_out(trace, serving(kv={"prefix_caching": False}))

    assert column(off, "cached_tokens") == {"a": 0, "b": 0}
    assert column(off, "ttft_s")["b"] == close(prefill_s(prompt_tokens))


def test_what_is_cached_and_what_runs_share_one_memory():
    blocks = tuple(range(4))
    trace = trace_of(
        asks("a", 0.0, 16, 1, blocks=blocks, block_tokens=4),
        asks("b", 1.0, 16, 1, blocks=tuple(range(9, 13)), block_tokens=4),
        asks("c", 2.0, 16, 1, blocks=blocks, block_tokens=4),
    )

    roomy, tight = (play_out(trace, serving(blocks=size)) for size in (7, 6))

    assert column(roomy, "cached_tokens")["c"] == 12, "`a`'s last block went for `b`, and nobody can use it"
    assert column(tight, "cached_tokens")["c"] == 8


def test_a_sequence_that_loses_its_place_computes_again_what_it_had():
    # 8 blocks of 4 tokens: each has 4 of them when `a` needs a fifth, and the one admitted last goes.
    trace = trace_of(asks("a", 0.0, 12, 9), asks("b", 0.0, 12, 9))

    run = play_out(trace, serving(ONE_S, blocks=8))

    # Step 1 is of `a` alone; 2 prefills `b`; 3 to 5 decode both; 6 to 9 are of `a` alone, which has 17 tokens and
    # more, and then ends. `b` has 4 output tokens by then, computes 16 tokens anew for its fifth, and decodes 4 more.
    assert column(run, "ended_s") == {"a": 9.0, "b": 14.0}
    assert column(run, "preemptions") == {"a": 0, "b": 1}
    assert column(run, "itl_max_s") == {"a": 1.0, "b": 5.0}
    assert column(run, "generated_tokens") == {"a": 9, "b": 9}
    assert run.summary.preemptions == 1


def test_kv_utilization_in_the_time_series_is_used_blocks_over_all():
    spec = serving(ONE_S, blocks=20, report_interval_s=0.4, control_interval_s=0.75)

    run = play_out(trace_of(asks("r", 0.0, 39, 12)), spec)

    at = dict(zip(run.series["time_s"].to_pylist(), run.series["kv_utilization"].to_pylist(), strict=True))
    assert at[0.75] == at[1.5] == 10 / 20, "39 tokens of prompt, then a decode"
    assert at[3.0] == 11 / 20, "as of 2.8 s, when the second decode runs: 41 tokens"
    assert at[7.5] == 12 / 20, "as of 7.2 s: 46 tokens, in the middle of one event"


def test_the_second_turn_of_a_session_finds_what_its_first_left_where_it_goes_back_to():
    def turns(number):
        first, then = f"s{number}.0", f"s{number}.1"
        hashes = tuple(range(number * 100, number * 100 + 5))
        shared = {"session": f"s{number}", "block_tokens": 4}
        return (
            asks(first, 0.1 * number, 8, 2, turn=0, blocks=hashes[:2], **shared),
            asks(then, 5.0 + 0.1 * number, 18, 2, turn=1, parent=first, blocks=hashes, think_s=1.0, **shared),
        )

    entries = [one for number in range(3) for one in turns(number)]
    trace = trace_of(*sorted(entries, key=lambda one: one.request.arrived_s))

    for sessions in (False, True):
        sticky, round_robin = (
            play_out(trace, serving(replicas=2, routing=routing), sessions=sessions)
            for routing in (SessionAffinity(fallback=RoundRobin()), RoundRobin())
        )
        cached = column(sticky, "cached_tokens")
        assert [cached[f"s{number}.1"] for number in range(3)] == [8, 8, 8]
        assert column(sticky, "replica")["s1.1"] == column(sticky, "replica")["s1.0"]
        assert sum(column(round_robin, "cached_tokens").values()) == 0


# --- what is reported ----------------------------------------------------------------------------------------


def test_objectives_are_held_against_first_token_gaps_and_end():
    ttft_s, e2e_s = prefill_s(5), prefill_s(5) + 3 * DECODE_STEP_S
    bounds = {
        "in time": Slo(ttft_s=ttft_s + 1e-6, tpot_s=DECODE_STEP_S + 1e-6, e2e_s=e2e_s + 1e-6),
        "first token late": Slo(ttft_s=ttft_s - 1e-6, tpot_s=1.0, e2e_s=9.0),
        "gaps too long": Slo(ttft_s=1.0, tpot_s=DECODE_STEP_S - 1e-6, e2e_s=9.0),
        "end late": Slo(ttft_s=1.0, tpot_s=1.0, e2e_s=e2e_s - 1e-6),
        "none": None,
    }
    trace = trace_of(
        *(asks(id, 2.0 * number, 5, 4, slo=slo) for number, (id, slo) in enumerate(bounds.items())),
        asks("one token", 20.0, 5, 1, slo=Slo(tpot_s=1e-6)),
    )

    run = play_out(trace, serving())

    assert column(run, "slo_met") == {
        "in time": True, "first token late": False, "gaps too long": False, "end late": False, "none": None,
        "one token": True,
    }  # fmt: skip
    assert run.summary.slo_attainment == 2 / 5
    assert run.summary.goodput_per_s == close(3 / run.summary.duration_s)


def test_the_summary_adds_up_tokens_of_completed_requests_only():
    hashes = (1, 2, 3)
    trace = trace_of(
        asks("a", 0.0, 12, 5, blocks=hashes, block_tokens=4),
        asks("b", 2.0, 12, 7, blocks=hashes, block_tokens=4),
        asks("late", 4.0, 12, 50, blocks=hashes, block_tokens=4, deadline_s=1.0),
    )

    run = play_out(trace, serving())

    assert column(run, "outcome")["late"] == "expired"
    assert run.summary.duration_s == 5.0
    assert run.summary.output_tokens_per_s == close((5 + 7) / 5.0)
    assert run.summary.cached_fraction == close(8 / 24)
    assert column(run, "generated_tokens") == {"a": 5, "b": 7, "late": None}
    assert run.summary.tpot_s.mean == close(DECODE_STEP_S)


def test_utilization_is_the_time_in_steps_over_the_time_of_the_run():
    run = play_out(trace_of(asks("a", 1.0, 5, 4), asks("b", 3.0, 7, 2)), serving())

    busy_s = prefill_s(5) + 3 * DECODE_STEP_S + prefill_s(7) + DECODE_STEP_S
    assert run.summary.duration_s == close(3.0 + prefill_s(7) + DECODE_STEP_S)
    assert run.summary.utilization == close(busy_s / run.summary.duration_s)


def test_streaming_shows_more_and_changes_nothing():
    trace = poisson(
        3.0, 10.0, seed=4, prompt_tokens=Lengths.uniform(1, 60), output_tokens=Lengths.uniform(1, 30)
    )
    spec = serving(replicas=2, blocks=60, queueing=ShortestPrompt())

    quiet, streamed = (play(trace, spec, stream=stream) for stream in (False, True))

    for name in ("outcome", "replica", "generated_tokens", "cached_tokens", "preemptions"):
        assert column(quiet, name) == column(streamed, name)
    for name in ("ended_s", "ttft_s", "tpot_s", "itl_max_s", "e2e_s", "service_s"):
        pairs = zip(quiet.records[name].to_pylist(), streamed.records[name].to_pylist(), strict=True)
        assert all(one == close(other) if other is not None else one is None for one, other in pairs), name
