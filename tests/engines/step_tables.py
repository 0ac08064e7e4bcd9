"""Kernel times, and prompt and token times, made from formulas, and shapes of steps, for tests."""

import csv
import random
from pathlib import Path

from hypothesis import strategies as st

from fleet.engines import StepShape

TOKENS = (1, 4, 16, 64, 256, 1024)
SEQUENCES = (1, 4, 16, 64)
CHUNKS = (16, 64, 256, 1024)
CONTEXTS = (0, 64, 512, 4096)
DECODES = (1, 2, 8, 32)
LENGTHS = (16, 128, 1024, 8192)
LAYERS = 4


def dense_us(kernel: str, tokens: int) -> float:
    return {
        "qkv_proj": max(50.0, 0.3 * tokens),
        "layernorm": 2.0 + 0.01 * tokens,
        "embedding": 3.0,
        "final_layernorm": 4.0,
    }[kernel]


def sequence_us(kernel: str, sequences: int) -> float:
    return {"lm_head": 1000.0 + sequences, "sampler": 20.0 + 2.0 * sequences}[kernel]


def attention_us(chunk: int, context: int, decodes: int, length: int) -> float:
    """The longer of one sequence walked in order and all of them at the device's rate; chunks come on top."""
    pairs = chunk * (context + chunk / 2)
    return 8.0 + 1e-3 * pairs + max(0.02 * length if decodes else 0.0, 0.004 * decodes * length)


SKEWS = {(2, 0): 0.5, (8, 0): 0.25, (32, 0): 0.125, (2, 64): 0.75, (8, 64): 0.25}
"""By sequences and chunk: how far an uneven batch is from its mean to its longest."""


def uneven_us(chunk: int, sequences: int, many: int, longest: int) -> tuple[int, float, float, float]:
    """Of a batch with so `many` contexts four times the others: mean; time at mean, at longest, and as it is."""
    mean = (many * longest + (sequences - many) * longest // 4) // sequences
    mean_us, longest_us = (attention_us(chunk, 0, sequences, length) for length in (mean, longest))
    return mean, mean_us, longest_us, mean_us + SKEWS[sequences, chunk] * (longest_us - mean_us)


def write_skew(directory: Path, *, noise: float = 0.0) -> None:
    """`skew.csv`, its times of three runs as in the published ones."""
    rng = random.Random(1)
    rows = [["n", "pc", "kv_big", "kv_mean", "t_mean_us", "t_max_us", "t_skew_us"]]
    for sequences, chunk in SKEWS:
        for many in range(1, sequences):
            for longest in (512, 4096):
                mean, *times_us = uneven_us(chunk, sequences, many, longest)
                off = [3 * time_us * (1.0 + noise * (2.0 * rng.random() - 1.0)) for time_us in times_us]
                rows.append([sequences, chunk, longest, mean, *off])
    with (directory / "skew.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_tables(directory: Path, *, noise: float = 0.0, model: str = "meta-llama/Llama-3.1-8B") -> Path:
    """All that `ProfiledSteps` reads, each time off by up to `noise`; beside a chunk no more than 8 sequences."""
    rng = random.Random(0)

    def off(time_us: float) -> float:
        return time_us * (1.0 + noise * (2.0 * rng.random() - 1.0))

    def write(name: str, header: list[str], rows: list[list[object]]) -> None:
        with (directory / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    kernels = ("embedding", "layernorm", "qkv_proj", "final_layernorm")
    rows = [[kernel, tokens, off(dense_us(kernel, tokens))] for kernel in kernels for tokens in TOKENS]
    write("dense.csv", ["layer", "tokens", "time_us"], rows)
    rows = [[kernel, n, off(sequence_us(kernel, n))] for kernel in ("lm_head", "sampler") for n in SEQUENCES]
    write("per_sequence.csv", ["layer", "sequences", "time_us"], rows)
    points = [(0, 0, n, length) for n in DECODES for length in LENGTHS]
    points += [(chunk, context, 0, 0) for chunk in CHUNKS for context in CONTEXTS]
    points += [
        (chunk, context, n, length)
        for chunk in CHUNKS for context in CONTEXTS for n in DECODES if n <= 8 for length in LENGTHS
    ]  # fmt: skip
    header = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    write("attention.csv", header, [[*point, off(attention_us(*point))] for point in points])
    write_skew(directory, noise=noise)
    (directory / "meta.yaml").write_text(
        f"model: {model}\nhardware: RTX4090\nengine_effective:\n  block_size: 16\n"
    )
    return directory


def prompt_ms(tokens: int) -> float:
    return max(50.0, 0.125 * tokens)


def token_ms(prompt: int, sequences: int) -> float:
    """Weights, sequences, and the walk over the longest context."""
    return 30.0 + 0.5 * sequences + prompt / 1024


RUN_PROMPTS = (128, 512, 2048, 8192)
RUN_BATCHES = (1, 4, 16, 64)
RUN_HEADER = (
    "model", "hardware", "prompt_size", "batch_size", "token_size", "peak_power", "average_power", "prompt_time",
    "token_time", "e2e_time", "tensor_parallel",
)  # fmt: skip


def run_row(
    prompt: int,
    sequences: int,
    *,
    factor: float = 1.0,
    output: int = 128,
    device: str = "fast",
    ways: int = 8,
) -> list[object]:
    """A line of a table of prompt and token times: a run that took so many times what the formulas say."""
    first_ms, next_ms = factor * prompt_ms(prompt * sequences), factor * token_ms(prompt, sequences)
    whole_ms = first_ms + (output - 1) * next_ms
    return ["llama", device, prompt, sequences, output, 0.0, 0.0, first_ms, next_ms, whole_ms, ways]


def write_runs(path: Path, rows: list[list[object]] | None = None, *, noise: float = 0.0) -> Path:
    """A table in the form of Splitwise's: these rows, or its cross of prompts alone and batches, five runs of each."""
    if rows is None:
        rng = random.Random(0)
        sizes = [(prompt, 1) for prompt in RUN_PROMPTS] + [(512, sequences) for sequences in RUN_BATCHES]
        factors = [[1.0 + noise * (2.0 * rng.random() - 1.0)] * 3 + [0.5, 3.0] for _ in sizes]
        rows = [run_row(*size, factor=off) for size, offs in zip(sizes, factors, strict=True) for off in offs]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([RUN_HEADER, *rows])
    return path


def make_shape(prefills=(), lengths=(), outputs=None, moved_blocks=0) -> StepShape:
    """The shape of a step that prefills (tokens, context) and decodes in contexts of these lengths."""
    return StepShape(
        tuple(prefills), len(lengths), sum(lengths), max(lengths, default=0),
        len(lengths) if outputs is None else outputs, moved_blocks,
    )  # fmt: skip


prefill_lists = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20_000)), max_size=3)
length_lists = st.lists(st.integers(0, 30_000), max_size=60)
