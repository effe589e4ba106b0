"""FP8 in a few lines of PyTorch: the reference for ours, and the forms in which others store it."""

import copy
import json

import safetensors.torch
import torch
from torch import nn

E4M3 = torch.float8_e4m3fn
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def quantize(x, dim=None):
    """float8 values and their float32 scale: of the whole tensor, or of every slice along `dim`."""
    x = x.float()
    largest = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    scale = (largest / 448).clamp_min(1e-12)
    return (x / scale).clamp(-448, 448).to(E4M3), scale


class Fp8Linear(nn.Module):
    """values [out, in] times scale (one number, or one a row), activations scaled per token, sums exact."""

    def __init__(self, values, scale, bias):
        super().__init__()
        self.values, self.scale, self.bias = values.double(), scale.double(), bias

    def forward(self, x):
        quantized, per_token = quantize(x, -1)
        y = (quantized.double() @ (self.values * self.scale).T).float() * per_token
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype)


def blockwise(weight):
    """float8 values, and a scale per block of 128 x 128."""
    out, inner = weight.shape
    padded = nn.functional.pad(weight.float(), (0, -inner % 128, 0, -out % 128))
    blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))  # [out blocks, 128, in blocks, 128]
    scale = (blocks.abs().amax((1, 3), keepdim=True) / 448).clamp_min(1e-12)
    values = (blocks / scale).clamp(-448, 448).flatten(2, 3).flatten(0, 1)[:out, :inner]
    return values.contiguous().to(E4M3), scale[:, 0, :, 0].contiguous()


def spread(scale, shape):
    """Scales of blocks, one for every element; others as they are, a row of them as a column."""
    if scale.numel() > 1 and scale.shape[-1] != 1:
        return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:shape[0], :shape[1]]
    return scale if scale.numel() == 1 else scale.reshape(-1, 1)


def replaced(model, make, skip=()):
    """A copy of a transformers model with make(linear) in place of each linear but lm_head."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            if isinstance(linear, nn.Linear) and child in LINEARS and f"{name}.{child}" not in skip:
                setattr(module, child, make(linear))
    return model


def per_tensor(weight):
    values, scale = quantize(weight)
    return values, scale.reshape(1)


def per_channel(weight):
    values, scale = quantize(weight, -1)
    return values, scale.to(torch.bfloat16)  # as llm-compressor stores it


def fbgemm(weight):
    return quantize(weight, -1)


def scalar(weight):
    return quantize(weight)  # a scale without dimensions


GROUP = {"weights": {"num_bits": 8, "type": "float", "symmetric": True},
         "input_activations": {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}}


def compressed(strategy, ignore):
    group = {**GROUP, "targets": ["Linear"], "weights": {**GROUP["weights"], "strategy": strategy}}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ignore,
            "config_groups": {"group_0": group}}


MODELOPT = {"producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}

# name -> how a weight is quantised, what its scale is called, what else there is, and what the configuration says
DIALECTS = {
    "fp8-tensor": (scalar, "weight_scale", ["input_scale"],
                       {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8-blocks": (blockwise, "weight_scale_inv", [],
                   {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
    "compressed-tensors-tensor": (per_tensor, "weight_scale", ["input_scale"], compressed("tensor", ["lm_head"])),
    "compressed-tensors-channel": (per_channel, "weight_scale", [],
                                   compressed("channel", ["lm_head", "re:.*layers\\.1\\.mlp.*"])),
    "modelopt": (scalar, "weight_scale", ["input_scale"], None),
    "fbgemm_fp8": (fbgemm, "weight_scale", ["input_scale_ub"],
                   {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0,
                    "modules_to_not_convert": ["lm_head"]}),
}


def ignored(name, dialect):
    return dialect == "compressed-tensors-channel" and ".layers.1.mlp." in name


def save_quantized(model, folder, dialect):
    """A checkpoint in the dialect; gives {name of the linear: (values, scale)}."""
    quantizer, scale_name, extra, config = DIALECTS[dialect]
    model.save_pretrained(folder)
    tensors, linears = {}, {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        linear = name.removesuffix(".weight")
        if linear.split(".")[-1] not in LINEARS or not name.endswith(".weight") or ignored(name, dialect):
            tensors[name] = tensor.contiguous()
            continue
        linears[linear] = quantizer(tensor)
        tensors[name], tensors[f"{linear}.{scale_name}"] = linears[linear]
        for other in extra:
            tensors[f"{linear}.{other}"] = torch.tensor(1.5)
        if dialect == "modelopt" and linear.endswith(("k_proj", "v_proj")):
            tensors[f"{linear}.{linear[-6]}_scale"] = torch.tensor(0.25)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if config is None:
        (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPT))
        return linears
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))
    return linears
