"""What a study is, how one is run, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from experiments.pages.blocks import Bullets, Facts, Figure, Table, can_plot, page, section
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
    finding: Callable[[StudyResult], tuple[str, ...]] | None = None
    """What came of it, in sentences that are made of its numbers."""

    def publish(self, size: Size, options: Options, out: Path | None) -> StudyResult:
        """Run it, print what came of it, and keep it under `out`: ``<name>.json``, ``<name>.svg``, ``<name>.html``."""
        began_s = time.perf_counter()
        result = self.run(self.plans[size], options)
        if self.finding is not None:
            result = replace(result, finding=self.finding(result))
        screen = console()
        screen.print(result.table(self.title))
        for sentence in result.finding:
            screen.print(f"- {sentence}", highlight=False)
        if out is not None:
            self._save(result, size, options, out)
            screen.print(f"written: {out / self.name}.json, .svg and .html")
        screen.print(f"{self.name}: {time.perf_counter() - began_s:.0f} s\n")
        return result

    def _save(self, result: StudyResult, size: Size, options: Options, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{self.name}.json").write_bytes(result.to_json())
        drawn = self.draw(result) if can_plot() else None
        if drawn is not None:
            (out / f"{self.name}.svg").write_text(drawn, encoding="utf-8")
        (out / f"{self.name}.html").write_text(self._page(result, size, options, drawn), encoding="utf-8")

    def _page(self, result: StudyResult, size: Size, options: Options, drawn: str | None) -> str:
        again = f"fleet study {self.name} --size {size}" + (
            f" --trace {options.trace}" if options.trace else ""
        )
        headings, rows = result.cells()
        return page(
            self.title,
            [
                *section("What came of it", [Bullets(result.finding)] if result.finding else []),
                *([Figure(drawn, result.workload)] if drawn is not None else []),
                *section("Figures", [Table(headings, rows, names=2)]),
                *section("To make it again", [Facts([("command", again), ("traffic", result.workload)])]),
            ],
        )
