"""Small traces of this project's own making, each written by `traces.data.regenerate` from a seed.

``surge-reference``: 6,606 arrivals in 30 s. ``chat-small``: 2,000 requests of multi-turn chat with prefix
blocks. ``demo-surge``: a minute of short texts for a sentence embedder.
"""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".jsonl.gz"
_FOLDER = Path(__file__).parent


def bundled_names() -> list[str]:
    """The names that `load_trace` knows without a file."""
    return sorted(path.name.removesuffix(SUFFIX) for path in _FOLDER.glob(f"*{SUFFIX}"))


def bundled_path(name: str) -> Path | None:
    """Where the bundled trace of that name lies; `None` if there is none."""
    path = _FOLDER / f"{name}{SUFFIX}"
    return path if path.is_file() else None
