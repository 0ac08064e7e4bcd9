"""Of which policy another study shows what is claimed of it, and which claim nothing.

Every policy of the library is named by an effect, or here; a test says which one is not.
"""

from __future__ import annotations

from collections.abc import Mapping

SHOWN_BY: Mapping[str, str] = {
    "AttemptTimeout": "retry_storm",
    "Canary": "canary_gate",
    "Cascade": "model_selection",
    "CheapestMeetingDelay": "mixed_devices",
    "CheapestMeetingSlo": "model_selection",
    "DegradeUnderLoad": "model_selection",
    "ExponentialBackoff": "retry_storm",
    "FixedSize": "slo_frontier",
    "Gdsf": "kv_pressure",
    "HedgeAfterPercentile": "tail_at_scale",
    "KvCost": "prefix_routing",
    "LeastTokens": "prefix_routing",
    "Lfu": "kv_pressure",
    "Lru": "kv_pressure",
    "NeverQueue": "mixed_devices",
    "Orca": "continuous_batching",
    "PrefixAffinity": "prefix_routing",
    "QueueDepth": "slo_frontier",
    "Sarathi": "chunked_prefill",
    "SessionAffinity": "prefix_routing",
    "ShortestExpectedDelay": "mixed_devices",
    "TiedRequests": "tail_at_scale",
    "VllmPrefillFirst": "continuous_batching",
    "VllmTokenBudget": "continuous_batching",
    "Window": "slo_frontier",
}
"""The study, by the policy's class. Each has its section in docs/findings.md."""

BASELINES: Mapping[str, str] = {
    "AdmitAll": "no admission control: what it costs is what QueueLimit is held against",
    "AlwaysTrust": "no health checks: what ConsecutiveFailures is held against",
    "Fifo": "the order of arrival: what every other order is held against",
    "Fixed": "no scaling: what every scaler is held against",
    "FixedVariant": "no choice of a variant: what every choice is held against",
    "NoBatching": "one request at a time: what every batcher is held against",
    "NoBreaker": "no breaker: what every breaker is held against",
    "NoHedge": "no second attempt: what every hedge is held against",
    "NoRetry": "no further attempt: what every retry is held against",
    "NoWarmPool": "no spares: what every warm pool is held against",
    "OldestFirst": "first in, first out: what LRU, LFU and GDSF are held against (study kv_pressure)",
    "Pinned": "no rollout: what every rollout is held against",
    "Random": "chance: what every router is held against",
    "StaticBatch": "request-level batches: what continuous batching is held against (study continuous_batching)",
}
"""Why nothing is claimed of it, by the policy's class."""
