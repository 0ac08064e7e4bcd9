"""llm-d: vLLM behind an endpoint picker that weighs queues, caches and prefixes."""

from __future__ import annotations

from policies.iteration.vllm_token_budget import VllmTokenBudget
from policies.presets.preset import Knob, Preset
from policies.routing.llm_d_default import LlmDDefault
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def llm_d() -> Preset:
    """The profile that its router loads without a configuration, over vLLM without flags."""
    return Preset(
        name="llm_d",
        source="llm-d router (llm-d/llm-d-router, commit 03fdf91: `loadDefaultConfig`, pkg/epp/server/options.go), "
        "formerly the endpoint picker of the Kubernetes Gateway API Inference Extension; vLLM as in `vllm`; read in "
        "November 2026",
        serves="tokens",
        fields={
            "binding": "early",
            "routing": LlmDDefault(),
            "iteration": VllmTokenBudget(max_sequences=256, max_step_tokens=2048),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "report_interval_s": 0.05,
        },
        knobs=(
            Knob("routing.scorers.0.0", 2.0, "queue-scorer: weight = 2"),
            Knob("routing.scorers.1.0", 2.0, "kv-cache-utilization-scorer: weight = 2"),
            Knob("routing.scorers.2.0", 3.0, "prefix-cache-scorer: weight = 3"),
            Knob("routing.scorers.2.1.max_prefix_blocks", 256, "maxPrefixBlocksToMatch = 256"),
            Knob("routing.scorers.2.1.max_tree_blocks", 31250, "lruCapacityPerServer = 31250"),
            Knob("routing.picker.policy", "max-score-picker", "max-score-picker"),
            Knob("report_interval_s", 0.05, "--refresh-metrics-interval = 50ms"),
            Knob("iteration.max_sequences", 256, "--max-num-seqs = 256", "of vLLM, on an A100 or smaller"),
            Knob("iteration.max_step_tokens", 2048, "--max-num-batched-tokens = 2048", "likewise"),
            Knob("scaling.policy", "fixed", "InferencePool", "its autoscaler is a component of its own"),
        ),
        left_out=(
            "flow control, and shedding of requests of negative priority when all engines are saturated",
            "disaggregated prefill, and prefixes by events of the caches in place of what was sent",
        ),
    )
