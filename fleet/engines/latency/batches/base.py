"""Latency models: how long a batch takes on a device that is not here.

The one thing to know: a model is a function of the batch alone. The same batch under the same seed takes the
same time whatever ran before it and whichever replica runs it, so that two policies that form the same batch
see the same noise (common random numbers).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from statistics import NormalDist

from fleet.engines.bounds import NonNegative
from fleet.messages import Work
from policies.base import Component, kebab_case
from traces.schema import Request

ORDINARY = Work(Request("ordinary", 0.0, prompt_tokens=512), 1, 128)
"""What is taken for an ordinary request where one must be taken for all."""
_STANDARD_NORMAL = NormalDist()


def latency_name(class_name: str) -> str:
    """`AffineLatency` -> `affine`: its name in TOML, where the field says that it is a latency model."""
    return kebab_case(class_name.removesuffix("Latency"))


class LatencyModel(Component, kw_only=True, tag_field="latency", tag=latency_name):
    """Base of all latency models. A new one defines `nominal_s`."""

    slot = "latency"

    jitter_cv: NonNegative = 0.0
    """Standard deviation of the service time over its mean; the noise is lognormal with mean exactly 1."""

    _hasher = blake2b(b"0\n", digest_size=8)

    def reset(self, seed: int) -> None:
        """Draw the noise of the run with this seed (0 when never called)."""
        self._hasher = blake2b(b"%d\n" % seed, digest_size=8)

    def expected_service_s(self) -> float:
        """Seconds that an ordinary request takes alone, without noise."""
        return self.nominal_s([ORDINARY])

    @abstractmethod
    def nominal_s(self, work: Sequence[Work]) -> float:
        """Seconds that `work`, run together, takes without noise."""

    def seconds(self, work: Sequence[Work]) -> float:
        """Seconds that `work`, run together, takes."""
        if self.jitter_cv:
            return self.nominal_s(work) * self.noise(work)
        return self.nominal_s(work)

    def noise(self, work: Sequence[Work]) -> float:
        """A lognormal factor of mean 1: a stable hash of the seed and of the attempts, in any order."""
        hasher = self._hasher.copy()
        hasher.update("\0".join(sorted([f"{item.request.id}\1{item.attempt}" for item in work])).encode())
        # The middle of one of 2^52 equal parts of (0, 1): neither end can come out.
        uniform = ((int.from_bytes(hasher.digest(), "little") >> 12) + 0.5) * 2.0**-52
        variance = math.log1p(self.jitter_cv * self.jitter_cv)
        return math.exp(math.sqrt(variance) * _STANDARD_NORMAL.inv_cdf(uniform) - 0.5 * variance)


def batch_cost(work: Sequence[Work]) -> float:
    """How many ordinary items `work` is worth: the sum of `request.work`, absent counting as 1.0."""
    costs = [cost for item in work if (cost := item.request.work) is not None]
    return len(work) - len(costs) + math.fsum(costs) if costs else len(work)
