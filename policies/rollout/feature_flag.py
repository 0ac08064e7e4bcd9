"""A new version for those who are named, and for a fixed part of all others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta

from policies.base import PolicyError, RolloutPolicy
from policies.decisions import Serve
from policies.rollout.gated import instead, view_of
from policies.views import VersionView
from traces.schema import Request


class FeatureFlag(RolloutPolicy):
    """Serve by `version` whoever one of `rules` names, and `percentage` of all other users; else by `stable`. O(rules).

    Which users are of the percentage depends on their names and `salt` alone: the same ones in every process, and a
    larger percentage has the same ones and more. A request without a user is known by its session, else by its id.

    Source: Hodgson, "Feature Toggles", 2017 (release and permission toggles).
    """

    stable: str = "1"
    version: str = "2"
    rules: dict[str, tuple[str, ...]] = {}
    """By field of a request (`tenant`, `user`, `session`, `model`, `adapter`, `kind`, or a key of `extra`) the values
    that get the new version."""
    percentage: Annotated[float, Meta(ge=0, le=100)] = 0.0
    salt: str = ""

    def reset(self, rng: random.Random) -> None:
        self.on = [(field, frozenset(values)) for field, values in self.rules.items()]
        self.all_to: str | None = None
        """Where everybody goes since an operator said so."""
        self.stage = (
            f"version {self.version} by {len(self.rules)} rules and for {self.percentage:g} % of users"
        )

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        wanted = self.all_to or (self.version if self._is_on(request) else self.stable)
        for name in (wanted, self.stable):
            if view_of(versions, name) is not None:
                return Serve(name)
        return Serve(instead(versions, self.version))

    def _is_on(self, request: Request) -> bool:
        for field, values in self.on:
            if _value(request, field) in values:
                return True
        return 100.0 * position(self.salt, request) < self.percentage

    def destination(self, *, back: bool) -> str:
        return self.stable if back else self.version

    def promote(self, now_s: float) -> None:
        if self.all_to == self.version:
            raise PolicyError(f"all requests go to version {self.version} already")
        self.all_to = self.version
        self.stage = f"promoted: all to version {self.version}, by an operator"

    def rollback(self, now_s: float) -> None:
        self.all_to = self.stable
        self.stage = f"rolled back: all to version {self.stable}, by an operator"


def who(request: Request) -> str:
    """Whose request it is: the user's, else the session's; else it stands for itself."""
    return request.user or request.session or request.id


def position(salt: str, request: Request) -> float:
    """Where the request's user is on (0, 1), by name: the same in every process."""
    digest = blake2b(who(request).encode(), key=salt.encode()[:64], digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52


_FIELDS = ("tenant", "user", "session", "model", "adapter", "kind")


def _value(request: Request, field: str) -> str | None:
    value = getattr(request, field) if field in _FIELDS else (request.extra or {}).get(field)
    return None if value is None else str(value)
