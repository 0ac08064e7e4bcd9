"""Columns that the command draws for a trace that has none."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet
from traces import load_trace

ASKED = ("traces", "convert", "chat-small", "x.jsonl", "--first", 200)


def assigned(fleet: Fleet, tmp_path: Path, *flags: object) -> list[object]:
    ended = fleet(*ASKED, *flags)
    assert ended.status == 0, ended.err
    return load_trace(tmp_path / "x.jsonl").column("tenant").to_pylist()


def test_what_is_assigned_is_as_it_is_in_python(fleet: Fleet, tmp_path: Path) -> None:
    flags = ("--assign", "tenant=zipf:20:1.1", "--assign", "model=choice:chat=0.7,code=0.3", "--seed", 4)
    assert fleet(*ASKED, *flags).status == 0
    expected = load_trace("chat-small").first(requests=200)
    assert load_trace(tmp_path / "x.jsonl") == expected.assign(
        tenant="zipf:20:1.1", model="choice:chat=0.7,code=0.3", seed=4
    )


def test_for_whom_and_over_what_can_be_said(fleet: Fleet, tmp_path: Path) -> None:
    of_sessions = Counter(assigned(fleet, tmp_path, "--assign", "tenant=uniform:500"))
    of_requests = Counter(
        assigned(fleet, tmp_path, "--assign", "tenant=uniform:500", "--assign-per", "request")
    )
    assert len(of_requests) > len(of_sessions)
    again = ("traces", "convert", "x.jsonl", "y.jsonl", "--assign", "tenant=a")
    assert fleet(*again).line == (
        "the trace has a column tenant already; overwrite=True (--assign-overwrite) replaces it"
    )
    assert fleet(*again, "--assign-overwrite").status == 0
    assert set(load_trace(tmp_path / "y.jsonl").column("tenant").to_pylist()) == {"a"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--assign", "tenant"), "--assign takes COLUMN=LAW, such as tenant=zipf:20:1.1; got 'tenant'"),
        (("--assign", "per=request"), "--assign per: is no column of a trace"),
        (("--assign", "tenant=a", "--assign", "tenant=b"), "--assign tenant: is given twice"),
        (("--assign", "colour=a"), "assign(colour=...) is not possible; give one of model, adapter"),
        (("--assign", "tenant=zipf:x"), "'zipf:x' is no law; write zipf:COUNT:EXPONENT"),
        (("--assign", "model=chat=0.7,code=0.3"), "did you mean choice:VALUE=SHARE?"),
        (("--assign", "tenant=a", "--assign-per", "user"), "the trace has no users; assign users too"),
        (("--assign-per", "user"), "--assign-per goes with --assign COLUMN=LAW"),
        (("--assign-overwrite",), "--assign-overwrite goes with --assign COLUMN=LAW"),
    ],
)
def test_what_cannot_be_assigned_is_answered_in_one_line(
    fleet: Fleet, flags: tuple[str, ...], says: str
) -> None:
    ended = fleet(*ASKED, *flags)
    assert ended.status == 2
    assert says in ended.line


def test_a_trace_that_knows_no_models_is_played_against_a_fleet_of_several(fleet: Fleet) -> None:
    pools = ("--set", 'pools.a={model = "chat"}', "--set", 'pools.b={model = "code"}')
    asked = ("simulate", "demo-surge", "small.toml", "--first-s", 2, *pools, "--json")

    def completed(*flags: object) -> bool:
        summary = json.loads(fleet(*asked, *flags).out)["summary"]
        return bool(summary["completed"] == summary["submitted"])

    assert completed("--assign", "model=choice:chat=1,code=1")
    assert not completed("--assign", "model=choice:chat=1,poem=1")
