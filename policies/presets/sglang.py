"""SGLang: prompts before decodes, behind a router that follows prefixes."""

from __future__ import annotations

from policies.iteration.vllm_prefill_first import VllmPrefillFirst
from policies.presets.preset import Knob, Preset
from policies.routing.prefix_affinity import PrefixAffinity
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def sglang() -> Preset:
    """The router's command line and the server's, both without flags; a device of 80 GB.

    A step of its scheduler either prefills or decodes, and prefilling goes first, unless `--enable-mixed-chunk` says
    otherwise: that is `VllmPrefillFirst`.
    """
    return Preset(
        name="sglang",
        source='SGLang documentation, "Server Arguments" and "SGLang Model Gateway" (sgl-project/sglang, '
        "`ServerArgs` and `RouterArgs` of router_args.py, read in November 2026)",
        serves="tokens",
        fields={
            "binding": "early",
            "routing": PrefixAffinity(
                cache_threshold=0.3, balance_abs_threshold=64, balance_rel_threshold=1.5
            ),
            "iteration": VllmPrefillFirst(max_sequences=4096, max_step_tokens=8192),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
        },
        knobs=(
            Knob("routing.policy", "prefix-affinity", "--policy = cache_aware"),
            Knob(
                "routing.cache_threshold", 0.3, "--cache-threshold = 0.3", "0.5 in CacheAwareConfig::default"
            ),
            Knob("routing.balance_abs_threshold", 64, "--balance-abs-threshold = 64", "32 there"),
            Knob("routing.balance_rel_threshold", 1.5, "--balance-rel-threshold = 1.5", "1.1 there"),
            Knob(
                "routing.max_tree_blocks",
                2**20,
                "--max-tree-size = 67108864",
                "characters; blocks of 16 tokens here",
            ),
            Knob("iteration.policy", "vllm-prefill-first", "--enable-mixed-chunk = false"),
            Knob(
                "iteration.max_step_tokens",
                8192,
                "--chunked-prefill-size = 8192",
                "on devices of 80 GB; 2,048 on small ones. A longer prompt has a step of its own here",
            ),
            Knob(
                "iteration.max_sequences",
                4096,
                "--max-running-requests = None",
                "as many as there is memory for, 4,096 at most",
            ),
            Knob("scaling.policy", "fixed", "model gateway", "it does not scale"),
        ),
        left_out=(
            "--schedule-policy = fcfs is the order of arrival; lpm, longest prefix first, is not shown",
            "prompts that are longer than a chunk are cut, one chunk for each step",
            "--schedule-conservativeness = 1.0: it admits by an estimate of the tokens that are to come",
            "the radix cache is the engine's prefix cache",
        ),
    )
