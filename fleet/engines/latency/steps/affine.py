"""A step latency model of four numbers."""

from __future__ import annotations

from fleet.engines.bounds import NonNegative
from fleet.engines.latency.steps.base import StepLatency, StepShape


class AffineSteps(StepLatency):
    """A straight line in tokens prefilled, sequences that decode, tokens of context they read, and blocks moved.

    For tests, for teaching, and for devices of which no more is known.
    """

    base_s: NonNegative
    per_prefill_token_s: NonNegative = 0.0
    per_decode_s: NonNegative = 0.0
    per_context_token_s: NonNegative = 0.0
    """Of the decoding sequences' contexts."""
    per_moved_block_s: NonNegative = 0.0

    def step_s(self, shape: StepShape) -> float:
        tokens = 0
        for count, _ in shape.prefills:
            tokens += count
        return (
            self.base_s
            + self.per_prefill_token_s * tokens
            + self.per_decode_s * shape.decodes
            + self.per_context_token_s * shape.decode_context_tokens
            + self.per_moved_block_s * shape.moved_blocks
        )

    def span_s(self, shape: StepShape, steps: int) -> float:
        each_s = self.base_s + self.per_decode_s * shape.decodes
        # Contexts grow by one token a sequence and step: an arithmetic series.
        contexts = steps * shape.decode_context_tokens + shape.decodes * (steps * (steps - 1) // 2)
        return steps * each_s + self.per_context_token_s * contexts
