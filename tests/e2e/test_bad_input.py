"""Each wrong request gets its documented code and a message that names the field; the daemon serves on."""

import grpc
import pytest

from daemon import inference_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT

SAMPLING = [
    (dict(max_tokens=0), "max_tokens"), (dict(max_tokens=2_000_000), "max_tokens"),
    (dict(max_tokens=4, min_tokens=5), "min_tokens"), (dict(min_tokens=-1), "min_tokens"),
    (dict(temperature=-1), "temperature"), (dict(temperature=float("nan")), "temperature"),
    (dict(top_p=0), "top_p"), (dict(top_p=1.5), "top_p"), (dict(top_k=-1), "top_k"), (dict(top_k=99999), "top_k"),
    (dict(min_p=-0.1), "min_p"), (dict(min_p=1.1), "min_p"),
    (dict(repetition_penalty=0), "repetition_penalty"), (dict(presence_penalty=3), "presence_penalty"),
    (dict(frequency_penalty=-3), "frequency_penalty"), (dict(logit_bias={99999: 1.0}), "logit_bias"),
    (dict(logit_bias={1: 200.0}), "logit_bias"), (dict(stop=[""]), "stop"), (dict(stop=["x"] * 17), "stop"),
    (dict(stop=["y" * 300]), "stop"), (dict(stop_token_ids=[99999]), "stop_token_ids"),
    (dict(logprobs=21), "logprobs"), (dict(n=0), "n"), (dict(n=17), "n"),
]


@pytest.mark.parametrize("sampling,field", SAMPLING, ids=lambda value: str(value)[:40])
def test_sampling_outside_its_range(daemon, sampling, field):
    with pytest.raises(grpc.RpcError) as error:
        daemon.generate("kjv", text="And", **sampling)
    assert error.value.code() == INVALID
    assert field in error.value.details()


def fails(call, code, *parts):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == code, error.value.details()
    for part in parts:
        assert part in error.value.details()


def test_prompts_that_cannot_be_served(daemon):
    fails(lambda: daemon.generate("kjv", text=""), INVALID, "text")
    fails(lambda: daemon.generate("kjv", ids=[]), INVALID, "token_ids")
    fails(lambda: daemon.generate("kjv", ids=[99999]), INVALID, "token_ids", "99999")
    fails(lambda: daemon.generate("kjv", text="a " * 5_000_000), INVALID, "text")  # 10 MB
    fails(lambda: daemon.generate("kjv", ids=[5] * 5000), grpc.StatusCode.RESOURCE_EXHAUSTED, "5000", "2048")


def test_invalid_utf8_is_refused_by_its_field(daemon):
    call = daemon.channel.unary_stream("/automodeld.v1.InferenceService/Generate",
                                       request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
    fails(lambda: list(call(b"\x0a\x03kjv\x12\x03a\xff\xfe", timeout=20)), INVALID, "text: invalid UTF-8 at byte 1")


def test_a_request_that_is_no_protobuf(daemon):
    call = daemon.channel.unary_unary("/automodeld.v1.InferenceService/Embed",
                                      request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
    fails(lambda: call(b"\xff\xff\xff\xff", timeout=20), INVALID, "the request is no automodeld.v1.EmbedRequest")


def test_an_unknown_model_lists_the_loaded(daemon):
    fails(lambda: daemon.generate("nobody", text="x"), grpc.StatusCode.NOT_FOUND, "kjv", "minilm")


def test_a_megabyte_of_one_letter_takes_bounded_time(daemon):
    request = inference_pb2.TokenizeRequest(model="kjv", text="a" * (1 << 20))
    try:
        answer = daemon.inference.Tokenize(request, timeout=20)
        assert len(answer.token_ids) > 0
    except grpc.RpcError as error:  # refused is as good, slow is not
        assert error.code() == INVALID


def test_embed_refuses_by_field(daemon):
    fails(lambda: daemon.embed("minilm", []), INVALID, "inputs")
    fails(lambda: daemon.embed("minilm", ["x"], dimensions=385), INVALID, "dimensions")
    fails(lambda: daemon.embed("minilm", ["x"], pooling="median"), INVALID, "pooling")
    fails(lambda: daemon.embed("minilm", ["x"], prompt_name="query"), INVALID, "prompt_name")


def test_after_all_that_it_still_serves(daemon):
    assert daemon.generate("kjv", text="Amen", max_tokens=4, ignore_eos=True)[1]
