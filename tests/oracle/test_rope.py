"""Every rope option, as config.json has it since 2025 (rope_parameters) and as it had it in 2023 (rope_scaling)."""

import pytest
import transformers

from checkpoints import decoder_config, save_decoder
from reference import Reference, edit_config, load_decoder, logits_differ

ORIGINAL = 128  # of max_position_embeddings 512
YARN = dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=ORIGINAL, rope_theta=1e4)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=ORIGINAL, rope_theta=5e5)

OPTIONS = {
    "theta": dict(rope_type="default", rope_theta=5e5),
    "linear": dict(rope_type="linear", factor=2.0, rope_theta=5e5),
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn-betas": dict(YARN, beta_fast=16.0, beta_slow=2.0),
    "yarn-untruncated": dict(YARN, truncate=False),
    "yarn-mscale": dict(YARN, mscale=1.0, mscale_all_dim=0.5),
    "yarn-mscale-alone": dict(YARN, mscale=0.5),  # changes nothing without mscale_all_dim
    "yarn-attention-factor": dict(YARN, attention_factor=0.7),
    "yarn-attention-factor-before-mscale": dict(YARN, attention_factor=0.7, mscale=1.0, mscale_all_dim=0.5),
    "yarn-null-factor": dict(YARN, factor=None),
}


def save(rope, folder):
    return save_decoder("qwen2", "odd", folder, rope_parameters=dict(rope))


def write_rope(folder, rope, year):
    """`rope` by hand: transformers adds keys when it saves."""
    if year == 2025:
        return edit_config(folder, rope_parameters=rope)
    scaling = {("type" if k == "rope_type" else k): v for k, v in rope.items() if k != "rope_theta"}
    old = {} if rope["rope_type"] == "default" else dict(rope_scaling=scaling)
    edit_config(folder, drop=["rope_parameters", "layer_types", "dtype"], rope_theta=rope["rope_theta"],
                torch_dtype="float32", **old)


@pytest.mark.parametrize("option", OPTIONS)
def test_rope_options_equal_transformers_in_both_spellings(option, run_oracle, tmp_path):
    rope = OPTIONS[option]
    reference = Reference(tmp_path, save(rope, tmp_path), lengths=(100,), count=8)
    plain = transformers.AutoModelForCausalLM.from_config(decoder_config("qwen2", "odd"))
    plain.load_state_dict(reference.model.state_dict())
    assert logits_differ(reference.model, plain)
    for year in (2025, 2023):
        write_rope(tmp_path, rope, year)
        reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])


def test_an_absent_yarn_factor_is_the_ratio_of_the_lengths(run_oracle, tmp_path):
    """transformers asks for the key, and takes null for the ratio."""
    reference = Reference(tmp_path, save(dict(YARN, factor=None), tmp_path), lengths=(100,), count=8)
    for year in (2025, 2023):
        write_rope(tmp_path, {k: v for k, v in YARN.items() if k != "factor"}, year)
        reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])


def test_dynamic_rope_is_unscaled_within_max_position_embeddings(run_oracle, tmp_path):
    rope = dict(rope_type="dynamic", factor=4.0, rope_theta=1e4)
    reference = Reference(tmp_path, save(rope, tmp_path), lengths=(490,))  # up to 506 of 512
    for year in (2025, 2023):
        write_rope(tmp_path, rope, year)
        result = run_oracle({"path": reference.folder}, reference.requests())
        assert result["report"]["max_model_len"] == 512
        reference.check(result["answers"])


def test_the_original_length_may_stand_beside_the_rope_keys(run_oracle, tmp_path):
    """It comes before the one among them, in transformers too."""
    save(YARN, tmp_path)
    edit_config(tmp_path, original_max_position_embeddings=64)
    reference = Reference(tmp_path, load_decoder(tmp_path), lengths=(100,), count=8)
    assert reference.model.config.rope_parameters["original_max_position_embeddings"] == 64
    reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])


@pytest.mark.parametrize("year", [2025, 2023])
def test_an_unknown_rope_type_is_refused_by_name(year, run_oracle, tmp_path):
    save(YARN, tmp_path)
    write_rope(tmp_path, dict(YARN, rope_type="longrope"), year)
    assert '"longrope" is not one of' in run_oracle.error({"path": str(tmp_path)})


@pytest.mark.parametrize("parameters", [dict(rope_type="default", rope_theta=5e5), LLAMA3], ids=["default", "llama3"])
def test_rope_scaling_comes_before_rope_parameters(parameters, run_oracle, tmp_path):
    """As where yarn is added by hand, in the spelling of 2023, to a file of 2025: nothing of the other is kept."""
    save(parameters, tmp_path)
    edit_config(tmp_path, rope_scaling={k: v for k, v in YARN.items() if k != "rope_theta"})
    reference = Reference(tmp_path, load_decoder(tmp_path), lengths=(100,), count=8)
    assert reference.model.config.rope_parameters == YARN
    reference.check(run_oracle({"path": reference.folder}, reference.requests())["answers"])
