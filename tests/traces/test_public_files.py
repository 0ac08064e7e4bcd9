"""The public traces read as their description says, to the last request."""

import math
import time
from collections import Counter

import numpy as np
import pytest

from traces import Trace, TraceError, describe, from_rates, load_faults, load_rates, load_trace, save_trace

pytestmark = pytest.mark.traces
AZURE = "azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
MOONCAKE = "mooncake/conversation_trace.jsonl"
RUN = "llmservingsim/rtx4090-llama-3.1-8b/measured/requests.jsonl"
WORKLOAD = "llmservingsim/sharegpt-llama-3.1-8b-300-sps10.lengths.jsonl.gz"


def test_azure_2023(shared_trace):
    known = describe(load_trace(shared_trace(AZURE)))

    assert (known.requests, round(known.duration_s), round(known.rate_per_s, 1), known.peak_per_s) == (
        19_366,
        3502,
        5.5,
        16,
    )
    assert (known.prompt_tokens.p50, known.prompt_tokens.p99) == (1020, 4142)
    assert (known.output_tokens.p50, known.output_tokens.p99) == (129, 601)
    assert known.tick_s is None


def test_nineteen_thousand_rows_are_read_within_half_a_second(shared_trace):
    path = shared_trace(AZURE)
    load_trace(path)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        load_trace(path)
        times.append(time.perf_counter() - start)

    assert min(times) < 0.5


def test_mooncake(shared_trace):
    trace = load_trace(shared_trace(MOONCAKE))
    known = describe(trace)

    assert (known.requests, round(known.duration_s), known.distinct_times) == (12_031, 3537, 1180)
    assert (known.prompt_tokens.p50, known.prompt_tokens.p99) == (6909, 85_401)
    assert (known.output_tokens.p50, known.output_tokens.p99) == (350, 1120)
    assert round(known.prefix_hit_share, 3) == 0.366
    assert known.tick_s == 3.0


def test_mooncake_spread_over_its_ticks(shared_trace):
    trace = load_trace(shared_trace(MOONCAKE)).dequantise(tick_s=3.0, seed=0)
    known = describe(trace)

    assert known.distinct_times == known.requests == 12_031
    assert known.gap_cv < 1.5  # it was 3.0 in batches
    # Ticks vary by 3 ms, so now and then two requests of neighbouring ticks change places: no more than that.
    assert known.prefix_hit_share == pytest.approx(0.3664, abs=0.0005)


def test_mooncake_keeps_its_prefixes_when_scaled_to_a_small_model(shared_trace):
    trace = load_trace(shared_trace(MOONCAKE))
    small = trace.scale_lengths(1 / 32)
    known = describe(small)

    assert set(small.column("block_tokens").to_pylist()) == {16}
    assert known.prefix_hit_share == describe(trace).prefix_hit_share
    assert known.prompt_tokens.p50 == pytest.approx(6909 / 32, abs=1)
    assert all(len(e.request.blocks) == math.ceil(e.request.prompt_tokens / 16) for e in small)


def test_mooncake_s_sessions_are_told_from_its_prefixes(shared_trace):
    found = load_trace(shared_trace(MOONCAKE)).sessions(infer=True)

    parents = found.column("parent").drop_null().to_pylist()
    assert (len(parents), describe(found).sessions) == (3668, 1874)
    assert sum(n == 1 for n in Counter(parents).values()) / len(set(parents)) > 0.96  # a chat is a chain
    think_s = found.column("think_s").drop_null().to_numpy()
    assert (np.percentile(think_s, 1), np.median(think_s)) == (pytest.approx(15), pytest.approx(135))


def test_the_measured_run_gives_the_published_means(shared_trace):
    trace = load_trace(shared_trace(RUN))

    assert len(trace) == 300
    assert np.mean([entry.observed.ttft_s for entry in trace]) == pytest.approx(65.46, abs=0.01)
    assert np.mean([entry.observed.tpot_s for entry in trace]) == pytest.approx(0.0324, abs=0.0001)


def test_the_workload_and_the_run_are_the_same_requests(shared_trace):
    workload, run = load_trace(shared_trace(WORKLOAD)), load_trace(shared_trace(RUN))

    for name in ("prompt_tokens", "output_tokens"):  # row by row
        assert workload.column(name) == run.column(name)
    assert all(len(e.request.blocks) == e.request.prompt_tokens // 16 for e in workload)


def test_splitwise(shared_trace):
    assert [e.request.arrived_s for e in load_trace(shared_trace("splitwise/test_trace.csv"))] == [0, 2, 3]
    with pytest.raises(TraceError, match="which is no known format"):
        load_trace(shared_trace("splitwise/perf_model.csv"))


def test_twitter_rates_have_their_gaps_masked(shared_trace):
    path = shared_trace("web-twitter/workload.tbz2")
    series = load_rates(path)

    assert (len(series), series.gap_s) == (1_899_061, 36_671)
    minute = from_rates(series.slice(0, 60), seed=1)
    assert len(minute) == pytest.approx(series.per_s[:60].sum(), rel=0.1)
    with pytest.raises(TraceError, match="holds rates, not requests"):
        load_trace(path)


def test_gpu_faults_have_the_known_availability(shared_trace):
    trace = load_faults(shared_trace("gpu-faults/fault_trace.json"))

    down_days = sum(fault.for_s or 0 for fault in trace.faults) / 86_400
    assert len(trace.faults) == 584
    assert down_days / (400 * 348) == pytest.approx(0.0232, abs=0.0001)
    assert down_days / 584 == pytest.approx(5.55, rel=0.01)


def test_spot_availability_becomes_preemptions(shared_trace):
    trace = load_faults(
        shared_trace("spot/aws-10-26-2022/us-west-2a_v100_1.json"), replicas=4, time_scale=1 / 600
    )

    assert {fault.kind for fault in trace.faults} == {"preempt"}
    assert len(trace.faults) % 4 == 0
    assert trace.faults[-1].at_s < 3895


@pytest.mark.parametrize("name", [AZURE, MOONCAKE, RUN, WORKLOAD])
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_every_file_survives_our_own_formats(shared_trace, tmp_path, name, suffix):
    trace = load_trace(shared_trace(name))

    save_trace(trace, tmp_path / f"x{suffix}")

    assert load_trace(tmp_path / f"x{suffix}") == trace
    head = trace.first(requests=50)
    assert Trace.from_entries(head, head.header) == head
