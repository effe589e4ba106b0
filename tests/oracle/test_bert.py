"""BERT against transformers, and the real all-MiniLM-L6-v2 against sentence-transformers, in float32."""

import pytest
import torch
import transformers

from checkpoints import SHAPES, save_bert
from minilm import minilm_folder
from reference import edit_config

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
    asked = [dict(ids=ids, embed=True, pooling=p, normalize=False) for ids in inputs(model) for p in poolings]
    answers = run_oracle({"path": folder, "attn_implementation": attention}, asked)["answers"]
    for request, answer in zip(asked, answers):
        with torch.no_grad():
            hidden = model(torch.tensor([request["ids"]])).last_hidden_state[0].double()
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0),
                    "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5}[request["pooling"]]
        got = torch.tensor(answer["embedding"], dtype=torch.double)
        assert (got - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 5e-3)])
def test_recorded_inputs_give_what_launched_ones_do(checkpoint, run_oracle, dtype, tolerance):
    folder, model = checkpoint
    asked = [dict(ids=ids, embed=True, pooling="mean") for ids in inputs(model)]
    vectors = {}
    for eager in (False, True):
        load = {"path": folder, "torch_dtype": dtype, "engine": {"enforce_eager": eager}}
        for together in (False, True):
            result = run_oracle(load, asked, together=together)
            vectors[eager, together] = torch.tensor([a["embedding"] for a in result["answers"]])
        report = result["report"]
        recorded = any(note.startswith("inputs of 32, 64") for note in report["notes"])
        assert recorded == (report["attention_backend"] == "flash_attention_2:cuda" and not eager)
    for together in (False, True):
        assert torch.allclose(vectors[False, together], vectors[True, together], atol=tolerance)


def test_batched_equals_single(checkpoint, run_oracle):
    folder, model = checkpoint
    asked = [dict(ids=ids, embed=True, pooling="mean") for ids in inputs(model)]
    together = run_oracle({"path": folder}, asked)["answers"]
    alone = run_oracle({"path": folder}, asked, together=False)["answers"]
    for a, b in zip(together, alone):
        assert torch.allclose(torch.tensor(a["embedding"]), torch.tensor(b["embedding"]), atol=1e-5)


WORDS = ("the quick brown fox jumps over a lazy dog while seven wizards quietly examine old maps of sea and land "
         "by night in snow or rain under great white stars").split()  # each is one token


def text(index, count):
    """`count` words that begin and go on differently for each index."""
    return " ".join(WORDS[(index * 7 + i * (1 + index % 5)) % len(WORDS)] for i in range(count))


def test_minilm_equals_sentence_transformers(run_oracle):
    """50 texts of 1 to 256 tokens, as the checkpoint itself pools and normalises them."""
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [text(i, 1 + i * 255 // 49) for i in range(50)]
    assert len(set(texts)) == 50
    assert [len(oracle.tokenizer.tokenize(t)) for t in (texts[0], texts[-1])] == [1, 256]
    ids = [oracle.tokenizer(t, truncation=True, max_length=256)["input_ids"] for t in texts]  # [CLS] and [SEP] included
    assert len(ids[0]) == 3 and len(ids[-1]) == 256 and len({len(i) for i in ids}) >= 49
    result = run_oracle({"path": str(minilm_folder())}, [dict(ids=i, embed=True) for i in ids])
    assert result["embedding"]["max_seq_length"] == oracle.max_seq_length == 256
    expected = torch.tensor(oracle.encode(texts, batch_size=1)).double()
    got = torch.tensor([a["embedding"] for a in result["answers"]]).double()
    assert (got.norm(dim=-1) - 1).abs().max() < 1e-5  # normalised by ours, each number rounded to float32
    assert ((expected * got).sum(-1) >= 0.99999).all()
    assert (expected - got).abs().max() < 1e-5  # of numbers up to about 0.2: what float32 leaves after 6 layers


def relative_error(got, expected):
    return ((got.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa", "eager"])
def test_sixteen_bits_are_as_near_to_float32_as_those_of_transformers(checkpoint, run_oracle, dtype, attention):
    """The same rounded weights in float32; twice the error of transformers leaves room for rounding elsewhere."""
    folder, _ = checkpoint
    half = transformers.BertModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    full = transformers.BertModel.from_pretrained(folder, dtype=getattr(torch, dtype)).float().eval()
    asked = [dict(ids=ids, embed=True, pooling=p, normalize=False) for ids in inputs(full) for p in ("mean", "cls")]
    load = {"path": folder, "torch_dtype": dtype, "attn_implementation": attention}
    ours, theirs = [], []
    for request, answer in zip(asked, run_oracle(load, asked)["answers"], strict=True):
        with torch.no_grad():
            rows = [model(torch.tensor([request["ids"]])).last_hidden_state[0].float() for model in (full, half)]
        expected, near = [x.mean(0) if request["pooling"] == "mean" else x[0] for x in rows]
        ours.append(relative_error(torch.tensor(answer["embedding"]), expected))
        theirs.append(relative_error(near, expected))
    assert max(ours) < 2 * max(theirs)


# Of numbers up to about 0.2; and what a search sees of it, the cosine.
@pytest.mark.parametrize("dtype, largest, cosine", [("bfloat16", 5e-3, 0.9995), ("float16", 6e-4, 0.99999)])
def test_minilm_in_sixteen_bits_is_near_sentence_transformers(run_oracle, dtype, largest, cosine):
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [text(i, 1 + i * 255 // 19) for i in range(20)]
    ids = [oracle.tokenizer(t, truncation=True, max_length=256)["input_ids"] for t in texts]
    load = {"path": str(minilm_folder()), "torch_dtype": dtype}
    got = torch.tensor([a["embedding"] for a in run_oracle(load, [dict(ids=i, embed=True) for i in ids])["answers"]])
    expected = torch.tensor(oracle.encode(texts, batch_size=1))
    assert ((expected * got).sum(-1) >= cosine).all()
    assert (expected - got).abs().max() < largest


NUMERIC = ["layer_norm_eps", "hidden_act", "type_vocab_size", "position_embedding_type", "initializer_range"]


def test_absent_keys_that_change_the_numbers(run_oracle, tmp_path):
    model = save_bert("odd", tmp_path)
    for embedding in (model.embeddings.word_embeddings, model.embeddings.position_embeddings,
                      model.embeddings.token_type_embeddings):
        embedding.weight.data *= 0.01  # else the norm's epsilon would not be seen
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, drop=NUMERIC)
    model = transformers.BertModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    asked = [dict(ids=ids, embed=True, pooling="cls", normalize=False) for ids in inputs(model)]
    for request, answer in zip(asked, run_oracle({"path": str(tmp_path)}, asked)["answers"], strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([request["ids"]])).last_hidden_state[0, 0]
        assert (torch.tensor(answer["embedding"]) - expected).norm() / expected.norm() < 1e-4
