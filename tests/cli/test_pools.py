"""What the command prints of a run of several pools: each pool, rollouts, attempts, costs; and no less as JSON."""

import json
from pathlib import Path

import pytest

from fleet.cli import output
from tests.cli.conftest import Fleet
from tests.telemetry.building import NEW, OLD, Told, both_ready, two_versions

POOLS = """
engine = { engine = "emulated", latency = { latency = "affine", base_s = 0.005, per_item_s = 0.002 } }
cost_per_hour = 36
[pools.one]
[pools.other]
model = "other"
version = "2"
"""


@pytest.fixture
def pooled(fleet: Fleet, tmp_path: Path) -> Fleet:
    (tmp_path / "pools.toml").write_text(POOLS)
    return fleet


def printed(told: Told, capsys: pytest.CaptureFixture[str]) -> str:
    output.print_run(told.run(10.0), "a run", as_json=False)
    return capsys.readouterr().out


def test_a_run_of_two_pools_is_printed_with_each(pooled: Fleet) -> None:
    out = pooled("simulate", "demo-surge", "pools.toml", "--first-s", 10).out

    lines = [line.split()[:4] for line in out.splitlines()]
    assert ["pool", "model", "version", "requests"] in lines
    assert ["other", "other", "2", "0"] in lines
    assert "0 hedges, 0 retries; 0 service s for nothing" in out
    assert " of it for pools in which nothing ran" in out


def test_json_has_every_pool_and_its_figures(pooled: Fleet) -> None:
    said = json.loads(pooled("simulate", "demo-surge", "pools.toml", "--first-s", 10, "--json").out)

    assert [pool["pool"] for pool in said["pools"]] == ["one", "other"]
    assert [pool["requests"] for pool in said["by_pool"]] == [said["summary"]["submitted"], 0]
    assert said["summary"]["cost"] == pytest.approx(sum(pool["cost"] for pool in said["pools"]))
    assert said["rollouts"] == []


def test_a_flat_fleet_is_printed_as_it_was(fleet: Fleet) -> None:
    said = json.loads(fleet("simulate", "demo-surge", "small.toml", "--first-s", 5, "--json").out)
    out = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5).out

    assert not {"pools", "by_pool", "rollouts"} & set(said)
    assert not {"cost", "wasted_s", "quality_mean"} & set(said["summary"])
    assert not {"attempts", "cost", "quality", "pool"} & {line.partition(" ")[0] for line in out.splitlines()}


def test_rollouts_are_told_stage_by_stage_and_the_many_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = both_ready(Told()).request(replica=NEW)
    for number in range(15):
        told.telemetry.decided(
            float(number), "rollout", "chat", f"ramp {number} %", reason="held" if number else None
        )

    out = printed(told, capsys)

    assert "       0.0 s  chat: ramp 0 %\n       1.0 s  chat: ramp 1 % (held)\n" in out
    assert "ramp 12 %" not in out
    assert "and 3 more, which --json has" in out


def test_a_price_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = both_ready(Told(two_versions(prices={"old": 1.0}))).request()

    assert "cost        unknown: no cost_per_hour is given of new" in printed(told, capsys)


def test_costs_are_printed_over_requests_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    told = both_ready(Told()).request(tokens=500, quality=0.75).request(None)
    told.attempt("r0", "primary", OLD, end="withdrawn")
    told.attempt("r0", "hedge", NEW, service_s=1.0)

    out = printed(told, capsys)

    assert "cost        30: 30,000 per 1,000 requests, 60 per 1,000 output tokens\n" in out
    assert "quality     0.7500 on average" in out
    assert "hedge     completed, not the answer" not in out
    assert "hedge     became the answer" in out
