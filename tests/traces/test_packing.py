"""A packed file is the file that is in it, whatever it is packed with and called."""

import bz2
import gzip
import io
import lzma
import os
import threading
import zipfile

import pyarrow as pa
import pytest

from tests.traces.writing import FOREIGN
from traces import TraceError, load_rates, load_trace
from traces.rebuilding import rebuilt

PLAIN = FOREIGN["azure-llm"]([0, 1.5, 4])


def zstd(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


def zipped(**members):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.getvalue()


PACKINGS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}
each_packing = pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS.keys())


@each_packing
def test_a_packed_file_is_the_file_that_is_in_it(reading, pack):
    packed, plain = reading(pack(PLAIN)), reading(PLAIN)

    assert packed.sha256 == plain.sha256
    assert packed.header.source.split("SHA-256")[1] == plain.header.source.split("SHA-256")[1]


@each_packing
def test_a_file_may_be_packed_piece_by_piece(reading, pack):
    pieces = pack(PLAIN[:50]) + pack(PLAIN[50:])

    assert reading(pieces).sha256 == reading(PLAIN).sha256


@each_packing
def test_what_is_damaged_or_cut_short_is_said(reading, pack):
    with pytest.raises(TraceError, match=r"is damaged: .*; fetch the file again"):
        reading(pack(PLAIN)[:-9])


@each_packing
def test_a_file_that_is_empty_when_unpacked_is_empty(reading, pack):
    with pytest.raises(TraceError, match="is empty"):
        reading(pack(b" \n"))


def test_the_one_file_of_a_zip_archive_is_read_whatever_systems_add(reading):
    archive = zipped(
        **{"folder/": b"", "folder/a.csv": PLAIN, "__MACOSX/folder/._a.csv": b"x", ".DS_Store": b"x"}
    )

    assert reading(archive).sha256 == reading(PLAIN).sha256


def test_of_several_files_in_a_zip_archive_one_is_named(tmp_path):
    path = tmp_path / "both.zip"
    path.write_bytes(zipped(**{"a.csv": PLAIN, "b/c.csv.gz": gzip.compress(FOREIGN["vidur"]([0, 1]))}))

    with pytest.raises(TraceError) as error:
        load_trace(path)
    assert f"is a zip archive of 2 files: a.csv, b/c.csv.gz; name one, as in {path}::a.csv" in str(
        error.value
    )
    assert load_trace(f"{path}::a.csv").report.format == "azure-llm"
    assert load_trace(f"{path}::b/c.csv.gz").report.format == "vidur"
    with pytest.raises(TraceError, match=r"has no file 'd'; it holds a.csv, b/c.csv.gz"):
        load_trace(f"{path}::d")


def test_a_trace_of_one_file_of_an_archive_can_be_had_again_wherever_the_archive_is(tmp_path):
    (tmp_path / "both.zip").write_bytes(zipped(**{"a.csv": PLAIN, "b.csv": b"x"}))
    trace = load_trace(tmp_path / "both.zip::a.csv")
    (moved := tmp_path / "elsewhere.zip").write_bytes((tmp_path / "both.zip").read_bytes())

    assert rebuilt(trace.recipe, trace.sha256, trace.header) == trace
    (tmp_path / "both.zip").unlink()
    assert rebuilt(trace.recipe, trace.sha256, trace.header, moved) == trace
    with pytest.raises(TraceError, match=r"both\.zip: is not there"):
        rebuilt(trace.recipe, trace.sha256, trace.header)


def test_a_member_of_what_is_no_archive_and_an_archive_of_nothing_are_errors(tmp_path, reading):
    (tmp_path / "a.csv").write_bytes(PLAIN)

    with pytest.raises(TraceError, match=r"is not a zip archive; leave out ::b"):
        load_trace(tmp_path / "a.csv::b")
    with pytest.raises(TraceError, match=r"is a zip archive of 0 files: none"):
        reading(zipped())
    with pytest.raises(TraceError, match="No such file"):
        load_trace(tmp_path / "no.zip::b")


def test_a_file_whose_own_name_has_colons_is_that_file(tmp_path):
    (tmp_path / "a::b").write_bytes(PLAIN)

    assert len(load_trace(tmp_path / "a::b")) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_which_can_be_read_once_only_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(PLAIN)))
    writer.start()

    assert len(load_trace(tmp_path / "pipe")) == 3
    writer.join()


def test_rates_are_unpacked_too(tmp_path):
    (tmp_path / "rates").write_bytes(lzma.compress(b"12 40 31\n"))

    assert load_rates(tmp_path / "rates").per_s.tolist() == [12, 40, 31]
