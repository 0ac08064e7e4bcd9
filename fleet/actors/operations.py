"""What changes on a running fleet, as its head's actors are told: messages within the head only."""

from __future__ import annotations

from typing import Any

from fleet.messages import Message
from fleet.pools import ModelPolicies, Pool
from policies.base import RolloutPolicy


class ServePool(Message, frozen=True, gc=False):
    """To the router: one more pool; `model` is who chooses, where its model is not served yet."""

    pool: Pool
    model: ModelPolicies


class RetirePool(Message, frozen=True, gc=False):
    """To router, batcher and autoscaler: nothing new goes to it, what waits there goes elsewhere, what runs ends."""

    pool: str


class PoolEmptied(Message, frozen=True, gc=False):
    """The autoscaler of a retired pool says that the last of its replicas has gone."""

    pool: str


class ScalePool(Message, frozen=True, gc=False):
    """To an autoscaler: within these bounds from now on. None: as it is."""

    min_replicas: int | None = None
    max_replicas: int | None = None


class SteerRollout(Message, frozen=True, gc=False):
    """To the router: this policy chooses the model's versions from now on."""

    model: str
    rollout: RolloutPolicy


class MoveRollout(Message, frozen=True, gc=False):
    """To the router: an operator promotes the model's rollout, or rolls it back."""

    model: str
    back: bool
    operation: str
    """Whom the answer is for: `RolloutMoved`."""
    reply_to: str


class DescribeServing(Message, frozen=True, gc=False):
    """To the router: say what is served, and how it does, with a `ServingDescribed`."""

    operation: str
    reply_to: str


class ServingDescribed(Message, frozen=True, gc=False):
    """The router's account: plain values, as JSON has them."""

    operation: str
    models: dict[str, Any]  # Any: JSON values


class RolloutMoved(Message, frozen=True, gc=False):
    """What came of it."""

    operation: str
    error: str | None
