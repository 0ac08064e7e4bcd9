"""Running `fleet` in this process, and small inputs for it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fleet.cli import main

SMALL = (
    'engine = { engine = "emulated", latency = { latency = "affine", base_s = 0.005, per_item_s = 0.002 } }\n'
)


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr that says what was wrong."""
        assert self.err.count("\n") == 1, f"not one line: {self.err!r}"
        assert self.err.startswith("fleet: ")
        assert "Traceback" not in self.err
        return self.err.removeprefix("fleet: ").rstrip("\n")


Fleet = Callable[..., Ended]


@pytest.fixture
def fleet(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Run one command in an empty folder that holds `small.toml`; arguments may be of any type."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # --help and --version
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run
