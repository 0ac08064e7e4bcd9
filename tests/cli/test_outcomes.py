"""What the command says of requests that did not complete, and the status it ends with."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet

BOTH_CRASH = "".join(
    f'[[faults]]\nat_s = {at_s}\nkind = "crash"\nreplica = "replica/{number}"\n'
    for number, at_s in enumerate((0.5, 0.6))
)
NOT_LOADED = "no replica can be started: replica/2: the engine failed to load: the load was told to fail"


def test_all_is_well_when_all_is_well(fleet: Fleet) -> None:
    ended = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5)
    assert (ended.status, ended.err) == (0, "")
    assert "not completed" not in ended.out


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        (["deadline_s=0.02"], 0, "expired    its deadline passed"),  # some
        (["engine.latency.base_s=0.4", "deadline_s=0.5"], 1, "expired    its deadline passed"),  # most
        (["engine.fail_load=true", "failed_starts_limit=3"], 1, f"failed     {NOT_LOADED}"),  # all
        (["engine.latency.base_s=1", "queue_capacity=1"], 0, "shed       1 requests wait already"),  # as was asked
    ],
)  # fmt: skip
def test_the_reasons_are_printed_and_the_status_tells_whether_most_failed(
    fleet: Fleet, changes: list[str], status: int, said: str
) -> None:
    flags = [flag for change in changes for flag in ("--set", change)]
    ended = fleet("simulate", "demo-surge", "small.toml", "--first-s", 15, *flags)
    assert said in ended.out.partition("not completed")[2]
    assert ended.status == status
    if status:
        assert ended.line.startswith("most requests were not served: ")


def test_each_reason_is_one_line_however_its_names_and_numbers_vary(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "crash.toml").write_text(BOTH_CRASH)
    slow = ("--set", "replicas=2", "--set", "engine.latency.base_s=2", "--set", "retry=no-retry")
    asked = ("simulate", "demo-surge", "small.toml", "--first-s", 5, *slow, "--faults", "crash.toml")
    reasons = json.loads(fleet(*asked, "--json").out)["reasons"]
    lost = [reason for reason in reasons if reason["why"].startswith("replica-lost")]
    assert [reason["why"] for reason in lost] == ["replica-lost: killed by a fault (SIGKILL)"]
    assert lost[0]["requests"] > 1
    assert sum(reason["requests"] for reason in reasons) > 0


def test_a_deadlock_is_a_run_that_failed_and_says_who_waits(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(
        "from policies import BatchingPolicy, Wait\n"
        "class Never(BatchingPolicy):\n"
        "    def next_batch(self, queue, idle, now_s):\n"
        "        return Wait()\n"
    )
    ended = fleet("simulate", "demo-surge", "small.toml", "--first", 2, "--set", "batching=never:Never")
    assert ended.status == 1
    assert ended.line.startswith("deadlock: nothing that is left to happen can end these requests: request ")
