"""A fixed keep-alive: a loaded spare for a while after the last work, and then none."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import Ending, PoolView
from policies.warm_pool.idle_time import IdleTime, serving

_KEPT, _NONE = Warm(1, "kept alive"), Warm(0)


class ScaleToZero(WarmPoolPolicy):
    """For `keep_alive_s` after its last request ended, keep one loaded spare for a pool with no replica ready. O(1).

    It goes with a scaling policy that goes to zero (`min_replicas = 0`): the next request finds a loaded replica, which
    takes a moment to become ready instead of a cold start. After `keep_alive_s` there is none, and it costs nothing.
    While a replica is wanted, or a request is there that one is started for, no spare is kept beside it; when none is,
    the last one becomes the spare.

    Source: the fixed keep-alive policy of serverless platforms, as Shahrad et al., "Serverless in the Wild", USENIX ATC
    2020, describe it: 10 minutes in AWS Lambda and in OpenWhisk, 20 in Azure Functions.
    """

    keep_alive_s: Annotated[float, Meta(ge=0)] = 600.0
    """Seconds after the last work."""

    def reset(self, rng: random.Random) -> None:
        self.idle = IdleTime()
        self.over = False
        """The keep-alive is over, or there was never any work: so it stays until there is."""

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        self.idle.look(pool)
        since_s = self.idle.since_s
        self.over = pool.in_flight == 0 and (since_s is None or now_s - since_s >= self.keep_alive_s)
        return _NONE if since_s is None or self.over or serving(pool) else _KEPT

    def settled(self) -> bool:
        return self.over

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        self.idle.ended(ending, now_s)
