"""How much key-value cache a replica has: given, or derived from its device and model as vLLM does at start."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fleet.engines.bounds import Count
from fleet.engines.devices.specs import DeviceSpec, ModelSpec, device_spec, model_spec
from traces.values import BadValue

_GIB = 1 << 30

NULL_BLOCKS = 1
"""Of those that vLLM counts as `num_gpu_blocks`: what no sequence gets."""


class KvSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A paged key-value cache of one replica: so many `blocks`, or what fits beside the `model` on the `device`.

    What fits is `gpu_memory_utilization` of the device's memory, less the weights, less `reserve_bytes`, in whole
    blocks, less one: the null block, which vLLM takes for itself (`BlockPool.null_block`; its `num_gpu_blocks` counts
    it). With `tensor_parallel` devices each holds its share of the weights and of the key-value heads (a head is
    not divided: beyond one head a device, they are repeated), so that a block is a block on all of them.

    Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP
    2023; vLLM's options of the same names.
    """

    blocks: Count | None = None
    """That can be used; given rather than derived. Of vLLM's `num_gpu_blocks` one less."""
    block_tokens: Count = 16
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.9
    watermark: Annotated[float, Meta(ge=0, lt=1)] = 0.01
    """Share of the blocks that admission leaves free, against preempting what was just let in. vLLM v0 kept 1 %; v1 to
    release 0.19 keeps none."""
    prefix_caching: bool = True
    host_blocks: Annotated[int, Meta(ge=0)] = 0
    """Blocks of host memory to which a preempted sequence can be swapped."""
    model: str | ModelSpec | None = None
    """A name in `MODELS`, or figures of one's own."""
    device: str | DeviceSpec | None = None
    """A name in `DEVICES`, or figures of one's own."""
    tensor_parallel: Count = 1
    reserve_bytes: Annotated[float, Meta(ge=0)] = float(_GIB)
    """Of each device, beside weights and cache: activations at the largest step, captured graphs, the driver's context.
    vLLM measures it at start. A GiB is the order of it: the 2,588 blocks that vLLM 0.19 found for Llama-3.1-8B on an
    RTX 4090 (2,048 tokens a step, 256 sequences) leave 1.24e9 bytes, or 1.15 GiB, for all of that."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself: names are known, and there is room for a cache."""
        if self.device is not None:
            device_spec(self.device)
        if self.model is not None:
            model_spec(self.model)
        self.total_blocks()

    def total_blocks(self) -> int:
        """How many blocks there are. Raises `BadValue` that says what is missing, or what does not fit."""
        if self.blocks is not None:
            return self.blocks
        missing = [name for name in ("model", "device") if getattr(self, name) is None]
        if self.model is None or self.device is None:
            raise BadValue(
                "",
                f"the cache's size cannot be derived: {' and '.join(missing)} missing; give `blocks`, or "
                'both `model` and `device`, such as model = "llama-3.1-8b", device = "h100"',
            )
        model, device = model_spec(self.model), device_spec(self.device)
        if device.memory_bytes is None:
            raise BadValue("device.memory_bytes", "missing; give it, or `blocks`")
        budget_bytes = self.gpu_memory_utilization * device.memory_bytes
        weights_bytes = model.weights_bytes / self.tensor_parallel
        blocks = (
            int((budget_bytes - weights_bytes - self.reserve_bytes) // self.block_bytes(model)) - NULL_BLOCKS
        )
        if blocks < 1:
            raise BadValue(
                "",
                f"no room for a key-value cache: of {budget_bytes / 1e9:.1f} GB of each device the weights take "
                f"{weights_bytes / 1e9:.1f} GB and the reserve {self.reserve_bytes / 1e9:.1f} GB; raise "
                "`tensor_parallel` or `gpu_memory_utilization`, or take a larger device",
            )
        return blocks

    def block_bytes(self, model: ModelSpec) -> float:
        """Memory of one block of `model` on each of the devices."""
        return self.block_tokens * kv_bytes_per_token(model, self.tensor_parallel)


def kv_bytes_per_token(model: ModelSpec, tensor_parallel: int) -> float:
    """Key-value bytes of a token on each of `tensor_parallel` devices: whole heads, at least one."""
    heads = -(-model.kv_heads // tensor_parallel)
    return model.kv_bytes_per_token * heads / model.kv_heads
