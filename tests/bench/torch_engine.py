"""What `TorchEngine` costs over a bare loop on the same module, batch and device.

python -m tests.bench.torch_engine

The bare loop collates, copies to the device, runs `forward` and copies back, with nothing around it. The two
take turns, batch by batch, so that whatever else the machine does falls on both; and they run on the same
thread, because on the CPU each thread has a pool of its own for its operations, and two pools would disturb
each other. Times are medians; the ratio is the median of the pairs' ratios.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch

from fleet.engines import TorchEngine
from fleet.engines.torch.minilm import SentenceEmbedder
from fleet.messages import Work
from tests.engines.contexts import ThreadContext, make_work

MODULE = "fleet.engines.torch.minilm:SentenceEmbedder"


@dataclass(frozen=True)
class Comparison:
    """Median seconds per batch."""

    bare_s: float
    service_s: float
    """What the engine reports."""
    engine_s: float
    """From `run` to its answer, thread and message included."""

    ratio: float
    """How many times a bare batch a batch through the engine takes."""


def bare_s(module: SentenceEmbedder, device: torch.device, work: list[Work]) -> float:
    """Seconds for one batch, as a script would run it."""
    started = time.perf_counter()
    with torch.inference_mode():
        module(*(tensor.to(device) for tensor in module.collate(work))).cpu().numpy()
    return time.perf_counter() - started


def compare(batch_size: int, tokens: int, repeats: int, warmup: int = 5) -> Comparison:
    """Run batches of `batch_size` prompts of `tokens` tokens both ways, in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = SentenceEmbedder().eval().to(device)
    engine, ctx = TorchEngine(module=MODULE), ThreadContext()
    engine.load(ctx)
    error = ctx.receive().error
    assert error is None, error
    work = make_work(batch_size, prompt_tokens=tokens)
    rows = []
    for _ in range(warmup + repeats):
        bare = ctx.worker.submit(bare_s, module, device, work).result()
        started = time.perf_counter()
        engine.run(1, work)
        service = ctx.receive().service_s
        elapsed = time.perf_counter() - started
        rows.append((bare, service, elapsed, elapsed / bare))
    engine.unload()
    return Comparison(*(median(column) for column in zip(*rows[warmup:], strict=True)))


def main(batch_sizes: tuple[int, ...] = (1, 8, 64), repeats: int | None = None, warmup: int = 5) -> None:
    """Print the table; without `repeats` as many as give steady medians on this device."""
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    tokens, enough = (128, 200) if gpu else (32, 15)
    print(f"{MODULE}, {tokens} tokens, on {name}, torch {torch.__version__}")
    print(f"{'batch':>6}{'bare loop':>12}{'service':>12}{'engine':>12}{'ratio':>8}")
    for batch_size in batch_sizes:
        row = compare(batch_size, tokens, repeats or enough, warmup)
        times = "".join(f"{seconds * 1e3:>9.3f} ms" for seconds in (row.bare_s, row.service_s, row.engine_s))
        print(f"{batch_size:>6}{times}{row.ratio:>8.3f}")


if __name__ == "__main__":
    main()
