"""Clipper: adaptive batches for each model container under a latency objective."""

from __future__ import annotations

from policies.batching.clipper_aimd import ClipperAimd
from policies.presets.preset import Knob, Preset
from policies.queueing.fifo import Fifo
from policies.resilience.no_retry import NoRetry
from policies.scaling.fixed import Fixed
from policies.warm_pool.no_warm_pool import NoWarmPool


def clipper() -> Preset:
    """Additive increase, multiplicative decrease, within the objective of the paper's evaluation.

    An application registers with an objective of its own, `slo_micros`: give `batching.objective_s` what of it a batch
    may take.
    """
    return Preset(
        name="clipper",
        source='Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3; '
        "clipper_admin's `register_application` and `deploy_model` (ucbrise/clipper)",
        serves="requests",
        fields={
            "binding": "late",
            "max_inflight_batches": 1,
            "queueing": Fifo(),
            "batching": ClipperAimd(objective_s=0.020, increase=1.0, backoff=0.1),
            "scaling": Fixed(),
            "warm_pool": NoWarmPool(),
            "retry": NoRetry(),
        },
        knobs=(
            Knob("binding", "late", "model queue", "containers of a model take batches from its queue"),
            Knob("max_inflight_batches", 1, "batch in flight for each container = 1"),
            Knob("batching.policy", "clipper-aimd", "batch_size = -1", "adaptive; a number is fixed"),
            Knob(
                "batching.objective_s",
                0.020,
                "slo_micros",
                "of the paper's figures; an application says its own",
            ),
            Knob("batching.increase", 1.0, "additive increase", "by a fixed amount; how much is not said"),
            Knob("batching.backoff", 0.1, "multiplicative backoff = 10 %"),
            Knob("scaling.policy", "fixed", "num_replicas = 1", "set_num_replicas changes it by hand"),
        ),
        left_out=(
            "model selection (Exp3 and Exp4) and ensembles",
            "the answer by default_output when the objective passes, in place of a late one",
            "the prediction cache",
            "batch_wait_timeout, off by default",
        ),
    )
