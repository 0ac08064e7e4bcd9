"""All requests to one version: the null baseline."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import RolloutPolicy
from policies.decisions import Serve
from policies.views import VersionView
from traces.schema import Request


class Pinned(RolloutPolicy):
    """Serve every request by one version. O(n) in the versions.

    One that is gone, or was never there, is no reason to refuse a request: then it is the first version that is served.

    Source: none.
    """

    version: str | None = None
    """None: the first that was declared."""

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        if any(view.version == self.version for view in versions):
            return Serve(self.version or "")
        return Serve(versions[0].version)
