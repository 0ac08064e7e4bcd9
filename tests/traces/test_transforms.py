"""Transforms compose, conserve requests, and write themselves into the header."""

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.traces import strategies
from tests.traces.test_trace import of
from traces import Header, Slo, Trace, TraceError, Transform, load_trace, merge, poisson, save_trace, sessions

FACTORS = st.floats(0.01, 100)
# Whole tenths: far enough apart that scaling cannot make two instants one.
TIMES = st.lists(st.integers(0, 10_000), max_size=30).map(lambda tenths: of(*(t / 10 for t in tenths)))


def arrivals(trace):
    return trace.column("arrived_s").to_numpy()


def ids(trace):
    return trace.column("id").to_pylist()


@strategies.few
@given(TIMES, FACTORS, FACTORS)
def test_scaling_the_rate_twice_is_scaling_by_the_product(trace, a, b):
    twice, once = trace.scale_rate(a).scale_rate(b), trace.scale_rate(a * b)

    np.testing.assert_allclose(arrivals(twice), arrivals(once), rtol=1e-12)
    assert ids(twice) == ids(once)


@strategies.few
@given(TIMES, FACTORS)
def test_scaling_time_is_scaling_the_rate_by_the_inverse_where_nobody_thinks(trace, factor):
    np.testing.assert_allclose(
        arrivals(trace.scale_time(factor)), arrivals(trace.scale_rate(1 / factor)), rtol=1e-12
    )


def test_a_factor_of_two_is_twice_the_rate():
    trace = poisson(rate_per_s=50, duration_s=20, seed=3)

    assert trace.scale_rate(2).rate_per_s == pytest.approx(2 * trace.rate_per_s)
    assert trace.scale_time(2).rate_per_s == pytest.approx(trace.rate_per_s / 2)


@strategies.few
@given(strategies.traces, FACTORS)
def test_no_scaling_touches_deadlines_objectives_or_what_was_observed(trace, factor):
    def durations(scaled):
        by_id = {entry.request.id: entry for entry in scaled}
        return {
            id: (entry.request.deadline_s, entry.request.slo, entry.observed) for id, entry in by_id.items()
        }

    assert durations(trace.scale_rate(factor)) == durations(trace)
    assert durations(trace.scale_time(factor)) == durations(trace)


def test_scaling_the_rate_of_sessions_starts_more_of_them_and_hurries_nobody():
    trace = sessions(1.0, 200, seed=1, turns=4, think_s=5)
    scaled = trace.scale_rate(4)

    def starts_and_thinking(of_trace):
        starts, thinking = {}, {}
        for entry in of_trace:
            start = starts.setdefault(entry.request.session, entry.request.arrived_s)
            thinking[entry.request.id] = (entry.think_s, round(entry.request.arrived_s - start, 9))
        return starts, thinking

    starts, thinking = starts_and_thinking(trace)
    scaled_starts, scaled_thinking = starts_and_thinking(scaled)
    assert scaled_thinking == thinking
    assert scaled_starts == pytest.approx({name: start / 4 for name, start in starts.items()})


def test_scaling_time_slows_thinking_too():
    trace = sessions(1.0, 20, seed=1, turns=3, think_s=5)

    slowed = {entry.request.id: entry.think_s for entry in trace.scale_time(3)}

    assert slowed == {e.request.id: None if e.think_s is None else e.think_s * 3 for e in trace}


@strategies.few
@given(TIMES, st.integers(0, 10_000).map(lambda tenths: tenths / 10))
def test_the_first_part_and_the_rest_are_the_whole(trace, cut_s):
    head = trace.first(seconds=cut_s)
    rest = trace.slice(cut_s, float("inf"), rebase=False)

    assert ids(head) + ids(rest) == ids(trace)
    assert list(merge(head, rest)) == list(trace)


@strategies.few
@given(strategies.traces, st.integers(0, 5))
def test_the_first_requests_are_the_first_rows(trace, requests):
    assert list(trace.first(requests=requests)) == list(trace)[:requests]


def test_a_slice_to_the_end_survives_a_file(tmp_path):
    rest = of(0.0, 10.0).slice(5, float("inf"))
    save_trace(rest, tmp_path / "x.jsonl")

    assert load_trace(tmp_path / "x.jsonl") == rest


def test_a_slice_starts_at_zero_unless_told_otherwise():
    trace = of(0.0, 10.0, 12.0, 20.0)

    assert arrivals(trace.slice(10, 20)).tolist() == [0.0, 2.0]
    assert arrivals(trace.slice(10, 20, rebase=False)).tolist() == [10.0, 12.0]


@strategies.few
@given(strategies.traces, strategies.traces)
def test_merging_keeps_every_request_and_the_order_of_arrival(a, b):
    merged = a.merge(b)

    assert len(merged) == len(a) + len(b)
    assert sorted([*arrivals(a), *arrivals(b)]) == arrivals(merged).tolist()
    assert len(set(ids(merged))) == len(merged)


def test_merging_renames_requests_only_where_names_collide():
    a, b = of(0.0, 2.0), of(1.0)

    assert ids(a.merge(b)) == ["0/0", "1/0", "0/1"]
    assert ids(a.merge(of(1.0, id=["x"]))) == ["0", "x", "1"]


def test_merging_keeps_the_prefixes_of_different_sources_apart():
    a, b = (of(at, blocks=[[0, 1]], id=[name]) for at, name in ((0.0, "a"), (1.0, "b")))
    other = Trace(b.table, Header(source="elsewhere"))

    assert [entry.request.blocks for entry in a.merge(b)] == [(0, 1), (0, 1)]
    assert [entry.request.blocks for entry in a.merge(other)] == [(0, 1), (2, 3)]
    assert [entry.request.blocks for entry in a.merge(other, share_blocks=True)] == [(0, 1), (0, 1)]
    assert [entry.request.blocks for entry in a.merge(b, share_blocks=False)] == [(0, 1), (2, 3)]


def test_a_merged_header_names_every_source_and_hash():
    a = Trace(of(0.0).table, Header(source="a", licence="MIT", provenance="recorded"))
    step = (Transform("first"),)
    b = Trace(
        of(1.0).table,
        Header(source="b", licence="CC-BY-4.0", transforms=step, provenance="derived"),
    )

    header = a.merge(b).header

    assert (header.source, header.licence, header.provenance) == ("a + b", "MIT + CC-BY-4.0", "derived")
    assert header.transforms == (Transform("first"), Transform("merge", {"others": b.sha256}))


@strategies.few
@given(TIMES, st.integers(1, 4), st.integers(0, 9))
def test_upsampling_by_a_whole_number_multiplies_every_request(trace, factor, seed):
    more = trace.upsample(factor, seed=seed)

    assert len(more) == factor * len(trace)
    assert set(ids(trace)) <= set(ids(more))
    assert more.duration_s == trace.duration_s


def test_upsampling_by_a_fraction_hits_it_on_average_and_keeps_sessions_whole():
    trace = sessions(5.0, 400, seed=1, turns=2, turns_law="fixed", prompt_tokens=40, block_tokens=16)

    more, fewer = trace.upsample(1.5, seed=0), trace.upsample(0.25, seed=0)

    assert len(more) / len(trace) == pytest.approx(1.5, abs=0.05)
    assert len(fewer) / len(trace) == pytest.approx(0.25, abs=0.05)
    for sample in (more, fewer):
        turns = [entry.request.turn for entry in sample]
        assert turns.count(0) == turns.count(1) == len(sample) / 2
        assert {e.request.parent for e in sample if e.request.turn} <= set(ids(sample))


def test_upsampled_copies_share_no_prefix_with_the_original():
    trace = of(0.0, 1.0, blocks=[[0, 1], [0, 2]])

    blocks = {entry.request.id: entry.request.blocks for entry in trace.upsample(2, seed=0)}

    assert blocks == {"0": (0, 1), "1": (0, 2), "0~1": (3, 4), "1~1": (3, 5)}


@strategies.few
@given(TIMES, st.integers(0, 9))
def test_dequantising_moves_each_request_by_less_than_a_tick_and_keeps_ticks_in_order(trace, seed):
    ticks = Trace(trace.table.set_column(0, "arrived_s", pc.floor(trace.table["arrived_s"])), trace.header)
    spread = ticks.dequantise(tick_s=1.0, seed=seed)

    moved = arrivals(spread) - arrivals(ticks)
    assert ids(spread) == ids(ticks)
    assert ((moved >= 0) & (moved < 1.0 + 1e-9)).all()


def test_dequantised_offsets_are_uniform_and_seeded():
    ticks = of(*np.repeat(np.arange(400) * 3.0, 10))

    spread = ticks.dequantise(tick_s=3.0, seed=5)

    offsets = arrivals(spread) % 3.0
    counts, _ = np.histogram(offsets, bins=10, range=(0, 3))
    assert abs(counts - 400).max() < 5 * np.sqrt(400)
    assert spread == ticks.dequantise(tick_s=3.0, seed=5) != ticks.dequantise(tick_s=3.0, seed=6)
    assert spread.header.transforms == (Transform("dequantise", {"tick_s": 3.0}, 5),)


def test_filtering_keeps_the_rows_for_which_the_expression_holds():
    trace = load_trace("chat-small")

    short = trace.filter(pc.field("prompt_tokens") < 500)

    assert list(short) == [entry for entry in trace if entry.request.prompt_tokens < 500]
    assert short.header.transforms[-1] == Transform("filter", {"where": "(prompt_tokens < 500)"})
    assert len(trace.filter(pc.field("tenant") == "nobody")) == 0  # a column that this trace does not have


@pytest.mark.parametrize("where", [pc.field("colour") == "red", pc.field("prompt_tokens") == "many"])
def test_filtering_by_what_cannot_be_said_of_a_request_is_an_error(where):
    with pytest.raises(TraceError, match="cannot filter by"):
        load_trace("chat-small").filter(where)


def test_objectives_and_deadlines_are_set_on_every_request():
    trace = of(0.0, 1.0).with_slo(ttft_s=0.5).with_deadline(3.0)

    assert [(e.request.slo, e.request.deadline_s) for e in trace] == [(Slo(ttft_s=0.5), 3.0)] * 2


def test_every_transform_is_recorded_in_order_with_its_parameters_and_seed():
    trace = of(0.0, 1.0, 2.0)

    derived = trace.first(seconds=2).scale_rate(2.0).upsample(1.0, seed=4).with_deadline(1.0)

    assert derived.header.transforms == (
        Transform("first", {"seconds": 2}),
        Transform("scale_rate", {"factor": 2.0}),
        Transform("upsample", {"factor": 1.0}, 4),
        Transform("with_deadline", {"seconds": 1.0}),
    )
    assert trace.header.transforms == ()
    assert (trace.header.provenance, derived.header.provenance) == ("recorded", "derived")


def test_a_transform_leaves_synthetic_and_fitted_traces_what_they_are():
    fitted = Trace(of(0.0).table, replace(Header(source="x"), provenance="fitted"))

    assert fitted.first(requests=1).header.provenance == "fitted"


@pytest.mark.parametrize(
    "transform",
    [
        lambda trace: trace.scale_rate(0),
        lambda trace: trace.scale_time(-1),
        lambda trace: trace.scale_rate(float("nan")),
        lambda trace: trace.upsample(0, seed=0),
        lambda trace: trace.dequantise(tick_s=0, seed=0),
        lambda trace: trace.first(),
        lambda trace: trace.slice(2, 1),
        lambda trace: trace.with_deadline(-1),
        lambda trace: trace.with_slo(e2e_s=float("inf")),
        lambda trace: merge(),
    ],
)
def test_an_impossible_parameter_is_an_error(transform):
    with pytest.raises(TraceError):
        transform(of(0.0, 1.0))
