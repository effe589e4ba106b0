"""Embed over gRPC against sentence-transformers, and Embed on the language model."""

import concurrent.futures

import grpc
import numpy as np
import pytest

from daemon import inference_pb2
from minilm import minilm_folder

TEXTS = ["A cat sits on the mat.", "Two dogs play in the park.", "The stock market fell today.", "Ein Satz.", "x"]


def matrix(answer):
    return np.array([e.values for e in answer.embeddings])


@pytest.fixture(scope="module")
def oracle():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder()), device="cpu")


def assert_same_vectors(oracle, daemon, texts):
    expected, got = oracle.encode(texts), matrix(daemon.embed("minilm", texts))
    assert np.allclose(np.linalg.norm(got, axis=1), np.linalg.norm(expected, axis=1), atol=1e-5)
    assert ((expected * got).sum(1) >= 0.99999).all()  # cosine: both are of length 1


def test_real_minilm_equals_sentence_transformers(daemon, oracle):
    assert_same_vectors(oracle, daemon, TEXTS)


def test_texts_that_are_cut_end_as_sentence_transformers_cuts_them(daemon, oracle):
    assert oracle.max_seq_length == 256
    words = "one fox and two dogs run over the green hill to the river ".split()
    texts = [" ".join(words[i % len(words)] for i in range(n)) for n in (253, 254, 255, 256, 300, 1000)]
    assert_same_vectors(oracle, daemon, texts)
    tokens = [e.num_tokens for e in daemon.embed("minilm", texts).embeddings]
    assert tokens == [255, 256, 256, 256, 256, 256]


def test_order_is_kept_and_batching_changes_nothing(daemon):
    together = matrix(daemon.embed("minilm", TEXTS))
    for text, row in zip(TEXTS, together):
        assert np.allclose(matrix(daemon.embed("minilm", [text]))[0], row, atol=1e-5)


def test_many_calls_at_once(daemon):
    expected = matrix(daemon.embed("minilm", TEXTS))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for answer in pool.map(lambda _: daemon.embed("minilm", TEXTS), range(48)):
            assert np.allclose(matrix(answer), expected, atol=1e-5)


def test_encodings_carry_the_same_vector(daemon):
    exact = matrix(daemon.embed("minilm", TEXTS))
    half = daemon.embed("minilm", TEXTS, encoding=inference_pb2.EMBEDDING_ENCODING_FLOAT16)
    assert np.allclose([np.frombuffer(e.packed, "<f2") for e in half.embeddings], exact, atol=1e-3)
    small = daemon.embed("minilm", TEXTS, encoding=inference_pb2.EMBEDDING_ENCODING_INT8)
    assert np.allclose([np.frombuffer(e.packed, "i1") * e.scale for e in small.embeddings], exact, atol=2e-3)


def test_dimensions_are_cut_before_normalising(daemon):
    cut = matrix(daemon.embed("minilm", TEXTS, dimensions=64))
    whole = matrix(daemon.embed("minilm", TEXTS, normalize=False))[:, :64]
    assert np.allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


def test_a_long_text_is_cut_or_refused_by_itself(daemon):
    texts = [TEXTS[0], "word " * 5000, TEXTS[1]]
    answer = daemon.embed("minilm", texts, truncate=False)
    assert [e.error.code for e in answer.embeddings] == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
    assert all(len(e.values) == 384 for e in daemon.embed("minilm", texts).embeddings)


def test_the_language_model_embeds_while_it_generates(daemon):
    call = daemon.stream("kjv", text="In the beginning", max_tokens=200, ignore_eos=True)
    next(call)
    vectors = matrix(daemon.embed("kjv", ["heaven", "earth"]))
    assert vectors.shape == (2, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert sum(len(m.token_ids) for m in call) > 100


def test_generate_on_an_encoder_is_refused(daemon):
    with pytest.raises(grpc.RpcError) as error:
        daemon.generate("minilm", text="hello", max_tokens=4)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
