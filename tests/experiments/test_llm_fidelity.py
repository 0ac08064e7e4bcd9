"""The study of a real LLM against its simulation, with an emulated engine in the real one's place."""

import pytest

from experiments.llm_fidelity import (
    AIMS,
    BLOCK_TOKENS,
    SIZES,
    Size,
    at_load,
    candidates,
    describe,
    emulated,
    held_against_live,
    measure,
    measured_together,
    small_chats,
    verdicts,
)
from fleet import simulate
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec, StepGrid
from fleet.engines.latency.steps.fitted import fit_steps

GRID = StepGrid(chunks=(1, 8, 64), contexts=(0, 64), decodes=(1, 4, 8), mixed_chunks=(8,))
SMALL = Size(grid=GRID, profile_repeats=3, live_s=6.0, repeats=2)


def engine(base_s=0.02):
    latency = AffineSteps(
        base_s=base_s, per_prefill_token_s=0.002, per_decode_s=0.002, per_context_token_s=0.00001
    )
    return EmulatedLlmEngine(latency=latency, kv=KvSpec(blocks=512, block_tokens=BLOCK_TOKENS))


def slower(factor):
    """Live runs on engines that take so many times as long in the fixed part of a step, one factor for each run."""
    factors = iter(factor)

    def play(trace, spec, *, speed, seed, faults):
        return simulate(trace.scale_rate(speed), spec.replace(engine=engine(0.02 * next(factors))), seed=seed)

    return play


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("llm") / "profile.json"
    measure(engine(), GRID, 3).save(path)
    return path


def test_a_live_engine_that_is_as_measured_is_simulated_within_the_aims_and_in_order(profile):
    report = held_against_live(profile, SMALL, engine=engine(), play=slower([1.0] * 10), progress=False)

    assert len(report.live) == 9
    assert [len(runs) for runs in report.live.values()] == [2] + [1] * 8
    assert all(row.within for row in report.rows if row.metric in AIMS)
    assert all(item.tau >= 0.8 for item in report.fidelity if item.metric in ("ttft_s.p50", "tpot_s.p50"))
    assert any("9 of 9 within 10%" in line for line in verdicts(report))


def test_a_live_engine_that_is_slower_than_measured_misses_the_aims(profile):
    report = held_against_live(profile, SMALL, engine=engine(), play=slower([2.0] * 10), progress=False)

    assert all(row.error < -0.2 for row in report.rows if row.metric == "tpot_s.p50")
    assert any("tpot p50 (ms): 0 of 9 within 10%" in line for line in verdicts(report))


def test_noise_larger_than_the_aim_is_said(profile):
    report = held_against_live(
        profile, SMALL, engine=engine(), play=slower([1.0] * 9 + [2.0]), progress=False
    )
    said = "\n".join(verdicts(report))

    assert "differ by" in said
    assert "cannot be tested here" in said
    assert "closer than live noise" in said


def test_prompts_share_prefixes_and_every_length_is_within_bounds():
    trace = small_chats(100)
    blocks = trace.column("blocks").to_pylist()

    assert len({row[0] for row in blocks}) < len(blocks) / 2
    assert set(trace.column("block_tokens").to_pylist()) == {BLOCK_TOKENS}
    assert max(trace.column("prompt_tokens").to_pylist()) <= 128
    assert max(trace.column("output_tokens").to_pylist()) <= 24


def test_the_rate_is_set_by_what_the_fleet_can_serve(profile):
    spec = next(iter(candidates(emulated(profile)).values()))
    slow, fast = (at_load(spec, load=load, seconds=20.0) for load in (0.3, 0.6))

    assert len(fast) == pytest.approx(2 * len(slow), rel=0.05)
    assert len(fast) / fast.duration_s == pytest.approx(2 * len(slow) / slow.duration_s, rel=0.01)


def test_profiles_of_processes_that_ran_together_are_their_mean():
    assert measured_together(engine(), GRID, 3).points == measure(engine(), GRID, 3).points


def test_the_description_tells_how_well_the_formula_fits():
    measured = measure(engine(), GRID, 3)

    assert max(map(abs, fit_steps(measured.points).errors)) < 0.01
    assert "1 decode 22 ms" in describe(measured)


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_what_is_measured_covers_what_is_played(size):
    from experiments.llm_fidelity import BLOCKS, MAX_SEQUENCES

    assert max(size.grid.decodes) == MAX_SEQUENCES
    runs = len(size.grid.decodes) * (1 + len(size.grid.mixed_chunks))
    needed = MAX_SEQUENCES * (max(size.grid.contexts) + runs + 1) + max(size.grid.mixed_chunks)
    assert needed <= BLOCKS * BLOCK_TOKENS
