"""Devices and models by their published figures: what latency models and cache capacities are derived from."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, Struct

from fleet.engines.bounds import Count, Positive
from traces.values import BadValue


class DeviceSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device can do at best."""

    flops_per_s: Positive
    """Dense 16-bit matrix arithmetic with 32-bit accumulation."""
    bytes_per_s: Positive
    """Device memory."""
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None
    """As the driver reports it, which is a little less than the number on the box."""
    host_bytes_per_s: Positive | None = None
    """The link to the host, one way."""
    peer_bytes_per_s: Positive | None = None
    """The link to other devices of the same host, one way; absent: by way of the host."""


# Memory is the total that nvidia-smi shows for the card with ECC as delivered, in MiB; links are half of the two-way
# figure that datasheets print.
_MIB = 1 << 20
_PCIE_4, _PCIE_5 = 32e9, 64e9

DEVICES: dict[str, DeviceSpec] = {
    # NVIDIA A100 Tensor Core GPU datasheet (2021), A100 80GB SXM; NVLink 600 GB/s.
    "a100": DeviceSpec(312e12, 2.039e12, 81_920 * _MIB, _PCIE_4, 300e9),
    # NVIDIA H100 Tensor Core GPU datasheet, H100 SXM; half of its 1,979 TFLOP/s, which count sparsity; NVLink 900 GB/s.
    "h100": DeviceSpec(989.5e12, 3.35e12, 81_559 * _MIB, _PCIE_5, 450e9),
    # NVIDIA H200 Tensor Core GPU datasheet, H200 SXM; likewise halved.
    "h200": DeviceSpec(989.5e12, 4.8e12, 143_771 * _MIB, _PCIE_5, 450e9),
    # NVIDIA L4 Tensor Core GPU datasheet; half of its 242 TFLOP/s, which count sparsity.
    "l4": DeviceSpec(121e12, 300e9, 23_034 * _MIB, _PCIE_4),
    # NVIDIA Ada GPU Architecture whitepaper, appendix A, GeForce RTX 4090: dense FP16 with FP32 accumulation. Memory:
    # the CUDA runtime's figure, from the metadata of LLMServingSim's measured run.
    "rtx-4090": DeviceSpec(165.2e12, 1.008e12, 25_250_627_584, _PCIE_4),
    # NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet (96 GB, 1,597 GB/s, PCIe 5); arithmetic: NVIDIA RTX
    # Blackwell PRO GPU architecture whitepaper, dense FP16 with FP32 accumulation, of the card with the same chip.
    "rtx-pro-6000": DeviceSpec(503.8e12, 1.597e12, 97_887 * _MIB, _PCIE_5),
}


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shape of a dense decoder-only transformer: grouped-query attention, gated MLP, two norms a layer."""

    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    vocabulary: Count
    tied_embeddings: bool = False
    """The output layer uses the input embedding's weights."""
    query_key_norms: bool = False
    """A norm on each head's query and key, as in Qwen3."""
    bytes_per_parameter: Positive = 2.0
    bytes_per_kv_element: Positive = 2.0

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer that multiply every token: projections and MLP."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate)

    @property
    def output_parameters(self) -> int:
        """Parameters of the output layer (the language model's head)."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All of them, as counted in a checkpoint."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.query_key_norms else 0)
        embeddings = self.output_parameters * (1 if self.tied_embeddings else 2)
        return self.layers * (self.layer_matrix_parameters + norms) + self.hidden + embeddings

    @property
    def weights_bytes(self) -> float:
        """Memory that the parameters take."""
        return self.parameters * self.bytes_per_parameter

    @property
    def flops_per_token(self) -> float:
        """Of the matrix products of one token through all layers, attention and output layer apart."""
        return 2.0 * self.layers * self.layer_matrix_parameters

    @property
    def flops_per_attended_token(self) -> float:
        """Of one token's attention to one token before it, in all layers: query times key, weight times value."""
        return 4.0 * self.layers * self.heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> float:
        """Memory of the keys and values of one token in all layers."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_kv_element


# From the `config.json` published with each model on the Hugging Face hub; 16-bit weights.
MODELS: dict[str, ModelSpec] = {
    # meta-llama/Llama-3.1-8B
    "llama-3.1-8b": ModelSpec(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14_336, vocabulary=128_256
    ),
    # meta-llama/Llama-3.1-70B
    "llama-3.1-70b": ModelSpec(
        layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, intermediate=28_672, vocabulary=128_256
    ),
    # Qwen/Qwen3-32B
    "qwen3-32b": ModelSpec(
        layers=64, hidden=5120, heads=64, kv_heads=8, head_dim=128, intermediate=25_600, vocabulary=151_936,
        query_key_norms=True,
    ),
    # Qwen/Qwen3-8B
    "qwen3-8b": ModelSpec(
        layers=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=12_288, vocabulary=151_936,
        query_key_norms=True,
    ),
    # mistralai/Mistral-7B-v0.1
    "mistral-7b": ModelSpec(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14_336, vocabulary=32_000
    ),
    # HuggingFaceTB/SmolLM2-135M-Instruct
    "smollm2-135m": ModelSpec(
        layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49_152,
        tied_embeddings=True,
    ),
}  # fmt: skip


def device_spec(device: str | DeviceSpec) -> DeviceSpec:
    """The figures of a device given by name, or those given. Raises `BadValue` that lists the names."""
    if isinstance(device, DeviceSpec):
        return device
    if device not in DEVICES:
        raise BadValue("device", f"no device {device!r}; known: {', '.join(DEVICES)}, or give a DeviceSpec")
    return DEVICES[device]


def model_spec(model: str | ModelSpec) -> ModelSpec:
    """The shape of a model given by name, or the one given. Raises `BadValue` that lists the names."""
    if isinstance(model, ModelSpec):
        return model
    if model not in MODELS:
        raise BadValue("model", f"no model {model!r}; known: {', '.join(MODELS)}, or give a ModelSpec")
    return MODELS[model]


def time_s(amount: float, per_s: float) -> float:
    """How long `amount` takes at a rate: for ever at none, which no fleet is built with."""
    return amount / per_s if per_s else math.inf


def known_model(name: str | None) -> ModelSpec | None:
    """The one in `MODELS` that others call `name`: `meta-llama/Llama-3.1-8B` -> `llama-3.1-8b`."""
    return MODELS.get((name or "").rpartition("/")[2].lower())


def known_device(name: str | None) -> DeviceSpec | None:
    """The one in `DEVICES` that others call `name`: `RTX4090`, `RTX 4090` -> `rtx-4090`."""
    wanted = _letters(name or "")
    return next((spec for key, spec in DEVICES.items() if _letters(key) == wanted), None)


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace(" ", "")
