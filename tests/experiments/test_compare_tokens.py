"""`compare` of fleets that serve token by token: their figures, their pictures, and what is advised of them."""

from pathlib import Path

import pytest

from experiments import Report, compare
from fleet import AffineLatency, EmulatedEngine, FleetSpec
from policies import PrefixAffinity, RoundRobin
from tests.experiments.conftest import CHATS
from traces import Slo, Trace


@pytest.fixture(scope="module")
def fleets(llm: FleetSpec) -> dict[str, FleetSpec]:
    judged = llm.replace(slo=Slo(ttft_s=0.5))
    return {"turns": judged.replace(routing=RoundRobin()), "prefix": judged.replace(routing=PrefixAffinity())}


@pytest.fixture(scope="module")
def report(fleets: dict[str, FleetSpec]) -> Report:
    return compare(CHATS, fleets, seeds=range(2), progress=False)


def test_the_table_has_what_matters_of_tokens(report: Report) -> None:
    labels = list(dict.fromkeys(row.label for row in report.rows))
    assert labels == [
        "ttft p50 (ms)", "ttft p99 (ms)", "tpot p50 (ms)", "tpot p99 (ms)", "itl max p99 (ms)", "e2e p50 (ms)",
        "e2e p99 (ms)", "output tokens (1/s)", "cached fraction (%)", "preemptions", "slo attainment (%)",
        "goodput (1/s)", "not completed", "gpu seconds (s)",
    ]  # fmt: skip
    cached = report.row("cached_fraction", "prefix")
    assert cached.mean == pytest.approx(report.runs["prefix"][0].summary.cached_fraction)
    assert "better in" in report.in_short[0]
    assert f"cached fraction (×{cached.ratio:.3f})" in report.in_short[0]


def test_a_figure_that_is_0_in_every_run_is_named_below_the_table(report: Report) -> None:
    assert report.row("not_completed", "prefix").largest == 0.0
    assert report.zeros == ["preemptions", "not completed"]
    assert "· 0 in every run: preemptions, not completed." in str(report)
    assert not any(line.strip() == "preemptions" for line in str(report).splitlines())
    assert {row.metric for row in report.shown} == {row.metric for row in report.rows} - {
        "preemptions",
        "not_completed",
    }


def test_jitter_is_advised_only_where_an_engine_has_it(report: Report, trace: Trace, base: FleetSpec) -> None:
    advice = next(note for note in report.notes if note.startswith("A deterministic difference"))
    assert "jitter" not in advice
    assert "trace.slice" in advice
    assert "--stretch-s" in advice
    steady = base.replace(
        routing=RoundRobin(), engine=EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0))
    )
    whole = compare(
        trace, {"four": steady, "five": steady.replace(replicas=5)}, seeds=range(2), progress=False
    )
    assert "or an engine with jitter" in " ".join(whole.notes)


def test_stretches_of_one_trace_give_an_interval(fleets: dict[str, FleetSpec]) -> None:
    report = compare(
        lambda seed: CHATS.slice(10.0 * seed, 10.0 * (seed + 1)), fleets, seeds=range(3), progress=False
    )
    assert report.deterministic == []
    assert report.row("ttft_s.p50", "prefix").difference.low is not None


def test_what_is_asked_for_is_what_is_compared(fleets: dict[str, FleetSpec]) -> None:
    asked = ["tpot_s.p95", "utilization"]
    report = compare(CHATS, fleets, seeds=[0], metrics=asked, progress=False)
    assert list(dict.fromkeys(row.metric for row in report.rows)) == asked


def test_a_wrong_name_fails_before_anything_is_run(fleets: dict[str, FleetSpec]) -> None:
    def drawn(seed: int) -> Trace:
        raise AssertionError(f"a trace was drawn for seed {seed}")

    with pytest.raises(ValueError, match="there are ttft_s, tpot_s"):
        compare(drawn, fleets, metrics=["ttft"], progress=False)


def test_a_figure_that_the_baseline_lacks_is_shown_and_not_compared(
    base: FleetSpec, fleets: dict[str, FleetSpec]
) -> None:
    both = {"whole": base.replace(routing=RoundRobin()), "tokens": fleets["turns"]}
    report = compare(CHATS, both, seeds=range(2), progress=False)
    row = report.row("tpot_s.p50", "tokens")
    assert (row.difference, row.ratio, row.verdict) == (None, None, "not judged")
    assert "baseline has none" in str(report)
    assert report.row("ttft_s.p50", "tokens").difference is not None


def test_the_page_draws_ttft_tpot_and_the_cache(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = (report.save(tmp_path) / "report.html").read_text()
    assert page.count("<svg") == 6, "differences, end to end, TTFT, TPOT, over time, replicas"
    for words in (
        "end-to-end latency (ms",
        "time to first token (ms",
        "time per output token (ms",
        "used cache blocks",
        "output tokens (1/s)",
        "0 in every run: preemptions, not completed.",
    ):
        assert words in page
