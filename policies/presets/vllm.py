"""vLLM: continuous batching under a token budget, behind the router of its production stack."""

from __future__ import annotations

from policies.iteration.vllm_token_budget import VllmTokenBudget
from policies.presets.preset import Knob, Preset
from policies.routing.round_robin import RoundRobin
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def vllm() -> Preset:
    """`vllm serve` on an A100 or smaller without flags, round robin among engines, no autoscaler."""
    return Preset(
        name="vllm",
        source='vLLM documentation, "Optimization and Tuning" and "Engine Arguments" (vllm-project/vllm, '
        "`SchedulerConfig`, `EngineArgs.get_batch_defaults`, 0.11 to 0.19); vLLM production stack, values of its Helm "
        "chart (vllm-project/production-stack), read in November 2026",
        serves="tokens",
        fields={
            "binding": "early",
            "routing": RoundRobin(),
            "iteration": VllmTokenBudget(max_sequences=256, max_step_tokens=2048),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
        },
        knobs=(
            Knob("routing.policy", "round-robin", "routerSpec.routingLogic = roundrobin"),
            Knob("iteration.policy", "vllm-token-budget", "--scheduling-policy = fcfs"),
            Knob(
                "iteration.max_sequences",
                256,
                "--max-num-seqs = 256",
                "1,024 on devices of 70 GiB or more that are no A100, such as an H100",
            ),
            Knob(
                "iteration.max_step_tokens",
                2048,
                "--max-num-batched-tokens = 2048",
                "of the server; 8,192 on such devices",
            ),
            Knob("scaling.policy", "fixed", "replicaCount = 1", "scaling by KEDA is off by default"),
        ),
        left_out=(
            "prefix caching, which is on by default, is the engine's",
            "its own balancer for --data-parallel-size: the least of 4 x waiting + running, by counts that are up to "
            "0.1 s old",
        ),
    )
