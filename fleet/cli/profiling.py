"""`fleet profile`: measure an engine, and write the table that a profiled latency model reads."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli import inputs, output
from fleet.cli.values import UsageError

if TYPE_CHECKING:
    from fleet.engines import Engine


def profile(arguments: Namespace) -> int:
    """One engine alone, one batch at a time."""
    from fleet.engines import ProfilePoint, profile_engine

    engine = engine_of(arguments.engine, arguments.changes)
    out: Path | None = arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    total = len(arguments.batch_sizes) * len(arguments.tokens)
    done: list[ProfilePoint] = []
    with output.progress("profiling", total) as advance:

        def on_point(point: ProfilePoint) -> None:
            done.append(point)
            advance(len(done))

        measured = profile_engine(
            engine, arguments.batch_sizes, arguments.tokens, repeats=arguments.repeats, warmup=arguments.warmup,
            on_point=on_point,
        )  # fmt: skip
    table = output.table(
        "batch size", "tokens", "min (ms)", "median (ms)", "p90 (ms)", "items a second", left=0
    )
    for point in measured.points:
        times = (f"{1000 * seconds:.3f}" for seconds in (point.min_s, point.median_s, point.p90_s))
        per_s = f"{point.batch_size / point.median_s:,.1f}" if point.median_s else "-"
        table.add_row(str(point.batch_size), str(point.tokens or "-"), *times, per_s)
    print(f"{type(engine).name()}, loaded in {measured.load_s:.2f} s, {measured.repeats} runs a point")
    output.stdout().print(table)
    if out is not None:
        measured.save(out)
        output.note(f'saved; a fleet reads it as  latency = {{latency = "profiled", profile = "{out}"}}')
    return 0


def engine_of(name: str, changes: list[str]) -> Engine:
    """The engine of a fleet's file, or the one of that name with the parameters that `changes` set."""
    path = Path(name)
    if path.suffix in (".toml", ".json") or path.exists():
        return inputs.spec_of(path, changes).engine
    return inputs.built(inputs.changed({"engine": {"engine": name}}, changes), "profile").engine
