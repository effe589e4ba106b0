"""FP8 by emulation, and quantised checkpoints, against a few lines of PyTorch in transformers' models.

An activation that lies between two values of e4m3 may be rounded up here and down there, as float32 sums differ in
their last bits; its whole row then differs by some percent. So the rows of logits are compared by their median.
"""

import pytest
import torch

from checkpoints import save_decoder
from fp8 import DIALECTS, Fp8Linear, quantize, replaced, save_quantized, spread
from reference import Reference, centred, edit_config, prompts

WIDE = dict(hidden_size=512, intermediate_size=1024, num_attention_heads=4, num_key_value_heads=2, head_dim=128,
            max_window_layers=1)
RAGGED = {**WIDE, "hidden_size": 256, "intermediate_size": 320, "head_dim": 48}  # no whole number of blocks of 128
EMULATE = {"emulate": True}


@pytest.fixture(params=["emulated", "gemm"])
def way(request, run_oracle):
    """How FP8 is multiplied: (fields of fp8_config, the median error that is allowed). Hopper's sums keep 13 digits,
    so that more activations are rounded to the other side."""
    if request.param == "emulated":
        return EMULATE, 1e-4
    if run_oracle.device == "cpu":
        pytest.skip("the CPU has no FP8 GEMM")
    return {}, 0.1


def of_fp8(report):
    return [a for a in report["attempts"] if a["what"].startswith(("fp8_config", "quantization_config"))]


def median_error(run_oracle, load, model):
    """Of the logits after each of many prompts, one forward each: nothing of one answer goes into another."""
    ids = [prompt for n in (1, 5, 9, 16) for prompt in prompts(model, [n + i for i in range(4)])]
    vocab = model.config.vocab_size
    result = run_oracle(load, [dict(ids=i, max_tokens=1, logprobs=vocab) for i in ids])
    errors = []
    for prompt, answer in zip(ids, result["answers"]):
        with torch.no_grad():
            expected = centred(model(torch.tensor([prompt])).logits[0, -1].double())
        got = torch.tensor([answer["logprobs"][0][str(i)] for i in range(vocab)], dtype=torch.double)
        errors.append(((centred(got) - expected).norm() / expected.norm()).item())
    return torch.tensor(errors).median().item(), result["report"]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_fp8_equals_pytorch(run_oracle, tmp_path, architecture, recipe, way):
    model = save_decoder(architecture, "tied", tmp_path)
    dim = -1 if recipe == "rowwise" else None
    expected = replaced(model, lambda l: Fp8Linear(*quantize(l.weight, dim), l.bias))
    fields, allowed = way
    load = {"path": str(tmp_path), "fp8_config": {"recipe_name": recipe, **fields}}
    error, report = median_error(run_oracle, load, expected)
    assert report["fp8"]["converted"] == 2 * 7 and report["fp8"]["success"]
    assert error < allowed
    other = replaced(model, lambda l: Fp8Linear(*quantize(l.weight, None if dim else -1), l.bias))
    assert median_error(run_oracle, load, other)[0] > error  # else the test would not tell recipes apart


def test_a_tied_head_gets_its_own_copy(run_oracle, tmp_path, way):
    model = save_decoder("llama", "tied", tmp_path, vocab_size=272)
    expected = replaced(model, lambda l: Fp8Linear(*quantize(l.weight), l.bias))
    expected.lm_head = Fp8Linear(*quantize(model.lm_head.weight), None)
    fields, allowed = way
    load = {"path": str(tmp_path), "fp8_config": {"include_lm_head": True, **fields}}
    error, report = median_error(run_oracle, load, expected)
    assert report["fp8"]["converted"] == 2 * 7 + 1
    assert error < allowed


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_quantised_checkpoints_are_dequantised_where_there_is_no_gemm(run_oracle, tmp_path, dialect, architecture):
    if run_oracle.device == "cuda":
        pytest.skip("a GPU keeps them in FP8: the next test")
    model = save_decoder(architecture, "tied", tmp_path, **RAGGED)
    linears = save_quantized(model, tmp_path, dialect)
    for name, (values, scale) in linears.items():
        model.get_submodule(name).weight.data = values.float() * spread(scale.float(), values.shape)
    reference = Reference(tmp_path, model, lengths=(7, 33), count=8)
    result = run_oracle({"path": str(tmp_path)}, reference.requests())
    reference.check(result["answers"])
    report = result["report"]
    method = dialect if dialect in ("modelopt", "fbgemm_fp8") else dialect.rsplit("-", 1)[0]
    assert [a["what"] for a in of_fp8(report)] == [f"quantization_config={method}"]
    assert of_fp8(report)[0]["fallback"] == "dequantised to float32"
    assert report["fp8"]["converted"] == 0 and report["fp8"]["total"] == 2 * 7 + 1
    assert sum(s["reason"].startswith("dequantised: ") for s in report["fp8"]["skipped"]) == len(linears)
    assert report["num_parameters"] == sum(p.numel() for p in model.parameters())


def stay_in_fp8(run_oracle, tmp_path, dialect, fields, shape):
    """The median error of a quantised checkpoint against PyTorch."""
    model = save_decoder("llama", "tied", tmp_path, **shape)
    linears = save_quantized(model, tmp_path, dialect)
    expected = replaced(model, lambda l: Fp8Linear(*quantize(l.weight), l.bias))  # what is plain in the files
    for name, (values, scale) in linears.items():
        parent, child = name.rsplit(".", 1)
        bias = model.get_submodule(name).bias
        setattr(expected.get_submodule(parent), child, Fp8Linear(values, spread(scale.float(), values.shape), bias))
    error, report = median_error(run_oracle, {"path": str(tmp_path), "fp8_config": fields}, expected)
    assert of_fp8(report) == []
    assert report["fp8"]["converted"] == 2 * 7
    return error


@pytest.mark.parametrize("dialect", DIALECTS)
def test_quantised_checkpoints_stay_in_fp8_where_they_can(run_oracle, tmp_path, dialect, way):
    fields, allowed = way
    assert stay_in_fp8(run_oracle, tmp_path, dialect, fields, WIDE) < allowed


def test_blocks_need_not_be_whole_where_they_are_emulated(run_oracle, tmp_path):
    assert stay_in_fp8(run_oracle, tmp_path, "fp8-blocks", EMULATE, RAGGED) < 1e-4


def test_a_filter_dequantises_what_is_stored_in_fp8(run_oracle, tmp_path):
    model = save_decoder("llama", "tied", tmp_path, **WIDE)
    save_quantized(model, tmp_path, "compressed-tensors-tensor")
    fp8 = {"filter_fqns": ["layers.0."], **EMULATE}
    report = run_oracle({"path": str(tmp_path), "fp8_config": fp8, "check_only": True})["report"]
    assert report["fp8"]["converted"] == 7
    reasons = {s["fqn"]: s["reason"] for s in report["fp8"]["skipped"]}
    assert reasons["model.layers.0.mlp.up_proj"] == "dequantised: filter_fqns: layers.0."


@pytest.mark.parametrize("config, message", [
    ({"quant_method": "gptq", "bits": 4}, "quant_method gptq is not understood; known are fp8, compressed-tensors"),
    ({"quant_method": "bitsandbytes"}, "quant_method bitsandbytes is not understood"),
    ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "fp8 with weight_block_size [64, 64]"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, "fp8 with fmt e5m2"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt with quant_algo NVFP4"),
    ({"quant_method": "compressed-tensors"}, "compressed-tensors without config_groups"),
    ({"quant_method": "compressed-tensors",
      "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}}}},
     "compressed-tensors: g: weights of 4 bits, type int, strategy group"),
    ({}, "an unnamed quant_method"),
])
def test_other_dialects_are_refused_by_name(run_oracle, tmp_path, config, message):
    save_decoder("llama", "tied", tmp_path)
    edit_config(tmp_path, quantization_config=config)
    error = run_oracle.error({"path": str(tmp_path)})
    assert "UNIMPLEMENTED" in error and message in error


def test_a_scale_of_the_wrong_shape_or_none_is_refused(run_oracle, tmp_path):
    import safetensors.torch
    model = save_decoder("llama", "tied", tmp_path, **RAGGED)
    save_quantized(model, tmp_path, "fbgemm_fp8")
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    tensors["model.layers.1.mlp.down_proj.weight_scale"] = torch.ones(7)
    safetensors.torch.save_file(tensors, file)
    error = run_oracle.error({"path": str(tmp_path)})
    assert "model.layers.0.mlp.up_proj.weight: F8_E4M3 without a weight_scale" in error
    assert "model.layers.1.mlp.down_proj.weight_scale: shape [7], expected [1], [256, 1] or [2, 3]" in error
