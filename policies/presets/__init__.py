"""Presets: whole control planes, each as one system's documented defaults have it.

    from policies.presets import triton
    fleet.replace(**triton().fields)

A function for each system. `Preset.knobs` has a line for each setting that says which documented key it stands for.
"""

from collections.abc import Callable

from policies.presets.preset import Knob, Preset
from policies.presets.reference_text import reference_text

__all__ = ["PRESETS", "Knob", "Preset", "reference_text"]

PRESETS: dict[str, Callable[[], Preset]] = {made.__name__: made for made in (reference_text,)}
"""All of them, by name."""
