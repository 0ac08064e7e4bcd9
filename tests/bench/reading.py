"""How fast trace files are read, and in how much memory beside the table that comes of it.

Speed is a ratio to what the libraries beneath take for the file's bytes alone, in this process and in turn: Arrow to
take a CSV file apart, msgspec to decode each line of JSON. What this project adds is finding the format, checking every
value, naming every line, and the canonical form. Memory is of a fresh process for each size of file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.csv

from tests.bench.table import Row
from traces import load_trace

AZURE_PER_S, MOONCAKE_PER_S = 300_000, 60_000
"""Rows a second of CPU time, at least."""
SLOWEST = 10.0
"""The most that reading may take, beside the libraries beneath."""
BLOCKS = 14
"""Hashes of a row, as Mooncake's conversation trace has them on average."""
CHUNK = 100_000
_FIRST = np.datetime64("2023-11-16T18:15:46.680590000")
_PEAK = """
import resource, sys
from pathlib import Path
from traces import load_trace

def peak_bytes():
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says begins with what the parent took
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

load_trace(sys.argv[1])
before = peak_bytes()
table = load_trace(sys.argv[2]).table
print(peak_bytes() - before, table.nbytes)
"""


def azure_file(path: Path, rows: int) -> None:
    """A file in the format of Azure's trace of 2023, a request each 180 ms."""
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for start in range(0, rows, CHUNK):
            numbers = np.arange(start, min(start + CHUNK, rows))
            stamps = (_FIRST + (numbers * 180_000_000).astype("timedelta64[ns]")).astype(str)
            file.writelines(
                f"{stamp[:10]} {stamp[11:27]},{number % 4001},{number % 997}\n"
                for stamp, number in zip(stamps.tolist(), numbers.tolist(), strict=True)
            )


def mooncake_file(path: Path, rows: int) -> None:
    """A file in the format of Mooncake's traces, ten requests every three seconds."""
    with path.open("w") as file:
        for row in range(rows):
            hashes = [0, *range(row * BLOCKS, (row + 1) * BLOCKS - 1)]
            file.write(
                f'{{"timestamp": {row // 10 * 3000}, "input_length": {512 * BLOCKS - row % 512}, '
                f'"output_length": {row % 997}, "hash_ids": {hashes}}}\n'
            )


def peak_bytes(small: Path, large: Path) -> tuple[int, int]:
    """What a process takes more for the large file once it has read the small one, and what its table takes."""
    command = [sys.executable, "-c", _PEAK, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    more, table = done.stdout.split()
    return int(more), int(table)


def _split(path: Path) -> None:
    pyarrow.csv.read_csv(path, pyarrow.csv.ReadOptions(use_threads=False))


def _decoded(path: Path) -> None:
    decode = msgspec.json.Decoder(dict).decode
    with path.open("rb") as file:
        for line in file:
            decode(line)


def _cpu_s(act: Callable[[Path], object], path: Path) -> float:
    began = time.process_time()
    act(path)
    return time.process_time() - began


def rows(
    azure: tuple[int, int] = (400_000, 2_000_000),
    mooncake: tuple[int, int] = (40_000, 200_000),
    rounds: int = 3,
) -> Iterator[Row]:
    """Rows a second of the smaller file, and the memory beside the table of both, for each of two formats."""
    kinds = (
        ("Azure", azure_file, azure, AZURE_PER_S, _split, "Arrow splits the lines"),
        ("Mooncake, with blocks", mooncake_file, mooncake, MOONCAKE_PER_S, _decoded, "msgspec decodes them"),
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, write, sizes, least_per_s, beneath, what in kinds:
            few, *paths = [Path(folder) / f"{write.__name__}{size}" for size in (10, *sizes)]
            for path, size in zip([few, *paths], (10, *sizes), strict=True):
                write(path, size)
            timed = [(_cpu_s(load_trace, paths[0]), _cpu_s(beneath, paths[0])) for _ in range(rounds)]
            ours_s, theirs_s = (min(column) for column in zip(*timed, strict=True))
            per_s = sizes[0] / ours_s
            yield Row(f"{name}: rows a second", f"{per_s:,.0f}", f"≥ {least_per_s:,}", per_s >= least_per_s)
            ratio = ours_s / theirs_s
            yield Row(f"{name}: time ÷ {what}", f"{ratio:.1f}", f"≤ {SLOWEST:g}", ratio <= SLOWEST)
            for path, size in zip(paths, sizes, strict=True):
                more, table = peak_bytes(few, path)
                shown = f"{(more - table) / 1e6:,.0f} MB beside {table / 1e6:,.0f} MB"
                yield Row(f"{name}: memory beside the table, {size:,} rows", shown)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.what}: {row.measured} {row.target}")
