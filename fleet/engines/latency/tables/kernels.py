"""Kernel times of a served model, as LLMServingSim's profiler writes them: read, and put together to a step.

The one thing to know: no table holds a step. Each holds one kernel of *one* layer, in microseconds:

- `dense.csv` (layer, tokens): matrix products and element-wise kernels over all tokens of a step. `embedding` and
  `final_layernorm` run once a step, `layernorm` twice a layer (before attention and before the MLP), the rest once;
- `per_sequence.csv` (layer, sequences): the output layer and the sampler, once a step;
- `attention.csv` (prefill_chunk, kv_prefill, n_decode, kv_decode): one chunk on top of so many tokens of context, in
  one kernel with n sequences that decode, all with the same context. Once a layer;
- `skew.csv`, where the profile has it: the same with uneven contexts.

The profiler ran one layer; that the tables are of the whole of it, not of a tensor-parallel share, follows from the
numbers: reading all of `gate_up_proj` (235 MB) in the time given is 94 % of an RTX 4090's bandwidth and 93 % of an RTX
PRO 6000's, where `meta.yaml` shows the shape of half a layer that was profiled last.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

from msgspec import Struct

FILES = ("attention.csv", "dense.csv", "per_sequence.csv")
SKEW_FILE = "skew.csv"

_ONCE_A_STEP = ("embedding", "final_layernorm")
_TIMES_A_LAYER = {"layernorm": 2}

Attention = dict[tuple[int, int, int, int], float]


class UnevenBatch(Struct, frozen=True, gc=False):
    """One line of `skew.csv`: sequences that decode with uneven contexts, and a prefill's chunk beside them or none."""

    sequences: int
    chunk_tokens: int
    mean_us: float
    """With all at the mean context."""
    longest_us: float
    """With all at the longest context."""
    time_us: float
    """As it is."""


class KernelTables(Struct, frozen=True, kw_only=True):
    """What the files of a profile's directory say."""

    model: str | None
    """As `meta.yaml` names it."""
    device: str | None
    block_tokens: int
    layer_us: dict[str, dict[int, float]]
    """By kernel, by tokens."""
    sequence_us: dict[str, dict[int, float]]
    """By kernel, by sequences."""
    attention_us: Attention
    """By chunk tokens, its context, decoding sequences, the context of each."""

    def products_us(self, layers: int) -> tuple[list[int], list[float]]:
        """Tokens, and time of all that works on tokens one by one, in all layers."""
        runs = {
            kernel: 1 if kernel in _ONCE_A_STEP else layers * _TIMES_A_LAYER.get(kernel, 1)
            for kernel in self.layer_us
        }
        return _total(self.layer_us, runs)

    def outputs_us(self) -> tuple[list[int], list[float]]:
        """Sequences, and time of what is done once for each: the output layer and the sampler."""
        return _total(self.sequence_us, dict.fromkeys(self.sequence_us, 1))


def digest(directory: Path, *, skew: bool = False) -> str:
    """SHA-256 of the tables in `directory`. Raises `ValueError` that names a file that is not there."""
    hasher = hashlib.sha256()
    for name in (*FILES, SKEW_FILE) if skew else FILES:
        hasher.update(_bytes(directory / name))
    return hasher.hexdigest()


def read_kernel_tables(directory: Path) -> KernelTables:
    """Read a profile's directory. Raises `ValueError` that names the file and what is wrong with it."""
    meta = _meta_text(directory)
    return KernelTables(
        model=_meta(meta, "model"),
        device=_meta(meta, "hardware"),
        block_tokens=int(_meta(meta, "block_size") or 16),
        layer_us=_by_kernel(directory / "dense.csv", "tokens"),
        sequence_us=_by_kernel(directory / "per_sequence.csv", "sequences"),
        attention_us={
            (int(row[0]), int(row[1]), int(row[2]), int(row[3])): row[4]
            for row in _numbers(
                directory / "attention.csv", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"
            )
        },
    )


def read_uneven_batches(directory: Path) -> list[UnevenBatch]:
    """Read a profile's `skew.csv`. Raises `ValueError` that names the file and what is wrong with it."""
    path = directory / SKEW_FILE
    batches = [
        UnevenBatch(int(sequences), int(chunk), mean_us, longest_us, time_us)
        for sequences, chunk, mean_us, longest_us, time_us in _numbers(
            path, "n", "pc", "t_mean_us", "t_max_us", "t_skew_us"
        )
    ]
    if not batches:
        raise ValueError(f"{path} has no rows")
    return batches


def skew_is_fitted(directory: Path) -> bool:
    """Whether `meta.yaml` says that a correction for uneven contexts belongs to the profile."""
    return re.search(r"^skew_fit:\s*\n\s+enabled:\s*true\b", _meta_text(directory), re.MULTILINE) is not None


def _meta_text(directory: Path) -> str:
    path = directory / "meta.yaml"
    return path.read_text() if path.exists() else ""


def _meta(text: str, key: str) -> str | None:
    """The first `key: value` line: all that is needed of the file, at the cost of no YAML reader."""
    found = re.search(rf"^\s*{key}:\s*(.+?)\s*$", text, re.MULTILINE)
    return found.group(1).strip("'\"") if found else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; a directory of kernel times holds {', '.join(FILES)}"
        ) from None


def _rows(path: Path, *columns: str) -> list[list[str]]:
    reader = csv.reader(_bytes(path).decode().splitlines())
    header = next(reader, [])
    if missing := [name for name in columns if name not in header]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has {', '.join(header) or 'nothing'}")
    where = [header.index(name) for name in columns]
    return [[row[i] for i in where] for row in reader if row]


def _numbers(path: Path, *columns: str) -> list[list[float]]:
    try:
        return [[float(value) for value in row] for row in _rows(path, *columns)]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from None


def _by_kernel(path: Path, size: str) -> dict[str, dict[int, float]]:
    table: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        for kernel, count, time_us in _rows(path, "layer", size, "time_us"):
            table[kernel][int(count)] = float(time_us)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not table:
        raise ValueError(f"{path} has no rows")
    return dict(table)


def _total(times_us: dict[str, dict[int, float]], runs: dict[str, int]) -> tuple[list[int], list[float]]:
    """Sizes that were measured of every kernel, and the time of all kernels, each run so many times.

    Where a measurement falls as the work grows, the larger value before it is kept.
    """
    sizes = sorted(set.intersection(*[set(times) for times in times_us.values()]))
    totals = [sum([runs[kernel] * times[size] for kernel, times in times_us.items()]) for size in sizes]
    return sizes, list(accumulate(totals, max))
