"""When things go wrong with a fleet that serves token by token: one law each.

In all of them every block is given back in the end, and whoever was not concerned is served.
"""

import pytest

from fleet import NetworkModel
from fleet.engines import EmulatedLlmEngine
from fleet.messages import Cancel, StepRan, Work
from policies import (
    ExponentialBackoff,
    FastServe,
    IterationPolicy,
    NoRetry,
    PolicyError,
    ShortestRemainingOracle,
    Step,
    VllmTokenBudget,
    Wait,
    Window,
)
from tests.simulation.building import arrivals, column, faults, play, states, trace_of
from tests.simulation.building_tokens import (
    ONE_S,
    Reader,
    asks,
    demand_all_given_back,
    llm,
    play_out,
    read,
    replicas,
    serving,
    submit,
)
from traces import Fault, Request

RETRY = ExponentialBackoff(base_s=0.2, jitter="none")


# --- what does not fit ---------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_cache_ends_with_one_clear_error_and_the_others_are_served():
    trace = trace_of(asks("small", 0.0, 8, 6), asks("large", 0.3, 21, 3), asks("full", 0.4, 20, 1))

    run = play_out(trace, serving(blocks=5, retry=NoRetry()))

    assert column(run, "outcome") == {"small": "completed", "large": "failed", "full": "completed"}
    assert column(run, "detail")["large"] == (
        "refused: its 21 prompt and 0 output tokens need 6 blocks of 4; the cache has 5"
    )
    assert column(run, "ended_s")["large"] == pytest.approx(0.3)


def test_a_prompt_that_no_replica_can_take_is_not_tried_again():
    run = play_out(trace_of(asks("large", 0.0, 21)), serving(blocks=5, replicas=2, retry=RETRY))

    assert column(run, "outcome") == {"large": "failed"}
    assert column(run, "attempts") == {"large": 1}


def test_an_answer_that_outgrows_the_whole_cache_ends_there_and_its_client_has_what_there_was():
    reader = Reader((0.0, submit("grows", 12, 20)), (0.0, submit("other", 4, 6)))

    made = read(reader, serving(blocks=5, retry=NoRetry()))

    assert reader.reply("grows").outcome == "failed"
    assert reader.reply("grows").detail == (
        "refused: its 12 prompt and 9 output tokens need 6 blocks of 4; the cache has 5"
    )
    assert reader.tokens("grows") == list(range(9)), "the last one is what there is no room to go on from"
    assert reader.reply("other").outcome == "completed"
    demand_all_given_back(made)


@pytest.mark.parametrize("ahead", [False, True], ids=["after each step", "a step ahead"])
def test_one_that_outgrows_the_cache_ends_though_its_policy_would_begin_it_anew(ahead):
    # In chunks of 5 tokens there is room to begin it again in the very plan that takes its place away.
    iteration = ShortestRemainingOracle(max_step_tokens=5)
    engine = llm(blocks=15, async_scheduling=ahead, kv={"prefix_caching": False})
    trace = trace_of(asks("grows", 0.0, 49, 27), asks("other", 0.1, 28, 27))

    run = play_out(trace, serving(engine=engine, iteration=iteration, retry=NoRetry()), until_s=500.0)

    assert column(run, "outcome") == {"grows": "failed", "other": "completed"}
    assert column(run, "detail")["grows"].startswith(
        "refused: its 49 prompt and 12 output tokens need 16 blocks"
    )


# --- no longer wanted, at every phase ------------------------------------------------------------------------


def of(made, request_id="victim"):
    """The sequence of a request, on the only replica; None when it is not there."""
    (replica,) = replicas(made).values()
    found = [one for one in replica.scheduler.by_id.values() if one.request.id == request_id]
    return found[0] if found else None


def under_way(made):
    (replica,) = replicas(made).values()
    return replica.scheduler.work


def waits_at_the_head(made):
    return of(made) is None and not made.head.router.pending["victim"].running


def waits_at_the_replica(made):
    victim = of(made)
    return not victim.running and not victim.preemptions


def is_half_prefilled(made):
    return of(made).running and of(made).computed_tokens == 8 and under_way(made).prefills


def decodes_in_a_macro_step(made):
    return of(made).decodes and under_way(made).most > 1


def is_preempted(made):
    return of(made).preemptions == 1 and not of(made).running and not of(made).swapped


def is_preempted_ahead(made):
    return is_preempted(made) and of(made) in under_way(made).decodes


def is_swapped_out(made):
    return of(made).swapped and not of(made).running


def is_in_its_last_step(made):
    return of(made).generated_tokens == 1 and under_way(made).decodes == [of(made)]


def asked(id, arrived_s=0.0, prompt_tokens=4, output_tokens=4, **request):
    """Like `submit`, without a stream, so that decodes can be one event."""
    message = submit(id, prompt_tokens, output_tokens, arrived_s, **request)
    return arrived_s, type(message)(message.request, message.reply_to, output_tokens)


PHASES = {
    # What the fleet is like, who else is there, the victim, when it goes, and what it does then.
    "waiting at the head": (
        {"max_inflight_batches": 1}, [("first", 0.0, 4, 9)], ("victim", 0.5), 2.5, waits_at_the_head,
    ),
    "waiting at the replica": (
        {"iteration": VllmTokenBudget(max_sequences=1)}, [("first", 0.0, 4, 9)], ("victim", 0.5), 2.5,
        waits_at_the_replica,
    ),
    "in the middle of its prompt": (
        {"iteration": VllmTokenBudget(max_step_tokens=8)}, [("other", 3.0)], ("victim", 0.0, 24), 1.5,
        is_half_prefilled,
    ),
    "decoding, many steps in one event": (
        {}, [("other", 0.0, 4, 30)], ("victim", 0.0, 4, 40), 7.5, decodes_in_a_macro_step,
    ),
    "preempted": (
        {"blocks": 8}, [("other", 0.0, 12, 9)], ("victim", 0.0, 12, 9), 7.5, is_preempted,
    ),
    "preempted from the step after the one that runs": (
        {"engine": llm(ONE_S, blocks=8, async_scheduling=True)}, [("other", 0.0, 12, 9)], ("victim", 0.0, 12, 9), 4.5,
        is_preempted_ahead,
    ),
    "swapped out": (
        {"iteration": FastServe(max_sequences=1, quantum_tokens=2), "kv": {"host_blocks": 50}},
        [("other", 5.5, 4, 2)], ("victim", 0.0, 4, 30), 6.5, is_swapped_out,
    ),
    "in the step that ends it": (
        {}, [("other", 9.0)], ("victim", 0.0, 4, 2), 1.5, is_in_its_last_step,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ["cancelled", "expired"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_request_that_is_not_wanted_any_more_gives_back_its_blocks_whatever_it_was_doing(phase, how):
    changes, others, victim, at_s, doing = PHASES[phase]
    deadline = {"deadline_s": at_s - victim[1]} if how == "expired" else {}
    lines = [asked(*other) for other in others] + [asked(*victim, **deadline)]
    if how == "cancelled":
        lines.append((at_s, Cancel("victim")))
    reader = Reader(*lines)

    made = read(reader, serving(ONE_S, **changes), until_s=at_s - 1e-3)
    assert doing(made), "the scenario does not do what it says"
    made.runtime.run(until_s=60.0)

    assert reader.reply("victim").outcome == how
    assert {reader.reply(other[0]).outcome for other in others} == {"completed"}
    (replica,) = replicas(made).values()
    assert replica.scheduler.cache.used_blocks == 0
    assert not replica.scheduler.by_id
    demand_all_given_back(made)


def test_one_that_goes_when_it_has_lost_its_place_to_the_next_step_takes_nobody_with_it():
    # The step that runs still brings a token of it, which nobody waits for.
    engine = llm(ONE_S, blocks=8, async_scheduling=True)
    reader = Reader(
        (0.0, submit("other", 12, 9)), (0.0, submit("victim", 12, 9)), (4.5, Cancel("victim")),
    )  # fmt: skip

    made = read(reader, serving(engine=engine, retry=NoRetry()), until_s=4.5 - 1e-3)
    assert is_preempted_ahead(made)
    made.runtime.run(until_s=60.0)

    assert reader.reply("victim").outcome == "cancelled"
    assert reader.reply("other").outcome == "completed"
    assert reader.tokens("other") == list(range(9))
    demand_all_given_back(made)


def test_of_a_cancel_and_an_end_at_one_instant_only_one_counts():
    for at_s in (3.0 - 1e-9, 3.0, 3.0 + 1e-9):
        reader = Reader(asked("r", 0.0, 4, 3), (at_s, Cancel("r")))

        made = read(reader, serving(ONE_S))

        assert reader.reply("r").outcome == ("completed" if at_s > 3.0 else "cancelled")
        demand_all_given_back(made)


def test_a_cancelled_sequence_leaves_its_prompt_in_the_cache_for_others():
    shared = {"blocks": (1, 2, 3), "block_tokens": 4}
    reader = Reader(
        asked("r", 0.0, 12, 20, **shared), (4.5, Cancel("r")), asked("next", 6.0, 12, 1, **shared)
    )

    read(reader, serving(ONE_S))

    assert reader.reply("next").usage.cached_tokens == 8


# --- replicas fail -------------------------------------------------------------------------------------------

CRASH = Fault(at_s=2.5, kind="crash", replica="replica/0")
HANG = Fault(at_s=2.5, kind="hang", replica="replica/0")
CUT = Fault(at_s=2.5, kind="partition", replica="replica/0")


@pytest.mark.parametrize("fault", [CRASH, HANG, CUT], ids=lambda fault: fault.kind)
def test_a_stream_whose_replica_dies_goes_on_elsewhere_without_a_repeated_or_missing_token(fault):
    reader = Reader((0.0, submit("r", 4, 12)))

    made = read(reader, serving(ONE_S, replicas=2, retry=RETRY), faults=faults(fault))

    reply = reader.reply("r")
    assert (reply.outcome, reply.attempts, reply.replica) == ("completed", 2, "replica/1")
    assert reader.tokens("r") == list(range(12))
    assert reader.starts("r") == list(range(12)), "each on its own, none before the one it follows"
    assert reply.usage.output_tokens == 12
    assert reply.result.tensor.tolist() == list(range(12))
    demand_all_given_back(made)


def test_a_resumed_stream_computes_prompt_and_answer_so_far_and_only_the_rest_of_the_answer():
    reader = Reader((0.0, submit("r", 4, 12)))

    read(reader, serving(ONE_S, replicas=2, retry=RETRY), faults=faults(CRASH))

    times = [at_s for at_s, _ in reader.streamed["r"]]
    again_s = 2.5 + 0.2  # it was seen at once, and tried again after the back-off
    assert times == pytest.approx([1.0, 2.0] + [again_s + step for step in range(1, 11)])


def test_without_a_retry_a_stream_whose_replica_dies_ends_with_one_clear_error():
    reader = Reader((0.0, submit("r", 4, 12)), (5.0, submit("next", 4, 2)))

    made = read(reader, serving(ONE_S, replicas=2, retry=NoRetry()), faults=faults(CRASH))

    assert reader.reply("r").outcome == "failed"
    assert reader.reply("r").detail == "replica-lost: killed by a fault (SIGKILL)"
    assert reader.tokens("r") == [0, 1]
    assert reader.reply("next").outcome == "completed"
    demand_all_given_back(made)


def test_without_a_stream_the_answer_begins_anew_and_its_first_token_is_that_of_the_attempt_that_completes():
    run = play_out(
        trace_of(asks("r", 0.0, 4, 12)), serving(ONE_S, replicas=2, retry=RETRY), faults=faults(CRASH)
    )

    assert column(run, "ttft_s")["r"] == pytest.approx(2.7 + 1.0)
    assert column(run, "e2e_s")["r"] == pytest.approx(2.7 + 12.0)


def test_a_short_hang_is_a_gap_in_the_stream_and_nothing_else():
    reader = Reader((0.0, submit("r", 4, 6)))
    hang = Fault(at_s=2.5, kind="hang", replica="replica/0", for_s=1.2)

    read(reader, serving(ONE_S, probe_interval_s=50.0), faults=faults(hang))

    assert [at_s for at_s, _ in reader.streamed["r"]] == pytest.approx([1.0, 2.0, 3.7, 4.7, 5.7, 6.7])
    assert reader.reply("r").usage.itl_max_s == pytest.approx(1.7)


@pytest.mark.parametrize("stream", [False, True])
def test_while_a_replica_is_slow_each_of_its_steps_takes_so_many_times_as_long(stream):
    slow = Fault(at_s=2.5, kind="slow", replica="replica/0", factor=3.0, for_s=4.0)

    run = play_out(trace_of(asks("r", 0.0, 4, 6)), serving(ONE_S), faults=faults(slow), stream=stream)

    # Tokens at 1, 2, 5, 8 (the step that began at 5 is as slow as when it ended), 9 and 10 s.
    assert column(run, "e2e_s")["r"] == pytest.approx(10.0)
    assert column(run, "itl_max_s")["r"] == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(25))
def test_a_lossy_network_loses_no_token_of_a_stream_and_repeats_none(seed):
    reader = Reader(*((0.3 * number, submit(f"r{number}", 4, 6)) for number in range(4)))
    drop = Fault(at_s=0.2, kind="drop", replica="replica/0", probability=0.4, for_s=2.0)
    spec = serving(
        replicas=2, retry=ExponentialBackoff(max_attempts=20, budget_ratio=None), failed_grace_s=60.0
    )

    made = read(reader, spec, faults=faults(drop), seed=seed)

    assert made.runtime.lost > 0
    for number in range(4):
        assert reader.reply(f"r{number}").outcome == "completed"
        assert reader.tokens(f"r{number}") == list(range(6))
    demand_all_given_back(made)


def test_when_only_the_end_of_a_stream_is_lost_no_token_is_added_to_it():
    found = 0
    for seed in range(30):
        reader = Reader((0.0, submit("r", 4, 5)))
        drop = Fault(at_s=0.05, kind="drop", replica="replica/0", probability=0.4, for_s=1.0)

        read(reader, serving(replicas=2, retry=RETRY), faults=faults(drop), seed=seed, until_s=6.0)

        reply = reader.reply("r")
        assert reader.tokens("r") == list(range(5)), seed
        assert reply.usage.output_tokens == 5
        found += reply.attempts == 2 and reply.service_s == 0.0  # nothing was left to run
    assert found, "the scenario does not do what it says"


@pytest.mark.parametrize(("asked_for", "whole"), [(None, 3), (5, 5), (1, 1), (0, 1)])
def test_an_engine_knows_when_what_it_is_to_resume_is_the_whole_answer(asked_for, whole):
    engine = llm(default_output_tokens=3)

    for had in range(7):
        work = Work(Request("r", 0.0), 2, asked_for, resume=tuple(range(had)))
        assert engine.answered(work) == (had >= whole)


@pytest.mark.parametrize("seed", range(8))
def test_of_requests_that_were_sent_together_each_gets_its_own_answer_whichever_answers_are_lost(seed):
    trace = trace_of(*(asks(f"r{number}", 0.0, 4, 1 + number % 3) for number in range(8)))
    drop = Fault(at_s=0.05, kind="drop", replica="replica/0", probability=0.5, for_s=1.0)
    spec = serving(batching=Window(max_batch=8, window_s=0.01), retry=ExponentialBackoff(max_attempts=20))

    run = play_out(trace, spec, faults=faults(drop), seed=seed)

    assert run.manifest.counters["lost_messages"] > 0
    assert column(run, "generated_tokens") == {f"r{number}": 1 + number % 3 for number in range(8)}


def test_a_network_that_reorders_messages_repeats_no_token():
    network = NetworkModel(delay_s=0.02, jitter_s=0.3, reorder=True)
    for seed in range(3):
        reader = Reader(*((0.1 * number, submit(f"r{number}", 4, 10)) for number in range(4)))

        read(reader, serving(replicas=2, network=network), seed=seed, until_s=12.0)

        for number in range(4):
            assert sorted(reader.tokens(f"r{number}")) == list(range(10))


# --- engines fail --------------------------------------------------------------------------------------------


class FaultyEngine(EmulatedLlmEngine):
    """On one replica one step, by its number, ends in an error; or never ends."""

    where: str = "replica/0"
    raises_at: int = 0
    stalls_at: int = 0

    def run_step(self, work):
        if self._ctx.address == self.where and work.number in (self.raises_at, self.stalls_at):
            work.most = 1
            if work.number == self.raises_at:
                self._ctx.after(1.0, StepRan(work.number, 1, 1.0, 1.0, 1.0, error="CUDA error: out of luck"))
            return
        super().run_step(work)


def faulty(raises_at=0, stalls_at=0, **changes):
    return serving(engine=llm(ONE_S, cls=FaultyEngine, raises_at=raises_at, stalls_at=stalls_at), **changes)


SHARED = {"blocks": (1, 2, 3), "block_tokens": 4}


def test_a_step_that_raises_fails_those_that_are_part_of_it_and_the_engine_goes_on():
    trace = trace_of(
        asks("a", 0.0, 12, 9, **SHARED),
        asks("b", 0.5, 4, 9),
        asks("waits", 0.6, 4, 3),
        asks("next", 6.0, 12, 2, **SHARED),
    )

    run = play_out(trace, faulty(raises_at=3, iteration=VllmTokenBudget(max_sequences=2), retry=NoRetry()))

    assert column(run, "outcome") == {"a": "failed", "b": "failed", "waits": "completed", "next": "completed"}
    assert column(run, "detail")["a"] == "engine-error: CUDA error: out of luck"
    assert column(run, "ended_s") == {"a": 3.0, "b": 3.0, "waits": 6.0, "next": 8.0}
    assert column(run, "cached_tokens")["next"] == 0, "what a failed step computed is not to be trusted"


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_part_of_a_step_that_raises_is_tried_again(stream):
    reader = Reader((0.0, submit("r", 4, 8))) if stream else Reader(asked("r", 0.0, 4, 8))

    made = read(reader, faulty(raises_at=2, retry=RETRY))

    assert reader.reply("r").outcome == "completed"
    assert reader.reply("r").attempts == 2
    assert reader.tokens("r") == (list(range(8)) if stream else [])
    demand_all_given_back(made)


def test_a_sequence_that_was_cancelled_during_a_step_that_raises_is_out_once():
    reader = Reader(asked("r", 0.0, 4, 8), (1.5, Cancel("r")), asked("next", 1.6))

    made = read(reader, faulty(raises_at=2, retry=NoRetry()))

    assert reader.reply("r").outcome == "cancelled"
    assert reader.reply("next").outcome == "completed"
    demand_all_given_back(made)


def test_the_deep_probe_finds_an_engine_that_stalls_and_its_replica_is_replaced():
    reader = Reader((0.0, submit("r", 4, 8)), (0.0, submit("other", 4, 3)))
    spec = faulty(
        stalls_at=3, replicas=2, retry=RETRY, deep_probe_interval_s=1.0, probe_interval_s=0.5, probe_timeout_s=5.0,
        failed_grace_s=0.5,
    )  # fmt: skip

    made = read(reader, spec)

    assert reader.reply("r").outcome == "completed"
    assert reader.tokens("r") == list(range(8))
    assert reader.reply("r").replica == "replica/1"
    assert sorted(replicas(made)) == ["replica/1", "replica/2"]
    demand_all_given_back(made)


def test_a_shallow_probe_does_not_see_that_an_engine_stalls():
    reader = Reader((0.0, submit("r", 4, 8)))

    made = read(reader, faulty(stalls_at=3, replicas=2, retry=RETRY))

    assert "r" not in reader.replies
    assert sorted(replicas(made)) == ["replica/0", "replica/1"]


def test_a_deep_probe_takes_part_in_a_step_and_leaves_nothing_behind():
    made = read(Reader((0.0, submit("r", 4, 20))), serving(deep_probe_interval_s=0.7), until_s=20.0)

    demand_all_given_back(made)
    assert made.telemetry.counters["late_probe_answers"] == 0


def test_a_replica_that_fails_to_load_is_replaced_by_one_that_does():
    failing = faults(CRASH, Fault(at_s=0.0, kind="fail-load"))

    run = play_out(
        trace_of(asks("r", 0.0, 4, 5), asks("late", 3.0, 4, 2)), serving(ONE_S, retry=RETRY), faults=failing
    )

    assert set(column(run, "outcome").values()) == {"completed"}
    assert [state for _, state in states(run, "replica/1")][-1] == "failed"
    assert set(column(run, "replica").values()) == {"replica/2"}


# --- replicas go ---------------------------------------------------------------------------------------------


def test_a_replica_that_drains_finishes_what_it_has_and_then_stops():
    trace = trace_of(asks("a", 0.0, 4, 6), asks("b", 0.0, 4, 9), asks("late", 3.0, 4, 2))
    preempt = Fault(at_s=2.5, kind="preempt", replica="replica/0", notice_s=60.0)

    run = play_out(trace, serving(ONE_S), faults=faults(preempt))

    assert column(run, "attempts") == {"a": 1, "b": 1, "late": 1}
    assert column(run, "replica") == {"a": "replica/0", "b": "replica/0", "late": "replica/1"}
    ended = column(run, "ended_s")
    assert states(run, "replica/0") == [(0.0, "ready"), (2.5, "draining"), (ended["b"], "stopped")]


def test_what_is_not_finished_when_a_draining_replica_is_killed_goes_on_elsewhere():
    reader = Reader((0.0, submit("r", 4, 9)))
    preempt = Fault(at_s=2.5, kind="preempt", replica="replica/0", notice_s=3.0)

    made = read(reader, serving(ONE_S, replicas=2, retry=RETRY), faults=faults(preempt))

    assert reader.tokens("r") == list(range(9))
    assert reader.reply("r").replica == "replica/1"
    demand_all_given_back(made)


class WaitsAndRefuses(IterationPolicy):
    """Wait until 2 s, and then for ever."""

    def plan(self, waiting, running, kv, now_s):
        return Wait(2.0) if now_s < 2.0 else Wait()


def test_a_draining_replica_stops_when_the_last_that_it_has_is_refused():
    preempt = Fault(at_s=1.0, kind="preempt", notice_s=60.0)
    spec = serving(iteration=WaitsAndRefuses(), retry=NoRetry())

    run = play_out(trace_of(asks("r"), asks("late", 3.0)), spec, faults=faults(preempt))

    assert states(run, "replica/0")[-1] == (2.0, "stopped")
    assert column(run, "detail")["r"] == "refused: waits-and-refuses does not admit it into an empty cache"


# --- policies fail -------------------------------------------------------------------------------------------


class NamesNobody(IterationPolicy):
    def plan(self, waiting, running, kv, now_s):
        return Step(prefill=((77, 1),))


class Breaks(IterationPolicy):
    def plan(self, waiting, running, kv, now_s):
        raise ZeroDivisionError("division by zero")


def test_a_policy_that_misbehaves_ends_the_run_with_an_error_that_names_it_and_when():
    with pytest.raises(
        PolicyError, match=r"names-nobody named sequence 77, which is not here .* at 0\.250000 s"
    ):
        play(arrivals(0.25), serving(iteration=NamesNobody()))
    with pytest.raises(
        PolicyError,
        match=r"breaks raised ZeroDivisionError: division by zero \(asked about 1 waiting and 0 running",
    ):
        play(arrivals(0.25), serving(iteration=Breaks()))
