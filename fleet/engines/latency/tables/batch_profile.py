"""Batches of an engine as measured: the table that `fleet profile` writes of it and `ProfiledLatency` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from fleet.engines.bounds import Count, NonNegative
from fleet.engines.latency.tables.measured import Measured


class ProfilePoint(Struct, frozen=True, forbid_unknown_fields=True):
    """How long one batch took: `batch_size` items of `tokens` prompt tokens each (0: without tokens)."""

    batch_size: Count
    tokens: Annotated[int, Meta(ge=0)]
    min_s: NonNegative
    median_s: NonNegative
    p90_s: NonNegative


class Profile(Measured, frozen=True, kw_only=True):
    """A measured engine."""

    what = "a profile as `fleet profile` writes it"

    format: Literal["fleetlab-profile/1"] = "fleetlab-profile/1"
    points: Annotated[tuple[ProfilePoint, ...], Meta(min_length=1)]
