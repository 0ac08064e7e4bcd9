"""What the commands print of fleets that serve token by token, and do not print of others."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet

LLM = """replicas = 2
slo = { ttft_s = 0.2 }
routing = { policy = "prefix-affinity" }

[engine]
engine = "emulated-llm"
latency = { latency = "affine", base_s = 0.015, per_prefill_token_s = 0.0003, per_decode_s = 0.002 }
kv = { blocks = 200 }
"""
PRINTED = """\
chat-small on llm.toml, simulated, seed 0
requests    131 submitted, 130 completed, 1 failed
duration    97.07 s
throughput  1.3 a second completed
objectives  28.2% met, goodput 0.4 a second
tokens      258.9 output tokens a second, 50.0% of prompt tokens found cached, 51 preemptions
replicas    2 ready, 85.8% busy while ready, 194.1 device seconds
work        1.000 attempts a request

latency (ms)     mean      p50      p90      p95      p99      max
end to end    14664.5  12061.1  29140.0  31470.2  33912.9  40327.0
queue wait     8631.7   4791.1  21528.0  25363.5  30567.2  30743.4
TTFT           8885.9   5151.9  21877.5  25685.1  30846.0  31245.6
TPOT             31.8     28.9     44.3     51.7     87.6    100.2
longest ITL     626.8    228.2   1514.1   2927.4   5816.7   7237.1

not completed
       1  failed     refused: its 2773 prompt and 428 output tokens need 201 blocks of 16; the cache has 200
"""


@pytest.fixture
def llm(tmp_path: Path) -> str:
    (tmp_path / "llm.toml").write_text(LLM)
    return "llm.toml"


def test_a_run_with_tokens_is_printed_with_them(fleet: Fleet, llm: str) -> None:
    printed = fleet("simulate", "chat-small", llm, "--first-s", 60).out
    lines = [line.rstrip() for line in printed.splitlines() if not line.startswith("digest")]
    assert "\n".join(lines) + "\n" == PRINTED


def test_the_json_of_a_run_is_whole(fleet: Fleet, llm: str) -> None:
    summary = json.loads(fleet("simulate", "chat-small", llm, "--first-s", 60, "--json").out)["summary"]
    assert summary["preemptions"] > 0
    assert 0.0 < summary["cached_fraction"] < 1.0
    assert summary["output_tokens_per_s"] > 0.0
    assert all(summary[name]["p99"] > 0.0 for name in ("ttft_s", "tpot_s", "itl_max_s", "e2e_s", "queue_s"))


def test_a_run_of_whole_requests_says_nothing_of_tokens(fleet: Fleet) -> None:
    printed = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5).out
    assert "requests a batch" in printed
    assert not any(word in printed for word in ("tokens", "preempt", "cached", "TTFT", "TPOT", "ITL"))


# --- compare -----------------------------------------------------------------------------------------------


def test_compare_takes_the_figures_that_are_named_in_their_order(fleet: Fleet, llm: str) -> None:
    vary = ("--vary", "iteration=orca,sarathi", "--seeds", 2, "--first", 30)
    named = fleet("compare", "chat-small", llm, *vary, "--metrics", "tpot_s.p99, ttft_s.p50,tpot_s.p99").out
    headings = [line.strip() for line in named.splitlines() if line.strip().endswith("(ms)")]
    assert headings == ["tpot p99 (ms)", "ttft p50 (ms)"]
    chosen = fleet("compare", "chat-small", llm, *vary).out
    assert all(words in chosen for words in ("ttft p99 (ms)", "output tokens (1/s)", "slo attainment (%)"))


def test_each_seed_gets_its_own_stretch_of_the_trace(fleet: Fleet, llm: str, tmp_path: Path) -> None:
    vary = ("--vary", "routing=round-robin,prefix-affinity", "--seeds", 3)
    ended = fleet("compare", "chat-small", llm, *vary, "--stretch-s", 20, "--out", "report")
    assert ended.status == 0
    assert "on 3 traces like" in ended.out
    assert "deterministic" not in ended.out
    steps = [
        trace["header"]["transforms"][-1]
        for trace in json.loads((tmp_path / "report/manifest.json").read_text())["traces"]
    ]
    assert [step["parameters"]["start_s"] for step in steps] == [0.0, 20.0, 40.0]
