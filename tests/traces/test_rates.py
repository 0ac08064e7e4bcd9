"""Series of rates are read from text, packed or in a tar, and long silences are taken for gaps."""

import bz2
import io
import tarfile

import numpy as np
import pytest

from traces import TraceError, load_rates


def tbz2(text):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:bz2") as archive:
        member = tarfile.TarInfo("workload.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return data.getvalue()


@pytest.mark.parametrize("pack", [bytes, bz2.compress, tbz2], ids=["plain", "bzip2", "tar in bzip2"])
def test_numbers_are_read_whatever_they_are_packed_in(tmp_path, pack):
    (tmp_path / "x").write_bytes(pack(b" 3 1.5\n0  7 "))

    assert load_rates(tmp_path / "x").per_s.tolist() == [3, 1.5, 0, 7]


def test_a_minute_of_zeros_is_a_gap_and_less_is_silence(tmp_path):
    (tmp_path / "x").write_text(" ".join(["2", *["0"] * 59, "4", *["0"] * 60, "6"]))

    masked, kept = load_rates(tmp_path / "x"), load_rates(tmp_path / "x", gaps="keep")

    assert (masked.duration_s, masked.gap_s, kept.gap_s) == (122, 60, 0)
    assert masked.mean_per_s == pytest.approx(12 / 62)
    assert masked.without_gaps().duration_s == 62
    assert np.isnan(masked.slice(61, 121).per_s).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 x", "is not a series of rates"),
        ("1 -2 3", "number 2 is -2.0"),
        ("1 inf", "number 2 is inf"),
        (" ", "empty"),
    ],
)
def test_what_is_not_a_rate_is_an_error(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(TraceError, match=message):
        load_rates(tmp_path / "x")
