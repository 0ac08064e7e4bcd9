"""The demo without its model: what it compares differs, at a load where that matters."""

from __future__ import annotations

import pytest

from experiments import compare
from experiments.demo import LIVE_S, MAX_BATCH, SIZES, TOKENS, Points, best, candidates, described, feasible
from experiments.report import Report


def measured(together: float) -> Points:
    """An embedder whose batches take `together` times what their texts take one by one, but for a call's 2 ms."""
    return tuple(
        (size, tokens, 0.002 + 0.0002 * tokens * (1.0 if size == 1 else together * size))
        for size in SIZES
        for tokens in TOKENS
    )


@pytest.fixture(scope="module", params=[0.8, 0.95])
def report(request: pytest.FixtureRequest) -> Report:
    points = measured(request.param)
    return compare(feasible(points), candidates(points), seeds=range(5), progress=False)


def test_candidates_get_different_verdicts(report: Report) -> None:
    assert report.row("e2e_s.p99", "one queue, one by one").verdict == "better"
    assert report.row("e2e_s.p50", "one queue, window").verdict == "worse"
    assert best(report) == "one queue, one by one"


def test_the_load_matters_and_can_be_served(report: Report) -> None:
    run = report.runs[best(report)][0]
    assert 0.5 < run.summary.utilization < 0.9
    assert run.manifest.trace["requests"] == pytest.approx(run.summary.completed)
    assert run.summary.duration_s == pytest.approx(LIVE_S, rel=0.1)


def test_what_was_measured_says_what_a_batch_saves() -> None:
    said = described(measured(0.8))
    assert f"1 text of 64 tokens takes 14.8 ms, {MAX_BATCH} together" in said
    assert "0.71 times as long as one by one" in said
