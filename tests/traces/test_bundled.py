"""The bundled traces are what `traces.data.regenerate` makes, and what their description says."""

import gzip

import pytest

from traces import bernoulli_surge, describe, load_trace, save_trace
from traces.data import bundled_names, bundled_path
from traces.data.regenerate import BUNDLED, generate


@pytest.mark.parametrize("name", BUNDLED)
def test_the_committed_file_is_the_regenerated_one(name, tmp_path):
    """Compared unpacked: what zlib makes of the same bytes differs from machine to machine."""
    save_trace(generate(name), tmp_path / "made.jsonl")
    assert gzip.decompress(bundled_path(name).read_bytes()) == (tmp_path / "made.jsonl").read_bytes()


def test_every_bundled_trace_is_listed_small_and_free():
    assert bundled_names() == sorted(BUNDLED)
    for name in bundled_names():
        assert bundled_path(name).stat().st_size < 150_000
        assert load_trace(name).header.licence == "Apache-2.0"


def test_the_surge_reference_is_the_reference_text_s_6606_arrivals():
    assert load_trace("surge-reference").sha256 == bernoulli_surge().sha256
    assert len(load_trace("surge-reference")) == 6606


def test_chat_small_has_sessions_lengths_and_prefixes():
    known = describe(load_trace("chat-small"))

    assert known.requests == 2000
    assert known.sessions > 500
    assert 0.5 < known.prefix_hit_share < 0.9
    assert known.absent["output_tokens"] == known.absent["blocks"] == 0


def test_demo_surge_is_a_minute_of_short_texts():
    known = describe(load_trace("demo-surge"))

    assert 2000 < known.requests < 3000
    assert 58 < known.duration_s < 60
    assert known.prompt_tokens.max <= 128


def test_a_file_of_that_name_comes_before_a_bundled_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-surge").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n")

    assert len(load_trace("demo-surge")) == 1
