"""Write the bundled traces, each a function of its seed: ``python -m traces.data.regenerate [folder]``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from traces.data import SUFFIX
from traces.synthesis import Lengths, bernoulli_surge, sessions, surge
from traces.trace import Trace
from traces.writers import save_trace

LICENCE = "Apache-2.0"


def surge_reference() -> Trace:
    """6,606 arrivals in 30 s that surge from 40 to 640 a second at t = 15 s; no lengths."""
    return bernoulli_surge()


def chat_small() -> Trace:
    """2,000 requests of multi-turn chat: sessions, think times, prefix blocks of 64 tokens."""
    return sessions(
        sessions_per_s=1.0,
        duration_s=700.0,
        seed=1,
        turns=3.5,
        think_s=12.0,
        prompt_tokens=Lengths.lognormal(mean=120, cv=1.3),
        output_tokens=Lengths.lognormal(mean=200, cv=0.8),
        system_tokens=256,
        block_tokens=64,
    ).first(requests=2000)


def demo_surge() -> Trace:
    """A minute of texts of 8 to 128 tokens for an embedder: 20 a second, surging to 90."""
    return surge(
        20.0,
        90.0,
        at_s=30.0,
        half_width_s=20.0,
        duration_s=60.0,
        seed=2,
        prompt_tokens=Lengths.uniform(8, 128),
    )


BUNDLED: dict[str, Callable[[], Trace]] = {
    "surge-reference": surge_reference,
    "chat-small": chat_small,
    "demo-surge": demo_surge,
}


def generate(name: str) -> Trace:
    """The bundled trace of that name, from its seed, under this project's licence."""
    trace = BUNDLED[name]()
    return Trace(trace.table, replace(trace.header, source=f"fleetlab, {name}", licence=LICENCE))


def main(folder: Path = Path(__file__).parent) -> None:
    """Write every bundled trace into `folder`."""
    for name in BUNDLED:
        save_trace(generate(name), folder / f"{name}{SUFFIX}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
