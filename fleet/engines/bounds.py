"""Bounds of the numbers that engines, latency models and devices are given."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
FileName = Annotated[str, Meta(extra={"file": True})]
"""A file to read; a manifest keeps its name apart from its folder, which is this machine's affair."""
Positive = Annotated[float, Meta(gt=0, le=1e18)]
