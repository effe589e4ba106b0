"""BERT against transformers, and the real all-MiniLM-L6-v2 against sentence-transformers, in float32."""

import pytest
import torch

from checkpoints import SHAPES, save_bert
from minilm import minilm_folder

LENGTHS = [1, 5, 64, 255]


@pytest.fixture(scope="module", params=list(SHAPES))
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return str(folder), save_bert(request.param, folder)


def inputs(model):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa", "eager"])
def test_pooled_vectors_equal_transformers(checkpoint, run_oracle, attention):
    folder, model = checkpoint
    poolings = ["mean", "cls", "max", "mean_sqrt_len_tokens"]
    asked = [dict(ids=ids, pooling=p, normalize=False) for ids in inputs(model) for p in poolings]
    answers = run_oracle({"path": folder, "attn_implementation": attention}, asked)["answers"]
    for request, answer in zip(asked, answers):
        with torch.no_grad():
            hidden = model(torch.tensor([request["ids"]])).last_hidden_state[0].double()
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0),
                    "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5}[request["pooling"]]
        got = torch.tensor(answer["embedding"], dtype=torch.double)
        assert (got - expected).norm() / expected.norm() < 1e-4


def test_batched_equals_single(checkpoint, run_oracle):
    folder, model = checkpoint
    asked = [dict(ids=ids, pooling="mean") for ids in inputs(model)]
    together = run_oracle({"path": folder}, asked)["answers"]
    alone = run_oracle({"path": folder}, asked, together=False)["answers"]
    for a, b in zip(together, alone):
        assert torch.allclose(torch.tensor(a["embedding"]), torch.tensor(b["embedding"]), atol=1e-5)


def words(count):
    text = "the quick brown fox jumps over a lazy dog while seven wizards quietly examine old maps of the sea"
    many = (text.split() * (count // 20 + 1))[:count]
    return " ".join(many)


def test_minilm_equals_sentence_transformers(run_oracle):
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [words(1 + i * 5) for i in range(50)]  # 1 to about 256 tokens
    ids = [oracle.tokenizer(t, truncation=True, max_length=256)["input_ids"] for t in texts]
    assert len(ids[-1]) > 200 and len(ids[0]) == 3
    answers = run_oracle({"path": str(minilm_folder())},
                         [dict(ids=i, pooling="mean") for i in ids])["answers"]
    expected = torch.nn.functional.normalize(torch.tensor(oracle.encode(texts)).double(), dim=-1)
    got = torch.nn.functional.normalize(torch.tensor([a["embedding"] for a in answers]).double(), dim=-1)
    assert ((expected * got).sum(-1) >= 0.99999).all()
