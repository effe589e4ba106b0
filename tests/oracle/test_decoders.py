"""Llama, Mistral, Qwen2 and Qwen3 against transformers in float32."""

import json

import pytest
import torch

from checkpoints import SHAPES, save_decoder

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3"]
LENGTHS = [1, 7, 33, 100]


class Checkpoint:
    """A random checkpoint in a folder, and what transformers makes of it."""

    def __init__(self, architecture, shape, folder):
        self.folder = str(folder)
        self.model = save_decoder(architecture, shape, folder)
        self.prompts = prompts(self.model)
        self.greedy = [greedy(self.model, ids, 64) for ids in self.prompts]


@pytest.fixture(scope="module", params=[(a, s) for a in ARCHITECTURES for s in SHAPES], ids="-".join)
def checkpoint(request, tmp_path_factory):
    return Checkpoint(*request.param, tmp_path_factory.mktemp("-".join(request.param)))


def prompts(model):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


def greedy(model, ids, count):
    """Greedy tokens of transformers' own forward, and the log probabilities they were taken from."""
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                             attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        logits = model(out).logits[0, len(ids) - 1:-1]
    return out[0, len(ids):].tolist(), torch.log_softmax(logits.double(), -1)


def requests(checkpoint, count=64):
    vocab = checkpoint.model.config.vocab_size
    return [dict(ids=ids, max_tokens=count, logprobs=vocab) for ids in checkpoint.prompts]


def check(checkpoint, answers):
    vocab = checkpoint.model.config.vocab_size
    for ids, (tokens, expected), answer in zip(checkpoint.prompts, checkpoint.greedy, answers):
        assert answer["ids"] == tokens
        for step, logprobs in enumerate(answer["logprobs"]):
            got = torch.tensor([logprobs[str(i)] for i in range(vocab)], dtype=torch.double)
            error = (got - expected[step]).norm() / expected[step].norm()
            assert error < 1e-4, f"prompt of {len(ids)}, token {step}: relative error {error:.2e}"


@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa", "eager"])
def test_logits_and_greedy_tokens_equal_transformers(checkpoint, run_oracle, attention):
    load = {"path": checkpoint.folder, "attn_implementation": attention}
    result = run_oracle(load, requests(checkpoint))
    if run_oracle.device == "cuda" and attention == "flash_attention_2":
        attention = "sdpa"  # not built for GPUs yet
    assert result["report"]["attention_backend"].startswith(attention)
    check(checkpoint, result["answers"])


def test_one_after_the_other_equals_batched(checkpoint, run_oracle):
    result = run_oracle({"path": checkpoint.folder}, requests(checkpoint), together=False)
    check(checkpoint, result["answers"])


def test_chunked_prefill_equals_whole(checkpoint, run_oracle):
    engine = {"max_num_batched_tokens": 16, "max_num_seqs": 8}
    result = run_oracle({"path": checkpoint.folder, "engine": engine}, requests(checkpoint))
    check(checkpoint, result["answers"])


def test_preemption_does_not_change_tokens(checkpoint, run_oracle):
    """A cache too small for all four: some are thrown out and computed again."""
    config = checkpoint.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    page = 16 * config.num_key_value_heads * head_dim * 2 * 4 * config.num_hidden_layers
    engine = {"max_model_len": 176, "kv_cache_bytes": 15 * page}
    result = run_oracle({"path": checkpoint.folder, "engine": engine}, requests(checkpoint))
    check(checkpoint, result["answers"])
    assert result["preemptions"] > 0


def test_without_fused_kernels_it_is_the_same(checkpoint, run_oracle):
    result = run_oracle({"path": checkpoint.folder, "use_liger_kernel": False}, requests(checkpoint))
    check(checkpoint, result["answers"])


def pooled(hidden):
    """Every pooling of [tokens, hidden], as sentence-transformers does it."""
    weights = torch.arange(1, len(hidden) + 1, dtype=torch.double)[:, None]
    return {"lasttoken": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0),
            "weightedmean": (hidden * weights).sum(0) / weights.sum()}


def test_pooled_hidden_states_equal_transformers(checkpoint, run_oracle):
    engine = {"max_num_batched_tokens": 40}  # the longest prompt comes in chunks
    poolings = ["lasttoken", "mean", "cls", "max", "weightedmean"]
    asked = [dict(ids=ids, pooling=p, normalize=False) for ids in checkpoint.prompts for p in poolings]
    answers = run_oracle({"path": checkpoint.folder, "engine": engine}, asked)["answers"]
    for request, answer in zip(asked, answers):
        with torch.no_grad():
            hidden = checkpoint.model.model(torch.tensor([request["ids"]])).last_hidden_state[0].double()
        expected = pooled(hidden)[request["pooling"]]
        got = torch.tensor(answer["embedding"], dtype=torch.double)
        assert (got - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_without_the_base_prefix_load(architecture, run_oracle, tmp_path):
    """A base model is saved as layers.0..., without model. before it; the head is tied."""
    whole = Checkpoint(architecture, "tied", tmp_path / "whole")
    whole.model.model.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["architectures"] = [type(whole.model).__name__]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    check(whole, run_oracle({"path": str(tmp_path / "base")}, requests(whole))["answers"])


def as_written_in_2023(config):
    """rope_scaling and rope_theta instead of rope_parameters, torch_dtype instead of dtype, type for rope_type."""
    rope = config.pop("rope_parameters", None) or {}
    config["rope_theta"] = rope.pop("rope_theta", 10000.0)
    if rope.get("rope_type", "default") != "default":
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("layer_types", None)
    return config


@pytest.mark.parametrize("architecture,shape", [("llama", "tied"), ("llama", "gqa"), ("qwen2", "tied"), ("qwen2", "odd")])
def test_configs_of_2023_load(architecture, shape, run_oracle, tmp_path):
    checkpoint = Checkpoint(architecture, shape, tmp_path)
    config = as_written_in_2023(json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(checkpoint, run_oracle({"path": str(tmp_path)}, requests(checkpoint))["answers"])
