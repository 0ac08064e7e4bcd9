"""What the command says of faults: how they were laid on the fleet, what is odd, and what they struck."""

import json
from pathlib import Path

from tests.cli.conftest import Fleet

DAY_S = 86_400.0
ASKED = ("simulate", "demo-surge", "small.toml", "--first-s", 10, "--faults", "faults")


def crashes(tmp_path: Path, *faults: tuple[float, str | None], **more: object) -> None:
    given = [{"at_s": at_s, "kind": "crash", "replica": replica, **more} for at_s, replica in faults]
    (tmp_path / "faults").write_text(json.dumps({"faults": given}))


def log(tmp_path: Path, *rows: tuple[str, float, str]) -> None:
    events = [{"node_id": node, "event_time": day, "event_type": f"fault_{kind}"} for node, day, kind in rows]
    (tmp_path / "faults").write_text(json.dumps(events))


def test_what_struck_and_what_found_nobody_is_said(fleet: Fleet, tmp_path: Path) -> None:
    crashes(tmp_path, (2, "replica/0"), (3, "place/0"), (4, "place/9"), (5000, "replica/0"))
    ended = fleet(*ASKED, "--set", "replicas=2")
    assert "4 faults: 2 struck, 1 found nobody there, 1 came after the end of the run" in ended.out
    assert "1 of 4 faults come after the last request" in ended.err
    counters = json.loads(fleet(*ASKED, "--set", "replicas=2", "--json").out)["counters"]
    assert (counters["faults"], counters["faults_without_victim"]) == (2, 1)


def test_a_log_is_begun_scaled_and_laid_on_places_by_flags(fleet: Fleet, tmp_path: Path) -> None:
    rows = [(f"n{number}", 30.0 + number, kind) for number in range(6) for kind in ("start", "end")]
    log(tmp_path, *rows)
    late = fleet(*ASKED, "--set", "replicas=2")
    assert "the first fault comes at 2.592e+06 s, after the last request" in late.err
    assert "names no places: each fault is of the replica that has been ready longest" in late.err
    flags = ("--faults-start-s", 30 * DAY_S, "--faults-time-scale", 1 / DAY_S, "--faults-replicas", 2)
    ended = fleet(*ASKED, "--set", "replicas=2", *flags)
    assert "6 faults: 6 struck, 0 found nobody there" in ended.out
    assert "(6 servers laid on 2 places, k mod 2) (from 2.592e+06 s on" in ended.err


def test_a_trace_that_takes_everything_away_at_the_start_says_so(fleet: Fleet, tmp_path: Path) -> None:
    crashes(tmp_path, (0, None), (0, "replica/1"))
    ended = fleet(*ASKED, "--set", "replicas=2")
    assert "takes away every replica there is at t = 0 (2 faults, 2 replicas)" in ended.err


def test_a_trace_of_which_nothing_is_left_says_so(fleet: Fleet, tmp_path: Path) -> None:
    crashes(tmp_path, (1, "replica/0"))
    assert "holds no fault, or none after --faults-start-s" in fleet(*ASKED, "--faults-start-s", 2).err


def test_a_comparison_says_what_each_candidate_was_struck_by(fleet: Fleet, tmp_path: Path) -> None:
    crashes(tmp_path, (2, "replica/0"), (3, "replica/1"))
    ended = fleet(
        "compare", "demo-surge", "small.toml", "--first-s", 10, "--vary", "replicas=1,2", "--seeds", 2,
        "--faults", "faults",
    )  # fmt: skip
    assert "1: 4 faults: 4 struck, 0 found nobody there" in ended.err
    assert "2: 4 faults: 4 struck, 0 found nobody there" in ended.err


def test_notices_reach_preemptions(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "faults").write_text(json.dumps({"metadata": {"gap_seconds": 4}, "data": [2, 1, 2]}))
    ended = fleet(*ASKED, "--set", "replicas=2", "--faults-notice-s", 1, "--json")
    assert json.loads(ended.out)["counters"]["notices"] == 1


def test_a_log_is_laid_on_the_places_of_a_pool(fleet: Fleet, tmp_path: Path) -> None:
    log(tmp_path, *((f"n{number}", number / DAY_S, "start") for number in range(1, 5)))
    pools = ("--set", "pools.large={replicas = 2}")
    on_pool = ("--faults-replicas", 2, "--faults-pool", "large")
    assert "4 faults: 4 struck" in fleet(*ASKED, *pools, *on_pool).out
    assert "4 faults: 0 struck, 4 found nobody there" in fleet(*ASKED, *pools, *on_pool[:2]).out
    assert fleet(*ASKED, *pools, "--faults-pool", "large").line == (
        "faults: names no place that could be one of pool large; lay a log of servers on its places with replicas; "
        "in a file of our own, name replica/0"
    )
