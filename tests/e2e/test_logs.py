"""What the daemon writes to its log: in which form, how much, and never a client's text."""

import json
import re

import grpc
import pytest

from daemon import BUNDLED, Daemon, inference_pb2, json_logs, models_pb2, on_a_terminal

MODEL = ("--model", f"kjv={BUNDLED}")
SECRET = "plover"


def raw_call(daemon, method, request):
    """A streaming call whose request is any bytes."""
    call = daemon.channel.unary_stream(f"/automodeld.v1.InferenceService/{method}", request_serializer=lambda raw: raw,
                                       response_deserializer=lambda raw: raw)
    return list(call(request, timeout=20))


def fails(call, code):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == code, error.value.details()


def test_a_file_gets_json(daemon):
    lines = daemon.logs().splitlines()
    assert lines and all(set(json.loads(line)) == {"time", "level", "message"} for line in lines)


def test_a_terminal_gets_text_and_a_bar():
    broken = "x=/nonexistent"  # ends the daemon once kjv is loaded
    code, written = on_a_terminal("serve", "--listen", "127.0.0.1:0", "--http-listen", "", *MODEL, "--model", broken,
                                  env={"NO_COLOR": "1"})
    assert code == 1
    assert re.search(r"\rweights +\[[# ]{24}\] +\d+ %  .* of .* s\x1b\[K", written)
    left = re.sub(r"[^\n]*\x1b\[K", "", written)  # of what was drawn over
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} info +loaded model=kjv ", left, re.MULTILINE)
    assert re.search(r"^automodeld: NOT_FOUND: model \"x\" of /nonexistent: ", left, re.MULTILINE)


def test_warning_leaves_out_the_calls(falls_back):
    with Daemon(*falls_back, "--log-level", "warning") as daemon:
        daemon.generate("kjv", text="And", max_tokens=2)
        daemon.stop()
        assert {line["level"] for line in json_logs(daemon)} == {"warning"}


def test_each_call_leaves_one_line():
    with Daemon(*MODEL) as daemon:
        daemon.generate("kjv", text="And", max_tokens=4, ignore_eos=True)
        fails(lambda: daemon.generate("nobody", text="And"), grpc.StatusCode.NOT_FOUND)
        fails(lambda: raw_call(daemon, "Generate", b"\xff\xff\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT)
        stream = daemon.stream("kjv", text="And", max_tokens=1500, ignore_eos=True)
        next(stream)
        stream.cancel()
        assert daemon.stop() == 0
        calls = [line for line in json_logs(daemon) if line["message"].startswith("call ")]
    expected = [("kjv", "OK", "4"), ("-", "NOT_FOUND", "0"), ("-", "INVALID_ARGUMENT", "0"),
                ("kjv", "CANCELLED", r"\d+")]
    for model, code, tokens in expected:
        pattern = rf"call id=[0-9a-f]+ method=Generate model={model} code={code} tokens={tokens} ms=\d+\.\d"
        assert [line["level"] for line in calls if re.fullmatch(pattern, line["message"])] == ["info"], pattern
    assert len(calls) == len(expected)
    assert len({line["message"].split()[1] for line in calls}) == len(expected)


def test_each_fallback_leaves_a_warning(falls_back, model_root):
    with Daemon(*falls_back, "--model-root", str(model_root)) as daemon:
        first = daemon.models.GetModel(models_pb2.GetModelRequest(model="kjv"), timeout=10).report
        second = daemon.load("kjv", model="second", fp8_config=models_pb2.Fp8Config())
        daemon.stop()
        warnings = [line["message"] for line in json_logs(daemon) if line["level"] == "warning"]
    expected = [f"model {report.model_info.model}: {attempt.what} failed " for report in (first, second)
                for attempt in report.attempts]
    assert first.attempts and second.attempts
    assert [line[:len(start)] for line, start in zip(warnings, expected, strict=True)] == expected


def test_each_note_leaves_a_warning_and_counts_as_no_fallback(model_root):
    with Daemon("--model-root", str(model_root)) as daemon:
        report = daemon.load("kjv", sdpa_method=[models_pb2.SDPA_METHOD_MATH])
        counted = daemon.metric("automodeld_model_load_fallbacks_total")
        daemon.stop()
        warnings = [line["message"] for line in json_logs(daemon) if line["level"] == "warning"]
    assert list(report.notes) == ["sdpa_method=[MATH] has no effect under flash_attention_2:cpu"]
    assert not report.attempts and counted == 0
    assert warnings == [f"model kjv: {note}" for note in report.notes]


def test_a_checked_model_is_not_said_to_be_loaded(model_root):
    with Daemon("--model-root", str(model_root)) as daemon:
        daemon.load("kjv", model="tried", check_only=True)
        daemon.stop()
        messages = [line["message"] for line in json_logs(daemon)]
    assert any(message.startswith("checked model=tried ") for message in messages)
    assert not any(message.startswith("loaded ") for message in messages)


def ask_with_a_secret(daemon):
    """Calls of every kind that carry SECRET, some of which fail, each with the field that is at fault."""
    invalid, text = grpc.StatusCode.INVALID_ARGUMENT, f"{SECRET} and more {SECRET}"
    daemon.generate("kjv", text=text, max_tokens=4)
    daemon.embed("kjv", [text])
    daemon.inference.Tokenize(inference_pb2.TokenizeRequest(model="kjv", text=text), timeout=20)

    def chat(role):
        part = inference_pb2.ContentPart(text=text)
        prompt = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role=role, content=[part])])
        request = inference_pb2.GenerateRequest(model="kjv", chat=prompt,
                                                sampling=inference_pb2.SamplingParams(max_tokens=4))
        return list(daemon.inference.Generate(request, timeout=20))

    chat("user")
    fails(lambda: chat(""), invalid)
    fails(lambda: daemon.generate("kjv", text=text, stop=[SECRET * 50]), invalid)
    fails(lambda: daemon.generate(SECRET, text=text), grpc.StatusCode.NOT_FOUND)
    fails(lambda: raw_call(daemon, "Generate", b"\x0a\x03kjv\x12\x08" + SECRET.encode() + b"\xff\xfe"), invalid)
    fails(lambda: raw_call(daemon, "Generate", SECRET.encode()), invalid)
    fails(lambda: daemon.embed("kjv", [text], prompt_name=SECRET), invalid)
    assert daemon.embed("kjv", [text * 1000], truncate=False).embeddings[0].error.code == invalid.value[0]


def test_no_clients_text_is_in_log_or_metrics():
    with Daemon(*MODEL, "--log-level", "trace") as daemon:
        ask_with_a_secret(daemon)
        metrics = daemon.get("/metrics")
        assert daemon.stop() == 0
        messages = [line["message"] for line in json_logs(daemon)]
    assert sum(message.startswith("call ") for message in messages) == 11
    assert SECRET not in metrics and SECRET not in "\n".join(messages)
