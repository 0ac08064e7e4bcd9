"""`fleet regret`: a saved run, another policy, and what is said of mistakes."""

import json

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Fleet

CUT = ("--first", 200, "--scale-rate", 6)


@pytest.fixture
def saved(fleet: Fleet) -> Fleet:
    """`fleet`, in a folder that has a run with a log, `run`."""
    ended = fleet(
        "simulate", "demo-surge", "small.toml", *CUT, "--set", "replicas=3", "--set", "routing=round-robin",
        "--log-views", "--out", "run",
    )  # fmt: skip
    assert ended.status == 0
    return fleet


def test_a_run_is_asked_about_and_decisions_are_tried(saved: Fleet, tmp_path) -> None:
    ended = saved(
        "regret", "run", "--policy", "least-outstanding", "--exact", 4, "--out",
        "differ.parquet",
    )  # fmt: skip

    assert ended.status == 0, ended.err
    assert ended.out.startswith("Regret of round-robin beside least-outstanding, e2e_s:")
    assert "4 of" in ended.out
    assert "one decision at a time" in ended.out
    table = pq.read_table(tmp_path / "differ.parquet")
    assert table.num_rows - table["exact_s"].null_count == 4


def test_the_figures_as_json(saved: Fleet) -> None:
    ended = saved(
        "regret", "run", "--json", "--policy",
        '{policy="power-of-two-choices",choices=3}',
    )  # fmt: skip

    figures = json.loads(ended.out)
    assert (figures["policy"], figures["asked"], figures["exact"]) == ("power-of-two-choices", 200, None)
    assert figures["estimated"]["lines"][0]["requests"] == 200


def test_mistakes_are_one_line_that_says_what_would_be_right(saved: Fleet) -> None:
    given = ("regret", "run", "--policy")

    assert "`least-outstnding`; did you mean `least-outstanding`" in saved(*given, "least-outstnding").line
    assert "e2e_s, queue_s, ttft_s" in saved(*given, "random", "--metric", "cost").line
    assert "name a .parquet file" in saved(*given, "random", "--out", "nowhere/x.parquet").line
    assert "nowhere.csv" in saved(*given, "random", "--trace", "nowhere.csv").line
    assert saved("regret", "elsewhere", "--policy", "random").status == 2


def test_a_run_without_a_log_says_how_to_have_one(saved: Fleet) -> None:
    saved("simulate", "demo-surge", "small.toml", *CUT, "--out", "plain")

    ended = saved("regret", "plain", "--policy", "random")

    assert ended.status == 2
    assert "run it anew with log_views=True, or --log-views" in ended.line
