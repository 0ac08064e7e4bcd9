"""A new version answers what the old one serves, and nobody hears it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RolloutPolicy
from policies.decisions import Serve, Shadow
from policies.rollout.gated import instead
from policies.views import VersionView
from traces.schema import Request


class ShadowTraffic(RolloutPolicy, tag="shadow"):
    """Serve every request by `stable`, and have `version` answer `share` of them too. O(n) in the versions.

    What it answers, and how long it takes, is in the run's attempts. An operator's rollback ends it.

    Source: Veeraraghavan et al., "Kraken: Leveraging Live Traffic Tests", OSDI 2016, for tests by live traffic; Envoy,
    "request mirroring".
    """

    stable: str = "1"
    version: str = "2"
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.cast = self.share
        """Of requests, now."""
        self.stage = f"shadow {100 * self.share:g} %"

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve | Shadow:
        served = [view.version for view in versions]
        mirrored = self.random() < self.cast
        if self.stable not in served:
            return Serve(instead(versions, self.version))
        if mirrored and self.version in served and self.version != self.stable:
            return Shadow(self.stable, self.version)
        return Serve(self.stable)

    def rollback(self, now_s: float) -> None:
        self.cast = 0.0
        self.stage = "rolled back: no shadow any more, by an operator"
