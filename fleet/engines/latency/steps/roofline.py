"""A step latency model from the specifications of a device and a model."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fleet.actor import FleetError
from fleet.engines.bounds import Count, Fraction, NonNegative
from fleet.engines.devices.kv_spec import kv_bytes_per_token
from fleet.engines.devices.specs import DeviceSpec, ModelSpec, device_spec, model_spec, time_s
from fleet.engines.latency.steps.base import StepLatency, StepShape
from traces.values import BadValue


class RooflineSteps(StepLatency):
    """What a step computes and reads, at the device's best rates: each part takes as long as the slower of the two.

    The parts follow one another, as their kernels do:

    - matrix products of all layers: 2 operations a parameter and token, or reading the weights once;
    - attention of each prefilled chunk: 4·heads·head_dim operations for every pair of a token and one before it, or
      reading the keys and values of both;
    - attention of the decoding sequences: likewise, one token each, in all their contexts;
    - the output layer, for the sequences that get a token;
    - two all-reduces a layer among `tensor_parallel` devices, in a ring, each of which holds its share of the rest;
    - blocks moved over the link to the host, and `overhead_s`.

    At full efficiency this is a lower bound, not a prediction: fit the efficiencies to a measurement of the kernels.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 2009; the counts: Pope et al., "Efficiently Scaling
    Transformer Inference", MLSys 2023, sections 2 and 3; ring all-reduce: Patarasuk and Yuan, JPDC 2009.
    """

    device: str | DeviceSpec
    """A name in `DEVICES`, or figures of one's own."""
    model: str | ModelSpec
    """A name in `MODELS`, or figures of one's own."""
    tensor_parallel: Count = 1
    overhead_s: NonNegative = 0.0
    """Per step: launches, scheduling, sampling, as far as the device waits for them."""
    flops_efficiency: Fraction = 1.0
    bytes_efficiency: Fraction = 1.0
    block_tokens: Annotated[int, Meta(ge=1)] = 16
    """Of the cache, for the blocks that move."""

    def __post_init__(self) -> None:
        device, model, ways = device_spec(self.device), model_spec(self.model), max(1, self.tensor_parallel)
        flops_per_s = device.flops_per_s * self.flops_efficiency * ways
        bytes_per_s = device.bytes_per_s * self.bytes_efficiency * ways
        matrices_bytes = model.layers * model.layer_matrix_parameters * model.bytes_per_parameter
        # A device reads whole heads, so that all of them together may read more than one copy of the cache.
        kv_bytes = kv_bytes_per_token(model, ways) * ways
        self._token_s = time_s(model.flops_per_token, flops_per_s)
        self._weights_s = time_s(matrices_bytes, bytes_per_s)
        self._pair_s = time_s(model.flops_per_attended_token, flops_per_s)
        self._kv_s = time_s(kv_bytes, bytes_per_s)
        self._decode_s = max(self._pair_s, self._kv_s)
        self._output_s = time_s(2.0 * model.output_parameters, flops_per_s)
        self._output_weights_s = time_s(model.output_parameters * model.bytes_per_parameter, bytes_per_s)
        self._reduce_s = 0.0
        if ways > 1:
            peer = device.peer_bytes_per_s or device.host_bytes_per_s
            if peer is None:
                raise BadValue(
                    "tensor_parallel", "needs the device's `peer_bytes_per_s` or `host_bytes_per_s`"
                )
            reduced_bytes = 2 * model.layers * model.hidden * model.bytes_per_parameter
            self._reduce_s = reduced_bytes * 2.0 * (ways - 1) / ways / peer
        self._move_s: float | None = None
        if device.host_bytes_per_s is not None:
            self._move_s = self.block_tokens * kv_bytes / ways / device.host_bytes_per_s

    def step_s(self, shape: StepShape) -> float:
        tokens = shape.decodes
        seconds = self._decode_s * (shape.decode_context_tokens + shape.decodes)
        for count, context in shape.prefills:
            tokens += count
            pairs = count * context + count * (count + 1) // 2
            seconds += max(self._pair_s * pairs, self._kv_s * (context + count))
        if shape.moved_blocks:
            seconds += self._moved_s(shape.moved_blocks)
        return seconds + self._products_s(tokens, shape.outputs)

    def span_s(self, shape: StepShape, steps: int) -> float:
        # Only the contexts change from step to step, by one token a sequence: an arithmetic series.
        contexts = steps * (shape.decode_context_tokens + shape.decodes) + shape.decodes * (
            steps * (steps - 1) // 2
        )
        return steps * self._products_s(shape.decodes, shape.outputs) + self._decode_s * contexts

    def _products_s(self, tokens: int, outputs: int) -> float:
        """All that does not depend on the contexts."""
        seconds = self.overhead_s + max(self._token_s * tokens, self._weights_s) + self._reduce_s * tokens
        if outputs:
            seconds += max(self._output_s * outputs, self._output_weights_s)
        return seconds

    def _moved_s(self, blocks: int) -> float:
        if self._move_s is None:
            raise FleetError("blocks are swapped, but the device's `host_bytes_per_s` is not given")
        return self._move_s * blocks
