"""What config.json leaves out, and what older or hand-written ones say, is taken as transformers takes it."""

import json

import pytest
import torch
import transformers

from checkpoints import ARCHITECTURES, decoder_config, save_decoder
from reference import Reference, edit_config, load_decoder, logits_differ

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
           "qwen3": "Qwen3ForCausalLM", "bert": "BertModel"}


def plan(run_oracle, config):
    """The report of a load that stops before the weights: they would be gigabytes."""
    return run_oracle({"config_json": json.dumps(config), "torch_dtype": "bfloat16", "check_only": True})["report"]


def meta_model(config):
    with torch.device("meta"):
        if config.model_type == "bert":
            return transformers.BertModel(config, add_pooling_layer=False)  # which no embedding uses
        return transformers.AutoModelForCausalLM.from_config(config)


def check_plan(run_oracle, model_type, **keys):
    """The same number of parameters and the same length as transformers with these keys and no others."""
    written = {"model_type": model_type, "architectures": [CLASSES[model_type]], "num_hidden_layers": 1, **keys}
    report = plan(run_oracle, written)
    if keys.get("num_key_value_heads", 0) is None:  # so say all four; Mistral's class refuses null before it gets there
        keys = {**keys, "num_key_value_heads": keys["num_attention_heads"]}
    config = transformers.AutoConfig.for_model(model_type, num_hidden_layers=1, **keys)
    assert report["num_parameters"] == sum(p.numel() for p in meta_model(config).parameters())
    assert report["max_model_len"] == config.max_position_embeddings


@pytest.mark.parametrize("model_type", CLASSES)
def test_absent_sizes_are_those_of_the_model_type(model_type, run_oracle):
    check_plan(run_oracle, model_type)


# 64 heads of 64: llama's number of key-value heads follows the heads, the others' numbers do not.
@pytest.mark.parametrize("keys", [dict(), dict(num_key_value_heads=None), dict(num_key_value_heads=16)],
                         ids=["absent", "null", "16"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_absent_key_value_heads_differ_from_null_ones(model_type, keys, run_oracle):
    check_plan(run_oracle, model_type, num_attention_heads=64, vocab_size=1000, **keys)


@pytest.mark.parametrize("keys", [dict(), dict(head_dim=None), dict(head_dim=96)], ids=["absent", "null", "96"])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_absent_and_null_head_dim_come_from_the_heads(model_type, keys, run_oracle):
    check_plan(run_oracle, model_type, hidden_size=2048, vocab_size=1000, **keys)


# Sizes are tested above; these change what is computed.
NUMERIC = ["rms_norm_eps", "rope_parameters", "hidden_act", "tie_word_embeddings", "attention_bias", "mlp_bias",
           "max_window_layers", "use_sliding_window", "layer_types"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_absent_keys_that_change_the_numbers(architecture, run_oracle, tmp_path):
    model = save_decoder(architecture, "gqa", tmp_path / "saved",
                         rope_parameters=dict(rope_type="default", rope_theta=1e4))
    model.model.embed_tokens.weight.data *= 0.01  # else no norm's epsilon would be seen
    model.save_pretrained(tmp_path / "small")
    edit_config(tmp_path / "small", drop=NUMERIC)
    reference = Reference(tmp_path / "small", load_decoder(tmp_path / "small"))
    reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])


def write_windows(folder, **keys):
    """A window of 8, by hand and for every layer."""
    edit_config(folder, drop=["layer_types", "use_sliding_window"], sliding_window=8, max_window_layers=0, **keys)


@pytest.fixture(scope="module", params=["mistral", "qwen2", "qwen3"])
def windowed(request, tmp_path_factory):
    """(architecture, folder, transformers without a window, transformers with a window of 8)"""
    folder = tmp_path_factory.mktemp("window-" + request.param)
    save_decoder(request.param, "gqa", folder)
    write_windows(folder, use_sliding_window=True)
    narrow = Reference(folder, load_decoder(folder))
    write_windows(folder, use_sliding_window=False)
    wide = Reference(folder, load_decoder(folder, sliding_window=None))
    assert logits_differ(narrow.model, wide.model)
    return request.param, folder, wide, narrow


@pytest.mark.parametrize("keys", [dict(), dict(layer_types=["sliding_attention"] * 2)], ids=["", "layer_types"])
def test_use_sliding_window_false_voids_the_window(windowed, keys, run_oracle):
    _, folder, wide, _ = windowed
    write_windows(folder, use_sliding_window=False, **keys)
    wide.check(run_oracle({"path": wide.folder}, wide.requests())["answers"])


@pytest.mark.parametrize("written", [dict(use_sliding_window=True), dict(use_sliding_window=None), dict()],
                         ids=["true", "null", "absent"])
def test_use_sliding_window_is_qwens_switch_and_no_more(windowed, written, run_oracle):
    """Qwen's window is off unless it is true; Mistral has its window in any case but false."""
    architecture, folder, wide, narrow = windowed
    write_windows(folder, **written)
    expected = narrow if architecture == "mistral" or written.get("use_sliding_window") else wide
    expected.check(run_oracle({"path": expected.folder}, expected.requests())["answers"])


def test_a_null_window_is_none(windowed, run_oracle):
    _, folder, wide, _ = windowed
    write_windows(folder, use_sliding_window=True)
    edit_config(folder, sliding_window=None)
    wide.check(run_oracle({"path": wide.folder}, wide.requests())["answers"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configs_of_2023_load(architecture, run_oracle, tmp_path):
    """rope_theta at the top, torch_dtype instead of dtype, no layer_types."""
    reference = Reference(tmp_path, save_decoder(architecture, "odd", tmp_path))
    theta = decoder_config(architecture, "odd").rope_parameters["rope_theta"]
    edit_config(tmp_path, drop=["rope_parameters", "dtype", "layer_types"], rope_theta=theta, torch_dtype="float32")
    reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])
