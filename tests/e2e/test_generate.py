"""Generate over gRPC, from Python, with the bundled model."""

import concurrent.futures
import threading

import grpc
import numpy as np
import pytest

from daemon import inference_pb2

LONG = dict(ignore_eos=True, max_tokens=1500)


def test_streams_token_by_token(daemon):
    messages = list(daemon.stream("kjv", text="In the beginning", max_tokens=20, ignore_eos=True))
    assert len(messages) > 5
    assert sum(len(m.token_ids) for m in messages) == 20
    assert [m.finish_reason for m in messages if m.finish_reason] == [inference_pb2.FINISH_REASON_LENGTH]
    assert messages[-1].usage.completion_tokens == 20
    assert messages[-1].usage.prompt_tokens > 0


def test_text_is_the_detokenized_tokens(daemon):
    text, tokens, _, _ = daemon.generate("kjv", text="And God said", max_tokens=40, temperature=0, ignore_eos=True)
    request = inference_pb2.DetokenizeRequest(model="kjv", token_ids=tokens, skip_special_tokens=True)
    assert daemon.inference.Detokenize(request, timeout=10).text == text
    assert " " in text


def test_greedy_is_the_same_alone_and_among_others(daemon):
    alone = daemon.generate("kjv", text="The Lord is", max_tokens=32, temperature=0)[1]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        many = pool.map(lambda _: daemon.generate("kjv", text="The Lord is", max_tokens=32, temperature=0)[1], range(8))
        assert all(tokens == alone for tokens in many)


def test_a_seed_repeats_the_draws(daemon):
    first, second, other = (daemon.generate("kjv", text="And he", max_tokens=24, seed=seed)[1] for seed in (5, 5, 6))
    assert first == second != other


def test_n_completions_of_one_prompt(daemon):
    texts = {}
    for message in daemon.stream("kjv", text="And it came to pass", n=4, seed=1, max_tokens=12, ignore_eos=True):
        texts.setdefault(message.index, []).extend(message.token_ids)
    assert sorted(texts) == [0, 1, 2, 3]
    assert len({tuple(tokens) for tokens in texts.values()}) == 4


def test_stop_string_ends_the_text_before_it(daemon):
    whole = daemon.generate("kjv", text="In the beginning", max_tokens=40, temperature=0)[0]
    stop = whole[10:16]  # across token borders
    text, _, reason, _ = daemon.generate("kjv", text="In the beginning", max_tokens=40, temperature=0, stop=[stop])
    assert text == whole[:whole.index(stop)]
    assert reason == "FINISH_REASON_STOP_SEQUENCE"


def test_logprobs_are_of_the_likeliest_first(daemon):
    for message in daemon.stream("kjv", text="In the", max_tokens=8, temperature=0, logprobs=5):
        for logprob in message.logprobs:
            values = [c.logprob for c in logprob.top]
            assert len(values) == 5 and values == sorted(values, reverse=True)
            assert (logprob.token_id, logprob.logprob) == (logprob.top[0].token_id, values[0])  # greedy
            assert 0 < sum(np.exp(values)) <= 1 + 1e-5


def test_chat_is_rendered_by_the_template(daemon):
    chat = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(
        role="user", content=[inference_pb2.ContentPart(text="Who made the heaven?")])])
    request = inference_pb2.GenerateRequest(model="kjv", chat=chat,
                                            sampling=inference_pb2.SamplingParams(max_tokens=8))
    last = list(daemon.inference.Generate(request, timeout=60))[-1]
    assert last.usage.prompt_tokens > 4


def test_64_streams_at_once(daemon):
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(
            lambda i: daemon.generate("kjv", text=f"Chapter {i}", max_tokens=24, ignore_eos=True, seed=i), range(64)))
    assert all(len(tokens) == 24 for _, tokens, _, _ in answers)


def test_cancel_in_decode_frees_everything(daemon):
    call = daemon.stream("kjv", text="And", **LONG)
    next(call)
    call.cancel()
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.CANCELLED


def test_many_cancels_at_once(daemon):
    text = "And the sons of the children " * 250
    calls = [daemon.stream("kjv", text=text, max_tokens=200) for _ in range(12)]
    for call in calls:
        call.cancel()
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() == grpc.StatusCode.CANCELLED


def test_deadline_ends_the_stream(daemon):
    with pytest.raises(grpc.RpcError) as error:
        list(daemon.stream("kjv", text="And", timeout=0.3, **LONG))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_one_client_leaving_does_not_disturb_another(daemon):
    expected = daemon.generate("kjv", text="The Lord is", max_tokens=48, temperature=0)[1]
    leaving = daemon.stream("kjv", text="And", **LONG)
    next(leaving)
    got = []
    staying = threading.Thread(
        target=lambda: got.extend(daemon.generate("kjv", text="The Lord is", max_tokens=48, temperature=0)[1]))
    staying.start()
    leaving.cancel()
    staying.join()
    assert got == expected
