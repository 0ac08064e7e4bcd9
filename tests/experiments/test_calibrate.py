"""`calibrate`, with stand-ins for the live side: errors, noise and order are what they are made to be."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from msgspec.structs import replace

from experiments import calibrate
from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel, Run, simulate
from tests.experiments.conftest import CHATS
from traces import FaultTrace, Trace, poisson, zipf


def faithful(trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None) -> Run:
    """As `replay`: `speed` makes arrivals come faster."""
    return simulate(trace.scale_rate(speed), spec, seed=seed, faults=faults)


def test_a_live_side_that_is_the_simulation_has_no_error_and_the_same_order(
    trace: Trace, specs: dict[str, FleetSpec]
) -> None:
    report = calibrate(trace, specs, speed=1.5, repeats=2, play=faithful, progress=False)
    assert all(row.error == pytest.approx(0.0, abs=1e-12) for row in report.rows)
    assert all(row.noise == 0.0 and row.within is not False for row in report.rows)
    p99 = next(item for item in report.fidelity if item.metric == "e2e_s.p99")
    assert (p99.tau, p99.same_order, p99.pairs) == (1.0, 6, 6)


def test_the_error_is_of_the_simulation_relative_to_live(trace: Trace, base: FleetSpec) -> None:
    report = calibrate(
        trace,
        {"one": base},
        play=faithful,
        progress=False,
        simulated=lambda spec: spec.replace(
            engine=EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.005))
        ),
    )
    row = next(row for row in report.rows if row.metric == "e2e_s.p50")
    assert row.error == pytest.approx((row.simulated - row.live) / row.live)
    assert row.error > 0.2
    assert row.within is False
    assert report.fidelity == []
    assert "noise of live runs is unknown" in str(report)


def test_an_order_that_is_reversed_is_seen(trace: Trace, base: FleetSpec) -> None:
    def backwards(
        trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None
    ) -> Run:
        return faithful(
            trace, spec.replace(replicas=7 - spec.replicas), speed=speed, seed=seed, faults=faults
        )

    specs = {f"{count} replicas": base.replace(replicas=count) for count in (3, 4)}
    report = calibrate(trace, specs, play=backwards, progress=False, metrics=["e2e_s.mean"])
    assert report.fidelity[0].tau == -1.0
    assert "0 of 1 pairs" in str(report)


def test_a_grouped_figure_is_of_each_group_in_both_runtimes(
    trace: Trace, specs: dict[str, FleetSpec]
) -> None:
    tenants = pa.array(["a" if number % 3 else "b" for number in range(len(trace))])
    half = Trace(trace.table.append_column("tenant", tenants), trace.header)
    figures = ["e2e_s.p99", "e2e_s.p99@tenant", "submitted@tenant"]
    report = calibrate(half, specs, play=faithful, progress=False, metrics=figures)

    name = next(iter(specs))
    found = {row.metric: row.live for row in report.rows if row.candidate == name}
    parts = report.live[name][0].parts("tenant")
    assert found["submitted@tenant=a"] == len(parts["a",].records)
    assert found["e2e_s.p99@tenant=b"] == parts["b",].summary.e2e_s.p99 != found["e2e_s.p99"]
    pairs = len(specs) * (len(specs) - 1) // 2
    assert {item.pairs for item in report.fidelity} == {pairs}
    with pytest.raises(ValueError, match="'tenent' is nothing to group requests by"):
        calibrate(half, specs, play=faithful, progress=False, metrics=["e2e_s.p99@tenent"])


def test_noise_is_the_gap_between_live_runs_of_one_seed(trace: Trace, base: FleetSpec) -> None:
    delays = iter([0.0, 0.001])

    def drifting(trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None) -> Run:
        slower = spec.replace(network=NetworkModel(delay_s=next(delays)))
        return faithful(trace, slower, speed=speed, seed=seed, faults=faults)

    report = calibrate(trace, {"one": base}, repeats=2, play=drifting, progress=False, metrics=["e2e_s.p50"])
    one, other = (run.summary.e2e_s.p50 for run in report.live["one"])
    assert report.rows[0].noise == pytest.approx((other - one) / ((one + other) / 2))
    assert replace(report.rows[0], error=0.9 * report.rows[0].noise).within is True


def test_one_candidate_run_more_often_is_the_noise_of_all(trace: Trace, specs: dict[str, FleetSpec]) -> None:
    delays = iter([0.0] * len(specs) + [0.5])

    def drifting(trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None) -> Run:
        slower = spec.replace(network=NetworkModel(delay_s=next(delays)))
        return faithful(trace, slower, speed=speed, seed=seed, faults=faults)

    first = next(iter(specs))
    report = calibrate(trace, specs, repeats={first: 2}, play=drifting, progress=False, metrics=["e2e_s.p50"])
    assert [len(runs) for runs in report.live.values()] == [2] + [1] * (len(specs) - 1)
    assert {row.noise for row in report.rows} == {report.rows[0].noise}
    assert report.fidelity[0].close == report.fidelity[0].pairs
    assert "6 closer than live noise" in str(report)
    assert "1 to 2 live runs each" in str(report)


def test_tolerances_are_those_that_are_given(trace: Trace, base: FleetSpec) -> None:
    report = calibrate(
        trace, {"one": base}, play=faithful, progress=False, metrics=["e2e_s.p50", "queue_s.p50"],
        tolerances={"queue_s.p50": 0.3},
    )  # fmt: skip
    assert [row.tolerance for row in report.rows] == [None, 0.3]


def test_a_calibration_is_kept_whole(trace: Trace, specs: dict[str, FleetSpec], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = calibrate(trace, {name: specs[name] for name in ("p2c", "least")}, play=faithful, progress=False)
    report.save(tmp_path)
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert len(kept["rows"]) == len(report.rows)
    assert "p2c, live" in (tmp_path / "calibration.html").read_text()
    assert (tmp_path / "calibration.parquet").exists()


def test_runs_with_tokens_are_held_by_their_tokens_too(llm: FleetSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fleets = {f"{count} replicas": llm.replace(replicas=count) for count in (1, 2)}
    report = calibrate(CHATS, fleets, play=faithful, progress=False)
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    assert metrics == [
        "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99", "itl_max_s.p99", "e2e_s.p50", "e2e_s.p99",
        "throughput_per_s", "output_tokens_per_s",
    ]  # fmt: skip
    tied = {"ttft_s.p99": None}  # the longest prompt alone decides it
    assert {item.metric: item.tau for item in report.fidelity} == dict.fromkeys(metrics, 1.0) | tied
    assert "e2e p99 (ms): 1 of 1 pairs of candidates in the same order (Kendall tau +1.00)" in " ".join(
        report.notes
    )
    page = (report.save(tmp_path) / "calibration.html").read_text()
    assert "time to first token (ms" in page
    assert "time per output token (ms" in page


def test_whole_requests_are_held_by_latency_and_throughput(trace: Trace, base: FleetSpec) -> None:
    report = calibrate(trace, {"one": base}, play=faithful, progress=False)
    assert [row.metric for row in report.rows] == ["e2e_s.p50", "e2e_s.p99", "throughput_per_s"]


def test_figures_of_groups_are_held_group_by_group(base: FleetSpec) -> None:
    mine = poisson(rate_per_s=60.0, duration_s=2.0, seed=1).assign(tenant=zipf(2, 1.0))
    report = calibrate(
        mine, {"one": base}, play=faithful, metrics=["e2e_s.mean@tenant", "e2e_s.p50"], progress=False
    )
    assert [row.metric for row in report.rows] == [
        "e2e_s.mean@tenant=tenant-0", "e2e_s.mean@tenant=tenant-1", "e2e_s.p50"
    ]  # fmt: skip
    run = report.live["one"][0]
    first = run.parts("tenant")["tenant-0",]
    assert report.rows[0].live == pytest.approx(first.summary.e2e_s.mean)
