"""Prompt and token times of a served model, as Splitwise's simulator keeps them: read, chosen, repeats reduced.

The one thing to know: a row is a *run*, not a step. A batch of `batch_size` equal prompts of `prompt_size` tokens was
generated `token_size` tokens long; `prompt_time` is its prompt phase, `token_time` the mean of its steps that decode,
both in milliseconds. Several rows are repeats; a file has several models, devices and degrees of parallelism.

What the published file (`perf_model.csv`) does not say of itself:

- it is a cross, not a grid: prompts of 128 to 8,192 tokens alone, and batches of 1 to 64 prompts of 512 tokens;
- a run whose `e2e_time` is longer than its phases did not fit: 64 prompts of 512 tokens on two devices took 14 to 17
  times their sum, in turns, and their prompt time is that of the first turn. Such runs say nothing of their batch;
- a run whose `e2e_time` is shorter ended before `token_size` tokens, at contexts that it does not say. So where runs
  differ in `token_size` only, the shortest counts: its contexts stay nearest to the prompt's size;
- `h100-80gb-pcap` was not measured: its token times are those of `h100-80gb`, its prompt times 1.3 times those.

Source: Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024; the file: the
authors' simulator SplitwiseSim, MIT licence.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from statistics import median

from msgspec import Struct

_SERVED = ("model", "hardware", "tensor_parallel")
_SIZES = ("prompt_size", "batch_size", "token_size")
_TIMES = ("prompt_time", "token_time")
_WHOLE_RUN = "e2e_time"
"""Absent: every run is taken to have fitted."""
_TURNS = 1.05
"""So many times its phases, and a run went in turns. Of those that fitted, the most is 1.01."""


class Served(Struct, frozen=True, order=True):
    """What was measured: a model on devices of a kind."""

    model: str
    hardware: str
    tensor_parallel: int


class Run(Struct, frozen=True, gc=False):
    """One row."""

    prompt_tokens: int
    """Of each prompt."""
    sequences: int
    output_tokens: int
    """Asked for, of each."""
    prompt_s: float
    token_s: float
    whole_s: float | None
    """From the first to the last token of the last sequence; absent: not said."""

    @property
    def in_turns(self) -> bool:
        """Whether it took longer than one batch of it would have."""
        phases_s = self.prompt_s + self.output_tokens * self.token_s
        return self.whole_s is not None and self.whole_s > _TURNS * phases_s


def is_prompt_token_table(path: Path) -> bool:
    """Whether the first line of the file names these times."""
    with path.open("rb") as file:
        header = file.readline(4096).decode("utf-8-sig", errors="replace")
    return set(_TIMES) <= {name.strip() for name in header.split(",")}


def read_runs(
    path: Path, model: str | None = None, hardware: str | None = None, tensor_parallel: int | None = None
) -> list[Run]:
    """The runs of what is asked for, less those that do not tell of their batch; what is not asked for must be unique.

    Raises `ValueError` that names the file and what is wrong with it, or lists what it has.
    """
    runs = _read(path)
    wanted = [
        served for served in sorted(runs)
        if model in (None, served.model)
        and hardware in (None, served.hardware)
        and tensor_parallel in (None, served.tensor_parallel)
    ]  # fmt: skip
    if len(wanted) != 1:
        asked = zip(_SERVED, (model, hardware, tensor_parallel), strict=True)
        said = ", ".join(f"{name} = {value!r}" for name, value in asked if value is not None)
        raise ValueError(
            f"{path} has several models, devices or degrees of parallelism{f' with {said}' if said else ''}: give "
            f"{_either(wanted)}"
            if wanted
            else f"{path} has nothing with {said}; it has {_either(runs)}"
        )
    fitted = [run for run in runs[wanted[0]] if not run.in_turns]
    if not fitted:
        raise ValueError(f"{path}: no run of {_either(wanted)} fitted: each took longer than its phases")
    return _shortest(fitted)


def medians(
    runs: Iterable[Run], size: Callable[[Run], int], time_s: Callable[[Run], float]
) -> dict[int, float]:
    """By size, ascending, the median time of the runs of it."""
    times_s: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        times_s[size(run)].append(time_s(run))
    return {at: median(times_s[at]) for at in sorted(times_s)}


def _shortest(runs: list[Run]) -> list[Run]:
    """Of the runs that differ in their output only, those with the shortest."""
    least: dict[tuple[int, int], int] = {}
    for run in runs:
        key = run.prompt_tokens, run.sequences
        least[key] = min(run.output_tokens, least.get(key, run.output_tokens))
    return [run for run in runs if run.output_tokens == least[run.prompt_tokens, run.sequences]]


def _either(several: Iterable[Served]) -> str:
    """`model = "a", hardware = "b", tensor_parallel = 2 | 4; …`."""
    return "; ".join(
        f'model = "{model}", hardware = "{hardware}", tensor_parallel = '
        + " | ".join(str(served.tensor_parallel) for served in group)
        for (model, hardware), group in groupby(
            sorted(several), key=lambda served: (served.model, served.hardware)
        )
    )


def _read(path: Path) -> dict[Served, list[Run]]:
    try:
        reader = csv.DictReader(path.read_bytes().decode("utf-8-sig").splitlines(), skipinitialspace=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    if missing := [name for name in (*_SERVED, *_SIZES, *_TIMES) if name not in header]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has {', '.join(header)}")
    runs: dict[Served, list[Run]] = defaultdict(list)
    for row in reader:
        try:
            served = Served(row["model"].strip(), row["hardware"].strip(), _whole(row["tensor_parallel"]))
            prompt_tokens, sequences, output_tokens = [_whole(row[name]) for name in _SIZES]
            prompt_s, token_s = [_positive(row[name]) / 1000.0 for name in _TIMES]
            whole_s = _positive(row[_WHOLE_RUN]) / 1000.0 if _WHOLE_RUN in header else None
        except (AttributeError, TypeError):  # a short row's missing values are None
            raise ValueError(f"{path}, line {reader.line_num}: a value is missing") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
        runs[served].append(Run(prompt_tokens, sequences, output_tokens, prompt_s, token_s, whole_s))
    if not runs:
        raise ValueError(f"{path} has no rows")
    return runs


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{text!r} is not a positive number")
    return value


def _whole(text: str) -> int:
    value = _positive(text)
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)
