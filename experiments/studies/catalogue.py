"""Which studies there are. A study is a module of this folder with a `STUDY`; its name stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from experiments.studies.study import Study

NAMES = (
    "continuous_batching",
    "chunked_prefill",
    "prefix_routing",
    "kv_pressure",
    "goodput_frontier",
    "mixed_devices",
    "model_selection",
    "tail_at_scale",
    "retry_storm",
    "canary_gate",
    "slo_frontier",
    "published_effects",
    "routing_under_skew",
    "staleness",
    "routing_oracle",
    "autoscalers",
    "predictive_scaling",
    "scaling_brakes",
    "warm_pool_law",
    "failover",
    "fairness",
    "online_and_batch",
    "framework_table",
)
"""In the order of docs/findings.md."""


def studies(names: Iterable[str] = NAMES) -> list[Study[Any]]:  # Any: each has a plan of its own
    """The studies of these names. Raises `KeyError` for one that there is not."""
    found = []
    for name in names:
        if name not in NAMES:
            raise KeyError(name)
        found.append(import_module(f"experiments.studies.{name}").STUDY)
    return found
