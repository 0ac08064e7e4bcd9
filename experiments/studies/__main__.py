"""``python -m experiments.studies``: all studies, one after another."""

from __future__ import annotations

from typing import Any

from experiments.studies import (
    canary_gate,
    chunked_prefill,
    continuous_batching,
    goodput_frontier,
    kv_pressure,
    mixed_devices,
    model_selection,
    prefix_routing,
    published_effects,
    retry_storm,
    slo_frontier,
    tail_at_scale,
)
from experiments.studies.study import Study, publish_all

STUDIES: tuple[Study[Any], ...] = (  # Any: each has a plan of its own
    continuous_batching.STUDY,
    chunked_prefill.STUDY,
    prefix_routing.STUDY,
    kv_pressure.STUDY,
    goodput_frontier.STUDY,
    mixed_devices.STUDY,
    model_selection.STUDY,
    tail_at_scale.STUDY,
    retry_storm.STUDY,
    canary_gate.STUDY,
    slo_frontier.STUDY,
    published_effects.STUDY,
)

if __name__ == "__main__":
    publish_all(STUDIES, None, prog="python -m experiments.studies", about=__doc__)
