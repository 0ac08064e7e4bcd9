"""What the command says of a file whose requests have no times, and what it makes of it."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet
from traces import load_trace

TALKS = [{"conversations": [{"from": "human", "value": "a" * 40}, {"from": "gpt", "value": "b" * 8}]}] * 30


@pytest.fixture
def talks(fleet: Fleet, tmp_path: Path) -> Fleet:
    (tmp_path / "talks.json").write_text(json.dumps(TALKS))
    return fleet


def test_what_the_file_does_not_say_is_asked_for_by_its_flag(talks: Fleet) -> None:
    counts = talks("traces", "stats", "talks.json")
    times = talks("traces", "stats", "talks.json", "--chars-per-token", 4)

    assert counts.status == times.status == 2
    assert "talks.json: has texts and no counts of tokens; say how to count them" in counts.line
    assert "--chars-per-token 4" in counts.line
    assert "talks.json: does not say when its conversations came; say how" in times.line
    assert "--arrivals poisson:4" in times.line


def test_what_was_drawn_is_said_and_made_again_by_another_seed(talks: Fleet, tmp_path: Path) -> None:
    told = ("--chars-per-token", 4, "--arrivals", "poisson:4")
    out = " ".join(talks("traces", "stats", "talks.json", *told).out.split())
    for seed in (0, 1):
        assert talks("traces", "convert", "talks.json", f"{seed}.jsonl", *told, "--seed", seed).status == 0
    drawn = [load_trace(tmp_path / f"{seed}.jsonl") for seed in (0, 1)]

    assert "count_tokens(chars_per_token=4.0), arrivals(law=poisson:4, of=conversations, seed=0)" in out
    assert "(derived, licence not given)" in out
    assert (
        drawn[0].column("prompt_tokens").to_pylist()
        == drawn[1].column("prompt_tokens").to_pylist()
        == [10] * 30
    )
    assert drawn[0].column("arrived_s").to_pylist() != drawn[1].column("arrived_s").to_pylist()


def test_conversations_without_times_are_played(talks: Fleet) -> None:
    asked = (
        "simulate",
        "talks.json",
        "small.toml",
        "--chars-per-token",
        4,
        "--arrivals",
        "constant:20",
        "--json",
    )
    summary = json.loads(talks(*asked).out)["summary"]

    assert (summary["completed"], summary["submitted"]) == (30, 30)
