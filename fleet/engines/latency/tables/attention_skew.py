"""How much longer attention takes when the contexts of a batch differ, from times that were measured of such batches.

The one thing to know: times are tabled for batches of equal contexts. `skew.csv` has batches of n sequences of which
some have a context of `kv_big` tokens and the rest, nearly always, a quarter of it, each timed three ways: as it is
(`t_skew`), with all at the mean context (`t_mean`), and with all at the longest (`t_max`). Its authors write

    t_skew = t_mean + alpha * (t_max - t_mean)

with one alpha for each of some 4,000 kinds of batch. A kind is told by the share of long contexts too, which a step's
shape does not have, and where `t_max` is hardly above `t_mean` its alpha is noise, so that kinds cannot be averaged. So
here there is one alpha for each number of sequences, with and without a chunk of prefill beside them: those with which
the squares of the relative errors are least. (The file's times are of three runs of the kernel; alphas are not.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from fleet.engines.latency.tables.attention_table import AttentionTable
from fleet.engines.latency.tables.kernels import Attention, UnevenBatch


class AttentionSkew:
    """The total of equal contexts that takes as long as given uneven ones: sum + alpha * (n * longest - sum).

    That is the correction written in tokens, along which tabled times are straight between measured points. While
    sequences only decode it grows by n a step, as the sum does. It never falls as the sum, the longest context or the
    number of sequences grows, because alpha times n does not: alphas are fitted under that condition.
    """

    def __init__(self, batches: Sequence[UnevenBatch]) -> None:
        beside_chunk = [batch for batch in batches if batch.chunk_tokens]
        alone = [batch for batch in batches if not batch.chunk_tokens]
        self._alone = fit_alphas_times_n(alone or beside_chunk)
        self._beside_chunk = fit_alphas_times_n(beside_chunk or alone)

    def equal_tokens(
        self, sequences: int, context_tokens: float, longest: int, *, beside_chunk: bool
    ) -> float:
        """Total tokens of as many equal contexts that take as long as these."""
        by_count = self._beside_chunk if beside_chunk else self._alone
        most = len(by_count) - 1
        alpha_n = by_count[sequences] if sequences <= most else by_count[most] * sequences / most
        return context_tokens + alpha_n * max(0.0, longest - context_tokens / sequences)


def fit_alphas_times_n(batches: Sequence[UnevenBatch]) -> list[float]:
    """For n sequences at place n: n times the alpha in [0, 1] with which relative errors are least.

    Never falling; on the line between the numbers of sequences that were measured. Raises `ValueError` where none were.
    """
    if not batches:
        raise ValueError("no uneven batch was measured")
    counts = sorted({batch.sequences for batch in batches})
    values, weights = [0.0], [1.0]
    for count in counts:
        some = [batch for batch in batches if batch.sequences == count]
        apart = np.array([(batch.longest_us - batch.mean_us) / batch.time_us for batch in some])
        above = np.array([(batch.time_us - batch.mean_us) / batch.time_us for batch in some])
        squares = max(float(apart @ apart), 1e-12)
        values.append(count * min(1.0, max(0.0, float(above @ apart) / squares)))
        weights.append(squares / count**2)
    rising = isotonic_regression(values, weights=weights).x
    fitted: list[float] = np.interp(range(counts[-1] + 1), [0, *counts], rising).tolist()
    return fitted


class UnevenAttentionTable(AttentionTable):
    """Times as of the equal batch that takes as long; beside a chunk never less than without it."""

    def __init__(self, measured_us: Attention, skew: AttentionSkew) -> None:
        super().__init__(measured_us)
        self._skew = skew

    def step_us(
        self, prefills: Sequence[tuple[int, int]], decodes: int, context_tokens: float, longest: int
    ) -> float:
        if not decodes:
            return super().step_us(prefills, 0, 0, 0)
        equal = self._skew.equal_tokens(decodes, context_tokens, longest, beside_chunk=False)
        alone_us = self._decode_us(decodes, equal, longest)
        if not prefills:
            return alone_us
        equal = self._skew.equal_tokens(decodes, context_tokens, longest, beside_chunk=True)
        return max(alone_us, super().step_us(prefills, decodes, equal, longest))

    def span_us(self, decodes: int, context_tokens: float, longest: int, steps: int) -> float:
        equal = self._skew.equal_tokens(decodes, context_tokens, longest, beside_chunk=False)
        return super().span_us(decodes, equal, longest, steps)
