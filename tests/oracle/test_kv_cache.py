"""KV caches of another type than the model's, against transformers whose cache rounds keys and values as ours does.

What a step writes it reads back rounded, its own rows included, so that a prompt sees what decode will see. A value next to
a rounding boundary goes either way with the last bits of float32, and moves logits by up to 3e-2; prompts with such a value
are left out, and for the rest the bound is that of other tests."""

from contextlib import contextmanager

import pytest
import safetensors.torch
import torch
import transformers

from checkpoints import ARCHITECTURES, save_decoder
from reference import Reference, greedy, prompts

ROUNDED = {"float8_e4m3": torch.float8_e4m3fn, "bfloat16": torch.bfloat16}
LARGEST = 448  # of e4m3
NEAR = 2e-6  # of a boundary, relative to the tensor's root mean square: some times what sums in another order differ by
STEPS = {"float8_e4m3": 12, "bfloat16": 3}  # bfloat16 has 16 times as many boundaries

CASES = [(a, s, "float8_e4m3") for a in ARCHITECTURES for s in ["odd", "gqa"]] + \
        [(a, "gqa", "bfloat16") for a in ARCHITECTURES if a != "qwen3"]  # whose heads of 128 have a near one always


class Rounding:
    """How a cache of a type holds keys and values; notes whether one was so near a boundary that it may go either way."""

    def __init__(self, dtype, scale=1.0):
        self.dtype = dtype
        self.scale = torch.tensor(1 / scale, dtype=torch.float)  # what is stored is multiplied by it, in float32
        self.ambiguous = False

    def held(self, x):
        if self.scale != 1:
            return Rounding(self.dtype).held(x * self.scale) / self.scale
        return (x.clamp(-LARGEST, LARGEST) if self.dtype == torch.float8_e4m3fn else x).to(self.dtype).to(x.dtype)

    def __call__(self, x):
        near = NEAR * x.pow(2).mean().sqrt()
        self.ambiguous |= bool((self.held(x + near) != self.held(x - near)).any())
        return self.held(x)


@contextmanager
def rounding_caches(dtype, k_scale=1.0, v_scale=1.0):
    """All of transformers' caches hold, and give, keys and values rounded to `dtype`."""
    plain, rounding, of_values = transformers.Cache.update, Rounding(dtype, k_scale), Rounding(dtype, v_scale)

    def update(self, keys, values, *args, **kwargs):
        held = plain(self, rounding(keys), of_values(values), *args, **kwargs)
        rounding.ambiguous |= of_values.ambiguous
        return held

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.Cache, "update", update)
        yield rounding


def clear_case(model, length, dtype, count, **scales):
    """A prompt of `length`, and what transformers makes of it, with no value near a boundary."""
    for ids in prompts(model, [length] * 500):
        with rounding_caches(dtype, **scales) as rounding:
            answer = greedy(model, ids, count)
        if not rounding.ambiguous:
            return ids, answer
    raise AssertionError("every prompt has a value near a boundary")


class Rounded(Reference):
    """A random checkpoint in a folder, and what transformers with a rounding cache makes of it."""

    def __init__(self, architecture, shape, kv_dtype, folder):
        super().__init__(folder, save_decoder(architecture, shape, folder), lengths=())
        for length in (5, 17) if kv_dtype == "float8_e4m3" else (3, 5):
            ids, answer = clear_case(self.model, length, ROUNDED[kv_dtype], STEPS[kv_dtype])
            self.prompts.append(ids)
            self.greedy.append(answer)
        self.kv_dtype = kv_dtype

    def load(self, attention="flash_attention_2", **engine):
        return {"path": self.folder, "attn_implementation": attention,
                "engine": {"kv_cache_dtype": self.kv_dtype, **engine}}


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def checkpoint(request, tmp_path_factory):
    return Rounded(*request.param, tmp_path_factory.mktemp("-".join(request.param)))


@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa", "eager"])
def test_logits_and_greedy_tokens_equal_transformers(checkpoint, run_oracle, attention):
    result = run_oracle(checkpoint.load(attention), checkpoint.requests())
    checkpoint.check(result["answers"])


def test_without_fused_kernels_it_is_the_same(checkpoint, run_oracle):
    result = run_oracle({**checkpoint.load(), "use_liger_kernel": False}, checkpoint.requests())
    checkpoint.check(result["answers"])


def test_rounding_shows_in_the_logits(checkpoint, run_oracle):
    """Else the tests above would show nothing."""
    result = run_oracle({"path": checkpoint.folder}, checkpoint.requests())
    with pytest.raises(AssertionError):
        checkpoint.check(result["answers"])


# Long prompts, boundaries or not: what ours gives for each in one piece, alone.
LONG = [40, 100, 7, 64]


@pytest.fixture(scope="module", params=[(a, s) for a in ARCHITECTURES for s in ["odd", "tied", "gqa"]], ids="-".join)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("-".join(request.param))
    return save_decoder(*request.param, folder), str(folder)


def answers(run_oracle, model, together=True, **engine):
    decoder, folder = model
    asked = [dict(ids=ids, max_tokens=40, logprobs=5) for ids in prompts(decoder, LONG)]
    load = {"path": folder, "engine": {"kv_cache_dtype": "float8_e4m3", **engine}}
    return run_oracle(load, asked, together)


def check_same(run_oracle, got, expected):
    """On the CPU a row has the same bits in every batch, so that the logits are equal; elsewhere the tokens."""
    keys = ["ids", "logprobs", "chosen"] if run_oracle.device == "cpu" else ["ids"]
    for one, other in zip(got["answers"], expected["answers"], strict=True):
        assert [one[k] for k in keys] == [other[k] for k in keys]


def test_batches_chunks_and_preemption_change_no_bit(model, run_oracle):
    alone = answers(run_oracle, model, together=False)
    check_same(run_oracle, answers(run_oracle, model), alone)
    check_same(run_oracle, answers(run_oracle, model, max_num_batched_tokens=16, max_num_seqs=8), alone)
    config = model[0].config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    page = 16 * config.num_key_value_heads * head_dim * 2 * config.num_hidden_layers  # of one byte each
    crowded = answers(run_oracle, model, max_model_len=160, kv_cache_bytes=17 * page)
    assert crowded["preemptions"] > 0
    check_same(run_oracle, crowded, alone)


def test_an_fp8_cache_takes_a_quarter_of_a_float32_one(model, run_oracle):
    def kv_bytes(kv_dtype):
        engine = {"kv_cache_dtype": kv_dtype, "max_num_seqs": 2, "max_model_len": 160}
        return run_oracle({"path": model[1], "check_only": True, "engine": engine})["report"]["kv_bytes"]

    assert kv_bytes("auto") == kv_bytes("float32") == 2 * kv_bytes("bfloat16") == 4 * kv_bytes("float8_e4m3") > 0


@pytest.mark.parametrize("names", [("k_proj.k_scale", "v_proj.v_scale"), ("k_scale", "v_scale")], ids=["proj", "attn"])
def test_a_checkpoints_own_scales_are_used(run_oracle, tmp_path, names):
    """As modelopt and llm-compressor store them; so small that without them large values would not be cut off."""
    reference = Reference(tmp_path, save_decoder("llama", "gqa", tmp_path), lengths=())
    for file in tmp_path.glob("model*.safetensors*"):
        file.unlink()
    scales = dict(k_scale=0.013, v_scale=0.0021)
    tensors = {name: tensor.contiguous() for name, tensor in reference.model.state_dict().items()}
    for layer in range(reference.model.config.num_hidden_layers):
        for name, scale in zip(names, scales.values()):
            tensors[f"model.layers.{layer}.self_attn.{name}"] = torch.tensor([scale])
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    scales = {name: torch.tensor(scale, dtype=torch.float).item() for name, scale in scales.items()}
    for length in (5, 17):
        ids, answer = clear_case(reference.model, length, torch.float8_e4m3fn, 6, **scales)
        reference.prompts.append(ids)
        reference.greedy.append(answer)
    result = run_oracle({"path": str(tmp_path), "engine": {"kv_cache_dtype": "fp8"}}, reference.requests())
    reference.check(result["answers"])
    assert result["report"]["unread_tensors"] == []
    with pytest.raises(AssertionError):  # a cache that is not in FP8 has no use for them
        reference.check(run_oracle({"path": str(tmp_path)}, reference.requests())["answers"])


@pytest.mark.parametrize("scale, message", [(torch.tensor([0.0]), "k_scale: 0 is outside 1e-30..1e+30"),
                                            (torch.ones(2), "k_scale: shape [2], expected one number")])
def test_a_scale_that_cannot_be_is_refused(run_oracle, tmp_path, scale, message):
    model = save_decoder("llama", "gqa", tmp_path)
    for file in tmp_path.glob("model*.safetensors*"):
        file.unlink()
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file({**tensors, "model.layers.0.self_attn.k_scale": scale}, tmp_path / "model.safetensors")
    assert message in run_oracle.error({"path": str(tmp_path)})
