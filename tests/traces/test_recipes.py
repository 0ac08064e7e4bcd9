"""A trace says exactly how it came to be, and is made again by that."""

import hashlib
import inspect
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import traces
from traces import Header, Lengths, RateSeries, Trace, TraceError, load_rates, load_trace, merge, save_trace
from traces.rebuilding import rebuilt
from traces.recipe import STEPS, Recipe, Step

LOGNORMAL = Lengths.lognormal(mean=512.123456789, cv=1.25)
TALKS = traces.sessions(
    2.0, 30.0, 5, prompt_tokens=Lengths.uniform(20, 90), output_tokens=Lengths.constant(9), block_tokens=16
)
MOONCAKE = """{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
{"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [1, 2, 3]}
"""


def again(trace: Trace, file: Path | None = None) -> Trace:
    """`trace` as a file of its recipe would have it."""
    assert trace.recipe is not None
    recipe = msgspec.json.decode(msgspec.json.encode(trace.recipe), type=Recipe)
    return rebuilt(recipe, trace.sha256, trace.header, file)


def chat() -> Trace:
    return load_trace("chat-small")


def overwritten() -> Trace:
    shares = traces.choice({"a": 1 / 3, None: 2 / 3})
    one = chat().assign(tenant="one", overwrite=True)
    return one.assign(tenant=shares, per="request", overwrite=True)


WAYS: dict[str, Callable[[], Trace]] = {
    "a bundled trace": chat,
    "poisson": lambda: traces.poisson(20.0, 9.0, 3, prompt_tokens=LOGNORMAL, output_tokens=7),
    "gamma": lambda: traces.gamma(np.float64(20.0), 2.5, 9.0, seed=4),
    "mmpp": lambda: traces.mmpp(np.array([1.0, 30.0]), (2.0, 1 / 3), 20.0),
    "diurnal": lambda: traces.diurnal(20.0, 0.5, 9.0, 18.0, peak_at_s=2),
    "surge": lambda: traces.surge(seed=2),
    "bernoulli_surge": traces.bernoulli_surge,
    "sessions": lambda: TALKS,
    "empirical lengths": lambda: traces.poisson(9.0, 9.0, prompt_tokens=Lengths.empirical(chat(), "output_tokens")),
    "first": lambda: chat().first(seconds=30, requests=500),
    "slice": lambda: chat().slice(10.0, float("inf")).slice(1, 20, rebase=False),
    "scale_rate": lambda: TALKS.scale_rate(1 / 3),
    "scale_time": lambda: TALKS.scale_time(1.1),
    "filter": lambda: chat().filter((pc.field("prompt_tokens") < 900) & pc.field("session").is_valid()),
    "merge": lambda: merge(TALKS.scale_rate(2.0), merge(chat(), TALKS), share_blocks=True).merge(chat()),
    "upsample": lambda: chat().upsample(1.5, seed=3),
    "dequantise": lambda: chat().dequantise(tick_s=0.1, seed=3),
    "scale_lengths": lambda: chat().scale_lengths(0.25, max_output_tokens=40, output_factor=2),
    "assign": lambda: chat().assign(seed=4, user=traces.uniform(30), tenant=traces.zipf(5, 1.1), per="user"),
    "assign over": overwritten,
    "sessions of a recording": TALKS.sessions,
    "an empty trace": lambda: chat().first(requests=0),
    "objectives": lambda: chat().with_slo(e2e_s=2, ttft_s=0.5).with_deadline(9),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_is_made_again_by_its_recipe(way: str) -> None:
    trace = WAYS[way]()
    made = again(trace)
    assert made == trace
    assert made.table.equals(trace.table)
    assert made.recipe == trace.recipe


def test_what_is_read_from_files_is_made_again_and_names_each_file_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text(MOONCAKE)
    (tmp_path / "rates.txt").write_text("5 0 9 12 3")
    trace = load_trace(tmp_path / "talk.jsonl", time_unit="ms", block_tokens=512)
    rates = load_rates(tmp_path / "rates.txt", step_s=2.0, gaps="keep").slice(0, 8).without_gaps()
    both = merge(trace.sessions(infer=True), traces.from_rates(rates, seed=2, scale=0.5))

    assert again(both) == both
    (read,) = trace.recipe.steps
    assert read.parameters["path"] == str(tmp_path / "talk.jsonl")
    assert (read.parameters["time_unit"], read.parameters["block_tokens"]) == ("ms", 512)
    assert read.file_sha256 == hashlib.sha256(MOONCAKE.encode()).hexdigest()


@pytest.mark.traces
@pytest.mark.parametrize(
    "name", ["azure-llm-2023/AzureLLMInferenceTrace_conv.csv", "mooncake/conversation_trace.jsonl"]
)
def test_a_published_trace_is_made_again(shared_trace, name: str) -> None:
    trace = (
        load_trace(shared_trace(name)).dequantise(tick_s=3.0, seed=1).first(seconds=600).upsample(1.3, seed=2)
    )
    assert again(trace) == trace


def test_whatever_makes_a_trace_is_recorded() -> None:
    """A new law or transform that is not would leave runs that nobody can build again."""
    methods = {
        f"Trace.{name}"
        for name, method in inspect.getmembers(Trace, inspect.isfunction)
        if inspect.signature(method).return_annotation == "Trace" and not name.startswith("_")
    } - {"Trace.derived", "Trace.made_by", "Trace.headed", "Trace.reported"}
    makers = {
        name
        for name in traces.__all__
        if inspect.isfunction(function := getattr(traces, name))
        and inspect.signature(function).return_annotation == "Trace"
    }
    assert methods | makers <= set(STEPS)
    assert {name for name in STEPS if name.startswith("Trace.")} == methods


STEPS_OF_A_CHAIN = st.lists(
    st.one_of(
        st.builds(lambda x: lambda t: t.scale_rate(x), st.floats(0.1, 10)),
        st.builds(lambda x: lambda t: t.scale_time(x), st.floats(0.1, 10)),
        st.builds(lambda x, s: lambda t: t.upsample(x, seed=s), st.floats(0.5, 1.5), st.integers(0, 9)),
        st.builds(
            lambda x, s: lambda t: t.dequantise(tick_s=x, seed=s), st.floats(0.1, 3), st.integers(0, 9)
        ),
        st.builds(lambda x: lambda t: t.slice(x, x + 20.0), st.floats(0, 5)),
        st.builds(lambda n: lambda t: t.first(requests=n), st.integers(0, 60)),
        st.builds(lambda x: lambda t: t.scale_lengths(x), st.floats(0.1, 3)),
        st.just(lambda t: merge(t, t.first(requests=3))),
    ),
    max_size=5,
)


@settings(max_examples=40)
@given(STEPS_OF_A_CHAIN)
def test_any_chain_of_transforms_is_made_again(steps) -> None:
    trace = TALKS
    for step in steps:
        trace = step(trace)
    assert again(trace) == trace


# --- what has no recipe ------------------------------------------------------------------------------------------


def test_what_is_made_of_something_unknown_has_no_recipe() -> None:
    own = Trace(pa.table({"arrived_s": [0.0, 1.0]}), Header(source="mine"))
    law = Lengths("mine", lambda rng, n: np.ones(n, dtype=np.int64))
    assert own.recipe is None
    assert own.scale_rate(2.0).recipe is None
    assert merge(chat(), own).recipe is None
    assert traces.poisson(9.0, 9.0, prompt_tokens=law).recipe is None
    assert traces.from_rates(RateSeries(np.ones(9)), seed=1).recipe is None


def test_what_came_through_a_pipe_cannot_be_read_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(MOONCAKE))
    writer.start()
    trace = load_trace(pipe)
    writer.join()
    assert len(trace) == 2
    assert trace.recipe is None


def test_a_recipe_is_no_part_of_what_a_trace_is(tmp_path: Path) -> None:
    trace = chat().first(requests=9)
    save_trace(trace, tmp_path / "copy.parquet")
    copy = load_trace(tmp_path / "copy.parquet")
    assert copy == trace
    assert copy.sha256 == trace.sha256
    assert copy.recipe != trace.recipe


# --- what differs, and what has moved ----------------------------------------------------------------------------


def test_the_step_that_makes_something_else_is_named() -> None:
    trace = chat().scale_rate(2.0).upsample(1.5, seed=1).first(requests=50)
    load, scale, upsample, first = trace.recipe.steps
    other = msgspec.structs.replace(upsample, parameters={"factor": 1.5, "seed": 2})
    said = r"^step 3 of 4, upsample\(factor=1\.5, seed=2\), makes another trace than it did: its SHA-256 is "
    with pytest.raises(TraceError, match=said):
        rebuilt(Recipe((load, scale, other, first)), trace.sha256, trace.header)


def test_a_last_step_that_makes_something_else_is_named() -> None:
    trace = chat().first(requests=50)
    load, first = trace.recipe.steps
    other = Recipe((load, msgspec.structs.replace(first, parameters={"requests": 51})))
    with pytest.raises(TraceError, match=r"^step 2 of 2, first\(requests=51\), makes another trace"):
        rebuilt(other, trace.sha256, trace.header)


def test_a_file_that_was_moved_is_named_and_may_be_given(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(MOONCAKE)
    trace = load_trace(file).first(requests=1)
    moved = file.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(
        TraceError, match=r"talk\.jsonl: is not there, and the run's trace was read from it; give"
    ):
        again(trace)
    assert again(trace, moved) == trace, "its header too, though that names the file"


def test_files_that_were_moved_are_found_in_a_folder_by_their_names(tmp_path: Path) -> None:
    texts = {"a.jsonl": MOONCAKE, "b.jsonl": MOONCAKE.replace("600", "700")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    trace = merge(*(load_trace(tmp_path / name) for name in texts))
    (tmp_path / "new").mkdir()
    for name in texts:
        (tmp_path / name).rename(tmp_path / "new" / name)
    assert again(trace, tmp_path / "new") == trace


def test_a_file_that_is_not_what_it_was_is_named(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(MOONCAKE)
    trace = load_trace(file)
    file.write_text(MOONCAKE.replace("600", "601"))
    with pytest.raises(TraceError, match=r"talk\.jsonl: is not the file that the run's trace was read from"):
        again(trace)


def test_a_member_of_an_archive_is_found_again_and_so_is_a_table_of_ones_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("talk.jsonl", MOONCAKE)
        archive.writestr("mine.csv", "ts,in\n5,1\n7,2\n")
    talk = load_trace(f"{tmp_path / 'two.zip'}::talk.jsonl")
    mine = load_trace(
        f"{tmp_path / 'two.zip'}::mine.csv", columns={"arrived_s": "ts:ms", "prompt_tokens": "in"}
    )
    for trace in (talk, mine):
        assert again(trace).sha256 == trace.sha256
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as archive:
        archive.writestr("third", "")
    with pytest.raises(TraceError, match=r"two\.zip: is not the file that the run's trace was read from"):
        again(talk)


def test_a_recipe_calls_nothing_but_what_is_recorded() -> None:
    for name in ("os.system", "Trace.derived", "save_trace"):
        with pytest.raises(TraceError, match=f"there is no step {name}; another version of fleetlab"):
            rebuilt(Recipe((Step(name),)), "", Header(source=""))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([Step("poisson", {"rate": 3.0})], r"^poisson\(rate=3\.0\) cannot be called: "),
        ([Step("Trace.first", {"requests": 3})], r"^first\(requests=3\) cannot be called: "),
        ([Step("load_trace", {"path": 3})], r"^load_trace\(path=3\) cannot be called: "),
        ([Step("expression", {"text": "AAAA"})], r"^expression\(text='AAAA'\) cannot be called: "),
        (
            [Step("surge"), Step("poisson", {"duration_s": 2.0})],
            r"^poisson\(duration_s=2\.0\) cannot be called: ",
        ),
        (
            [Step("Lengths.constant", {"tokens": 2})],
            r"^Lengths\.constant makes no trace; the recipe was changed$",
        ),
    ],
)
def test_a_recipe_that_was_spoilt_is_told_by_its_step(steps: list[Step], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        rebuilt(Recipe(tuple(steps)), "", Header(source=""))


def test_a_recipe_reads_as_what_was_called() -> None:
    trace = traces.poisson(20.0, 9.0, 3, prompt_tokens=Lengths.uniform(2, 9)).slice(1.0, float("inf"))
    assert str(trace.filter(pc.field("prompt_tokens") > 3).recipe) == (
        "poisson(rate_per_s=20.0, duration_s=9.0, seed=3, prompt_tokens=Lengths.uniform(low=2, high=9)), "
        "then slice(start_s=1.0, end_s=inf, rebase=True), then filter(where=a condition)"
    )
