"""What measured tables and profiles say, and what is said between and beyond their points."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import FleetError
from fleet.engines import ProfiledSteps, StepPoint, StepProfile
from fleet.engines.latency.steps.fitted import fit_steps
from fleet.engines.latency.tables.attention_table import AttentionTable
from fleet.engines.latency.tables.kernels import read_kernel_tables
from tests.engines.step_tables import (
    CHUNKS,
    CONTEXTS,
    DECODES,
    LAYERS,
    LENGTHS,
    attention_us,
    dense_us,
    make_shape,
    sequence_us,
    write_tables,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def exact(directory):
    return ProfiledSteps(profile=str(directory), layers=LAYERS, graph_tokens=())


@pytest.fixture(scope="module")
def attention(directory):
    return AttentionTable(read_kernel_tables(directory).attention_us)


# --- a step from its kernels -------------------------------------------------------------------------------


def test_a_step_is_its_kernels_each_as_often_as_it_runs(exact):
    chunk, context, decodes, length = 256, 512, 8, 1024
    tokens = chunk + decodes  # between two points, where these kernels are straight lines
    expected_us = (
        dense_us("embedding", tokens)
        + dense_us("final_layernorm", tokens)
        + LAYERS * (2 * dense_us("layernorm", tokens) + dense_us("qkv_proj", tokens))
        + LAYERS * attention_us(chunk, context, decodes, length)
        + sum(sequence_us(kernel, decodes + 1) for kernel in ("lm_head", "sampler"))
    )

    assert exact.step_s(make_shape([(chunk, context)], [length] * decodes)) == pytest.approx(
        expected_us / 1e6
    )


def test_a_step_is_padded_to_the_next_captured_size_and_not_beyond_the_last(directory, exact):
    padded = ProfiledSteps(profile=str(directory), layers=LAYERS, graph_tokens=(64, 512))

    def products_s(model, tokens):
        return model.step_s(make_shape([(tokens, 0)])) - exact.step_s(make_shape([(tokens, 0)]))

    assert products_s(padded, 512) == products_s(padded, 700) == 0.0
    assert products_s(padded, 256) == pytest.approx(LAYERS * (0.3 + 0.02) * (512 - 256) / 1e6)


def test_layers_are_those_of_the_model_that_the_directory_names(directory, tmp_path):
    shape = make_shape(lengths=[100])
    known, given = ProfiledSteps(profile=str(directory)), ProfiledSteps(profile=str(directory), layers=32)

    assert known.step_s(shape) == given.step_s(shape)
    with pytest.raises(ValueError, match="how many layers has 'somebody/Something'"):
        ProfiledSteps(profile=str(write_tables(tmp_path, model="somebody/Something")))


def test_moved_blocks_take_what_the_link_of_the_named_device_takes(exact):
    still, moving = (exact.step_s(make_shape(lengths=[10], moved_blocks=blocks)) for blocks in (0, 10))

    assert moving - still == pytest.approx(10 * 16 * 131_072 / 32e9)


def test_overhead_counts_once_a_step(directory, exact):
    slower = ProfiledSteps(profile=str(directory), layers=LAYERS, graph_tokens=(), overhead_s=0.5)
    shape = make_shape(lengths=[100, 200])

    assert slower.step_s(shape) - exact.step_s(shape) == pytest.approx(0.5)
    assert slower.span_s(shape, 7) - exact.span_s(shape, 7) == pytest.approx(3.5)


# --- attention between the measured points -----------------------------------------------------------------


@pytest.mark.parametrize("decodes", DECODES)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_measured_batch_takes_what_was_measured(attention, decodes, length):
    assert attention.step_us((), decodes, decodes * length, length) == pytest.approx(
        attention_us(0, 0, decodes, length)
    )


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_measured_chunk_takes_what_was_measured_alone_and_beside_decodes(attention, chunk, context):
    assert attention.step_us(((chunk, context),), 0, 0, 0) == pytest.approx(
        attention_us(chunk, context, 0, 0)
    )
    assert attention.step_us(((chunk, context),), 2, 2048, 1024) == pytest.approx(
        attention_us(chunk, context, 2, 1024)
    )


def test_batches_that_were_not_measured_beside_a_chunk_lie_on_the_line_through_those_that_were(attention):
    assert attention.step_us(((64, 0),), 32, 32 * 1024, 1024) == pytest.approx(attention_us(64, 0, 32, 1024))


def test_a_batch_takes_no_less_than_its_longest_sequence_alone(attention):
    alone = attention.step_us(((64, 0),), 1, 8192, 8192)

    assert attention.step_us(((64, 0),), 4, 8192 + 3 * 16, 8192) == pytest.approx(alone)


def test_where_the_sum_decides_it_does_not_matter_who_is_longest(attention):
    even, uneven = (attention.step_us((), 32, 32 * 1024, longest) for longest in (1024, 4000))

    assert even == uneven


@given(
    chunk=st.integers(1, 5000),
    context=st.integers(0, 9000),
    decodes=st.integers(1, 100),
    mean=st.integers(0, 20_000),
)
@settings(deadline=None)
def test_time_does_not_jump_anywhere(attention, chunk, context, decodes, mean):
    def at(chunk, context, total):
        longest = -(-total // decodes)
        return [
            attention.step_us(prefills, decodes, total, longest)
            for prefills in ((), ((chunk, context),), ((chunk, context), (300, 100)))
        ]

    total = mean * decodes
    here = at(chunk, context, total)
    for near in (at(chunk + 1, context, total), at(chunk, context + 1, total), at(chunk, context, total + 1)):
        # One more token attends to all before it (1e-3 us each; a line over a convex curve may rise twice as fast),
        # or is attended to by the whole chunk; in decodes it is read at 0.02 us at most.
        slack = 0.05 + 4e-3 * (context + chunk + 4096)
        assert near == pytest.approx(here, rel=1e-9, abs=slack)


def test_of_several_prefills_each_takes_its_time_and_all_share_one_launch(attention):
    launch = attention_us(16, 0, 0, 0)
    both = attention.step_us(((256, 0), (1024, 512)), 0, 0, 0)

    assert both == pytest.approx(attention_us(256, 0, 0, 0) + attention_us(1024, 512, 0, 0) - launch)


def test_a_chunk_beyond_the_largest_takes_several_on_top_of_each_other(attention):
    twice = attention.step_us(((2048, 0),), 0, 0, 0)

    # Context 1024 is on a line between two measured ones, along which this formula is straight.
    assert twice == pytest.approx(attention_us(1024, 0, 0, 0) + attention_us(1024, 1024, 0, 0))


# --- mistakes ----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(tmp_path, directory):
    with pytest.raises(ValueError, match=r"attention\.csv: No such file"):
        ProfiledSteps(profile=str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot read the profile .*nowhere"):
        ProfiledSteps(profile=str(tmp_path / "nowhere"))
    for name in ("dense.csv", "per_sequence.csv"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "attention.csv").write_text("prefill_chunk,kv_prefill,n_decode,time_us\n0,0,1,2.5\n")
    with pytest.raises(ValueError, match=r"attention\.csv has no column 'kv_decode'"):
        ProfiledSteps(profile=str(tmp_path), layers=1)


def test_a_profile_that_changed_since_is_refused(tmp_path):
    before = ProfiledSteps(profile=str(write_tables(tmp_path)))
    write_tables(tmp_path, noise=0.1)

    with pytest.raises(ValueError, match="has changed"):
        before.fresh()


# --- the published tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", ["off", "on"])
@pytest.mark.parametrize("name", ["rtx4090", "rtxpro6000"])
@given(lengths=st.lists(st.integers(0, 40_000), min_size=1, max_size=300), steps=st.integers(1, 1500))
@settings(deadline=None, max_examples=30)
def test_spans_of_the_published_tables_are_the_sum_of_their_steps(shared_trace, name, skew, lengths, steps):
    model = ProfiledSteps(profile=str(shared_trace(f"llmservingsim/{name}-llama-3.1-8b/profile")), skew=skew)
    shape = make_shape(lengths=lengths)
    total = sum(model.step_s(shape.after(step)) for step in range(steps))

    assert model.span_s(shape, steps) == pytest.approx(total, rel=1e-9, abs=0.0)


# --- steps of an engine that runs here ---------------------------------------------------------------------


def made_profile(seconds) -> StepProfile:
    points = [
        StepPoint(chunk, context, decodes, decodes * length, seconds(chunk, context, decodes, decodes * length))
        for chunk in (0, 16, 64, 256) for context in ((0, 128, 512) if chunk else (0,))
        for decodes in (0, 1, 2, 4, 8, 16) for length in ((32, 128, 512) if decodes else (0,))
        if chunk or decodes
    ]  # fmt: skip
    return StepProfile(engine={}, repeats=1, load_s=0.0, machine={}, versions={}, points=tuple(points))


def measured_s(chunk, context, decodes, total):
    """Weights or arithmetic, whichever takes longer; attention on top."""
    tokens = chunk + decodes
    return (
        max(0.02, 0.02 * tokens / 64)
        + 2e-7 * chunk * (context + (chunk + 1) / 2)
        + 5e-4 * decodes
        + 1e-6 * total
    )


def test_a_fit_finds_a_formula_of_its_own_form_again():
    fitted = fit_steps(made_profile(measured_s).points)

    assert max(map(abs, fitted.errors)) < 1e-6
    assert fitted.step_s(make_shape([(128, 256)], [300] * 3)) == pytest.approx(
        measured_s(128, 256, 3, 900), rel=1e-6
    )


def test_a_fit_finds_what_one_masked_product_over_all_keys_takes():
    def masked_s(chunk, context, decodes, total):
        tokens = chunk + decodes
        return measured_s(chunk, context, decodes, total) + 3e-7 * tokens * (tokens + context + total)

    fitted = fit_steps(made_profile(masked_s).points)

    assert max(map(abs, fitted.errors)) < 1e-6
    assert fitted.step_s(make_shape([(128, 256), (20, 10)], [300] * 3)) > fitted.step_s(
        make_shape([(128, 256)], [300] * 3)
    ) + fitted.step_s(make_shape([(20, 10)])) - fitted.step_s(make_shape([(1, 0)]))


def test_spans_of_a_fit_are_the_sum_of_their_steps():
    fitted = fit_steps(made_profile(lambda *point: measured_s(*point) + 1e-6 * point[2] * point[3]).points)
    shape = make_shape(lengths=[100, 40, 900])

    assert fitted.cross_s > 0.0
    assert fitted.span_s(shape, 200) == pytest.approx(
        sum(fitted.step_s(shape.after(step)) for step in range(200)), rel=1e-9
    )


def test_a_fit_to_noise_has_no_negative_part_and_never_falls():
    fitted = fit_steps(made_profile(lambda *point: 0.01 + hash(point) % 97 / 1000).points)
    sizes = [fitted.step_s(make_shape([(tokens, 0)])) for tokens in range(1, 400)]

    assert sizes == sorted(sizes)
    assert min(fitted.prefill_s, fitted.pair_s, fitted.decode_s, fitted.context_s) >= 0


def test_a_profile_is_read_back_as_it_was_saved_and_makes_steps(tmp_path):
    path = tmp_path / "steps.json"
    profile = made_profile(measured_s)
    profile.save(path)
    model = ProfiledSteps(profile=str(path))
    shape = make_shape(lengths=[100, 40])

    assert StepProfile.load(path) == profile
    assert model.step_s(shape) == fit_steps(profile.points).step_s(shape)
    assert model.span_s(shape, 50) == pytest.approx(
        sum(model.step_s(shape.after(step)) for step in range(50))
    )
    with pytest.raises(FleetError, match="give `block_move_s`"):
        model.step_s(make_shape(lengths=[10], moved_blocks=1))


def test_a_file_that_is_no_profile_says_so(tmp_path):
    path = tmp_path / "steps.json"
    path.write_text('{"points": []}')

    with pytest.raises(ValueError, match=r"steps\.json is not a profile of an engine's steps"):
        ProfiledSteps(profile=str(path))
