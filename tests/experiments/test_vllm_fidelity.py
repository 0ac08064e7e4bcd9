"""A simulated run of vLLM against the measured one, from the times of its kernels alone."""

import pytest

from experiments.text import as_text
from experiments.vllm_fidelity import (
    METRICS,
    STATISTICS,
    default_settings,
    main,
    measured,
    settings_of,
    study,
    table_of,
)
from traces import load_trace

WORKLOAD = "llmservingsim/sharegpt-llama-3.1-8b-300-sps10.lengths.jsonl.gz"
RUN = "llmservingsim/rtx4090-llama-3.1-8b/measured"
PROFILES = {name: f"llmservingsim/{name}-llama-3.1-8b/profile" for name in ("rtx4090", "rtxpro6000")}


@pytest.fixture(scope="module")
def simulated(shared_trace):
    run = shared_trace(RUN)
    return study(load_trace(shared_trace(WORKLOAD)), shared_trace(PROFILES["rtx4090"]), run=run)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("statistic", [name for name, bound in STATISTICS.items() if bound])
def test_the_simulation_meets_the_measurement(shared_trace, simulated, metric, statistic):
    known = getattr(measured(shared_trace(RUN))[metric], statistic)

    assert getattr(getattr(simulated.summary, metric), statistic) == pytest.approx(
        known, rel=STATISTICS[statistic]
    )


def test_every_request_completes_with_its_tokens(simulated):
    assert simulated.summary.completed == 300
    assert sum(simulated.records["generated_tokens"].to_pylist()) == 195_753


def test_the_settings_are_those_that_the_engine_recorded(shared_trace):
    settings = settings_of(shared_trace(RUN))

    assert (settings.kv.total_blocks(), settings.kv.block_tokens, settings.kv.prefix_caching) == (
        2587,
        16,
        True,
    )
    assert (settings.max_sequences, settings.max_step_tokens) == (256, 2048)


def test_without_a_measurement_it_predicts_with_what_fits_the_device(shared_trace):
    profile = shared_trace(PROFILES["rtxpro6000"])
    run = study(load_trace(shared_trace(WORKLOAD)), profile)
    text = as_text(table_of(run))

    assert 30_000 < default_settings(profile).kv.total_blocks() < 40_000
    assert run.summary.completed == 300
    assert run.summary.preemptions == 0
    # As committed in docs/measurements.md.
    assert [getattr(run.summary, name).mean for name in METRICS] == pytest.approx(
        [6.695, 0.031809, 27.366], rel=1e-3
    )
    assert "TTFT mean (s)" in text
    assert "measured" not in text


def test_the_table_has_each_figure_beside_its_measurement_and_error(shared_trace, capsys):
    main(
        [
            f"--run={shared_trace(RUN)}",
            f"--profile={shared_trace(PROFILES['rtx4090'])}",
            f"--workload={shared_trace(WORKLOAD)}",
        ]
    )
    text = capsys.readouterr().out

    assert "65.457" in text  # the published mean TTFT
    assert "2,587 blocks of 16" in text


def test_what_is_missing_is_said_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--run={tmp_path}", f"--profile={tmp_path}", f"--workload={tmp_path}"])

    assert "meta.json: No such file" in capsys.readouterr().err
