"""The examples that are scripts run, from an empty folder, and write what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_as_a_script(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is better in e2e p99" in done.stdout
    for name in ("report/report.html", "curve/curve.svg", "sweep/points.parquet"):
        assert (tmp_path / "idea" / name).exists(), name
    assert list((tmp_path / "idea" / "figures").glob("*.pdf"))
