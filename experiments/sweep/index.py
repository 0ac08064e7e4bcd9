"""The index of a sweep's runs: one Parquet data set, ``runs/point=000017/seed-3.parquet``, a row in each file.

The one thing to know: a file is there as a whole or not at all, and its bytes depend on the sweep alone. So a sweep
that was killed goes on by looking at which files there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from msgspec import Struct

from experiments.executor import LOST
from experiments.measured import Measured
from experiments.metrics import Metric
from experiments.sweep.space import Axes, Axis, Point, Range, SweepError, word
from traces.files import write_whole

RUNS = "runs"
_LOST = ".lost.parquet"
"""Ends the names of runs that lost their worker."""
_POINT = pa.schema([("point", pa.int64())])
"""It is in the folders' names, and not in the files."""
_FIRST = {"candidate": pa.string(), "seed": pa.int64()}
_LAST = {
    "submitted": pa.int64(), "completed": pa.int64(), "digest": pa.string(), "fingerprint": pa.string(),
    "trace_sha256": pa.string(), "error": pa.string(), "traceback": pa.string(),
    "by_group": pa.map_(pa.string(), pa.float64()), "why": pa.map_(pa.string(), pa.string()),
    "groups": pa.map_(pa.string(), pa.list_(pa.string())),
}  # fmt: skip


class Row(Struct, frozen=True):
    """One run: which point of the axes it is of, and what it came to."""

    point: Point
    measured: Measured
    traceback: str = ""


class Index:
    """The runs of one sweep in its folder. Rows are typed by the axes and the metrics, the same in every file."""

    def __init__(self, folder: Path, axes: Axes, metrics: Sequence[Metric]) -> None:
        self.folder = folder / RUNS
        self.axes = axes
        self._keys = [item.key for item in metrics if is_one_figure(item) and item.key not in _LAST]
        self.schema = pa.schema(
            _FIRST
            | {path: type_of(axis) for path, axis in axes.items()}
            | dict.fromkeys(self._keys, pa.float64())
            | _LAST
        )

    def write(self, row: Row) -> None:
        """Keep a run. Raises `OSError` that names the file which could not be written."""
        table = pa.Table.from_pylist([self._cells(row)], self.schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_statistics=False, store_schema=False)
        write_whole(
            self._file(row.point.number, row.measured.seed, lost=row.measured.error == LOST),
            sink.getvalue().to_pybytes(),
        )

    def _file(self, point: int, seed: int, *, lost: bool) -> Path:
        return self.folder / f"point={point:06}" / f"seed-{seed}{_LOST if lost else '.parquet'}"

    def _cells(self, row: Row) -> dict[str, Any]:  # Any: cells of any column
        one = row.measured
        said = {name: getattr(one, name) for name in _LAST if name in one.__struct_fields__}
        grouped = {key: value for key, value in one.values.items() if key not in self.schema.names}
        return {
            "candidate": one.candidate,
            "seed": one.seed,
            **{path: cell(axis, row.point.values[path]) for path, axis in self.axes.items()},
            **{key: one.values.get(key) for key in self._keys},
            **said,
            "traceback": None if one.error is None else row.traceback,
            "by_group": list(grouped.items()),
            "why": list(one.why.items()),
            "groups": list(one.groups.items()),
        }

    def read(self) -> pa.Table:
        """Every run that there is, by point and seed. Raises `SweepError` for a file that is no whole row."""
        table = self._rows(self._files())
        return table.sort_by([("point", "ascending"), ("seed", "ascending")])

    def _rows(self, files: Sequence[Path]) -> pa.Table:
        schema = pa.unify_schemas([_POINT, self.schema])
        if not files:
            return schema.empty_table()
        try:
            table = ds.dataset(
                list(map(str, files)), schema=schema, format="parquet",
                partitioning=ds.partitioning(_POINT, flavor="hive"), partition_base_dir=str(self.folder),
            ).to_table()  # fmt: skip
        except (pa.ArrowException, OSError) as error:
            raise SweepError(
                f"{self.folder}: a run cannot be read ({error}); remove that file, and go on"
            ) from None
        _demand_own(table, files)
        return table

    def done(self) -> set[tuple[int, int]]:
        """Point and seed of the runs that need not be made again."""
        return {_place(file) for file in self._files() if not file.name.endswith(_LOST)}

    def forget_lost(self) -> None:
        """Remove the runs that lost their worker: they may go well another time."""
        for file in self._files():
            if file.name.endswith(_LOST):
                file.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("point=*/seed-*.parquet"))

    def of_point(self, point: int, seeds: Sequence[int]) -> list[Measured]:
        """What the runs of one point came to, in the order of `seeds`."""
        files = [self._file(point, seed, lost=lost) for seed in seeds for lost in (False, True)]
        return list(measured_in(self._rows([file for file in files if file.exists()]), self._keys))


def _place(file: Path) -> tuple[int, int]:
    point, seed = file.parent.name.removeprefix("point="), file.name.removeprefix("seed-").partition(".")[0]
    try:
        return int(point), int(seed)
    except ValueError:
        raise SweepError(f"{file}: is no name of a run; remove it, and go on") from None


def _demand_own(table: pa.Table, files: Sequence[Path]) -> None:
    """Each file, in their order, holds the one run that its name says, and a point is one candidate."""
    rows = zip(*(table[name].to_pylist() for name in ("point", "seed", "candidate")), strict=True)
    candidates: dict[int, str] = {}
    for file, row in zip_longest(files, rows):
        if file is None or row is None or row[:2] != _place(file):
            raise SweepError(f"{file or files[-1]}: is not the run that its name says; remove it, and go on")
        if row[2] != candidates.setdefault(row[0], row[2]):
            raise SweepError(f"{file}: is of another point than the files beside it; remove it, and go on")


def measured_in(table: pa.Table, keys: Sequence[str]) -> Iterator[Measured]:
    """The rows of an index as they were measured; `keys` are those of metrics that are of all requests."""
    for row in table.to_pylist():
        values = {key: row[key] for key in keys} | dict(row["by_group"] or ())
        yield Measured(
            values=values,
            why=dict(row["why"] or ()),
            groups={by: tuple(labels) for by, labels in row["groups"] or ()},
            **{
                name: row[name]
                for name in Measured.__struct_fields__
                if name in row and name not in ("why", "groups")
            },
        )


def is_one_figure(item: Metric) -> bool:
    """It has a column of its own; of figures by group, each run has as many as it has groups."""
    return not item.by or item.across is not None


def type_of(axis: Axis) -> pa.DataType:
    """Of an axis's column: numbers where all its values are, else their names."""
    if isinstance(axis, Range):
        return pa.int64() if axis.whole else pa.float64()
    kinds = {type(value) for value in axis}
    numbers: Mapping[frozenset[type], pa.DataType] = {
        frozenset({bool}): pa.bool_(), frozenset({int}): pa.int64(), frozenset({float}): pa.float64(),
        frozenset({int, float}): pa.float64(),
    }  # fmt: skip
    return numbers.get(frozenset(kinds), pa.string())


def cell(axis: Axis, value: object) -> object:
    """A value of an axis as its column has it."""
    return word(value) if type_of(axis) == pa.string() else value
