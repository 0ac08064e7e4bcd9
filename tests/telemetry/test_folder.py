"""A run's folder is whole or says what is wrong with it, in one line that names the file."""

import errno
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, load_run, simulate
from fleet.telemetry import folder
from traces import poisson

FLEET = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.01)))
FILES = ("records", "series", "decisions", "dispatches", "replicas")


@pytest.fixture(scope="module")
def run() -> Run:
    return simulate(poisson(20.0, 2.0), FLEET)


def test_a_folder_holds_what_it_says_and_nothing_unfinished(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "out", with_trace=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json", "origin.json", "trace.parquet", "attempts.parquet", "pools.parquet",
        *(f"{name}.parquet" for name in FILES),
    }  # fmt: skip
    back = load_run(tmp_path / "out")
    assert (back.digest, back.origin) == (run.digest, run.origin)


def test_a_run_that_is_saved_over_another_takes_its_place_whole(run: Run, tmp_path: Path) -> None:
    simulate(poisson(10.0, 2.0), FLEET, log_views=True).save(tmp_path, with_trace=True)
    assert len(load_run(tmp_path).calls)
    run.save(tmp_path)
    back = load_run(tmp_path)
    assert back.digest == run.digest
    assert not len(back.calls)
    assert not (tmp_path / "trace.parquet").exists(), "it was another run's"


@pytest.mark.parametrize("name", FILES)
def test_a_table_that_is_missing_or_cut_is_named(run: Run, tmp_path: Path, name: str) -> None:
    file = run.save(tmp_path) / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{name}\.parquet: is damaged: "):
        load_run(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{name}\.parquet: is missing from the run$"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "origin.json"])
@pytest.mark.parametrize("bytes_left", [0, 1, 100])
def test_a_document_that_is_cut_is_named(run: Run, tmp_path: Path, name: str, bytes_left: int) -> None:
    file = run.save(tmp_path) / name
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(ValueError, match=rf"{name}: is damaged: "):
        load_run(tmp_path)


def test_what_is_no_run_is_told_from_half_of_one(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no such folder$"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is no manifest\.json in it, so it is no saved run$"):
        load_run(tmp_path)
    (run.save(tmp_path) / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"which is written last: the run was not saved to its end$"):
        load_run(tmp_path)


def test_a_process_that_ends_while_it_saves_leaves_no_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was there before is not taken for the one that was being written."""
    run.save(tmp_path)

    def killed(table: pa.Table, file: BinaryIO, **options: object) -> None:
        file.write(b"PAR1 half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save(tmp_path)
    with pytest.raises(ValueError, match=r"the run was not saved to its end$"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["records.parquet", "pools.parquet"])
def test_a_full_disk_is_said_of_the_file_that_it_was_too_full_for(
    run: Run, tmp_path: Path, name: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    place = tmp_path / name
    place.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device") as full:
        run.save(tmp_path)
    assert full.value.errno == errno.ENOSPC
    assert full.value.filename == str(place)
    with pytest.raises(ValueError, match=r"there is no manifest\.json in it"):
        load_run(tmp_path)


def test_what_is_in_the_way_of_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists") as there:
        run.save(tmp_path / "file")
    assert there.value.filename == str(tmp_path / "file")
    (tmp_path / "series.parquet").mkdir()
    with pytest.raises(OSError, match="Is a directory") as there:
        run.save(tmp_path)
    assert there.value.filename == str(tmp_path / "series.parquet")


def test_a_run_without_its_origin_is_read_as_it_is(run: Run, tmp_path: Path) -> None:
    """As somebody may leave it out who does not want to say where they work."""
    (run.save(tmp_path) / "origin.json").unlink()
    back = load_run(tmp_path)
    assert back.origin is None
    assert back.digest == run.digest
