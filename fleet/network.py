"""The simulated network between hosts: delay, loss, reordering, and (by faults) partitions.

The head's actors share one host and each replica has its own. What stays on a host is never delayed or lost.
"""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta, Struct


def host_of(address: str) -> str:
    """The host an address lives on: each replica and each client its own, all else the head."""
    return address if address.startswith(("replica/", "client/")) else "head"


class NetworkModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One-way behaviour of every link between two hosts. The default is a perfect network."""

    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    jitter_s: Annotated[float, Meta(ge=0)] = 0.0
    """Mean of an exponential addition to the delay."""
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Probability that a packet is lost; the transport is reliable, so that costs `retransmit_s`, not the message."""
    retransmit_s: Annotated[float, Meta(gt=0)] = 0.2
    """Linux's minimum TCP retransmission timeout (RFC 6298 leaves it to the implementation)."""
    reorder: bool = False
    """Let a message overtake an earlier one of the same pair; over one ZeroMQ connection it never does."""

    @property
    def perfect(self) -> bool:
        """True when nothing is ever delayed or lost."""
        return self.delay_s == 0.0 and self.jitter_s == 0.0 and self.loss == 0.0

    def sample_s(self, rng: random.Random) -> float:
        """One message's time on the wire, in seconds."""
        delay = self.delay_s
        if self.jitter_s > 0.0:
            delay += rng.expovariate(1.0 / self.jitter_s)
        while self.loss > 0.0 and rng.random() < self.loss:
            delay += self.retransmit_s
        return delay
