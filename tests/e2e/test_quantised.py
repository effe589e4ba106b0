"""FP8 weights and caches as a client asks for them: what is served, reported, counted and logged."""

import json

import grpc
import pytest

from daemon import BUNDLED, Daemon, json_logs, models_pb2, run_cli

PROMPT = dict(text="And it came to pass", max_tokens=24, temperature=0, ignore_eos=True)


@pytest.fixture
def loaded(model_root):
    """A daemon that logs everything, with kjv as it is."""
    with Daemon("--model-root", str(model_root), "--model", f"kjv={BUNDLED}", "--log-level", "debug") as daemon:
        yield daemon


def test_an_emulated_model_serves_beside_the_plain_one(loaded):
    plain = loaded.generate("kjv", **PROMPT)
    report = loaded.load("kjv", model="fp8", device="cpu",
                         fp8_config=models_pb2.Fp8Config(recipe_name="rowwise", emulate=True, include_lm_head=True,
                                                         filter_fqns=["layers.5.mlp.down_proj"]))
    assert not [a for a in report.attempts if "fp8" in a.what]
    fp8 = report.fp8
    assert (fp8.converted, fp8.total, fp8.success) == (6 * 7, 6 * 7 + 1, True)
    assert fp8.conversion_rate == pytest.approx(42 / 43)
    assert {m.fqn: list(m.shape) for m in fp8.modules}["model.layers.0.self_attn.k_proj"] == [128, 256]
    assert [(s.fqn, s.reason) for s in fp8.skipped] == \
        [("model.layers.5.mlp.down_proj", "filter_fqns: layers.5.mlp.down_proj")]
    assert any("scaled per token" in note for note in report.notes)
    words, tokens, *_ = loaded.generate("fp8", **PROMPT)
    assert len(tokens) == 24 and words
    assert loaded.generate("fp8", **PROMPT)[1] == tokens
    assert loaded.generate("kjv", **PROMPT)[:2] == plain[:2]  # the other model is as it was
    embedding = loaded.embed("fp8", ["In the beginning"]).embeddings[0]
    assert sum(x * x for x in embedding.values) == pytest.approx(1, abs=1e-3)
    assert loaded.metric("automodeld_model_load_fallbacks_total", model="fp8", step="fp8_config") == 0
    loaded.stop()
    lines = json_logs(loaded)
    summary = [line for line in lines if "42 of 43" in line["message"]]
    assert [line["level"] for line in summary] == ["info"]
    skipped = [line for line in lines if "layers.5.mlp.down_proj" in line["message"]]
    assert "debug" in {line["level"] for line in skipped}


def test_without_a_gemm_it_falls_back_or_is_refused(loaded):
    report = loaded.load("kjv", model="plain", device="cpu", fp8_config=models_pb2.Fp8Config())
    (attempt,) = [a for a in report.attempts if a.what == "fp8_config=tensorwise"]
    assert "cpu has no FP8 GEMM" in attempt.error and "fp8_config.emulate" in attempt.error
    assert attempt.fallback == "unquantised" and not report.fp8.success
    assert loaded.metric("automodeld_model_load_fallbacks_total", model="plain", step="fp8_config") == 1
    with pytest.raises(grpc.RpcError) as error:
        loaded.load("kjv", model="strict", device="cpu", allow_fallback=False, fp8_config=models_pb2.Fp8Config())
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_the_version_is_the_same_everywhere_after_a_retry_too(loaded):
    report = loaded.load("kjv", model="plain", device="cpu", fp8_config=models_pb2.Fp8Config())
    assert report.attempts
    version = run_cli("--version").stdout.strip()
    assert version and report.automodeld_version == version
    status = loaded.models.GetModel(models_pb2.GetModelRequest(model="plain"), timeout=10)
    assert status.report.automodeld_version == version
    release, _, commit = version.partition("+")
    assert loaded.metric("automodeld_build_info", version=release, commit=commit) == 1


def test_a_cache_in_fp8_takes_less_and_serves(loaded):
    engine = dict(max_num_seqs=2, max_model_len=256)
    whole = loaded.load("kjv", model="whole", device="cpu", engine=models_pb2.EngineConfig(**engine))
    fp8 = loaded.load("kjv", model="small", device="cpu",
                      engine=models_pb2.EngineConfig(kv_cache_dtype="float8_e4m3", **engine))
    assert fp8.bytes.kv * 4 == whole.bytes.kv
    assert len(loaded.generate("small", **PROMPT)[1]) == 24


def test_another_dialect_is_refused_by_name(loaded, model_root):
    folder = model_root / "awq"
    folder.mkdir()
    for file in BUNDLED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(grpc.RpcError) as error:
        loaded.load("awq")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "quant_method awq is not understood; known are fp8, compressed-tensors" in error.value.details()
