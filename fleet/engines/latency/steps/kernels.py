"""The time of a step from the times of its kernels."""

from __future__ import annotations

from bisect import bisect_left

from fleet.engines.devices.specs import MODELS, known_device, known_model
from fleet.engines.latency.steps.base import StepShape
from fleet.engines.latency.tables.attention_skew import AttentionSkew, UnevenAttentionTable
from fleet.engines.latency.tables.attention_table import AttentionTable, cell
from fleet.engines.latency.tables.kernels import KernelTables


class KernelSteps:
    """Steps from kernel times."""

    def __init__(
        self,
        tables: KernelTables,
        layers: int | None,
        graph_tokens: tuple[int, ...],
        skew: AttentionSkew | None = None,
    ) -> None:
        model, device = known_model(tables.model), known_device(tables.device)
        if layers is None:
            if model is None:
                raise ValueError(
                    f"how many layers has {tables.model!r}? Give `layers`; known: {', '.join(MODELS)}"
                )
            layers = model.layers
        self._tokens, self._products = tables.products_us(layers)
        self._sequences, self._outputs = tables.outputs_us()
        self._attention = (
            UnevenAttentionTable(tables.attention_us, skew) if skew else AttentionTable(tables.attention_us)
        )
        self._layers = layers
        self._graph_tokens = graph_tokens
        self._rest_s: dict[tuple[int, int], float] = {}
        self.block_move_s: float | None = None
        if model is not None and device is not None and device.host_bytes_per_s is not None:
            self.block_move_s = tables.block_tokens * model.kv_bytes_per_token / device.host_bytes_per_s

    def step_s(self, shape: StepShape) -> float:
        tokens = decodes = shape.decodes
        for count, _ in shape.prefills:
            tokens += count
        attention_us = self._attention.step_us(
            shape.prefills, decodes, shape.decode_context_tokens, shape.longest_context_tokens
        )
        return (
            self._without_attention_s(tokens, decodes + len(shape.prefills))
            + 1e-6 * self._layers * attention_us
        )

    def span_s(self, shape: StepShape, steps: int) -> float:
        decodes = shape.decodes
        rest_s = steps * self._without_attention_s(decodes, decodes)
        if not decodes:
            return rest_s
        attention_us = self._attention.span_us(
            decodes, shape.decode_context_tokens, shape.longest_context_tokens, steps
        )
        return rest_s + 1e-6 * self._layers * attention_us

    def _without_attention_s(self, tokens: int, sequences: int) -> float:
        seconds = self._rest_s.get((tokens, sequences))
        if seconds is None:
            at = bisect_left(self._graph_tokens, tokens)
            padded = self._graph_tokens[at] if at < len(self._graph_tokens) else tokens
            products_us = _at(self._tokens, self._products, padded) if tokens else 0.0
            outputs_us = _at(self._sequences, self._outputs, sequences) if sequences else 0.0
            seconds = self._rest_s[tokens, sequences] = 1e-6 * (products_us + outputs_us)
        return seconds


def _at(knots: list[int], values: list[float], x: int) -> float:
    """On the line between the two nearest; below the first, the first; beyond the last, along the last line."""
    i, u = cell(knots, x)
    if x > knots[-1]:
        u = (x - knots[i]) / (knots[i + 1] - knots[i])
    return values[i] + u * (values[i + 1] - values[i])
