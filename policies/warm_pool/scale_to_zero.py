"""A fixed keep-alive: a loaded spare for a while after the last work, and then none."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import Ending, PoolView
from policies.warm_pool.idle_time import IdleTime

_KEPT, _NONE = Warm(1, "kept alive"), Warm(0)


class ScaleToZero(WarmPoolPolicy):
    """For `keep_alive_s` after its last request ended, keep one loaded spare for a pool with no replica ready. O(1).

    It goes with a scaling policy that goes to zero (`min_replicas = 0`): the next request finds a loaded replica, which
    takes a moment to become ready instead of a cold start. After `keep_alive_s` there is none, and it costs nothing.
    While a replica is ready, or a request is there that one is started for, no spare is kept beside it.

    The last ready replica is drained before this one is asked whether to keep it, so its successor is loaded anew, in
    the background: a request that comes meanwhile waits for the rest of that load.

    Source: the fixed keep-alive policy of serverless platforms, as Shahrad et al., "Serverless in the Wild", USENIX ATC
    2020, describe it: 10 minutes in AWS Lambda and in OpenWhisk, 20 in Azure Functions.
    """

    keep_alive_s: Annotated[float, Meta(ge=0)] = 600.0
    """Seconds after the last work."""

    def reset(self, rng: random.Random) -> None:
        self.idle = IdleTime()

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        self.idle.look(pool, now_s)
        since_s = self.idle.since_s
        kept = since_s is not None and pool.ready == 0 and now_s - since_s < self.keep_alive_s
        return _KEPT if kept else _NONE

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        self.idle.ended(ending, now_s)
