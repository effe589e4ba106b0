"""Tensors of a checkpoint that the model does not ask for, and other names than it asks by."""

import pytest
import safetensors.torch
import torch
import transformers

from checkpoints import save_bert, save_decoder
from minilm import minilm_folder
from reference import Reference, edit_config


def edit_tensors(folder, edit):
    """Rewrites model.safetensors with what `edit` makes of its tensors."""
    file = folder / "model.safetensors"
    tensors = edit(safetensors.torch.load_file(file))
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def save_with_head(architecture, folder, head):
    """A tied checkpoint that stores lm_head.weight as well: head(embedding)."""
    model = save_decoder(architecture, "odd", folder, tie_word_embeddings=True)
    edit_tensors(folder, lambda t: {**t, "lm_head.weight": head(t["model.embed_tokens.weight"])})
    return Reference(folder, model)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_stored_copy_of_a_tied_embedding_is_left_unread(architecture, run_oracle, tmp_path):
    reference = save_with_head(architecture, tmp_path, torch.clone)
    result = run_oracle({"path": reference.folder}, reference.requests())
    reference.check(result["answers"])
    assert result["report"]["unread_tensors"] == ["lm_head.weight"]


def test_a_stored_head_that_contradicts_the_tie_is_refused(run_oracle, tmp_path):
    save_with_head("llama", tmp_path, lambda embedding: embedding + 1)
    assert "lm_head.weight differs from model.embed_tokens.weight" in run_oracle.error({"path": str(tmp_path)})


def embeddings(model, asked):
    with torch.no_grad():
        return [model(torch.tensor([r["ids"]])).last_hidden_state[0].mean(0) for r in asked]


def check_embeddings(model, asked, answers):
    for expected, answer in zip(embeddings(model, asked), answers, strict=True):
        got = torch.tensor(answer["embedding"])
        assert (got - expected).norm() / expected.norm() < 1e-4  # float32


ASKED = [dict(ids=list(range(3, 3 + n)), embed=True, pooling="mean", normalize=False) for n in (1, 20, 200)]


def test_bert_loads_by_names_with_the_base_prefix(run_oracle, tmp_path):
    model = save_bert("odd", tmp_path)
    edit_tensors(tmp_path, lambda tensors: {"bert." + name: t for name, t in tensors.items()})
    result = run_oracle({"path": str(tmp_path)}, ASKED)
    check_embeddings(model, ASKED, result["answers"])
    assert result["report"]["unread_tensors"] == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]


def test_a_bert_with_a_language_model_head_embeds_once_its_head_may_be_unread(run_oracle, tmp_path):
    model = save_bert("odd", tmp_path, transformers.BertForMaskedLM)
    load = {"path": str(tmp_path), "auto_class": "EMBEDDING"}
    assert "cls.predictions" in run_oracle.error(load)
    result = run_oracle({**load, "allow_unread_tensors": True}, ASKED)
    check_embeddings(model.bert, ASKED, result["answers"])
    unread = result["report"]["unread_tensors"]
    assert unread and all(name.startswith("cls.predictions.") for name in unread)


def test_minilms_positions_and_pooler_are_reported_unread(run_oracle):
    report = run_oracle({"path": str(minilm_folder()), "check_only": True})["report"]
    assert report["unread_tensors"] == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
