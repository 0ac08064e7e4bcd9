"""Laws of the engine that serves a real language model, on a tiny one with random weights."""

import random
import subprocess
import sys
import threading
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.actor import FleetError
from fleet.engines import DeviceSignals
from fleet.engines.transformers.engine import TransformersEngine
from fleet.messages import LoadFinished, Payload, Work
from fleet.tokens.sequence import StepWork
from tests.engines.contexts import ThreadContext
from tests.engines.language_models import VOCABULARY, StepwiseReplica, greedy_answer, tiny_llama
from traces.schema import Request

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="needs the extra `llm`")

HERE = "tests.engines.language_models"


@pytest.fixture
def ctx():
    return ThreadContext()


def loaded(ctx, **parameters):
    defaults = {
        "model": f"{HERE}:tiny_llama", "blocks": 32, "block_tokens": 4, "max_step_tokens": 64, "device": "cpu",
        "threads": 1,
    }  # fmt: skip
    engine = TransformersEngine(**(defaults | parameters))
    engine.reset(seed=0)
    engine.load(ctx)
    assert ctx.receive() == LoadFinished()
    return engine


@pytest.fixture
def replica(ctx):
    return StepwiseReplica(loaded(ctx), ctx)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def shared_engines():
    """Largest step to engine and context; opening an engine's cache empties it."""

    @cache
    def engine(max_step_tokens):
        ctx = ThreadContext()
        return loaded(ctx, max_step_tokens=max_step_tokens), ctx

    return engine


def prompt(length, seed=0):
    return random.Random(seed).choices(range(VOCABULARY), k=length)


# --- the tokens -------------------------------------------------------------------------------------------


def test_an_answer_is_the_models_own(replica, model):
    sequence = replica.submit(prompt(11), output_tokens=9)

    assert replica.answer(sequence) == greedy_answer(model, prompt(11), 9)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("max_step_tokens", [4, 64])
def test_how_steps_are_cut_changes_no_token(shared_engines, model, max_step_tokens, seed):
    """Three sequences, prefilled in chunks of any size beside decodes, preempted at any time."""
    rng = random.Random(seed)
    replica = StepwiseReplica(*shared_engines(max_step_tokens))
    prompts = [prompt(rng.randint(1, 20), seed=rng.randint(0, 2)) for _ in range(3)]
    sequences = [replica.submit(ids, output_tokens=6) for ids in prompts]
    scheduler = replica.scheduler
    while scheduler.by_id:
        running = list(scheduler.running)
        preempt = [item for item in running if rng.random() < 0.05]
        prefill = [
            (item, rng.randint(1, item.remaining_tokens - replica.cache.cached_tokens(item)))
            for item in scheduler.by_id.values()
            if item not in preempt and item.remaining_tokens > 1 and rng.random() < 0.7
        ]
        # One that waits with a single token is prefilled too.
        prefill += [(item, 1) for item in scheduler.waiting if item.remaining_tokens == 1]
        decode = [item for item in running if item.remaining_tokens == 1 and item not in preempt]
        if prefill or decode:
            replica.step(prefill, decode, preempt)

    for sequence, ids in zip(sequences, prompts, strict=True):
        assert replica.answers[sequence.id] == greedy_answer(model, ids, 6)


def test_a_preempted_sequence_goes_on_without_repeating_a_token(replica, model):
    first, other = (
        replica.submit(prompt(9), output_tokens=8),
        replica.submit(prompt(7, seed=1), output_tokens=8),
    )
    replica.step(prefill=[(first, 9), (other, 7)])
    replica.step(decode=[first, other])
    replica.step(decode=[other], preempt=[first])
    assert (first.computed_tokens, first.total_tokens, first.blocks) == (0, 11, 0)

    replica.step(prefill=[(first, first.total_tokens - replica.cache.cached_tokens(first))], decode=[other])

    assert replica.run_to_end(first) == greedy_answer(model, prompt(9), 8)
    assert replica.answers[other.id] == greedy_answer(model, prompt(7, seed=1), 8)


def test_an_answer_begun_elsewhere_is_gone_on_with(replica, model):
    whole = greedy_answer(model, prompt(9), 8)
    sequence = replica.submit(prompt(9), output_tokens=8, resume=whole[:5])

    assert replica.answer(sequence) == whole


def test_a_step_larger_than_the_buffers_gives_the_same_tokens(ctx, model):
    replica = StepwiseReplica(loaded(ctx, max_step_tokens=5), ctx)
    sequences = [replica.submit(prompt(12, seed), output_tokens=4) for seed in range(3)]
    replica.step(prefill=[(sequence, 12) for sequence in sequences])

    for seed, sequence in enumerate(sequences):
        assert replica.run_to_end(sequence) == greedy_answer(model, prompt(12, seed), 4)


def test_shared_blocks_may_be_read_by_more_sequences_than_the_cache_has_room_for(ctx, model):
    """32 tokens of 60 are shared by five: 160 tokens are read in a step, of a cache of 60."""
    replica = StepwiseReplica(loaded(ctx, blocks=15), ctx)
    replica.answer(replica.submit(prompt(33), output_tokens=1))
    sequences = [replica.submit(prompt(33), output_tokens=4) for _ in range(5)]
    replica.step(prefill=[(sequence, 1) for sequence in sequences])

    assert {tuple(replica.run_to_end(item)) for item in sequences} == {
        tuple(greedy_answer(model, prompt(33), 4))
    }


def test_sampling_depends_on_the_seed_alone(ctx):
    def sampled(seed):
        engine = TransformersEngine(
            model=f"{HERE}:tiny_llama", blocks=32, block_tokens=4, device="cpu", threads=1, temperature=5.0
        )
        engine.reset(seed)
        engine.load(ctx)
        assert ctx.receive() == LoadFinished()
        replica = StepwiseReplica(engine, ctx)
        return replica.answer(replica.submit(prompt(5), output_tokens=12))

    assert sampled(1) == sampled(1) != sampled(2)


# --- when an answer ends ----------------------------------------------------------------------------------


def test_a_recorded_length_is_kept_to_whatever_the_end_token_says(ctx, model):
    answer = greedy_answer(model, prompt(6), 9)
    replica = StepwiseReplica(loaded(ctx, kwargs={"eos_token_id": answer[3]}), ctx)

    assert replica.answer(replica.submit(prompt(6), output_tokens=9)) == answer


def test_without_one_it_ends_with_the_end_token(ctx, model):
    answer = greedy_answer(model, prompt(6), 9)
    replica = StepwiseReplica(loaded(ctx, kwargs={"eos_token_id": answer[3]}), ctx)

    assert replica.answer(replica.submit(prompt(6))) == answer[: answer.index(answer[3]) + 1]


@pytest.mark.parametrize(
    ("resume", "output_tokens", "expected"),
    [((), None, False), ((9, 4), None, False), ((9, 8), None, True), ((9,) * 7, None, True), ((9, 8), 5, False),
     ((9, 4), 2, True)],
)  # fmt: skip
def test_tokens_of_an_earlier_attempt_may_be_the_whole_answer(ctx, resume, output_tokens, expected):
    """By its end token, by the most tokens allowed, or by its recorded length."""
    engine = loaded(ctx, kwargs={"eos_token_id": 8}, max_output_tokens=7)

    assert (
        engine.answered(Work(Request("r", 0.0, prompt_tokens=6), 2, output_tokens, resume=resume)) == expected
    )


@pytest.mark.parametrize(
    ("extra", "expected"), [(None, 7), ({"max_output_tokens": 3}, 3), ({"max_output_tokens": 30}, 7)]
)
def test_at_the_latest_it_ends_after_the_most_tokens_that_engine_and_request_allow(ctx, extra, expected):
    replica = StepwiseReplica(loaded(ctx, max_output_tokens=7), ctx)
    sequence = replica.submit(prompt(6), request=Request("r", 0.0, prompt_tokens=6, extra=extra))

    assert len(replica.answer(sequence)) == expected


def test_it_ends_where_the_models_context_does(ctx):
    replica = StepwiseReplica(loaded(ctx, kwargs={"max_position_embeddings": 10}), ctx)

    assert len(replica.answer(replica.submit(prompt(6)))) == 4


# --- the prompts ------------------------------------------------------------------------------------------


def test_a_prompt_that_is_made_up_shares_what_its_recorded_hashes_share(replica):
    first = replica.submit(request=Request("a", 0.0, 12, (1, 2, 3), 4), output_tokens=2)
    replica.answer(first)
    second = replica.submit(request=Request("b", 0.0, 12, (1, 2, 9), 4), output_tokens=2)

    assert replica.cache.cached_tokens(second) == 8


def test_a_longer_payload_is_cut_to_the_tokens_that_the_request_says(replica, model):
    sequence = replica.submit(prompt(20), request=Request("a", 0.0, prompt_tokens=8), output_tokens=3)

    assert replica.answer(sequence) == greedy_answer(model, prompt(20)[:8], 3)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Payload(tensor=np.array([1, 2, 3])), "request r says 5 prompt tokens; its payload has 3"),
        (Payload(tensor=np.array([[1, 2, 3, 4, 5]])), "one dimension of integers, not int64 of shape (1, 5)"),
        (Payload(tensor=np.array([1.0, 2, 3, 4, 5])), "one dimension of integers, not float64"),
        (Payload(tensor=np.array([1, 2, 3, 4, VOCABULARY])), "go from 0 to 399, not from 1 to 400"),
        (Payload(data=b"hello"), "request r has text, and the model no tokenizer"),
    ],
)
def test_a_prompt_that_cannot_be_fails_its_step_and_no_other(replica, payload, message):
    sequence = replica.submit(request=Request("r", 0.0, prompt_tokens=5), output_tokens=2)
    sequence.work = Work(sequence.request, 1, 2, payload)
    ran = replica.step(prefill=[(sequence, 5)])

    assert message in ran.error
    assert replica.cache.used_blocks == replica.cache.cached_blocks == 0
    assert len(replica.answer(replica.submit(prompt(5), output_tokens=2))) == 2


def test_the_tokens_of_a_prompt_can_be_counted_before_it_is_served(ctx):
    engine = loaded(ctx)
    seven = Payload(tensor=np.arange(7))

    assert engine.prompt_tokens(Work(Request("r", 0.0), 1, payload=seven)) == 7
    assert engine.prompt_tokens(Work(Request("r", 0.0, prompt_tokens=5), 1, payload=seven)) == 5
    assert engine.prompt_tokens(Work(Request("r", 0.0, prompt_tokens=9), 1)) == 9
    with pytest.raises(FleetError, match="request r says 9 prompt tokens; its payload has 7"):
        engine.prompt_tokens(Work(Request("r", 0.0, prompt_tokens=9), 1, payload=seven))
    with pytest.raises(FleetError, match="no tokenizer"):
        engine.prompt_tokens(Work(Request("r", 0.0), 1, payload=Payload(data=b"hello")))


# --- when things go wrong ---------------------------------------------------------------------------------


def test_cancelled_at_any_phase_it_leaves_nothing_behind(replica):
    waiting, prefilling, decoding = (replica.submit(prompt(8, seed), output_tokens=50) for seed in range(3))
    replica.step(prefill=[(prefilling, 3), (decoding, 8)])
    replica.step(decode=[decoding])
    for sequence in (waiting, prefilling, decoding):
        replica.scheduler.remove(sequence, 0.0)
    replica.scheduler.check()

    assert replica.cache.used_blocks == 0
    assert len(replica.engine._worker.runner.tokens) == 0
    assert replica.engine._worker.runner.scheduler.active_requests == {}


def test_one_cancelled_while_it_waits_after_a_preemption_is_forgotten_too(replica):
    first, second = (
        replica.submit(prompt(8), output_tokens=9),
        replica.submit(prompt(8, seed=1), output_tokens=9),
    )
    replica.step(prefill=[(first, 8), (second, 8)])
    replica.step(decode=[second], preempt=[first])
    replica.scheduler.remove(first, 0.0)
    replica.run_to_end(second)

    assert len(replica.engine._worker.runner.tokens) == 0


@pytest.fixture
def held_step(replica, monkeypatch):
    """Steps wait for the event that this gives."""
    go = threading.Event()
    forward = replica.engine._worker.runner._forward
    monkeypatch.setattr(
        replica.engine._worker.runner, "_forward", lambda batch: (go.wait(60), forward(batch))
    )
    yield go
    go.set()


def test_the_loop_goes_on_while_a_step_runs(replica, held_step):
    """Sequences come, others go, and questions are answered."""
    first, second = (
        replica.submit(prompt(8), output_tokens=9),
        replica.submit(prompt(8, seed=1), output_tokens=9),
    )
    held_step.set()
    replica.step(prefill=[(first, 8), (second, 8)])
    held_step.clear()
    replica.start(decode=[first])

    third = replica.submit(prompt(8), output_tokens=2)
    assert replica.cache.cached_tokens(third) == 4
    replica.scheduler.remove(second, 0.0)
    replica.scheduler.remove(first, 0.0)
    assert second.blocks == 0
    assert first.blocks == 3

    held_step.set()
    replica.finish()
    assert first.blocks == 0
    assert replica.cache.used_blocks == 0


def test_a_step_that_raises_fails_alone(replica, model, monkeypatch):
    runner = replica.engine._worker.runner
    kept = replica.submit(prompt(8, seed=1), output_tokens=6)
    lost = replica.submit(prompt(8), output_tokens=6)
    replica.step(prefill=[(kept, 8)])
    with monkeypatch.context() as patch:
        patch.setattr(runner._model.model.layers[1], "forward", lambda *_, **__: 1 / 0)
        ran = replica.step(prefill=[(lost, 5)])

    assert ran.error == "step of 1 sequences: ZeroDivisionError: division by zero"
    assert replica.run_to_end(kept) == greedy_answer(model, prompt(8, seed=1), 6)
    again = replica.submit(prompt(8), output_tokens=6)
    assert replica.answer(again) == greedy_answer(model, prompt(8), 6)
    assert replica.cache.used_blocks == 0


def test_a_plan_that_is_not_what_the_model_has_is_an_error(replica):
    sequence = replica.submit(prompt(8), output_tokens=6)
    replica.step(prefill=[(sequence, 8)])
    sequence.computed_tokens = 5

    replica.engine.run_step(StepWork(99, [], [sequence]))
    assert "planned with 5 tokens computed; the model has 8" in replica.ctx.receive().error


def test_the_least_recently_used_blocks_make_room(ctx):
    """Of 8 blocks, two prompts leave 3 each cached; the third needs 4."""
    replica = StepwiseReplica(loaded(ctx, blocks=8), ctx)
    for seed in range(2):
        replica.answer(replica.submit(prompt(12, seed), output_tokens=1))
    assert (replica.cache.cached_blocks, replica.cache.free_blocks) == (6, 8)
    third = replica.submit(prompt(14, seed=2), output_tokens=1)
    replica.answer(third)

    assert replica.cache.cached_tokens(replica.submit(prompt(13, seed=0))) == 4
    assert replica.cache.cached_tokens(replica.submit(prompt(13, seed=1))) == 12


def test_without_prefix_caching_nothing_is_shared_or_kept(ctx, model):
    replica = StepwiseReplica(loaded(ctx, prefix_caching=False), ctx)
    assert replica.answer(replica.submit(prompt(9), output_tokens=3)) == greedy_answer(model, prompt(9), 3)

    assert replica.cache.cached_blocks == replica.cache.used_blocks == 0
    assert replica.cache.cached_tokens(replica.submit(prompt(9))) == 0


# --- life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no-such-model", "no model 'no-such-model': name smollm2-135m, a folder, or package.module:name"),
        (f"{HERE}:nothing", f"cannot import {HERE}:nothing"),
        (f"{HERE}:sliding_mistral", "only models with full attention in every layer can be served"),
    ],
)
def test_a_load_that_fails_says_why_in_one_line(ctx, model, message):
    TransformersEngine(model=model, device="cpu").load(ctx)
    error = ctx.receive().error

    assert message in error
    assert "\n" not in error


def test_an_unloaded_engine_runs_nothing_and_says_so(replica):
    sequence = replica.submit(prompt(8), output_tokens=6)
    replica.engine.unload()

    with pytest.raises(FleetError, match="step 1 was given to an engine that is not loaded"):
        replica.step(prefill=[(sequence, 8)])
    replica.engine.forget(sequence)


def test_the_cpu_has_no_device_counters(ctx):
    assert loaded(ctx).signals() == DeviceSignals()


def test_a_saved_model_is_served_from_its_folder(ctx, model, tmp_path):
    model.save_pretrained(tmp_path)
    replica = StepwiseReplica(loaded(ctx, model=str(tmp_path)), ctx)

    assert replica.answer(replica.submit(prompt(6), output_tokens=4)) == greedy_answer(model, prompt(6), 4)


def test_naming_the_engine_loads_neither_torch_nor_transformers():
    code = (
        "import sys, fleet.engines.transformers.engine as e; e.TransformersEngine();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(ctx, model):
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    replica = StepwiseReplica(loaded(ctx, device="cuda"), ctx)
    sequences = [replica.submit(prompt(12, seed), output_tokens=8) for seed in range(3)]
    replica.step(prefill=[(sequence, 7) for sequence in sequences])
    replica.step(prefill=[(sequence, 5) for sequence in sequences])

    for seed, sequence in enumerate(sequences):
        assert replica.run_to_end(sequence) == greedy_answer(model, prompt(12, seed), 8)


# --- the real one -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_says_what_it_says_by_itself(ctx):
    """Two chats in one batch, their prompts in chunks beside each other's decodes, against `model.generate`."""
    from fleet.engines.transformers import smollm2

    try:
        smollm2.smollm2_file()
    except FleetError as error:
        pytest.skip(str(error))
    engine = loaded(
        ctx, model="smollm2-135m", blocks=16, block_tokens=16, max_step_tokens=32, max_output_tokens=12
    )
    runner, replica = engine._worker.runner, StepwiseReplica(engine, ctx)
    texts = ["What is the capital of France?", "Name three colours."]
    lengths = [
        engine.prompt_tokens(Work(Request("r", 0.0), 1, payload=Payload(data=text.encode())))
        for text in texts
    ]
    first, second = (
        replica.submit(text=text, request=Request(text, 0.0, prompt_tokens=length))
        for text, length in zip(texts, lengths, strict=True)
    )
    prompts = [
        runner.tokens.ids(sequence)[:length]
        for sequence, length in zip((first, second), lengths, strict=True)
    ]
    replica.step(prefill=[(first, 20), (second, 5)])
    replica.step(prefill=[(first, first.remaining_tokens), (second, 9)])
    while second.remaining_tokens > 1:
        replica.step(prefill=[(second, min(7, second.remaining_tokens))], decode=[first])
    answers = [replica.run_to_end(first), replica.run_to_end(second)]

    runner._model.set_attn_implementation("sdpa")
    for ids, answer in zip(prompts, answers, strict=True):
        whole = runner._model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        assert answer == whole[0, len(ids) :].tolist()
    assert "Paris" in smollm2.load_tokenizer().decode(answers[0])
