"""Presets: whole control planes, each as one system's documented defaults have it.

    from policies.presets import triton
    fleet.replace(**triton().fields)

A function for each system. `Preset.knobs` has a line for each setting that says which documented key it stands for.
"""

from collections.abc import Callable

from policies.presets.clipper import clipper
from policies.presets.clockwork import clockwork
from policies.presets.infaas import infaas
from policies.presets.knative import knative
from policies.presets.kserve import kserve
from policies.presets.llm_d import llm_d
from policies.presets.orca import orca
from policies.presets.preset import Knob, Preset
from policies.presets.ray_serve import ray_serve
from policies.presets.reference_text import reference_text
from policies.presets.sagemaker import sagemaker
from policies.presets.sglang import sglang
from policies.presets.tensorflow_serving import tensorflow_serving
from policies.presets.torchserve import torchserve
from policies.presets.triton import triton
from policies.presets.vertex import vertex
from policies.presets.vllm import vllm

__all__ = [
    "PRESETS",
    "Knob",
    "Preset",
    "clipper",
    "clockwork",
    "infaas",
    "knative",
    "kserve",
    "llm_d",
    "orca",
    "ray_serve",
    "reference_text",
    "sagemaker",
    "sglang",
    "tensorflow_serving",
    "torchserve",
    "triton",
    "vertex",
    "vllm",
]

PRESETS: dict[str, Callable[[], Preset]] = {
    made.__name__: made
    for made in (
        reference_text,
        triton,
        torchserve,
        tensorflow_serving,
        ray_serve,
        kserve,
        knative,
        sagemaker,
        vertex,
        clipper,
        clockwork,
        infaas,
        vllm,
        sglang,
        llm_d,
        orca,
    )
}
"""All of them, by name: servers, control planes, hosted ones, systems of papers, those that serve token by token."""
