"""Llama, Mistral, Qwen2 and Qwen3 against transformers in float32."""

import pytest
import torch

from checkpoints import ARCHITECTURES, SHAPES, save_decoder
from reference import LENGTHS, Reference, edit_config


class Checkpoint(Reference):
    """A random checkpoint in a folder, and what transformers makes of it."""

    def __init__(self, architecture, shape, folder):
        super().__init__(folder, save_decoder(architecture, shape, folder), LENGTHS, count=64)


@pytest.fixture(scope="module", params=[(a, s) for a in ARCHITECTURES for s in SHAPES], ids="-".join)
def checkpoint(request, tmp_path_factory):
    return Checkpoint(*request.param, tmp_path_factory.mktemp("-".join(request.param)))


@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa", "eager"])
def test_logits_and_greedy_tokens_equal_transformers(checkpoint, run_oracle, attention):
    load = {"path": checkpoint.folder, "attn_implementation": attention}
    result = run_oracle(load, checkpoint.requests())
    assert result["report"]["attention_backend"].startswith(attention)
    checkpoint.check(result["answers"])


def test_one_after_the_other_equals_batched(checkpoint, run_oracle):
    result = run_oracle({"path": checkpoint.folder}, checkpoint.requests(), together=False)
    checkpoint.check(result["answers"])


def test_chunked_prefill_equals_whole(checkpoint, run_oracle):
    engine = {"max_num_batched_tokens": 16, "max_num_seqs": 8}
    result = run_oracle({"path": checkpoint.folder, "engine": engine}, checkpoint.requests())
    checkpoint.check(result["answers"])


def test_preemption_does_not_change_tokens(checkpoint, run_oracle):
    """A cache too small for all four: some are thrown out and computed again."""
    config = checkpoint.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    page = 16 * config.num_key_value_heads * head_dim * 2 * 4 * config.num_hidden_layers
    engine = {"max_model_len": 176, "kv_cache_bytes": 15 * page}
    result = run_oracle({"path": checkpoint.folder, "engine": engine}, checkpoint.requests())
    checkpoint.check(result["answers"])
    assert result["preemptions"] > 0


def test_without_fused_kernels_it_is_the_same(checkpoint, run_oracle):
    result = run_oracle({"path": checkpoint.folder, "use_liger_kernel": False}, checkpoint.requests())
    checkpoint.check(result["answers"])


def pooled(hidden):
    """Every pooling of [tokens, hidden], as sentence-transformers does it."""
    weights = torch.arange(1, len(hidden) + 1, dtype=torch.double)[:, None]
    return {"lasttoken": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0),
            "weightedmean": (hidden * weights).sum(0) / weights.sum()}


def test_pooled_hidden_states_equal_transformers(checkpoint, run_oracle):
    engine = {"max_num_batched_tokens": 40}  # the longest prompt comes in chunks
    poolings = ["lasttoken", "mean", "cls", "max", "weightedmean"]
    asked = [dict(ids=ids, embed=True, pooling=p, normalize=False) for ids in checkpoint.prompts for p in poolings]
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
    edit_config(tmp_path / "base", architectures=[type(whole.model).__name__])
    whole.check(run_oracle({"path": str(tmp_path / "base")}, whole.requests())["answers"])
