"""`fleet compare --presets`: a fleet as whole systems would run it."""

import json
from pathlib import Path

import pytest

from fleet.cli import main
from policies.presets import PRESETS

FLEET = """
replicas = 2
max_replicas = 4
engine = {engine = "emulated", latency = {latency = "affine", base_s = 0.012, per_item_s = 0.003}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def compare(spec: Path, *arguments: str) -> int:
    return main(["compare", "demo-surge", str(spec), "--seeds", "1", *arguments])


def test_each_preset_is_a_candidate(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(spec, "--presets", "triton,ray-serve,kserve") == 0
    said = capsys.readouterr().out
    assert "baseline: triton" in said
    assert all(name in said for name in ("ray_serve", "kserve"))


def test_a_preset_may_be_varied(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(spec, "--presets", "reference_text", "--vary", "batching.max_batch=4,8") == 0
    assert "reference_text 8" in capsys.readouterr().out


def test_a_preset_that_there_is_not_is_an_error_that_says_which_was_meant(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(spec, "--presets", "trition,kserve") == 2
    assert "there is no preset 'trition'; did you mean triton?" in capsys.readouterr().err


def test_a_system_that_serves_token_by_token_is_not_compared_on_whole_requests(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(spec, "--presets", "triton,vllm") == 2
    said = capsys.readouterr().err
    assert "preset vllm is of a system that serves token by token" in said
    assert "answers whole requests" in said


def test_all_presets_are_known_by_their_names() -> None:
    assert {made().name for made in PRESETS.values()} == set(PRESETS)


def test_the_list_names_each_with_its_source_and_one_shows_its_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(PRESETS)
    assert main(["presets", "ray-serve"]) == 0
    shown = capsys.readouterr().out
    for knob in PRESETS["ray_serve"]().knobs:
        assert knob.path in shown
        assert knob.key in shown


def test_presets_as_json_have_their_policies_as_a_fleets_file_has_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(PRESETS)
    assert listed[1]["fields"]["batching"]["policy"] == "triton-dynamic"
    assert all(knob["key"] for one in listed for knob in one["knobs"])


def test_a_preset_to_list_that_there_is_not_is_an_error_that_says_which_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets", "sagemakr"]) == 2
    assert "there is no preset 'sagemakr'; did you mean sagemaker?" in capsys.readouterr().err
