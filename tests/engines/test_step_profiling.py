"""Measuring an engine step by step, and reading the measurement back."""

import pytest

from fleet.actor import FleetError
from fleet.engines import (
    AffineSteps,
    EmulatedLlmEngine,
    KvSpec,
    ProfiledSteps,
    StepGrid,
    StepProfile,
    StepShape,
    TransformersEngine,
    profile_step_engine,
)
from fleet.messages import StepRan

AFFINE = AffineSteps(
    base_s=0.02, per_prefill_token_s=0.001, per_decode_s=0.003, per_context_token_s=0.00001
)  # fmt: skip
GRID = StepGrid(chunks=(1, 8, 40), contexts=(0, 64), decodes=(1, 3), mixed_chunks=(8,))


def engine(latency=AFFINE, **kv):
    return EmulatedLlmEngine(
        latency=latency, kv=KvSpec(**{"blocks": 1_000, "block_tokens": 16} | kv), cold_start_s=50.0
    )


def shape_of(point):
    prefills = ((point.prefill_tokens, point.prefill_context_tokens),) if point.prefill_tokens else ()
    return StepShape(prefills, point.decodes, point.decode_context_tokens)


def test_the_profile_of_an_emulated_engine_is_its_latency_model_and_takes_no_time():
    profile = profile_step_engine(engine(), GRID, repeats=3)

    assert [point.seconds for point in profile.points] == [
        pytest.approx(AFFINE.step_s(shape_of(point)), rel=1e-12) for point in profile.points
    ]
    assert profile.load_s == pytest.approx(50.0, abs=0.5)
    assert profile.engine["engine"] == "emulated-llm"


def test_every_kind_of_step_is_measured_at_every_context():
    points = profile_step_engine(engine(), GRID, repeats=3).points

    assert len(points) == GRID.steps()
    alone = [(point.prefill_tokens, point.prefill_context_tokens) for point in points if not point.decodes]
    assert alone == [(1, 0), (8, 0), (40, 0), (1, 64), (8, 64), (40, 64)]
    beside = [(point.prefill_tokens, point.decodes) for point in points if point.decodes]
    assert beside == [(0, 1), (8, 1), (0, 3), (8, 3)] * 2
    for point in points[10:]:
        if point.decodes:
            assert 64 * point.decodes <= point.decode_context_tokens <= (64 + 16) * point.decodes


def test_a_fleet_reads_the_saved_profile_as_what_was_measured(tmp_path):
    path = tmp_path / "profile.json"
    profile = profile_step_engine(engine(), GRID, repeats=3)
    profile.save(path)

    assert StepProfile.load(path) == profile
    read = ProfiledSteps(profile=str(path))
    for shape in (StepShape(((8, 0),)), StepShape((), 2, 150), StepShape(((30, 10),), 3, 100)):
        assert read.step_s(shape) == pytest.approx(AFFINE.step_s(shape), rel=0.02)


def test_an_engine_without_a_prefix_cache_is_measured_at_the_same_points():
    with_cache, without = (
        profile_step_engine(engine(prefix_caching=prefix_caching), GRID, repeats=3).points
        for prefix_caching in (True, False)
    )

    assert with_cache == without


def test_what_the_cache_has_no_room_for_is_left_out():
    points = profile_step_engine(engine(blocks=5), GRID, repeats=1, warmup=0).points

    assert (40, 64) not in [(point.prefill_tokens, point.prefill_context_tokens) for point in points]
    assert (8, 64) in [(point.prefill_tokens, point.prefill_context_tokens) for point in points]
    with pytest.raises(FleetError, match="too small for any"):
        profile_step_engine(engine(blocks=1), StepGrid(chunks=(100,), decodes=(), contexts=(0,)))


def test_all_that_was_taken_of_the_cache_is_given_back():
    caches = []

    class Kept(EmulatedLlmEngine):
        def open_cache(self, eviction):
            caches.append(super().open_cache(eviction))
            return caches[-1]

    profile_step_engine(Kept(latency=AFFINE, kv=KvSpec(blocks=64)), GRID, repeats=2)

    [cache] = caches
    cache.check()
    assert cache.used_blocks == 0


def test_every_run_is_told_and_the_median_of_those_after_the_warm_up_is_kept():
    class SlowsDown(EmulatedLlmEngine):
        """Step after step."""

        def run_step(self, work):
            seconds = 0.001 * work.number
            self._ctx.after(0.0, StepRan(work.number, 1, seconds, seconds, seconds))

    told = []
    grid = StepGrid(chunks=(1, 8), contexts=(0,), decodes=(), mixed_chunks=())
    slow = SlowsDown(latency=AFFINE, kv=KvSpec(blocks=64))
    points = profile_step_engine(slow, grid, repeats=3, warmup=1, on_run=told.append).points

    assert [run.seconds for run in told] == [pytest.approx(0.001 * step) for step in range(1, 9)]
    assert [point.seconds for point in points] == [pytest.approx(0.005), pytest.approx(0.006)]


def test_a_step_that_fails_ends_the_measurement_with_what_went_wrong():
    class Fails(EmulatedLlmEngine):
        def run_step(self, work):
            error = f"step of {len(work.prefills)} sequences: too hot"
            self._ctx.after(0.0, StepRan(work.number, 1, 0.1, 0.1, 0.1, error=error))

    with pytest.raises(FleetError, match="the engine failed in a step of 1 sequences: too hot"):
        profile_step_engine(Fails(latency=AFFINE, kv=KvSpec(blocks=64)), GRID)


def test_a_real_language_model_is_measured_with_the_versions_and_the_machine():
    pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="needs the extra `llm`")
    tiny = TransformersEngine(
        model="tests.engines.language_models:tiny_llama", blocks=64, block_tokens=4, max_step_tokens=64,
        device="cpu", threads=1,
    )  # fmt: skip
    profile = profile_step_engine(tiny, GRID, repeats=2)

    assert len(profile.points) == GRID.steps()
    assert all(point.seconds > 0.0 for point in profile.points)
    assert {"torch", "transformers"} <= profile.versions.keys()
