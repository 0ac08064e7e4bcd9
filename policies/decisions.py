"""What policies answer: plain values, each with an optional reason for the decision log.

Waiting is a value too (`Hold`, `Wait`), never a sleep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from traces.schema import Request


class Decision(Struct, frozen=True, gc=False):
    """Base of every answer."""


class Admit(Decision, frozen=True, gc=False):
    """Let the request in."""

    reason: str | None = None


class Reject(Decision, frozen=True, gc=False):
    """Refuse the request; it ends as `rejected`."""

    reason: str | None = None


class Delay(Decision, frozen=True, gc=False):
    """Not yet: ask again at `until_s`. Meanwhile it is not let in: it is in nobody's demand, and its deadline runs.

    As many may be delayed at a time as may wait (`queue_capacity`, of all pools together); who comes then is shed.
    """

    until_s: float
    reason: str | None = None


class Degrade(Decision, frozen=True, gc=False):
    """Let it in, served for less: `request` replaces it and keeps its id and arrival."""

    request: Request
    reason: str | None = None
    max_output_tokens: int | None = None
    """The most output tokens that its answer may have; None: as many as it would have had. As if its client had asked
    for no more, in `extra["max_output_tokens"]`."""


class Route(Decision, frozen=True, gc=False):
    """Send it to the replica with this id."""

    replica: str
    reason: str | None = None
    scores: Mapping[str, float] | None = None


class Hold(Decision, frozen=True, gc=False):
    """Send it nowhere yet; ask again at `until_s` at the latest, or when the replicas change."""

    until_s: float
    reason: str | None = None


class Dispatch(Decision, frozen=True, gc=False):
    """Run the next `size` requests of the queue together, or exactly those with the given `ids`."""

    size: int
    replica: str | None = None
    """One of the idle replicas; None: the first of them."""
    ids: tuple[str, ...] | None = None
    reason: str | None = None


class Drop(Decision, frozen=True, gc=False):
    """Give up these waiting requests: they end as `shed`."""

    ids: tuple[str, ...]
    reason: str | None = None


class Wait(Decision, frozen=True, gc=False):
    """No batch yet; ask again at `until_s` at the latest. None: when something changes."""

    until_s: float | None = None
    reason: str | None = None


class Step(Decision, frozen=True, gc=False):
    """One step of continuous batching. Sequences are named by `SequenceView.id`, each at most once.

    It is done in this order: preemptions, then running sequences grow, then those that wait are admitted, one after the
    other, each with what the cache has of it by then. It must fit: the blocks it takes are at most those that are free,
    and those that its preemptions give back.
    """

    prefill: tuple[tuple[int, int], ...] = ()
    """(sequence, tokens to compute of it), waiting or running; 1 to all that remain. Of one that waits: at most,
    because it may find more in the cache when its turn comes than when it was planned."""
    decode: tuple[int, ...] | None = ()
    """Running sequences that get one token each. None: every running one that has 1 token remaining and is not
    preempted or named in `prefill`."""
    preempt: tuple[int, ...] = ()
    """Running sequences that lose their place and blocks, and wait again, first of all, in this order."""
    swap: bool = False
    """Keep what the preempted ones computed in host memory, as far as there is room; else it is computed anew."""
    repeat: int = 1
    """A step that only decodes would be planned again unchanged, so many times in all, as long as no sequence comes
    or ends and the blocks suffice. What makes simulation fast: such steps are one event."""
    reason: str | None = None


class Scale(Decision, frozen=True, gc=False):
    """How many replicas there should be, ready ones and those on their way."""

    replicas: int
    reason: str | None = None


class Warm(Decision, frozen=True, gc=False):
    """How many loaded spares there should be beside them."""

    replicas: int
    reason: str | None = None


class Verdict(Decision, frozen=True, gc=False):
    """A change of trust. `suspect` gets no new work; `failed` loses what it has, and is replaced."""

    replica: str
    trust: Literal["healthy", "suspect", "failed"]
    reason: str | None = None


class Retry(Decision, frozen=True, gc=False):
    """Try again after `after_s`, if another replica exists, not on one of `exclude`."""

    after_s: float = 0.0
    exclude: tuple[str, ...] = ()
    reason: str | None = None


class GiveUp(Decision, frozen=True, gc=False):
    """Do not try again; the request ends as `failed`."""

    reason: str | None = None


class Hedge(Decision, frozen=True, gc=False):
    """Send one more attempt if the request has no answer `after_s` from now; not to one of `exclude`."""

    after_s: float
    exclude: tuple[str, ...] = ()
    tied: bool = False
    """The attempts know of each other: the first to begin running has the others withdrawn, and none is added to one
    that runs."""
    reason: str | None = None


class Serve(Decision, frozen=True, gc=False):
    """Serve it by this version of its model."""

    version: str
    reason: str | None = None


class Shadow(Decision, frozen=True, gc=False):
    """Serve it by `version`, and have `shadow` answer it too: that answer is recorded, and nobody gets it."""

    version: str
    shadow: str
    reason: str | None = None


class Use(Decision, frozen=True, gc=False):
    """Serve it by this variant."""

    variant: str
    reason: str | None = None


class Escalate(Decision, frozen=True, gc=False):
    """The answer is not good enough: ask this variant."""

    variant: str
    reason: str | None = None
