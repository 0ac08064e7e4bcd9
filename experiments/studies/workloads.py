"""The device, the model and the traffic of the studies.

All studies serve Llama-3.1-8B on A100s (80 GB). Step times are a roofline at efficiencies between those of kernels
timed alone and those of a whole serving stack: kernels of this model reach 0.72 to 0.96 of the peak arithmetic and 0.87
to 0.91 of the bandwidth (LLMServingSim's tables of two other devices), DeepSpeed served a 70B model on A100s at 0.41 of
the arithmetic (Patel et al., Splitwise, ISCA 2024). Orders and crossings are what a study is for; its seconds are those
of no machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from experiments.load import at_rate, open_loop
from fleet.engines import EmulatedLlmEngine, KvSpec, RooflineSteps
from traces import Lengths, Trace, Transform, describe, load_trace, poisson, sessions

MODEL, DEVICE = "llama-3.1-8b", "a100"
STEPS = RooflineSteps(
    model=MODEL, device=DEVICE, flops_efficiency=0.6, bytes_efficiency=0.85, overhead_s=0.001
)
BLOCK_TOKENS = 16
_TICK_S = 0.1
"""A clock that ticks more coarsely brings requests in batches that nobody sent."""
_WORK_STREAM, _KEY_STREAM = 1, 2
"""Beside the seed: sizes and keys are drawn independently of each other and of arrivals."""

CHAT_PROMPT = Lengths.lognormal(1155, 1.0)
CHAT_OUTPUT = Lengths.lognormal(211, 0.8)
"""Mean and spread of Azure's conversation trace of 2023: 1,155 (0.96) and 211 tokens (0.77)."""
DOCUMENT_PROMPT = Lengths.lognormal(7900, 0.5)
DOCUMENT_OUTPUT = Lengths.lognormal(230, 0.5)
"""About the summaries of papers in Agrawal et al., Sarathi-Serve, OSDI 2024, table 2: median 7,059 and 208 tokens."""


def engine(
    *, blocks: int | None = None, host_blocks: int = 0, prefix_caching: bool = True
) -> EmulatedLlmEngine:
    """One replica's engine, with as much cache as fits on the device unless `blocks` says otherwise."""
    kv = KvSpec(
        blocks=blocks, block_tokens=BLOCK_TOKENS, host_blocks=host_blocks, model=MODEL, device=DEVICE,
        prefix_caching=prefix_caching,
    )  # fmt: skip
    return EmulatedLlmEngine(latency=STEPS, kv=kv)


def device_blocks() -> int:
    """Blocks of the cache that fits on the device."""
    return KvSpec(block_tokens=BLOCK_TOKENS, model=MODEL, device=DEVICE).total_blocks()


def chat(requests: int, seed: int) -> Trace:
    """Single questions that share nothing, one a second: scale the rate."""
    return _independent(requests, seed, CHAT_PROMPT, CHAT_OUTPUT)


def documents(requests: int, seed: int) -> Trace:
    """Long prompts, short answers, one a second: scale the rate."""
    return _independent(requests, seed, DOCUMENT_PROMPT, DOCUMENT_OUTPUT)


def _independent(requests: int, seed: int, prompt: Lengths, output: Lengths) -> Trace:
    drawn = poisson(1.0, requests * 1.5 + 50.0, seed, prompt_tokens=prompt, output_tokens=output)
    return drawn.first(requests=requests)


def conversations(requests: int, seed: int, *, output_tokens: int = 200) -> Trace:
    """Conversations of five turns on average with one system prompt for all, about 3.3 requests a second.

    Each turn's prompt is all that was said before it. The first minutes, in which there are too few conversations, are
    cut off. Turns come at their recorded times, however long an answer takes.
    """
    ramp_s = 120.0
    drawn = sessions(
        0.66, ramp_s + requests / 3.0 + 60.0, seed, turns=5.0, think_s=15.0,
        prompt_tokens=Lengths.lognormal(220, 1.2), output_tokens=Lengths.lognormal(output_tokens, 0.8),
        system_tokens=512, block_tokens=64,
    )  # fmt: skip
    return open_loop(drawn.slice(ramp_s, drawn.duration_s).first(requests=requests))


def arrivals(rate_per_s: float, duration_s: float, seed: int, name: str | None = None) -> Trace:
    """Independent requests for nothing in particular: as a Poisson process, or as the trace `name` has them.

    Of a recorded trace only the times are taken. Raises `ValueError` when it has too few of them.
    """
    if name is None:
        return poisson(rate_per_s, duration_s, seed)
    wanted = round(rate_per_s * duration_s)
    part = recorded(name, wanted, seed)
    if len(part) < wanted:
        raise ValueError(f"trace {name!r} has {len(part):,} requests; this study takes {wanted:,} of it")
    return at_rate(part.derived(part.table.select(["id", "arrived_s"]), Transform("times")), rate_per_s)


def with_work(trace: Trace, work: npt.NDArray[np.float64], name: str) -> Trace:
    """The same requests, each with so much work, 1 being that of an ordinary one; `name` says how it was drawn."""
    return _with_column(trace, "work", pa.array(work), Transform("work", {"law": name}))


def with_sessions(trace: Trace, sessions: Sequence[str], name: str) -> Trace:
    """The same requests, each of one of these sessions; `name` says how they were drawn."""
    return _with_column(
        trace, "session", pa.array(sessions, pa.string()), Transform("sessions", {"law": name})
    )


def _with_column(trace: Trace, name: str, values: pa.Array, step: Transform) -> Trace:
    table = trace.table
    if name in table.column_names:
        table = table.drop_columns([name])
    return trace.derived(table.append_column(name, values), step)


def lognormal_work(count: int, cv: float, seed: int) -> npt.NDArray[np.float64]:
    """Work of mean 1 and this coefficient of variation."""
    variance = np.log1p(cv * cv)
    drawn = np.random.default_rng([seed, _WORK_STREAM]).standard_normal(count)
    work: npt.NDArray[np.float64] = np.exp(np.sqrt(variance) * drawn - variance / 2.0)
    return work


def exponential_work(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Work of mean 1, exponential."""
    return np.random.default_rng([seed, _WORK_STREAM]).standard_exponential(count)


def zipf_ranks(count: int, keys: int, exponent: float, seed: int) -> npt.NDArray[np.int64]:
    """Which of `keys` keys each request is for, from 0: that of rank k with a probability in proportion to k^-exponent.

    One seed draws the same uniforms whatever the exponent is. Source: Breslau et al., "Web Caching and Zipf-like
    Distributions", INFOCOM 1999.
    """
    uniform = np.random.default_rng([seed, _KEY_STREAM]).random(count)
    return np.searchsorted(np.cumsum(zipf_shares(keys, exponent))[:-1], uniform, side="right")


def zipf_shares(keys: int, exponent: float) -> npt.NDArray[np.float64]:
    """The share of requests that each key gets, the most popular first."""
    weights: npt.NDArray[np.float64] = np.arange(1, keys + 1, dtype=float) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def recorded(name: str, requests: int, seed: int) -> Trace:
    """The part with the number `seed` of a recorded trace, open-loop; the parts go round when it has too few.

    A coarse clock's ticks are spread. Where conversations are not recorded, prefix hashes tell them.
    """
    trace, tick_s = _prepared(name)
    requests = min(requests, len(trace))
    start = seed * requests % (len(trace) - requests + 1)
    part = trace.derived(trace.table.slice(start, requests), Transform("part", {"start": start}))
    if tick_s is not None and tick_s >= _TICK_S:
        part = part.dequantise(tick_s=tick_s, seed=seed)
    begins_s = float(part.table["arrived_s"][0].as_py()) if requests else 0.0
    return part.slice(begins_s, part.duration_s + 1.0)


@cache
def _prepared(name: str) -> tuple[Trace, float | None]:
    """The whole trace, and what its clock ticks in."""
    trace = load_trace(name)
    tick_s = describe(trace).tick_s
    held = set(trace.table.column_names)
    if "blocks" in held and "session" not in held:
        trace = trace.sessions(infer=True)
    return open_loop(trace), tick_s
