"""What the command says of a recording that has no tokens, and what it makes of it."""

import json
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet
from traces import load_trace

ROWS = "app,func,end_timestamp,duration\na,f,1.0,3.0\na,g,4.0,0\nb,f,5.0,0.5\n"


@pytest.fixture
def recorded(fleet: Fleet, tmp_path: Path) -> Fleet:
    (tmp_path / "functions.txt").write_text(ROWS)
    return fleet


def test_what_is_odd_about_rows_that_are_kept_is_said(recorded: Fleet) -> None:
    out = " ".join(recorded("traces", "stats", "functions.txt").out.split())
    assert "azure-functions: 3 rows, 3 kept" in out
    assert "odd duration of 0 (1 rows), began before time 0 of the recording (1 rows)" in out
    assert "time 0 is -2.000 s on the clock of the recording" in out
    report = json.loads(recorded("traces", "stats", "functions.txt", "--json").out)["report"]
    assert report["odd"] == {"duration of 0": 1, "began before time 0 of the recording": 1}
    noted = recorded("traces", "convert", "functions.txt", "x.jsonl").err
    assert "odd, and kept: duration of 0, which 1 rows have" in noted


def test_work_is_made_of_what_was_recorded(recorded: Fleet, tmp_path: Path) -> None:
    assert recorded("traces", "convert", "functions.txt", "x.jsonl", "--with-work", 0.5).status == 0
    assert load_trace(tmp_path / "x.jsonl").column("work").to_pylist() == [6.0, 0.0, 1.0]
    refused = recorded("traces", "convert", "demo-surge", "x.jsonl", "--with-work", 0.5)
    assert refused.line.startswith("with_work: no request has a recorded time, observed.e2e_s")


def test_many_models_of_one_file_are_played(recorded: Fleet) -> None:
    asked = ("simulate", "functions.txt", "small.toml", "--with-work", 0.5, "--json")
    summary = json.loads(recorded(*asked).out)["summary"]
    assert (summary["completed"], summary["submitted"]) == (3, 3)


def test_a_table_of_one_s_own_is_read_by_its_columns(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("ts,in,region\n1000,10,eu\n2500,20,us\n")
    mapped = ("traces", "stats", "mine.csv", "--columns")
    out = " ".join(fleet(*mapped, "arrived_s=ts:ms,prompt_tokens=in").out.split())
    assert "columns: 2 rows, 2 kept" in out
    assert "in extra region (2 rows)" in out
    assert fleet(*mapped, "arrived_s=ts,prompt_tokens=in").line.startswith(
        "mine.csv: column `ts`: has numbers, and nothing says their unit"
    )
    assert fleet(*mapped, "arrived=ts:ms").line.startswith("columns: 'arrived' is not a column of a trace")
    assert "--columns" in fleet("traces", "stats", "mine.csv").line


def test_one_file_of_an_archive_is_named(fleet: Fleet, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.writestr("a.txt", ROWS)
        archive.writestr("b.txt", ROWS)
    assert "is a zip archive of 2 files: a.txt, b.txt" in fleet("traces", "stats", "both.zip").line
    assert "3 rows, 3 kept" in fleet("traces", "stats", "both.zip::a.txt").out


def test_a_file_that_may_be_of_two_formats_is_refused_until_it_is_said(fleet: Fleet, tmp_path: Path) -> None:
    header = "arrived_at,num_prefill_tokens,num_decode_tokens,app,func,end_timestamp,duration"
    (tmp_path / "two.csv").write_text(f"{header}\n0,1,1,a,f,3,1\n")
    refused = fleet("traces", "stats", "two.csv")
    assert (refused.status, "may be azure-functions or vidur" in refused.line) == (2, True)
    assert "vidur: 1 rows" in fleet("traces", "stats", "two.csv", "--format", "vidur").out
