"""A live run's own engine times: what is recorded, what a latency model makes of it, what of the error it explains.

Live runs are stood in for by simulated ones whose replicas are timed as live ones are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from experiments import calibrate
from experiments.timings import FEWEST
from fleet import (
    AffineLatency,
    AffineSteps,
    EmulatedEngine,
    EmulatedLlmEngine,
    FleetSpec,
    KvSpec,
    Run,
    TorchEngine,
    load_run,
    simulate,
)
from fleet.engines import TimedSteps, TransformersEngine
from fleet.engines.profiling.timed import step_shapes, timed_latency
from fleet.runs.assembly import Head
from fleet.telemetry.sink import TIMINGS
from policies import Greedy
from tests.experiments.conftest import CHATS
from traces import Fault, FaultTrace, Lengths, Trace, poisson

TEXTS = poisson(rate_per_s=90.0, duration_s=10.0, seed=3, prompt_tokens=Lengths.uniform(8, 128))
STEPS = AffineSteps(base_s=0.005, per_prefill_token_s=0.0001, per_decode_s=0.0002)
KV = KvSpec(blocks=4000)


def batches(slower: float = 1.0) -> FleetSpec:
    latency = AffineLatency(base_s=0.006 * slower, per_item_s=0.004 * slower, jitter_cv=0.2)
    return FleetSpec(engine=EmulatedEngine(latency=latency), replicas=2, batching=Greedy(max_batch=4))


def tokens(slower: float = 1.0) -> FleetSpec:
    latency = AffineSteps(
        base_s=slower * STEPS.base_s,
        per_prefill_token_s=slower * STEPS.per_prefill_token_s,
        per_decode_s=slower * STEPS.per_decode_s,
    )
    return FleetSpec(engine=EmulatedLlmEngine(latency=latency, kv=KV), replicas=2)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas in virtual time say how long their engines took, as live ones do."""
    monkeypatch.setattr("fleet.runs.simulate.Head", partial(Head, timed=True))


def table(sizes: np.ndarray, lengths: np.ndarray, took_s: np.ndarray) -> pa.Table:
    absent = [None] * len(sizes)
    columns = [np.zeros(len(sizes)), ["replica/0"] * len(sizes), took_s, sizes, lengths, *[absent] * 5]
    return pa.table(columns, schema=TIMINGS)


# --- what is recorded ----------------------------------------------------------------------------------------


def test_a_simulated_run_has_no_timings_and_saves_none(tmp_path: Path) -> None:
    run = simulate(TEXTS, batches())
    run.save(tmp_path)
    assert len(run.timings) == 0
    assert not (tmp_path / "timings.parquet").exists()


@pytest.mark.usefixtures("timed")
def test_every_batch_is_timed_with_its_size_and_its_longest_prompt() -> None:
    run = simulate(TEXTS, batches())
    assert sorted(run.timings["batch_size"].to_pylist()) == sorted(run.dispatches["size"].to_pylist())
    assert set(run.timings["replica"].to_pylist()) == {"replica/0", "replica/1"}
    assert pc.max(run.timings["tokens"]) == pc.max(TEXTS.column("prompt_tokens"))
    alone = run.records.filter(pc.equal(run.records["batch_size"], 1))
    assert set(alone["service_s"].to_pylist()) <= set(run.timings["service_s"].to_pylist())


@pytest.mark.usefixtures("timed")
def test_every_step_is_timed_with_the_shape_that_its_latency_is_of() -> None:
    run = simulate(CHATS, tokens())
    assert run.timings["service_s"].to_pylist() == pytest.approx(
        [STEPS.step_s(shape) for shape in step_shapes(run.timings)]
    )
    computed = pc.sum(run.timings["prefill_tokens"]).as_py()
    cached = pc.sum(run.records["cached_tokens"]).as_py()
    assert computed + cached == pc.sum(CHATS.column("prompt_tokens")).as_py()


@pytest.mark.usefixtures("timed")
def test_a_slow_replica_does_not_make_its_engine_slow() -> None:
    slow = FaultTrace(faults=(Fault(at_s=0.0, kind="slow", replica="replica/0", factor=3.0, for_s=60.0),))
    spec = batches().replace(engine=EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0.0)))
    run = simulate(TEXTS.first(requests=200), spec, faults=slow)
    assert run.timings["service_s"].to_pylist() == pytest.approx([0.01] * len(run.timings))
    assert pc.max(run.records["service_s"]).as_py() == pytest.approx(0.03)


@pytest.mark.usefixtures("timed")
def test_timings_are_kept_beside_the_digest(tmp_path: Path) -> None:
    run = simulate(TEXTS, batches())
    again = load_run(run.save(tmp_path))
    assert again.timings.equals(run.timings)
    assert again.digest == run.digest
    shorter = Run({**run.tables, "timings": run.timings.slice(1)}, run.summary, run.manifest)
    assert shorter.digest == run.digest
    pq.write_table(shorter.timings, tmp_path / "timings.parquet")
    with pytest.raises(ValueError, match="do not match the digest"):
        load_run(tmp_path)


# --- the latency model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_all_batches_take_by_the_model_as_long_as_they_took(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, lengths = rng.integers(1, 30, 400), rng.integers(0, 500, 400)
    took_s = rng.lognormal(-4.0, 1.0, 400)
    latency = timed_latency(table(sizes, lengths, took_s))
    expected_s = [latency.at(size, length) for size, length in zip(sizes, lengths, strict=True)]
    assert sum(expected_s) == pytest.approx(took_s.sum())


def test_what_follows_the_formula_is_found_between_and_beyond_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    sizes, lengths = rng.integers(1, 9, 600), rng.integers(8, 129, 600)

    def true_s(size: float, length: float) -> float:
        return 0.004 + 0.003 * size + 0.0002 * size * length

    latency = timed_latency(table(sizes, lengths, true_s(sizes, lengths)))
    assert latency.jitter_cv < 0.05
    for size, length in ((1, 8), (1, 128), (5, 50), (8, 128), (12, 200)):
        assert latency.at(size, length) == pytest.approx(true_s(size, length), rel=0.05)


def test_what_a_table_does_not_explain_is_its_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.lognormal(-0.5 * np.log(1.25), np.sqrt(np.log(1.25)), 3000)  # of mean 1, and cv 0.5
    latency = timed_latency(table(np.full(3000, 2), np.full(3000, 64), 0.01 * noise))
    assert latency.at(2, 64) == pytest.approx(0.01, rel=0.03)
    assert latency.jitter_cv == pytest.approx(0.5, rel=0.1)


@pytest.mark.usefixtures("timed")
def test_steps_of_a_run_are_fitted_as_those_of_a_profile() -> None:
    latency = timed_latency(simulate(CHATS, tokens()).timings)
    assert isinstance(latency, TimedSteps)
    for shape in step_shapes(simulate(CHATS, tokens()).timings):
        assert latency.step_s(shape) == pytest.approx(STEPS.step_s(shape), rel=0.02)


def test_no_timings_are_no_latency_model() -> None:
    with pytest.raises(ValueError, match="only live runs have any"):
        timed_latency(TIMINGS.empty_table())
    with pytest.raises(ValueError, match="batches or steps of 0 s"):
        timed_latency(table(np.array([1]), np.array([0]), np.array([0.0])))


# --- what it explains ----------------------------------------------------------------------------------------


def replayed(
    slow: FleetSpec, trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None
) -> Run:
    """A live run on a machine on which engines take what those of `slow` do."""
    return simulate(trace.scale_rate(speed), spec.replace(engine=slow.engine), seed=seed, faults=faults)


@pytest.mark.usefixtures("timed")
def test_a_machine_that_drifted_is_told_apart_from_the_simulator() -> None:
    live = batches().replace(engine=TorchEngine(module="some.where:Model"))
    report = calibrate(
        TEXTS, {"one": live}, simulated=lambda spec: spec.replace(engine=batches().engine),
        play=partial(replayed, batches(1.5)), progress=False, metrics=["e2e_s.p50", "e2e_s.mean"],
    )  # fmt: skip
    for row in report.rows:
        assert (row.simulated - row.live) / row.live < -0.3
        assert row.drift > 0.4
        assert row.live == pytest.approx(row.simulated * (1 + row.drift) / (1 + row.error))
        assert abs(row.error) < 0.05
    assert "1.5" in " ".join(report.notes)
    assert report.headings == ("simulated", "own times", "live", "drift", "error", "aim")


@pytest.mark.usefixtures("timed")
def test_so_it_is_where_tokens_are_served(tmp_path: Path) -> None:
    live = tokens().replace(engine=TransformersEngine())
    report = calibrate(
        CHATS, {"one": live}, simulated=lambda spec: spec.replace(engine=tokens().engine),
        play=partial(replayed, tokens(2.0)), progress=False, metrics=["ttft_s.p50", "tpot_s.p50"],
    )  # fmt: skip
    for row in report.rows:
        assert row.drift > 0.5
        assert abs(row.error) < 0.05
    assert "steps took" in str(report)
    assert "one, own times" in (report.save(tmp_path) / "calibration.html").read_text()


@pytest.mark.usefixtures("timed")
def test_too_few_batches_are_said_and_not_simulated_with() -> None:
    live = batches().replace(engine=TorchEngine(module="some.where:Model"))
    report = calibrate(
        TEXTS.first(requests=FEWEST - 1), {"one": live}, simulated=lambda spec: spec.replace(engine=batches().engine),
        play=partial(replayed, batches(1.5)), progress=False, metrics=["e2e_s.p50"],
    )  # fmt: skip
    assert report.rows[0].own is None
    assert "too few" in str(report)


@pytest.mark.usefixtures("timed")
def test_an_engine_that_is_emulated_live_too_has_no_times_of_its_own() -> None:
    report = calibrate(TEXTS, {"one": batches()}, play=partial(replayed, batches()), progress=False)
    assert all(row.own is None and row.error == pytest.approx(0.0, abs=1e-12) for row in report.rows)
    assert "drift" not in report.headings


@pytest.mark.usefixtures("timed")
def test_each_pool_has_its_own_times() -> None:
    def fleet(slower: float) -> FleetSpec:
        return FleetSpec(
            pools={
                name: {"engine": batches(factor).engine, "replicas": 1, "batching": Greedy(max_batch=4)}
                for name, factor in (("same", 1.0), ("other", slower))
            }
        )

    real = TorchEngine(module="some.where:Model")
    live = fleet(1.0).replace({"pools.same.engine": real, "pools.other.engine": real})
    report = calibrate(
        TEXTS, {"two": live}, simulated=lambda _: fleet(1.0), progress=False, metrics=["e2e_s.p50"],
        play=lambda trace, spec, *, speed, seed, faults: simulate(trace, fleet(2.0), seed=seed),
    )  # fmt: skip
    ratios = {times.pool: times.took_s / times.expected_s for times in report.own["two"][0].pools}
    assert ratios == {"same": pytest.approx(1.0, abs=0.05), "other": pytest.approx(2.0, abs=0.1)}
    assert abs(report.rows[0].error) < 0.1
