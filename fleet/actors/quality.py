"""How good an answer is: what its engine says of it, or, where that only emulates, a draw from its pool's quality.

The one thing to know: the draw depends on the run's seed and the request alone. A request that is hard for one variant
is hard for every other one, and two policies that have it answered by the same pool get the same answer.
"""

from __future__ import annotations

from hashlib import blake2b


class Quality:
    """Draws the quality of emulated answers, with a mean of `mean`."""

    __slots__ = ("_exponent", "_hasher", "_mean")

    def __init__(self, mean: float, seed: int) -> None:
        self._mean = mean
        # u ** a with u uniform on (0, 1) has the mean 1 / (1 + a), and grows with u whatever a is.
        self._exponent = (1.0 - mean) / mean if mean > 0.0 else 0.0
        self._hasher = blake2b(b"quality\n%d\n" % seed, digest_size=8)

    def of(self, request_id: str) -> float:
        """Of the answer to this request, 0..1."""
        if not 0.0 < self._mean < 1.0:
            return self._mean
        hasher = self._hasher.copy()
        hasher.update(request_id.encode())
        # The middle of one of 2^52 equal parts of (0, 1): neither end can come out.
        uniform = ((int.from_bytes(hasher.digest(), "little") >> 12) + 0.5) * 2.0**-52
        return float(uniform**self._exponent)
