"""The arrival laws of `fleet traces synthesize`: their parameters as flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.cli.values import count, number, positive, several, whole

LAWS: dict[str, tuple[str, dict[str, Callable[[str], Any]]]] = {
    "poisson": ("arrivals at a constant rate", {"rate_per_s": positive, "duration_s": positive}),
    "gamma": (
        "gamma gaps: bursty (cv > 1) or regular (cv < 1)",
        {"rate_per_s": positive, "cv": positive, "duration_s": positive},
    ),
    "mmpp": (
        "a rate that jumps between values",
        {"rates_per_s": several(number), "mean_sojourn_s": several(positive), "duration_s": positive},
    ),
    "diurnal": (
        "a rate that is a wave",
        {
            "mean_per_s": positive,
            "amplitude": number,
            "period_s": positive,
            "duration_s": positive,
            "peak_at_s": number,
        },
    ),
    "surge": (
        "a rate that climbs to a peak and back",
        {
            "base_per_s": number,
            "peak_per_s": positive,
            "at_s": number,
            "half_width_s": positive,
            "duration_s": positive,
        },
    ),
    "sessions": (
        "conversations, closed loop",
        {
            "sessions_per_s": positive,
            "duration_s": positive,
            "turns": positive,
            "think_s": positive,
            "system_tokens": whole,
            "block_tokens": count,
        },
    ),
}
"""Arrival laws by their function in `traces`, and the parameters that have a flag."""

REQUIRED = {
    "rate_per_s",
    "cv",
    "rates_per_s",
    "mean_sojourn_s",
    "mean_per_s",
    "amplitude",
    "period_s",
    "sessions_per_s",
}
"""Parameters without a default. `duration_s` has one in `surge` only."""
