"""A step latency model from measurements: of kernels one by one, of an engine's steps, or of prompts and tokens."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Protocol

from msgspec import Meta

from fleet.actor import FleetError
from fleet.engines.bounds import FileName, NonNegative
from fleet.engines.latency.steps.base import StepLatency, StepShape
from fleet.engines.latency.tables.kernels import (
    digest,
    read_kernel_tables,
    read_uneven_batches,
    skew_is_fitted,
)
from fleet.engines.latency.tables.prompt_tokens import is_prompt_token_table, read_runs
from fleet.engines.latency.tables.step_profile import StepProfile

Size = Annotated[int, Meta(ge=1)]
Skew = Literal["as-profiled", "on", "off"]
_Served = tuple[str | None, str | None, int | None]

VLLM_GRAPH_TOKENS: tuple[int, ...] = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Tokens for which vLLM captures CUDA graphs by default (`cudagraph_capture_sizes`): it pads a step to the next."""


class ProfiledSteps(StepLatency):
    """What was measured, put together to a step.

    `profile` is one of three, told apart by what is in it:

    - a *directory* of kernel times (`dense.csv`, `per_sequence.csv`, `attention.csv`, as LLMServingSim's profiler
      writes them). A step is the sum of its kernels: products over all its tokens, padded to the next of
      `graph_tokens`, in all `layers`; attention in all layers; output layer and sampler for each of its sequences
      (vLLM computes logits for unfinished prefills too). Between measured points times are linear. Nothing is added
      for the processor's own work, because vLLM plans the next step while this one runs (asynchronous scheduling);
      where that is off, `overhead_s` is what it costs.
    - a *file* that `fleet profile` wrote of an engine that runs here: whole steps, fitted by `fit_steps`;
    - a *CSV file* of prompt and token times of several models and devices (`perf_model.csv`, as Splitwise's simulator
      keeps it), of which `model`, `hardware` and `tensor_parallel` choose one. A prefill takes the prompt time of its
      tokens, decoding the token time of so many sequences and what the longest context adds, and a step with both the
      sum less the pass over the weights that they share; `PromptTokenSteps` has the reasons and what is left out.

    Source: Cho et al., "LLMServingSim: A HW/SW Co-Simulation Infrastructure for LLM Inference Serving at Scale", IISWC
    2024, for the kernel tables; vLLM 0.19 for what a step consists of; Patel et al., "Splitwise: Efficient Generative
    LLM Inference Using Phase Splitting", ISCA 2024, for prompt and token times.
    """

    profile: FileName
    """A directory or a file; read when this value is made."""
    model: str | None = None
    """As the table of prompt and token times names it; needed where it has several. For these only."""
    hardware: str | None = None
    """Likewise."""
    tensor_parallel: Size | None = None
    """Likewise."""
    layers: Size | None = None
    """Of the model; None: as the model that the directory names is known to have."""
    overhead_s: NonNegative = 0.0
    """Added to every step."""
    graph_tokens: tuple[Size, ...] = VLLM_GRAPH_TOKENS
    """Ascending; empty: steps are not padded. For kernel times only."""
    skew: Skew = "as-profiled"
    """Whether attention takes longer where contexts differ (`skew.csv`); as profiled: if the profile's `meta.yaml` says
    that its `skew_fit` is enabled. For kernel times only."""
    block_move_s: NonNegative | None = None
    """To copy a block between device and host; None: by the device's link, where device and model are known."""
    profile_sha256: str | None = None
    """Of what was read; filled in when absent, and where it is given it must be right."""

    def __post_init__(self) -> None:
        path = Path(self.profile)
        skew = path.is_dir() and (self.skew == "on" or (self.skew == "as-profiled" and skew_is_fitted(path)))
        found = digest(path, skew=skew) if path.is_dir() else _sha256(path)
        if self.profile_sha256 not in (None, found):
            raise ValueError(f"{path} has changed: its SHA-256 is {found}, not {self.profile_sha256}")
        self.profile_sha256 = found
        served = self.model, self.hardware, self.tensor_parallel
        self._steps = _steps(path, found, self.layers, self.graph_tokens, skew, served=served)
        self._move_s = self._steps.block_move_s if self.block_move_s is None else self.block_move_s

    def step_s(self, shape: StepShape) -> float:
        seconds = self.overhead_s + self._steps.step_s(shape)
        if shape.moved_blocks:
            if self._move_s is None:
                raise FleetError(
                    "blocks are swapped, but nothing says how long that takes: give `block_move_s`"
                )
            seconds += self._move_s * shape.moved_blocks
        return seconds

    def span_s(self, shape: StepShape, steps: int) -> float:
        return self.overhead_s * steps + self._steps.span_s(shape, steps)


class _Steps(Protocol):
    @property
    def block_move_s(self) -> float | None: ...

    def step_s(self, shape: StepShape) -> float: ...

    def span_s(self, shape: StepShape, steps: int) -> float: ...


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read the profile {path}: {error.strerror}") from None


@lru_cache(maxsize=16)
def _steps(
    path: Path, sha256: str, layers: int | None, graph_tokens: tuple[int, ...], skew: bool, *, served: _Served
) -> _Steps:
    """Shared by all replicas that read the same; `sha256` is part of the key."""
    if path.is_file() and is_prompt_token_table(path):
        from fleet.engines.latency.steps.prompt_tokens import PromptTokenSteps

        return PromptTokenSteps(read_runs(path, *served))
    if any(choice is not None for choice in served):
        raise ValueError(
            f"{path} is not a table of prompt and token times: `model`, `hardware` and `tensor_parallel` choose "
            "from such a table, and the other kinds of profile are of one model on one device"
        )
    if path.is_dir():
        from fleet.engines.latency.steps.kernels import KernelSteps
        from fleet.engines.latency.tables.attention_skew import AttentionSkew

        uneven = AttentionSkew(read_uneven_batches(path)) if skew else None
        return KernelSteps(read_kernel_tables(path), layers, graph_tokens, uneven)
    from fleet.engines.latency.steps.fitted import fit_steps

    return fit_steps(StepProfile.load(path).points)
