"""``python -m experiments.vllm_fidelity``: a run of vLLM from the times of its kernels, beside its measurement.

Nothing is fitted to a run: kernels were timed one by one, each alone, and the scheduler is simulated. With ``--run``
(a folder with `requests.jsonl` and `meta.json`) the engine's settings are read from there and errors are shown; without
it, this is a prediction, with vLLM's defaults and what fits into the device's memory.

What is compared is what the measurement's authors compare: TTFT and E2E from the time when the engine had queued the
request (their clocks of arrival and of the engine differ), TPOT as the mean gap.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
from msgspec import Struct

from fleet import FleetSpec, Run, simulate
from fleet.engines import EmulatedLlmEngine, KvSpec, ProfiledSteps
from fleet.engines.devices.kv_spec import NULL_BLOCKS
from fleet.engines.devices.specs import known_device, known_model
from fleet.engines.latency.steps.profiled import Skew
from fleet.engines.latency.tables.kernels import read_kernel_tables
from fleet.telemetry.summary import Distribution, distribution
from policies import Lru, VllmTokenBudget
from traces import Trace, load_trace

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("ttft_s", "tpot_s", "e2e_s")
STATISTICS = {"mean": 0.02, "p50": 0.03, "p90": None, "p99": 0.04}
"""And how far off each may be."""


class Settings(Struct, frozen=True, kw_only=True):
    """What the engine was started with, and the cache that it found room for."""

    kv: KvSpec
    max_sequences: int = 128
    max_step_tokens: int = 2048


class _Arguments(Struct):
    max_num_seqs: int
    max_num_batched_tokens: int


class _Cache(Struct):
    num_gpu_blocks: int
    block_size: int
    enable_prefix_caching: bool = True


class _Meta(Struct):
    engine_kwargs: _Arguments
    kv_cache: _Cache


def settings_of(run: Path) -> Settings:
    """As the measured run's `meta.json` has them. Raises `ValueError` that says what is wrong with it."""
    path = run / "meta.json"
    try:
        meta = msgspec.json.decode(path.read_bytes(), type=_Meta)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    cache, arguments = meta.kv_cache, meta.engine_kwargs
    return Settings(
        kv=KvSpec(
            blocks=cache.num_gpu_blocks - NULL_BLOCKS,
            block_tokens=cache.block_size,
            prefix_caching=cache.enable_prefix_caching,
            watermark=0.0,
        ),
        max_sequences=arguments.max_num_seqs,
        max_step_tokens=arguments.max_num_batched_tokens,
    )


def default_settings(profile: Path, *, max_sequences: int = 128, max_step_tokens: int = 2048) -> Settings:
    """The defaults of vLLM, and the cache that fits beside the profiled model on the profiled device."""
    tables = read_kernel_tables(profile)
    model, device = known_model(tables.model), known_device(tables.device)
    if model is None or device is None:
        raise ValueError(f"{profile}: {tables.model!r} on {tables.device!r} is not known; give --blocks")
    kv = KvSpec(model=model, device=device, block_tokens=tables.block_tokens, watermark=0.0)
    return Settings(kv=kv, max_sequences=max_sequences, max_step_tokens=max_step_tokens)


def fleet(profile: Path, settings: Settings, *, skew: Skew = "as-profiled") -> FleetSpec:
    """One replica that serves as vLLM does."""
    return FleetSpec(
        engine=EmulatedLlmEngine(latency=ProfiledSteps(profile=str(profile), skew=skew), kv=settings.kv),
        iteration=VllmTokenBudget(
            max_sequences=settings.max_sequences, max_step_tokens=settings.max_step_tokens
        ),
        eviction=Lru(),
        replicas=1,
    )


def measured(run: Path) -> dict[str, Distribution]:
    """The distributions of a measured run's `requests.jsonl`."""
    trace = load_trace(run / "requests.jsonl")
    return {name: distribution(trace.column(f"observed_{name}")) for name in METRICS}


def table_of(run: Run, measurement: dict[str, Distribution] | None = None) -> Table:
    """One line for each figure: simulated, and, where there is a measurement, that and the error."""
    from rich.table import Table

    title = "vLLM, simulated from its kernels' times"
    table = Table(title=title, title_justify="left")
    headings = ["simulated"] if measurement is None else ["measured", "simulated", "error", "at most"]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    for metric in METRICS:
        scale, unit = (1000.0, "ms") if metric == "tpot_s" else (1.0, "s")
        for statistic, at_most in STATISTICS.items():
            simulated = getattr(getattr(run.summary, metric), statistic)
            cells = [f"{simulated * scale:.3f}"]
            if measurement is not None:
                known = getattr(measurement[metric], statistic)
                bound = "" if at_most is None else f"{at_most:.0%}"
                cells = [f"{known * scale:.3f}", *cells, f"{simulated / known - 1:+.2%}", bound]
            table.add_row(f"{metric.removesuffix('_s').upper()} {statistic} ({unit})", *cells)
        table.add_section()
    return table


def study(
    workload: Trace,
    profile: Path,
    *,
    run: Path | None = None,
    settings: Settings | None = None,
    skew: Skew = "as-profiled",
) -> Run:
    """Simulate `workload` with the settings given, else the measured run's, else the defaults."""
    if settings is None:
        settings = default_settings(profile) if run is None else settings_of(run)
    return simulate(workload, fleet(profile, settings, skew=skew))


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, and print the table."""
    from experiments.text import console

    parser = argparse.ArgumentParser(prog="python -m experiments.vllm_fidelity", description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of the measured run: requests.jsonl and meta.json")
    parser.add_argument("--profile", type=Path, required=True, help="folder of kernel times")
    parser.add_argument("--workload", type=Path, required=True, help="the trace that was played")
    parser.add_argument("--max-num-seqs", type=int, default=128, help="without --run (default: 128)")
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048, help="likewise (default: 2048)")
    parser.add_argument(
        "--blocks",
        type=int,
        help="vLLM's num_gpu_blocks, likewise (default: what fits into the device's memory)",
    )
    parser.add_argument(
        "--skew",
        choices=get_args(Skew),
        default="as-profiled",
        help="correct attention for uneven contexts (default: if the profile says so)",
    )
    given = parser.parse_args(arguments)
    try:
        if given.run is not None:
            settings = settings_of(given.run)
        elif given.blocks is not None:
            kv = KvSpec(blocks=given.blocks - NULL_BLOCKS, watermark=0.0)
            settings = Settings(
                kv=kv, max_sequences=given.max_num_seqs, max_step_tokens=given.max_num_batched_tokens
            )
        else:
            settings = default_settings(
                given.profile, max_sequences=given.max_num_seqs, max_step_tokens=given.max_num_batched_tokens
            )
        measurement = None if given.run is None else measured(given.run)
        run = study(load_trace(given.workload), given.profile, settings=settings, skew=given.skew)
    except ValueError as error:
        parser.error(str(error))
    out = console()
    out.print(table_of(run, measurement))
    s = run.summary
    out.print(
        f"{s.completed:,} of {s.submitted:,} completed in {s.duration_s:.1f} s; cache of "
        f"{settings.kv.total_blocks():,} blocks of {settings.kv.block_tokens}; {s.preemptions:,} preemptions; "
        f"{s.cached_fraction or 0.0:.1%} of prompt tokens from the cache."
    )


if __name__ == "__main__":
    main()
