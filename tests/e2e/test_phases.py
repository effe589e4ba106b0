"""Cancel and deadline in the queue, in prefill and in decode: the call ends and its pages are free at once."""

import json

import grpc
import pytest

from conftest import assert_nothing_left
from daemon import BUNDLED, Daemon, models_pb2

CODES = {"cancel": grpc.StatusCode.CANCELLED, "deadline": grpc.StatusCode.DEADLINE_EXCEEDED}
DEADLINE = 0.5  # seconds: long enough to reach the phase, and far shorter than the phase lasts
DECODING = dict(ids=[5, 6, 7], max_tokens=15000, ignore_eos=True)
PREFILLING = dict(ids=[5] * 15000, max_tokens=1)  # a token a step: minutes


@pytest.fixture(scope="module")
def narrow():
    """A model with one slot that computes one token a step, over a context that takes it minutes."""
    config = {**json.loads((BUNDLED / "config.json").read_text()), "max_position_embeddings": 16384}
    with Daemon() as daemon:
        daemon.load(model="narrow", config_json=json.dumps(config),
                    engine=models_pb2.EngineConfig(max_num_seqs=1, max_num_batched_tokens=1))
        yield daemon


def load_of(daemon):
    return daemon.models.GetModel(models_pb2.GetModelRequest(model="narrow"), timeout=10).status.load


def await_load(daemon, is_reached):
    while not is_reached(load_of(daemon)):
        pass


def end(call, how):
    """Ends the call that way, and checks its code."""
    if how == "cancel":
        call.cancel()
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == CODES[how]


def timeout(how):
    return DEADLINE if how == "deadline" else 120


@pytest.mark.parametrize("how", CODES)
def test_in_decode(narrow, how):
    call = narrow.stream("narrow", timeout=timeout(how), **DECODING)
    next(call)
    end(call, how)
    await_load(narrow, lambda load: load.running == 0)
    assert_nothing_left(narrow, "narrow")


@pytest.mark.parametrize("how", CODES)
def test_in_prefill(narrow, how):
    call = narrow.stream("narrow", timeout=timeout(how), **PREFILLING)
    await_load(narrow, lambda load: load.running == 1 and load.kv_pages_used > 0)
    end(call, how)
    await_load(narrow, lambda load: load.running == 0)
    assert_nothing_left(narrow, "narrow")


@pytest.mark.parametrize("how", CODES)
def test_in_the_queue(narrow, how):
    running = narrow.stream("narrow", **DECODING)
    next(running)
    waiting = narrow.stream("narrow", timeout=timeout(how), **DECODING)
    await_load(narrow, lambda load: load.waiting == 1)
    end(waiting, how)
    await_load(narrow, lambda load: load.waiting == 0)
    assert load_of(narrow).running == 1  # the one before it is not disturbed
    next(running)
    end(running, "cancel")
    await_load(narrow, lambda load: load.running == 0)
    assert_nothing_left(narrow, "narrow")
