"""Whole steps of an engine as measured: the table that `fleet profile` writes of it and `ProfiledSteps` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class StepPoint(Struct, frozen=True, forbid_unknown_fields=True):
    """How long one step took: a prompt's chunk, some sequences that decode, or both."""

    prefill_tokens: Tokens
    """0: no prefill in this step."""
    prefill_context_tokens: Tokens
    """Of the same prompt, computed before."""
    decodes: Tokens
    """Sequences that compute one token each."""
    decode_context_tokens: Tokens
    """Sum of their contexts."""
    seconds: Seconds
    """The median of its repeats."""


class StepProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measured engine that serves token by token."""

    format: Literal["fleetlab-step-profile/1"] = "fleetlab-step-profile/1"
    engine: dict[str, object]
    """The engine's name and parameters."""
    repeats: Annotated[int, Meta(ge=1)]
    """Measured runs per point, after the ones that warm it up."""
    load_s: Annotated[float, Meta(ge=0)]
    """From `load` to `LoadFinished`."""
    machine: dict[str, str]
    versions: dict[str, str]
    points: Annotated[tuple[StepPoint, ...], Meta(min_length=1)]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> StepProfile:
        """Read what `save` wrote. Raises `ValueError` that names the file and what is wrong with it."""
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise ValueError(f"cannot read the profile {path}: {error.strerror}") from None
        except msgspec.DecodeError as error:  # ValidationError is one too
            raise ValueError(f"{path} is not a profile of an engine's steps: {error}") from None
