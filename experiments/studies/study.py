"""What a study is, and the command that runs one."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from experiments.studies.result import StudyResult
from experiments.text import console

Size = Literal["small", "full"]
SIZES: tuple[Size, ...] = ("small", "full")
P = TypeVar("P")


class Options(Struct, frozen=True, kw_only=True):
    """How to run a study, whichever it is; none of it changes a result but `trace`."""

    trace: str | None = None
    """A file to take the traffic from, in place of the study's own."""
    workers: int = 1
    progress: bool = False


class Study(Struct, Generic[P], frozen=True, kw_only=True):
    """One question, and how to ask it."""

    name: str
    title: str
    plans: Mapping[Size, P]
    """How much is run at each size."""
    run: Callable[[P, Options], StudyResult]
    draw: Callable[[StudyResult], str]
    """The plot, as SVG."""

    def publish(self, size: Size, options: Options, out: Path | None) -> StudyResult:
        """Run it, print what came of it, and keep it under `out`: ``<name>.json`` and ``<name>.svg``."""
        began_s = time.perf_counter()
        result = self.run(self.plans[size], options)
        screen = console()
        screen.print(result.table(self.title))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{self.name}.json").write_bytes(result.to_json())
            (out / f"{self.name}.svg").write_text(self.draw(result), encoding="utf-8")
            screen.print(f"written: {out / self.name}.json, {out / self.name}.svg")
        screen.print(f"{self.name}: {time.perf_counter() - began_s:.0f} s\n")
        return result

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command of this study."""
        publish_all([self], arguments, prog=f"python -m experiments.studies.{self.name}", about=self.title)


def publish_all(
    studies: Sequence[Study[P]], arguments: Sequence[str] | None, *, prog: str, about: str
) -> None:
    """The command that runs `studies` one after another. What one cannot do, the others do all the same."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="how much is run; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, help="folder for numbers and plots; default: print only")
    parser.add_argument("--trace", help="a trace file (or a bundled trace) to take the traffic from")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes; default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if given.workers < 1:
        parser.error("--workers must be at least 1")
    options = Options(trace=given.trace, workers=given.workers, progress=True)
    refused: list[str] = []
    for study in studies:
        try:
            study.publish(given.size, options, given.out)
        except (OSError, ValueError) as error:
            refused.append(f"{study.name}: {error}")
    if refused:
        parser.error("\n".join(refused))
