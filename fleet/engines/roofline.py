"""A latency model from the specifications of a device and a model: the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from fleet.engines.latency import LatencyModel, NonNegative, Positive
from fleet.messages import Work

Fraction = Annotated[float, Meta(gt=0, le=1)]


class DeviceSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device can do at best."""

    flops_per_s: Positive
    """Dense 16-bit matrix arithmetic with 32-bit accumulation."""
    bytes_per_s: Positive
    """Device memory."""


DEVICES: dict[str, DeviceSpec] = {
    # NVIDIA A100 Tensor Core GPU datasheet (2021), A100 80GB SXM.
    "a100": DeviceSpec(312e12, 2.039e12),
    # NVIDIA H100 Tensor Core GPU datasheet, H100 SXM; half of its 1,979 TFLOP/s, which count sparsity.
    "h100": DeviceSpec(989.5e12, 3.35e12),
    # NVIDIA H200 Tensor Core GPU datasheet, H200 SXM; likewise halved.
    "h200": DeviceSpec(989.5e12, 4.8e12),
    # NVIDIA L4 Tensor Core GPU datasheet; half of its 242 TFLOP/s, which count sparsity.
    "l4": DeviceSpec(121e12, 300e9),
    # NVIDIA Ada GPU Architecture whitepaper, appendix A, GeForce RTX 4090: dense FP16 with FP32 accumulation.
    "rtx-4090": DeviceSpec(165.2e12, 1.008e12),
}


class RooflineLatency(LatencyModel):
    """The time that arithmetic or memory traffic needs, whichever is longer, plus a fixed overhead.

    A forward pass over n tokens of a model with P parameters takes 2·P·n floating-point operations and reads
    the weights once. With `decode`, as many passes follow as the longest recorded output has tokens, each
    over one token of every item. A request without tokens counts as one token times `request.work` (absent
    is 1.0).

    At full efficiency this is a lower bound, not a prediction: fit the efficiencies to a measurement.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 2009; 2·P operations per token: Kaplan et al.,
    "Scaling Laws for Neural Language Models", 2020, section 2.1.
    """

    device: str | DeviceSpec
    """A name in `DEVICES`, or figures of one's own."""
    parameters_count: Positive
    bytes_per_parameter: Positive = 2.0
    flops_per_token: Positive | None = None
    """Instead of 2 · `parameters_count`."""
    bytes_per_token: NonNegative = 0.0
    """Memory traffic of each token in a pass beside the weights: activations, or the key-value cache."""
    decode: bool = False
    overhead_s: NonNegative = 0.0
    """Per pass: launches, scheduling, copies."""
    flops_efficiency: Fraction = 1.0
    bytes_efficiency: Fraction = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.device, str) and self.device not in DEVICES:
            raise ValueError(f"no device {self.device!r}; known: {', '.join(DEVICES)}, or give a DeviceSpec")
        spec = DEVICES[self.device] if isinstance(self.device, str) else self.device
        flops_per_token = self.flops_per_token or 2.0 * self.parameters_count
        self._flops_s = flops_per_token / (spec.flops_per_s * self.flops_efficiency)
        self._bytes_s = self.bytes_per_token / (spec.bytes_per_s * self.bytes_efficiency)
        weights_bytes = self.parameters_count * self.bytes_per_parameter
        self._weights_s = weights_bytes / (spec.bytes_per_s * self.bytes_efficiency)

    def nominal_s(self, work: Sequence[Work]) -> float:
        tokens = 0.0
        for item in work:
            request = item.request
            if request.prompt_tokens is not None:
                tokens += request.prompt_tokens
            else:
                tokens += 1.0 if request.work is None else request.work
        seconds = self.pass_s(tokens)
        if self.decode:
            steps = max((item.output_tokens or 0 for item in work), default=0)
            seconds += steps * self.pass_s(len(work))
        return seconds

    def pass_s(self, tokens: float) -> float:
        """Seconds of one forward pass over `tokens` tokens in all."""
        return self.overhead_s + max(self._flops_s * tokens, self._weights_s + self._bytes_s * tokens)
