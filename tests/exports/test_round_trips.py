"""A run that is written as another tool's result is read back as a measured run: what was sent, and what it took."""

import pytest

from fleet import simulate
from fleet.exports import save_as
from tests.simulation.building import trace_of
from tests.simulation.building_tokens import asks, serving
from traces import load_trace

FORMATS = {"vllm-bench": "vllm-bench", "aiperf": "aiperf-records"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_comes_back_with_its_arrivals_lengths_and_latencies(tmp_path, format):
    requests = [asks(f"r{n}", 0.25 * n, 100 + 10 * n, 5 + n) for n in range(8)]
    run = simulate(trace_of(*requests), serving(), seed=0)
    save_as(run, tmp_path / "out", format)
    trace = load_trace(tmp_path / "out")
    records = run.records.sort_by("arrived_s")

    def same(name, column):
        expected = [value or 0.0 for value in records[name].to_pylist()]
        assert [value or 0.0 for value in trace.column(column).to_pylist()] == pytest.approx(
            expected, abs=1e-6
        )

    assert trace.report.format == FORMATS[format]
    assert len(trace) == 8
    same("arrived_s", "arrived_s")
    same("prompt_tokens", "prompt_tokens")
    same("generated_tokens", "output_tokens")
    same("ttft_s", "observed_ttft_s")
    same("tpot_s", "observed_tpot_s")
    same("e2e_s", "observed_e2e_s")
    assert trace.column("observed_failed").to_pylist() == [False] * 8
