"""Laws of the step latency models and of what they are derived from."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import FleetError
from fleet.engines import (
    DEVICES,
    MODELS,
    AffineSteps,
    DeviceSpec,
    KvSpec,
    ModelSpec,
    ProfiledSteps,
    RooflineSteps,
    StepLatency,
    StepShape,
)
from policies.building import build
from tests.engines.step_tables import length_lists, make_shape, prefill_lists, write_runs, write_tables

TINY = ModelSpec(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=1000)
SLOW = DeviceSpec(1e12, 1e10, memory_bytes=1 << 30, host_bytes_per_s=1e9, peer_bytes_per_s=2e9)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One of each kind, and tables that fall here and there as measured ones do."""
    tables = str(write_tables(tmp_path_factory.mktemp("tables"), noise=0.2))
    runs = str(write_runs(tmp_path_factory.mktemp("runs") / "runs.csv", noise=0.2))
    return {
        "affine": AffineSteps(
            base_s=0.01,
            per_prefill_token_s=1e-4,
            per_decode_s=1e-3,
            per_context_token_s=1e-6,
            per_moved_block_s=1e-4,
        ),
        "roofline": RooflineSteps(device="h100", model="llama-3.1-8b", overhead_s=0.001),
        "roofline on two": RooflineSteps(device="a100", model="llama-3.1-70b", tensor_parallel=2),
        "tables": ProfiledSteps(profile=tables),
        "tables with skew": ProfiledSteps(profile=tables, skew="on"),
        "prompts and tokens": ProfiledSteps(profile=runs, block_move_s=1e-4),
    }


KINDS = ("affine", "roofline", "roofline on two", "tables", "tables with skew", "prompts and tokens")


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=length_lists, steps=st.integers(0, 2000), outputs=st.integers(0, 60))
@settings(deadline=None)
def test_a_span_is_the_sum_of_its_steps(models, kind, lengths, steps, outputs):
    shape = make_shape(lengths=lengths, outputs=outputs)

    assert models[kind].span_s(shape, steps) == pytest.approx(
        math.fsum(models[kind].step_s(shape.after(step)) for step in range(steps)), rel=1e-9, abs=0.0
    )


@pytest.mark.parametrize("kind", KINDS)
@given(
    shape=st.builds(make_shape, prefill_lists, length_lists),
    more=st.tuples(*[st.sampled_from([0, 1, 17, 3000])] * 7),
    added=st.sampled_from([(), ((1, 0),), ((300, 40),)]),
)
@settings(deadline=None)
def test_a_step_takes_no_less_when_anything_in_it_grows(models, kind, shape, more, added):
    chunk, context, decodes, contexts, longest, outputs, moved = more
    grown = StepShape(
        tuple((count + chunk, before + context) for count, before in shape.prefills) + added,
        shape.decodes + decodes,
        shape.decode_context_tokens + contexts,
        shape.longest_context_tokens + min(longest, contexts),
        shape.outputs + outputs,
        shape.moved_blocks + moved,
    )

    assert models[kind].step_s(shape) <= models[kind].step_s(grown) * (1 + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(prefills=prefill_lists, lengths=length_lists)
@settings(deadline=None)
def test_a_step_takes_time_and_a_copy_says_the_same(models, kind, prefills, lengths):
    shape = make_shape(prefills, [*lengths, 10])
    seconds = models[kind].step_s(shape)

    assert 0 < seconds < 1e4
    assert models[kind].fresh().step_s(shape) == seconds


@pytest.mark.parametrize(
    "table",
    [
        {"latency": "affine", "base_s": 0.01},
        {"latency": "roofline", "device": "l4", "model": "smollm2-135m"},
        {"latency": "roofline", "device": {"flops_per_s": 1e12, "bytes_per_s": 1e11}, "model": "mistral-7b"},
    ],
)
def test_a_model_is_built_from_a_table(table):
    assert build(StepLatency, table).step_s(make_shape(lengths=[10])) > 0


# --- roofline ----------------------------------------------------------------------------------------------


def test_a_step_with_few_tokens_takes_what_reading_weights_and_contexts_takes():
    model = MODELS["llama-3.1-8b"]
    seconds = RooflineSteps(device="h100", model=model).step_s(make_shape(lengths=[1000, 3000]))
    # All weights but the input embedding, of which a step reads a row a token, and the norms.
    read_bytes = 2 * (32 * model.layer_matrix_parameters + model.output_parameters) + 4002 * 131_072

    assert seconds == pytest.approx(read_bytes / 3.35e12)


def test_a_long_prefill_takes_its_operations():
    seconds = RooflineSteps(device="h100", model="llama-3.1-8b").step_s(make_shape([(8192, 0)]))
    pairs = 8192 * 8193 / 2
    operations = 2 * 32 * MODELS["llama-3.1-8b"].layer_matrix_parameters * 8192 + 4 * 32 * 32 * 128 * pairs

    assert seconds == pytest.approx(operations / 989.5e12)


@given(chunks=st.lists(st.integers(1, 2000), min_size=1, max_size=5))
def test_chunks_of_a_prompt_attend_to_as_many_pairs_as_the_whole(chunks):
    # Arithmetic only: memory so fast that nothing waits for it.
    model = RooflineSteps(device=DeviceSpec(1e12, 1e18), model=TINY)
    seconds, context = 0.0, 0
    for chunk in chunks:
        seconds += model.step_s(make_shape([(chunk, context)]))
        context += chunk

    assert seconds == pytest.approx(model.step_s(make_shape([(context, 0)])))


@given(prefills=prefill_lists, lengths=length_lists, ways=st.sampled_from([2, 4, 8]))
def test_more_devices_divide_the_work_and_add_what_they_tell_each_other(prefills, lengths, ways):
    shape = make_shape(prefills, [*lengths, 5])
    device = DeviceSpec(1e14, 1e12, peer_bytes_per_s=1e11)
    one = RooflineSteps(device=device, model="llama-3.1-8b").step_s(shape)
    many = RooflineSteps(device=device, model="llama-3.1-8b", tensor_parallel=ways).step_s(shape)
    tokens = shape.decodes + sum(count for count, _ in prefills)
    told_bytes = 2 * 32 * tokens * 4096 * 2

    assert many == pytest.approx(one / ways + told_bytes * 2 * (ways - 1) / ways / 1e11)


def test_moved_blocks_take_what_the_host_link_takes():
    model = RooflineSteps(device=SLOW, model=TINY)
    still, moving = (model.step_s(make_shape(lengths=[10], moved_blocks=blocks)) for blocks in (0, 8))

    assert moving - still == pytest.approx(8 * 16 * TINY.kv_bytes_per_token / 1e9)


def test_what_a_device_needs_and_does_not_say_is_named():
    bare = DeviceSpec(1e12, 1e10)

    with pytest.raises(FleetError, match="`host_bytes_per_s` is not given"):
        RooflineSteps(device=bare, model=TINY).step_s(make_shape(lengths=[1], moved_blocks=1))
    with pytest.raises(ValueError, match="tensor_parallel: needs the device's `peer_bytes_per_s`"):
        RooflineSteps(device=bare, model=TINY, tensor_parallel=2)
    with pytest.raises(ValueError, match=r"no model 'llama-9'; known: llama-3\.1-8b, "):
        RooflineSteps(device=bare, model="llama-9")


# --- specifications ----------------------------------------------------------------------------------------


def test_models_have_their_published_numbers_of_parameters():
    # As counted in the checkpoints' safetensors indices.
    assert {name: model.parameters for name, model in MODELS.items()} == {
        "llama-3.1-8b": 8_030_261_248,
        "llama-3.1-70b": 70_553_706_496,
        "qwen3-32b": 32_762_123_264,
        "qwen3-8b": 8_190_735_360,
        "mistral-7b": 7_241_732_096,
        "smollm2-135m": 134_515_008,
    }


def test_a_token_of_llama_takes_128_kib_of_cache():
    assert MODELS["llama-3.1-8b"].kv_bytes_per_token == 128 * 1024


def test_blocks_given_are_the_blocks_there_are():
    assert KvSpec(blocks=2588).total_blocks() == 2588


@given(
    model=st.sampled_from(sorted(MODELS)),
    device=st.sampled_from(sorted(DEVICES)),
    ways=st.sampled_from([1, 2, 4, 8]),
    share=st.floats(0.3, 1.0),
)
def test_weights_reserve_and_blocks_fill_the_share_of_memory_to_less_than_a_block(model, device, ways, share):
    spec = KvSpec(model=model, device=device, tensor_parallel=ways, gpu_memory_utilization=share)
    block_bytes = spec.block_bytes(MODELS[model])
    left_bytes = (
        share * DEVICES[device].memory_bytes - MODELS[model].weights_bytes / ways - spec.reserve_bytes
    )
    if left_bytes < 2 * block_bytes:
        with pytest.raises(ValueError, match="no room for a key-value cache"):
            spec.total_blocks()
    else:
        assert spec.total_blocks() == int(left_bytes // block_bytes) - 1  # the null block


def test_the_measured_cache_of_an_rtx_4090_is_what_is_left_beside_the_documented_reserve():
    spec = KvSpec(model="llama-3.1-8b", device="rtx-4090", reserve_bytes=1.2376e9)

    assert spec.total_blocks() == 2587


def test_a_head_is_not_divided_among_devices():
    one, eight, sixteen = (
        KvSpec(tensor_parallel=ways).block_bytes(MODELS["llama-3.1-8b"]) for ways in (1, 8, 16)
    )

    assert one == 8 * eight
    assert sixteen == eight


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "model and device missing"),
        ({"model": TINY}, "device missing"),
        ({"device": "h100"}, "model missing"),
    ],
)
def test_a_cache_of_unknown_size_says_what_is_missing(given, missing):
    with pytest.raises(ValueError, match=re.escape(missing)):
        KvSpec(**given).total_blocks()


def test_a_device_without_memory_is_asked_for_it():
    with pytest.raises(ValueError, match=r"device\.memory_bytes: missing"):
        KvSpec(model=TINY, device=DeviceSpec(1e12, 1e10)).total_blocks()
