"""How many tokens a prefix hash stands for is told by the rows, or by the caller, and never against the rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.writing import json_lines
from traces import TraceError, describe

SHARED = [*range(4)]
"""Hashes that two prompts of 1,024 tokens begin with, in blocks of 64."""


def rows(*lengths_and_counts):
    return json_lines(
        {"timestamp": 3000 * n, "input_length": length, "output_length": 4, "hash_ids": [*range(count)]}
        for n, (length, count) in enumerate(lengths_and_counts)
    )


def sizes(trace):
    return set(trace.column("block_tokens").to_pylist())


def test_blocks_of_64_tokens_are_not_taken_for_512(reading):
    content = json_lines(
        {
            "timestamp": at,
            "input_length": 1024,
            "output_length": 4,
            "hash_ids": [*SHARED, *range(own, own + 12)],
        }
        for at, own in ((0, 4), (5000, 100))
    )

    with pytest.raises(TraceError) as error:
        reading(content)
    assert ":1: column `hash_ids`: 16 hashes for 1,024 tokens are not blocks of 512 tokens" in str(
        error.value
    )
    assert "64 to 68 tokens fit every row: say which with block_tokens= (--block-tokens)" in str(error.value)
    trace = reading(content, block_tokens=64)
    assert (sizes(trace), trace.report.block_tokens) == ({64}, 64)
    assert describe(trace).prefix_hit_share * 16 * 64 * 2 == len(SHARED) * 64  # tokens of 2,048
    assert [step.parameters for step in trace.header.transforms] == [{"block_tokens": 64}]


def test_the_only_size_that_fits_every_row_is_taken(reading):
    assert sizes(reading(rows((1024, 16), (1025, 17)))) == {64}


def test_the_usual_size_is_taken_where_it_fits_every_row(reading):
    assert sizes(reading(rows((700, 2), (513, 2), (9, 1)))) == {512}
    assert reading(rows((700, 2))).report.block_tokens == 512


def test_a_size_that_is_told_is_held_against_every_row(reading):
    content = rows((1024, 2), (1024, 16))

    with pytest.raises(
        TraceError, match=r":2: column `hash_ids`: 16 hashes for 1,024 tokens are not blocks of 512"
    ):
        reading(content, block_tokens=512)
    kept = reading(content, block_tokens=512, on_bad="drop")
    assert kept.report.dropped == {"hash_ids are not blocks of 512 tokens": 1}
    assert kept.report.rows_in == len(kept) + 1 == 2


def test_a_few_bad_rows_are_bad_rows_and_many_are_another_size(reading):
    mostly = rows((1024, 2), (900, 2), (1024, 16))

    with pytest.raises(TraceError, match="no one size fits every row"):
        reading(mostly)
    assert len(reading(mostly, on_bad="drop")) == 2
    with pytest.raises(TraceError, match="say which with block_tokens="):
        reading(rows((1024, 16), (900, 16), (1024, 2)), on_bad="drop")


def test_rows_without_hashes_say_nothing_of_their_size(reading):
    lines = [
        {"timestamp": 0, "input_length": 9, "output_length": 4},
        {"timestamp": 3000, "input_length": 9, "output_length": 4, "hash_ids": []},
        {"timestamp": 6000, "input_length": 9, "output_length": 4, "hash_ids": None},
    ]
    trace = reading(json_lines(lines))

    assert trace.column("blocks").to_pylist() == [None, [], None]
    assert reading(json_lines(lines[:1])).report.block_tokens is None


LENGTHS = st.lists(st.integers(0, 5000), min_size=1, max_size=6)


@strategies.few
@given(size=st.integers(1, 1000), lengths=LENGTHS, told=st.none() | st.integers(1, 1000))
def test_no_file_is_read_with_a_size_that_a_row_contradicts(reading, size, lengths, told):
    content = rows(*((length, -(-length // size)) for length in lengths))
    try:
        trace = reading(content, block_tokens=told)
    except TraceError:
        assert told != size
        return
    for entry in trace:
        request = entry.request
        assert len(request.blocks) == -(-request.prompt_tokens // request.block_tokens)
    assert told is None or sizes(trace) == {told}


@strategies.few
@given(size=st.integers(1, 64), lengths=LENGTHS, partial=st.booleans())
def test_formats_that_may_leave_out_the_block_at_the_end_are_checked_too(reading, size, lengths, partial):
    lines = [
        {
            "input_toks": length,
            "output_toks": 4,
            "arrival_time_ns": 0,
            "hash_ids": [*range(-(-length // size) if partial else length // size)],
        }
        for length in lengths
    ]

    assert sizes(reading(json_lines(lines), block_tokens=size)) == {size}
    wrong = 10_000
    if any(length > size for length in lengths) and any(len(line["hash_ids"]) > 1 for line in lines):
        with pytest.raises(TraceError, match=f"are not blocks of {wrong} tokens"):
            reading(json_lines(lines), block_tokens=wrong)


def test_a_workload_of_other_blocks_is_refused_too(reading):
    line = {"input_toks": 1024, "output_toks": 4, "arrival_time_ns": 0, "hash_ids": [*range(16)]}

    with pytest.raises(TraceError, match="16 hashes for 1,024 tokens are not blocks of 16 tokens"):
        reading(json_lines([line]))


def test_token_ids_are_numbered_in_blocks_of_the_size_that_is_told(reading):
    line = {"input_toks": 64, "output_toks": 4, "arrival_time_ns": 0, "input_tok_ids": [*range(64)]}

    assert reading(json_lines([line]), block_tokens=32).column("blocks").to_pylist() == [[0, 1]]


def test_a_size_is_not_taken_where_there_are_no_hashes(reading):
    content = b"arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n"

    with pytest.raises(TraceError, match=r"block_tokens= \(--block-tokens\) does not apply to vidur"):
        reading(content, block_tokens=16)
