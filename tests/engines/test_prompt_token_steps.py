"""What a table of prompt and token times says of a step, and what is said between and beyond its runs."""

import csv
import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engines import ProfiledSteps, StepLatency
from policies.building import build
from tests.engines.step_tables import (
    RUN_BATCHES,
    RUN_HEADER,
    RUN_PROMPTS,
    length_lists,
    make_shape,
    prefill_lists,
    prompt_ms,
    run_row,
    token_ms,
    write_runs,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ProfiledSteps(profile=str(write_runs(tmp_path_factory.mktemp("runs") / "runs.csv")))


def written(tmp_path, rows, **choice) -> ProfiledSteps:
    return ProfiledSteps(profile=str(write_runs(tmp_path / "runs.csv", rows)), **choice)


def cross(**same):
    """The runs of all sizes, once."""
    return [run_row(prompt, 1, **same) for prompt in RUN_PROMPTS] + [
        run_row(512, sequences, **same) for sequences in RUN_BATCHES[1:]
    ]


# --- at the measured points --------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [128, 512, 2048, 8192, 32768])
def test_a_prefill_takes_the_median_prompt_time_of_its_tokens(model, tokens):
    assert model.step_s(make_shape([(tokens, 0)])) == pytest.approx(prompt_ms(tokens) / 1e3)


@pytest.mark.parametrize("sequences", RUN_BATCHES)
def test_a_batch_that_decodes_takes_the_median_token_time_of_its_size(model, sequences):
    assert model.step_s(make_shape(lengths=[512] * sequences)) == pytest.approx(
        token_ms(512, sequences) / 1e3
    )


@pytest.mark.parametrize("prompt", RUN_PROMPTS)
def test_a_sequence_alone_takes_the_median_token_time_after_its_prompt(model, prompt):
    assert model.step_s(make_shape(lengths=[prompt])) == pytest.approx(token_ms(prompt, 1) / 1e3)


# --- between and beyond them -------------------------------------------------------------------------------


def test_prompts_in_one_step_take_the_time_of_their_tokens_in_all(model):
    together = model.step_s(make_shape([(1000, 0), (500, 0), (548, 3000)]))

    assert together == model.step_s(make_shape([(2048, 0)]))


def test_the_longest_context_of_a_batch_adds_what_it_adds_to_one_sequence(model):
    even, uneven = model.step_s(make_shape(lengths=[512] * 16)), make_shape(lengths=[4608] + [512] * 15)

    # Between 2,048 and 8,192 tokens the formula is a straight line.
    assert model.step_s(uneven) - even == pytest.approx((token_ms(4608, 16) - token_ms(512, 16)) / 1e3)


def test_times_are_straight_between_points_and_go_on_beyond_the_last(model):
    assert model.step_s(make_shape([(5120, 0)])) == pytest.approx(prompt_ms(5120) / 1e3)
    assert model.step_s(make_shape([(100_000, 0)])) == pytest.approx(prompt_ms(100_000) / 1e3)
    assert model.step_s(make_shape(lengths=[512] * 40)) == pytest.approx(token_ms(512, 40) / 1e3)
    assert model.step_s(make_shape(lengths=[512] * 500)) == pytest.approx(token_ms(512, 500) / 1e3)
    assert model.step_s(make_shape(lengths=[50_000])) == pytest.approx(token_ms(50_000, 1) / 1e3)


def test_below_the_smallest_size_the_smallest_holds(model):
    assert model.step_s(make_shape([(1, 0)])) == model.step_s(make_shape([(128, 0)]))
    assert model.step_s(make_shape(lengths=[0])) == model.step_s(make_shape(lengths=[128]))


def test_a_step_of_both_takes_the_sum_less_the_pass_over_the_weights_that_they_share(model):
    both = model.step_s(make_shape([(4096, 0)], [512] * 16))

    assert both == pytest.approx((prompt_ms(4096) + token_ms(512, 16) - token_ms(128, 1)) / 1e3)


@given(prefills=prefill_lists, lengths=length_lists)
def test_a_step_of_both_lies_between_the_longer_and_the_sum(model, prefills, lengths):
    prefill_s, decode_s = model.step_s(make_shape(prefills)), model.step_s(make_shape(lengths=lengths))
    both_s = model.step_s(make_shape(prefills, lengths))

    assert max(prefill_s, decode_s) * (1 - 1e-12) <= both_s <= (prefill_s + decode_s) * (1 + 1e-12)


# --- which runs count --------------------------------------------------------------------------------------


def test_a_batch_that_ran_in_turns_does_not_count(tmp_path):
    turns = run_row(512, 64)
    turns[RUN_HEADER.index("prompt_time")] = 60.0  # of the first turn
    model = written(tmp_path, [*(row for row in cross() if row[3] < 64), turns])

    assert model.step_s(make_shape([(32768, 0)])) == pytest.approx(prompt_ms(32768) / 1e3)
    assert model.step_s(make_shape(lengths=[512] * 64)) == pytest.approx(token_ms(512, 64) / 1e3)


def test_of_runs_that_differ_in_their_output_the_shortest_counts(tmp_path):
    model = written(tmp_path, cross() + cross(output=256, factor=2.0) + cross(output=4096, factor=3.0))

    assert model.step_s(make_shape([(2048, 0)])) == pytest.approx(prompt_ms(2048) / 1e3)
    assert model.step_s(make_shape(lengths=[512] * 4)) == pytest.approx(token_ms(512, 4) / 1e3)


def test_where_one_prompt_and_several_have_as_many_tokens_the_median_lies_between(tmp_path):
    slower = [row if row[3] == 1 else run_row(row[2], row[3], factor=1.2) for row in cross()]
    model = written(tmp_path, slower)

    assert model.step_s(make_shape([(8192, 0)])) == pytest.approx(1.1 * prompt_ms(8192) / 1e3)


def test_where_a_measurement_falls_the_larger_before_it_is_kept(tmp_path):
    falling = [row if row[2] != 2048 else run_row(2048, 1, factor=0.1) for row in cross() if row[3] != 4]
    model = written(tmp_path, falling)

    assert model.step_s(make_shape([(2048, 0)])) == model.step_s(make_shape([(512, 0)]))
    assert model.step_s(make_shape(lengths=[2048])) == model.step_s(make_shape(lengths=[512]))


def test_a_table_of_one_prompt_size_knows_of_no_contexts(tmp_path):
    model = written(tmp_path, [run_row(512, sequences) for sequences in RUN_BATCHES])

    assert model.step_s(make_shape(lengths=[90_000])) == model.step_s(make_shape(lengths=[1]))


def test_a_table_without_whole_runs_and_with_a_byte_order_mark_is_read(tmp_path):
    path = write_runs(tmp_path / "runs.csv", [row[:9] + row[10:] for row in cross()])
    text = path.read_text().replace("e2e_time,", "")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())

    assert ProfiledSteps(profile=str(path)).step_s(make_shape([(512, 0)])) == pytest.approx(
        prompt_ms(512) / 1e3
    )


# --- which of several --------------------------------------------------------------------------------------


def test_what_was_measured_is_chosen_by_name_from_toml_as_from_python(tmp_path):
    rows = cross() + cross(device="slow", factor=2.0) + cross(device="slow", factor=4.0, ways=4)
    choice = {"hardware": "slow", "tensor_parallel": 8}
    model = written(tmp_path, rows, **choice)
    table = {"latency": "profiled", "profile": model.profile, "model": "llama", **choice}
    shape = make_shape([(512, 0)])

    assert model.step_s(shape) == pytest.approx(2.0 * prompt_ms(512) / 1e3)
    assert build(StepLatency, table).step_s(shape) == model.step_s(shape)
    # One choice leaves one: no need to say the rest.
    assert written(tmp_path, rows, tensor_parallel=4).step_s(shape) == 2.0 * model.step_s(shape)


def test_a_choice_that_is_missing_or_leaves_several_lists_what_there_is(tmp_path):
    rows = cross() + cross(device="slow") + cross(device="slow", ways=4)
    slow = 'model = "llama", hardware = "slow", tensor_parallel = 4 | 8'
    fast = 'model = "llama", hardware = "fast", tensor_parallel = 8'

    with pytest.raises(ValueError, match="has several models, devices") as several:
        written(tmp_path, rows)
    assert str(several.value).endswith(f"give {fast}; {slow}")
    with pytest.raises(ValueError, match="with hardware = 'slow': give") as slower:
        written(tmp_path, rows, hardware="slow")
    assert str(slower.value).endswith(slow)
    with pytest.raises(
        ValueError, match="nothing with hardware = 'h200', tensor_parallel = 2; it has"
    ) as none:
        written(tmp_path, rows, hardware="h200", tensor_parallel=2)
    assert str(none.value).endswith(f"{fast}; {slow}")


def test_other_kinds_of_profile_have_nothing_to_choose_from(tmp_path):
    (tmp_path / "steps.json").write_text("{}")

    with pytest.raises(ValueError, match=r"steps\.json is not a table of prompt and token times"):
        ProfiledSteps(profile=str(tmp_path / "steps.json"), tensor_parallel=8)


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": "few"}, "line 3: could not convert string to float: 'few'"),
        ({"batch_size": "1.5"}, "line 3: '1.5' is not a whole number"),
        ({"prompt_time": "nan"}, "line 3: 'nan' is not a positive number"),
        ({"token_time": "0"}, "line 3: '0' is not a positive number"),
        ({"tensor_parallel": None}, "line 3: a value is missing"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_line(tmp_path, change, said):
    rows = cross()
    for name, value in change.items():
        rows[1][RUN_HEADER.index(name)] = value
    rows[1] = [value for value in rows[1] if value is not None]

    with pytest.raises(ValueError, match=said):
        written(tmp_path, rows)


def test_a_table_that_lacks_what_is_needed_says_so(tmp_path):
    (tmp_path / "part.csv").write_text("model,prompt_time,token_time\na,1,2\n")
    with pytest.raises(ValueError, match=r"part\.csv has no column 'hardware'; it has model, "):
        ProfiledSteps(profile=str(tmp_path / "part.csv"))
    with pytest.raises(ValueError, match="has no rows"):
        written(tmp_path, [])
    with pytest.raises(ValueError, match=r"needs two batch sizes; it has \[1\]"):
        written(tmp_path, [run_row(prompt, 1) for prompt in RUN_PROMPTS])
    with pytest.raises(ValueError, match=r"needs two numbers of prompt tokens; it has \[512\]"):
        written(tmp_path, [run_row(512, 1)])
    turns = cross()
    for row in turns:
        row[RUN_HEADER.index("e2e_time")] = 1e9
    with pytest.raises(ValueError, match=r'no run of model = "llama", .* fitted'):
        written(tmp_path, turns)


# --- the published table -----------------------------------------------------------------------------------

TABLE = "splitwise/perf_model.csv"
SERVED = [
    ("bloom-176b", "a100-80gb", 8), ("bloom-176b", "h100-80gb", 8), ("llama2-70b", "a100-80gb", 2),
    ("llama2-70b", "a100-80gb", 8), ("llama2-70b", "h100-80gb", 2), ("llama2-70b", "h100-80gb", 8),
]  # fmt: skip


def published(shared_trace, served) -> ProfiledSteps:
    model, hardware, ways = served
    return ProfiledSteps(
        profile=str(shared_trace(TABLE)), model=model, hardware=hardware, tensor_parallel=ways
    )


def published_s(path, served, column, prompt, sequences):
    """The median of the file's column for this size and 128 output tokens."""
    with path.open() as file:
        return median(
            float(row[column]) / 1e3
            for row in csv.DictReader(file)
            if (row["model"], row["hardware"], int(row["tensor_parallel"])) == served
            and (int(row["prompt_size"]), int(row["batch_size"]), row["token_size"])
            == (prompt, sequences, "128")
        )


@pytest.mark.traces
@pytest.mark.parametrize("served", SERVED)
def test_steps_of_the_published_table_are_its_medians(shared_trace, served):
    path, model = shared_trace(TABLE), published(shared_trace, served)

    # 128 tokens are of one prompt only, 8,704 and more of several only; on two devices 32 and 64 may have run in turns.
    for prompt, sequences in ((128, 1), *(((512, 32), (512, 64)) if served[2] == 8 else ())):
        assert model.step_s(make_shape([(prompt * sequences, 0)])) == pytest.approx(
            published_s(path, served, "prompt_time", prompt, sequences)
        )
    for sequences in (1, 8, 16):
        assert model.step_s(make_shape(lengths=[512] * sequences)) == pytest.approx(
            published_s(path, served, "token_time", 512, sequences)
        )
    assert model.step_s(make_shape(lengths=[8192])) == pytest.approx(
        published_s(path, served, "token_time", 8192, 1)
    )


@pytest.mark.traces
@pytest.mark.parametrize("served", SERVED)
def test_more_than_what_ran_in_turns_still_takes_longer(shared_trace, served):
    model = published(shared_trace, served)
    half, whole = (model.step_s(make_shape([(tokens, 0)])) for tokens in (16_384, 32_768))

    assert 1.8 < whole / half < 2.3


@pytest.mark.traces
@given(lengths=st.lists(st.integers(0, 20_000), min_size=1, max_size=100), steps=st.integers(1, 3000))
def test_spans_of_the_published_table_are_the_sum_of_their_steps(shared_trace, lengths, steps):
    model, shape = published(shared_trace, SERVED[-1]), make_shape(lengths=lengths)

    assert model.span_s(shape, steps) == pytest.approx(
        math.fsum(model.step_s(shape.after(step)) for step in range(steps)), rel=1e-9, abs=0.0
    )
