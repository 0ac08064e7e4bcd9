"""A run is built again from its folder, with all that it was a run of, and runs to the same bytes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from fleet import (
    AffineLatency,
    AffineSteps,
    EmulatedEngine,
    EmulatedLlmEngine,
    FleetError,
    FleetSpec,
    KvSpec,
    PoolSpec,
    Run,
    again,
    load_run,
    simulate,
)  # fmt: skip
from fleet.telemetry.differences import differences
from policies import ExponentialBackoff, PolicyError, PowerOfTwoChoices
from traces import (
    Fault,
    FaultTrace,
    Header,
    Lengths,
    Operation,
    OperationsTrace,
    Trace,
    TraceError,
    load_trace,
    poisson,
    save_trace,
    sessions,
)  # fmt: skip

FLEET = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.01, jitter_cv=0.3)),
    replicas=3, routing=PowerOfTwoChoices(), retry=ExponentialBackoff(), deadline_s=5.0,
)  # fmt: skip
STEPS = EmulatedLlmEngine(latency=AffineSteps(base_s=0.01), kv=KvSpec(blocks=1_000))
LLM = FleetSpec(engine=STEPS, replicas=2)
POOLS = FleetSpec(engine=FLEET.engine, pools={"a": PoolSpec(replicas=2), "b": PoolSpec(replicas=1)})
FAULTS = FaultTrace(
    faults=(Fault(at_s=2.0, kind="crash"), Fault(at_s=4.0, kind="slow", factor=3.0, for_s=2.0)), seed=3
)
OPERATIONS = OperationsTrace(operations=(Operation(at_s=3.0, kind="scale", pool="a", replicas=1),))
TRACE = poisson(30.0, 8.0, 1).slice(1.0, 7.0)
TALKS = sessions(1.0, 9.0, 2, prompt_tokens=Lengths.lognormal(90, 0.7), output_tokens=Lengths.uniform(3, 30))

RUNS: dict[str, Callable[[], Run]] = {
    "a seed": lambda: simulate(TRACE, FLEET, seed=41),
    "faults": lambda: simulate(TRACE, FLEET, seed=2, faults=FAULTS),
    "operations": lambda: simulate(TRACE, POOLS, operations=OPERATIONS),
    "sessions": lambda: simulate(TALKS, FLEET, sessions=True),
    "a stream": lambda: simulate(TALKS, LLM, stream=True, sessions=True),
    "a horizon": lambda: simulate(TRACE, FLEET, until_s=3.25),
    "a log of calls": lambda: simulate(TRACE, FLEET, log_views=True),
    "an upsampled recording": lambda: simulate(
        load_trace("chat-small").first(requests=90).upsample(1.5, seed=2), LLM
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_made_again_from_its_folder(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    back = load_run(run.save(tmp_path))
    anew = again(back)
    assert anew.digest == run.digest
    assert differences(back, anew) == []
    assert simulate(**back.rebuild().arguments).digest == run.digest


def test_what_is_rebuilt_is_what_the_run_was_of(tmp_path: Path) -> None:
    run = simulate(TRACE, POOLS, seed=9, faults=FAULTS, operations=OPERATIONS, stream=True, until_s=6.0)
    built = load_run(run.save(tmp_path)).rebuild()
    assert (built.trace, built.spec, built.seed) == (TRACE, POOLS, 9)
    assert (built.faults, built.operations) == (FAULTS, OPERATIONS)
    assert (built.sessions, built.stream, built.until_s) == (False, True, 6.0)
    assert set(built.arguments) == {field.name for field in dataclasses.fields(built)}


def test_a_run_in_memory_is_rebuilt_with_the_trace_that_it_ran() -> None:
    own = Trace(pa.table({"arrived_s": [0.0, 0.5]}), Header(source="mine"))
    run = simulate(own, FLEET)
    assert run.rebuild().trace is own
    assert again(run).digest == run.digest


# --- traces that are nowhere on record ---------------------------------------------------------------------------


def own_table() -> Trace:
    return Trace(pa.table({"arrived_s": [0.0, 0.5, 0.75], "tenant": ["a", "b", "a"]}), Header(source="mine"))


def test_a_trace_of_ones_own_is_asked_for(tmp_path: Path) -> None:
    run = simulate(own_table().scale_rate(2.0), FLEET)
    back = load_run(run.save(tmp_path / "out"))
    with pytest.raises(
        TraceError, match=r"^the run does not say how to have its trace again: .* \(--with-trace\) keeps it$"
    ):
        back.rebuild()
    assert again(back, trace=own_table().scale_rate(2.0)).digest == run.digest
    save_trace(own_table().scale_rate(2.0), tmp_path / "mine.jsonl")
    assert again(back, trace=tmp_path / "mine.jsonl").digest == run.digest


def test_another_trace_than_the_runs_is_refused(tmp_path: Path) -> None:
    back = load_run(simulate(own_table(), FLEET).save(tmp_path / "out"))
    with pytest.raises(TraceError, match=r"^the trace is not that of the run: its SHA-256 is "):
        back.rebuild(trace=own_table().scale_rate(2.0))
    save_trace(own_table().scale_rate(2.0), tmp_path / "mine.parquet")
    with pytest.raises(TraceError, match=r"mine\.parquet: is not the trace of the run: its SHA-256 is "):
        back.rebuild(trace=tmp_path / "mine.parquet")


def test_a_trace_that_is_kept_is_all_that_it_takes(tmp_path: Path) -> None:
    run = simulate(own_table(), FLEET)
    back = load_run(run.save(tmp_path / "out", with_trace=True))
    assert back.rebuild().trace == own_table()
    assert again(back).digest == run.digest
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert again(load_run(tmp_path / "elsewhere")).digest == run.digest


def test_a_trace_that_is_kept_stays_with_a_copy_of_its_run(tmp_path: Path) -> None:
    back = load_run(simulate(own_table(), FLEET).save(tmp_path / "one", with_trace=True))
    assert load_run(back.save(tmp_path / "two", with_trace=True)).rebuild().trace == own_table()
    with pytest.raises(TraceError, match="does not say how to have its trace again"):
        load_run(back.save(tmp_path / "three")).save(tmp_path / "four", with_trace=True)


def test_a_kept_trace_that_was_changed_is_named(tmp_path: Path) -> None:
    back = load_run(simulate(own_table(), FLEET).save(tmp_path, with_trace=True))
    save_trace(own_table().scale_rate(2.0), tmp_path / "trace.parquet")
    with pytest.raises(TraceError, match=r"trace\.parquet: is not the trace of the run"):
        back.rebuild()


def test_a_run_without_its_origin_asks_for_its_trace(tmp_path: Path) -> None:
    run = simulate(TRACE, FLEET)
    (run.save(tmp_path) / "origin.json").unlink()
    back = load_run(tmp_path)
    with pytest.raises(TraceError, match="does not say how to have its trace again"):
        back.rebuild()
    assert again(back, trace=TRACE).digest == run.digest


# --- what cannot be the same -------------------------------------------------------------------------------------


def test_a_live_run_is_not_made_again() -> None:
    run = simulate(TRACE, FLEET)
    live = Run(
        run.tables, run.summary, msgspec.structs.replace(run.manifest, runtime="live"), origin=run.origin
    )
    with pytest.raises(
        FleetError, match=r"^a live run cannot be made again: real processes take other times"
    ):
        again(live)
    assert simulate(**live.rebuild().arguments).summary == run.summary, "its inputs can be simulated"


def test_a_policy_without_a_source_is_refused(tmp_path: Path) -> None:
    run = simulate(TRACE, FLEET)
    components = tuple(
        msgspec.structs.replace(item, source="unknown", sha256=None) if item.path == "$.routing" else item
        for item in run.manifest.components
    )
    typed = Run(
        run.tables, run.summary, msgspec.structs.replace(run.manifest, components=components), run.origin
    )
    with pytest.raises(PolicyError, match=r"^\$\.routing: .*:PowerOfTwoChoices was typed at a prompt"):
        typed.rebuild()
    assert type(typed.rebuild(allow_changed=True, trace=TRACE).spec.routing) is PowerOfTwoChoices


def test_differences_name_the_table_the_figure_and_the_version() -> None:
    then, now = simulate(TRACE, FLEET, seed=1), simulate(TRACE, FLEET, seed=2)
    assert differences(then, then) == []
    told = {difference.part: difference.what for difference in differences(then, now)}
    assert told["seed"] == "1 then, 2 now"
    assert f" of {len(TRACE):,} rows differ, the first is row " in told["records"]
    rates = f"{then.summary.throughput_per_s} then, {now.summary.throughput_per_s} now"
    assert f"throughput_per_s {rates}" in told["summary"]

    versions = {**then.manifest.versions, "numpy": "1.0"}
    old = Run(then.tables, then.summary, msgspec.structs.replace(then.manifest, versions=versions))
    (only,) = differences(old, then)
    assert only == ("versions", f"numpy 1.0 then, {then.manifest.versions['numpy']} now")
