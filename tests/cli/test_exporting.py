"""`fleet export`, and `fleet traces convert --to`: what they write, what they say is lost, and what they refuse."""

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Fleet
from traces import load_trace


@pytest.fixture
def saved(fleet: Fleet) -> Fleet:
    """As `fleet`, with a run in the folder `run`."""
    assert fleet("simulate", "demo-surge", "small.toml", "--first-s", 5, "--out", "run").status == 0
    return fleet


def test_a_timeline_is_written_and_its_events_are_counted(saved: Fleet, tmp_path: Path) -> None:
    ended = saved("export", "run", "run.json.gz", "--to", "perfetto")
    events = json.loads(gzip.decompress((tmp_path / "run.json.gz").read_bytes()))["traceEvents"]
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"run.json.gz: {len(events):,} events, as perfetto\n"


def test_a_stretch_of_a_timeline_says_what_is_outside(saved: Fleet) -> None:
    ended = saved("export", "run", "x.json", "--to", "perfetto", "--from-s", 1, "--first-s", 2)
    assert "requests outside the stretch" in ended.err


def test_what_a_format_does_not_have_is_said(saved: Fleet, tmp_path: Path) -> None:
    ended = saved("export", "run", "x.json", "--to", "vllm-bench")
    assert ended.status == 0
    assert ended.err.startswith("not in it: id, replica,")
    assert json.loads((tmp_path / "x.json").read_text())["completed"] > 0


def test_a_folder_takes_every_table(saved: Fleet, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    assert saved("export", "run", "tables", "--to", "csv").status == 0
    assert (tmp_path / "tables" / "dispatches.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "x", "--to", "csv"), "nowhere: there is no such folder"),
        (("run", "no/x", "--to", "csv"), "no/x: No such file"),
        (("run", "x", "--to", "excel"), "invalid choice: 'excel'"),
        (("run", "x", "--to", "csv", "--first-s", "3"), "from_s and first_s are of perfetto"),
        (("run", "x", "--to", "perfetto", "--from-s", "900"), "nothing is left from 900 s on"),
        (("run", ".", "--to", "aiperf"), ".: Is a directory"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str, saved: Fleet, tmp_path: Path) -> None:
    ended = saved("export", *arguments)
    assert ended.status == 2
    assert says in ended.line
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_run_that_was_changed_is_not_exported(saved: Fleet, tmp_path: Path) -> None:
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    ended = saved("export", "run", "x", "--to", "csv")
    assert (ended.status, "do not match the digest" in ended.line) == (2, True)


@pytest.mark.parametrize("command", [("export", "run", "/dev/full", "--to", "perfetto"),
                                     ("traces", "convert", "chat-small", "/dev/full", "--to", "csv")])  # fmt: skip
def test_a_full_disk_is_status_1_and_names_the_file(command: tuple[str, ...], saved: Fleet) -> None:
    ended = saved(*command)
    assert (ended.status, ended.line) == (1, "cannot write /dev/full: no space is left on the device")


def test_a_trace_is_converted_and_what_is_lost_is_said(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet("traces", "convert", "chat-small", "x.csv", "--to", "vidur", "--first", 3)
    assert ended.status == 0
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 4
    assert "x.csv: vidur has no place for session, which 3 rows have\n" in ended.err
    assert "says nothing of source, licence" in ended.err
    assert "sha256" not in ended.out  # of what is read back it is another


def test_only_a_trace_that_is_read_back_the_same_is_named_by_its_hash(fleet: Fleet, tmp_path: Path) -> None:
    late = fleet("traces", "convert", "chat-small", "late.csv", "--to", "csv", "--first", 3)
    assert "sha256" not in late.out  # its first arrival becomes time 0
    for name in ("again.csv", "again.parquet"):
        to = ("--to", "csv") if name.endswith("csv") else ()
        ended = fleet("traces", "convert", "late.csv", name, *to)
        assert ended.out.endswith(f"sha256 {load_trace(tmp_path / name).sha256}\n")


def test_a_trace_that_a_format_cannot_hold_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet("traces", "convert", "demo-surge", "x.csv", "--to", "azure")
    assert (ended.status, "column `output_tokens`: is absent" in ended.line) == (2, True)
    assert not (tmp_path / "x.csv").exists()


def test_a_layout_of_others_is_named_by_the_flag_and_not_by_the_suffix(fleet: Fleet) -> None:
    assert "--to names a layout" in fleet("traces", "convert", "chat-small", "x.csv").line
