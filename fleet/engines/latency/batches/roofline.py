"""A latency model from the specifications of a device and a model: the roofline."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.engines.bounds import Fraction, NonNegative, Positive
from fleet.engines.devices.specs import DeviceSpec, device_spec, time_s
from fleet.engines.latency.batches.base import LatencyModel
from fleet.messages import Work


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
        spec = device_spec(self.device)
        flops_per_token = self.flops_per_token or 2.0 * self.parameters_count
        self._flops_s = time_s(flops_per_token, spec.flops_per_s * self.flops_efficiency)
        self._bytes_s = time_s(self.bytes_per_token, spec.bytes_per_s * self.bytes_efficiency)
        weights_bytes = self.parameters_count * self.bytes_per_parameter
        self._weights_s = time_s(weights_bytes, spec.bytes_per_s * self.bytes_efficiency)

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
