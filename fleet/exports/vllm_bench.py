"""The result of ``vllm bench serve --save-result --save-detailed``: one JSON object, lists with one value a request.

Field names and what they count: vllm-project/vllm, vllm/benchmarks/serve.py at commit 009e6d4a1cd6, functions
`benchmark`, `calculate_metrics` and `main_async`. As there, times are seconds; statistics are in ms, of what
was answered, as is ``total_input_tokens``; a request that failed has latency and TTFT 0, and ``errors`` says why.

A run whose engines answer whole requests has the fields of vLLM's results for pooling models: no token was counted.

Left out, because a run does not have it: ``itls`` and their statistics (it has the mean gap and the longest), texts,
client queues, peaks by the second, and the date. ``start_times`` are intended arrivals, from which latency counts.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import msgspec
import numpy as np

from fleet.exports.report import UNFINISHED, Cells, ExportReport, by_token, cells_of, demand_prompts, others
from fleet.telemetry.run import Run

NAME = "vllm-bench"
_TOLD = (
    "arrived_s", "outcome", "detail", "prompt_tokens", "generated_tokens", "ttft_s", "tpot_s", "e2e_s",
)  # fmt: skip
_NOT_RECORDED = (
    "itls",
    "generated_texts",
    "queue_times",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
)


def write(run: Run, file: BinaryIO) -> ExportReport:
    """One object. Raises `ValueError` for a run in which some prompt has no length."""
    demand_prompts(run, NAME)
    cells = cells_of(run.records, *_TOLD)
    answered = [outcome == "completed" for outcome in cells["outcome"]]
    result = {
        **_identity(run),
        **(_generation(run, cells, answered) if by_token(run) else _pooling(run, cells, answered)),
    }
    file.write(msgspec.json.encode(result) + b"\n")
    return ExportReport(
        format=NAME, written=len(answered), not_kept=(*others(run, (*_TOLD, "ended_s")), *_NOT_RECORDED)
    )


def _identity(run: Run) -> dict[str, Any]:  # Any: JSON values, here and below
    """What vLLM says of the tool; keys of one's own beside them are what its ``--metadata`` allows."""
    manifest = run.manifest
    return {
        "backend": "fleetlab",
        "endpoint_type": "fleetlab",
        "label": f"fleetlab, {manifest.runtime}",
        "num_prompts": len(run.records),
        "max_concurrency": None,
        "fleetlab_digest": run.digest,
        "fleetlab_seed": manifest.seed,
        "fleetlab_trace_sha256": manifest.trace["sha256"],
    }


def _generation(run: Run, cells: Cells, answered: list[bool]) -> dict[str, Any]:
    lengths = [
        int(tokens or 0) if ok else 0 for tokens, ok in zip(cells["generated_tokens"], answered, strict=True)
    ]
    read, written = _answered_tokens(cells["prompt_tokens"], answered), sum(lengths)
    duration_s = run.summary.duration_s
    return {
        "duration": duration_s,
        "completed": sum(answered),
        "failed": len(answered) - sum(answered),
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": _per_s(sum(answered), duration_s),
        "request_goodput": None if run.summary.slo_attainment is None else run.summary.goodput_per_s,
        "output_throughput": _per_s(written, duration_s),
        "total_token_throughput": _per_s(read + written, duration_s),
        "input_lens": cells["prompt_tokens"],
        "output_lens": lengths,
        "ttfts": _or_0(cells["ttft_s"]),
        "latencies": _or_0(cells["e2e_s"]),
        "start_times": cells["arrived_s"],
        "errors": _errors(cells),
        **_statistics("ttft", cells["ttft_s"]),
        **_statistics("tpot", cells["tpot_s"]),
        **_statistics("e2el", cells["e2e_s"]),
    }


def _pooling(run: Run, cells: Cells, answered: list[bool]) -> dict[str, Any]:
    read = _answered_tokens(cells["prompt_tokens"], answered)
    duration_s = run.summary.duration_s
    return {
        "duration": duration_s,
        "completed": sum(answered),
        "total_input_tokens": read,
        "request_throughput": _per_s(sum(answered), duration_s),
        "total_token_throughput": _per_s(read, duration_s),
        "input_lens": cells["prompt_tokens"],
        "latencies": _or_0(cells["e2e_s"]),
        "start_times": cells["arrived_s"],
        "errors": _errors(cells),
        **_statistics("e2el", cells["e2e_s"]),
    }


def _statistics(name: str, seconds: list[float | None]) -> dict[str, float]:
    """Mean, median, standard deviation and 99th percentile in ms; nothing where there is no value."""
    values_ms = np.array([1e3 * value for value in seconds if value is not None])
    if not len(values_ms):
        return {}
    return {
        f"mean_{name}_ms": float(np.mean(values_ms)),
        f"median_{name}_ms": float(np.median(values_ms)),
        f"std_{name}_ms": float(np.std(values_ms)),
        f"p99_{name}_ms": float(np.percentile(values_ms, 99)),
    }


def _answered_tokens(tokens: list[int], answered: list[bool]) -> int:
    return sum(count for count, ok in zip(tokens, answered, strict=True) if ok)


def _per_s(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0.0 else 0.0


def _or_0(seconds: list[float | None]) -> list[float]:
    return [0.0 if value is None else value for value in seconds]


def _errors(cells: Cells) -> list[str]:
    """Empty for what was answered, else the outcome and why."""
    pairs = zip(cells["outcome"], cells["detail"], strict=True)
    return ["" if outcome == "completed" else _why(outcome, detail) for outcome, detail in pairs]


def _why(outcome: str | None, detail: str | None) -> str:
    if outcome is None:
        return UNFINISHED
    return f"{outcome}: {detail}" if detail else outcome
