"""Loading, unloading, broken checkpoints and the end of the daemon."""

import json
import signal
import threading

import grpc
import pytest

from conftest import assert_nothing_left
from daemon import BUNDLED, Daemon, models_pb2


@pytest.fixture
def rooted(model_root):
    with Daemon("--model-root", str(model_root), "--model", f"kjv={BUNDLED}") as daemon:
        yield daemon, model_root
        for model in daemon.models.ListModels(models_pb2.ListModelsRequest(), timeout=10).models:
            if model.state == models_pb2.MODEL_STATE_READY:
                daemon.generate(model.model, ids=[5], max_tokens=2)  # answered after what ended before it
                assert_nothing_left(daemon, model.model)


def fails(call, code, *parts):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert code in (None, error.value.code()), error.value.details()
    for part in parts:
        assert part in error.value.details()


def test_load_reports_and_unload_frees(rooted):
    daemon, _ = rooted
    report = daemon.load("kjv", model="second")
    assert report.model_info.architecture == "LlamaForCausalLM"
    assert report.bytes.weights > 1e7 and report.attention_backend
    assert daemon.generate("second", text="And", max_tokens=4, ignore_eos=True)[1]
    fails(lambda: daemon.load("kjv", model="second"), grpc.StatusCode.ALREADY_EXISTS)
    daemon.models.UnloadModel(models_pb2.UnloadModelRequest(model="second"), timeout=30)
    fails(lambda: daemon.generate("second", text="x"), grpc.StatusCode.NOT_FOUND, "kjv")


def test_fp8_falls_back_and_says_so(rooted):
    daemon, _ = rooted
    report = daemon.load("kjv", model="fp8", fp8_config=models_pb2.Fp8Config(recipe_name="rowwise"))
    assert any("fp8" in attempt.what for attempt in report.attempts)
    fails(lambda: daemon.load("kjv", model="strict", allow_fallback=False,
                              fp8_config=models_pb2.Fp8Config(recipe_name="rowwise")),
          grpc.StatusCode.FAILED_PRECONDITION)


def test_random_weights_from_a_config(rooted):
    daemon, _ = rooted
    config = json.loads((BUNDLED / "config.json").read_text())
    daemon.load(model="random", config_json=json.dumps(config), seed=3)
    assert len(daemon.generate("random", ids=[1, 2, 3], max_tokens=5, ignore_eos=True)[1]) == 5


def test_a_hub_id_loads_from_the_cache(rooted):
    daemon, root = rooted
    repository = root / "models--maker--bible"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    (root / "kjv").rename(repository / "snapshots" / ("a" * 40))
    assert daemon.load("maker/bible").model_info.model == "bible"
    daemon.load("maker/bible", model="again", revision="a" * 40)
    assert daemon.generate("again", text="And", max_tokens=4, temperature=0)[1]
    fails(lambda: daemon.load("maker/bible", model="x", revision="v9"), grpc.StatusCode.NOT_FOUND, "there are: main")


def test_path_may_not_leave_the_root(rooted):
    daemon, root = rooted
    (root / "link").symlink_to("/etc")
    for path in ["../kjv", "/etc", "link", "kjv/../../etc"]:
        with pytest.raises(grpc.RpcError) as error:
            daemon.load(path, model="x")
        assert error.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
                                      grpc.StatusCode.FAILED_PRECONDITION)
        assert str(root) not in error.value.details()


def broken_weights(whole):
    """Contents of model.safetensors that are refused, and what the message says."""
    return [(whole[:100], "model.safetensors: "), (whole[:-1], "model.safetensors: "), (whole + b"x", "model.safetensors: "),
            (b"", "model.safetensors: 0 bytes"), (b"\xff" * 64, "model.safetensors: "),
            (whole[:9] + bytes([whole[9] ^ 0x20]) + whole[10:], "model.safetensors: ")]


BROKEN_CONFIGS = [("hidden_size", 128, "model.embed_tokens.weight: shape [4096, 256], expected [4096, 128]"),
                  ("num_hidden_layers", 99, "missing: model.layers.6."),
                  ("vocab_size", -1, "config.json: vocab_size: -1 is outside 1..")]


def test_broken_checkpoints_do_not_disturb_the_one_that_serves(rooted):
    daemon, root = rooted
    stream = daemon.stream("kjv", text="In the beginning", max_tokens=1500, ignore_eos=True)
    next(stream)

    def refused(message):
        fails(lambda: daemon.load("kjv", model="broken"), grpc.StatusCode.FAILED_PRECONDITION, message)

    weights, config = root / "kjv" / "model.safetensors", root / "kjv" / "config.json"
    whole = weights.read_bytes()
    for content, message in broken_weights(whole):
        weights.write_bytes(content)
        refused(message)
    weights.write_bytes(whole)
    for key, value, message in BROKEN_CONFIGS:
        config.write_text(json.dumps({**json.loads((BUNDLED / "config.json").read_text()), key: value}))
        refused(message)
    weights.unlink()
    config.write_text((BUNDLED / "config.json").read_text())
    refused("model.safetensors: no such file")
    assert sum(len(m.token_ids) for m in stream) > 1000


def test_a_tokenizer_with_more_tokens_than_the_model_fails_that_request_alone(rooted):
    daemon, root = rooted
    tokenizer = root / "kjv" / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    extra = {**content["added_tokens"][0], "id": 4096, "content": "[EXTRA]"}
    tokenizer.write_text(json.dumps({**content, "added_tokens": content["added_tokens"] + [extra]}))
    daemon.load("kjv", model="wide")
    stream = daemon.stream("wide", text="And", max_tokens=500, ignore_eos=True)
    next(stream)
    fails(lambda: daemon.generate("wide", text="[EXTRA]"), grpc.StatusCode.INVALID_ARGUMENT,
          "token 4096 is outside the model's vocabulary, 0..4095")
    answer = daemon.embed("wide", ["And", "[EXTRA]"])
    assert [e.error.code for e in answer.embeddings] == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    assert sum(len(m.token_ids) for m in stream) > 400


def test_unload_while_streaming(rooted):
    daemon, _ = rooted
    daemon.load("kjv", model="second")
    stream = daemon.stream("second", text="And", max_tokens=1500, ignore_eos=True)
    next(stream)
    daemon.models.UnloadModel(models_pb2.UnloadModelRequest(model="second", drain=False), timeout=30)
    fails(lambda: list(stream), grpc.StatusCode.UNAVAILABLE)
    daemon.load("kjv", model="second")
    stream = daemon.stream("second", text="And", max_tokens=300, ignore_eos=True)
    next(stream)
    daemon.models.UnloadModel(models_pb2.UnloadModelRequest(model="second", drain=True), timeout=60)
    assert sum(len(m.token_ids) for m in stream) >= 290


def test_sigterm_drains_and_a_second_is_harmless():
    with Daemon("--model", f"kjv={BUNDLED}") as daemon:
        got = []
        stream = daemon.stream("kjv", text="And", max_tokens=1000, ignore_eos=True)
        got += next(stream).token_ids
        reader = threading.Thread(target=lambda: [got.extend(m.token_ids) for m in stream])
        reader.start()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGTERM)
        reader.join(60)
        assert len(got) == 1000
        assert daemon.process.wait(60) == 0


def test_new_calls_while_draining_are_unavailable():
    with Daemon("--model", f"kjv={BUNDLED}") as daemon:
        stream = daemon.stream("kjv", text="And", max_tokens=1900, ignore_eos=True)
        next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as error:
            while True:  # until the signal is seen
                daemon.generate("kjv", text="x", max_tokens=1)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert sum(len(m.token_ids) for m in stream) > 1800
        assert daemon.process.wait(60) == 0


def test_drain_timeout_ends_what_is_left():
    with Daemon("--model", f"kjv={BUNDLED}", "--drain-timeout", "100ms") as daemon:
        stream = daemon.stream("kjv", text="And", max_tokens=1900, ignore_eos=True)
        next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        fails(lambda: list(stream), grpc.StatusCode.UNAVAILABLE)
        assert daemon.process.wait(30) == 0


def resident(daemon):
    """MiB of memory that the daemon holds."""
    status = open(f"/proc/{daemon.process.pid}/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def assert_memory_returns(daemon, cycle, slack):
    for _ in range(3):
        cycle()
    before = resident(daemon)
    for _ in range(10):
        cycle()
    assert resident(daemon) - before < slack


def test_memory_returns_after_many_loads(rooted):
    daemon, _ = rooted

    def cycle():
        daemon.load("kjv", model="again")
        daemon.generate("again", text="And", max_tokens=8)
        daemon.models.UnloadModel(models_pb2.UnloadModelRequest(model="again"), timeout=30)

    assert_memory_returns(daemon, cycle, 40)  # MiB: less than two of the ten copies (22 MiB each) may stay


def test_memory_returns_after_bad_input(rooted):
    daemon, root = rooted
    weights = root / "kjv" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    config = json.loads((root / "kjv" / "config.json").read_text())

    def cycle():
        for fields in (dict(path="kjv"), dict(config_json=json.dumps({**config, "num_key_value_heads": 3}))):
            fails(lambda: daemon.load(model="broken", **fields), None)
        fails(lambda: daemon.generate("kjv", text="a " * 5_000_000), grpc.StatusCode.INVALID_ARGUMENT)  # 10 MB
        fails(lambda: daemon.generate("kjv", text="a " * 4_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED)

    assert_memory_returns(daemon, cycle, 40)  # MiB: each of the ten takes 20 MB on its way, none of it may stay
