"""Orca: iteration-level scheduling, first come, first served."""

from __future__ import annotations

from policies.iteration.orca import Orca
from policies.presets.preset import Knob, Preset
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def orca() -> Preset:
    """One engine's scheduler that reserves for each request the longest that it may become."""
    return Preset(
        name="orca",
        source='Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022, '
        'sections 3 and 4; the length reserved as "Orca (Max)" of Kwon et al., SOSP 2023, section 6.1',
        serves="tokens",
        fields={
            "binding": "early",
            "iteration": Orca(max_sequences=32, reserve_tokens=2048),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
        },
        knobs=(
            Knob("iteration.policy", "orca", "iteration-level scheduling, selective batching"),
            Knob(
                "iteration.max_sequences",
                32,
                "max batch size = 32",
                "the largest of the paper's for one model; a parameter",
            ),
            Knob("iteration.reserve_tokens", 2048, "max_tokens = 2048", "the model's longest sequence"),
            Knob("scaling.policy", "fixed", "engine", "one model on fixed devices"),
        ),
        left_out=(
            "how requests come to one of several engines: the fleet's own `routing`",
            "pipelining of batches over the stages of a model",
            "it has no prefix cache: say so of the engine",
        ),
    )
