"""What every measurement of an engine says of itself, whatever was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta, Struct


class Measured(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables that `fleet profile` writes. A subclass adds its `format` and its points."""

    what: ClassVar[str]
    """What a file must be to be read as one, as an error says it."""

    engine: dict[str, object]
    """The engine's name and parameters."""
    repeats: Annotated[int, Meta(ge=1)]
    """Measured runs per point, after the ones that warm it up."""
    load_s: Annotated[float, Meta(ge=0)]
    """From `load` to `LoadFinished`."""
    machine: dict[str, str]
    versions: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `ValueError` that names the file and what is wrong with it."""
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise ValueError(f"cannot read the profile {path}: {error.strerror}") from None
        except msgspec.DecodeError as error:  # ValidationError is one too
            raise ValueError(f"{path} is not {cls.what}: {error}") from None
