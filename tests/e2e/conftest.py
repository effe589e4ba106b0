import shutil

import pytest

from daemon import BUNDLED, Daemon
from minilm import minilm_folder


@pytest.fixture(scope="session")
def shared():
    """One daemon with both models, for tests that leave it as they found it."""
    with Daemon("--model", f"kjv={BUNDLED}", "--model", f"minilm={minilm_folder()}") as daemon:
        yield daemon


@pytest.fixture
def daemon(shared):
    """The shared daemon; afterwards nothing may be left of the test: no request, no KV page."""
    yield shared
    # What was cancelled or found its stop string ends within one step; these calls are answered after that step.
    shared.generate("kjv", text="Amen", max_tokens=2)
    shared.embed("minilm", ["Amen"])
    assert_nothing_left(shared, "kjv")
    assert_nothing_left(shared, "minilm")


def assert_nothing_left(daemon, model):
    from daemon import models_pb2

    load = daemon.models.GetModel(models_pb2.GetModelRequest(model=model), timeout=10).status.load
    assert (load.running, load.waiting, load.kv_pages_used) == (0, 0, 0)


@pytest.fixture
def falls_back(tmp_path):
    """Arguments of a daemon whose model "kjv" asks for FP8, which falls back."""
    config = tmp_path / "daemon.yaml"
    config.write_text(f"models: [{{model: kjv, path: {BUNDLED}, fp8_config: {{recipe_name: rowwise}}}}]")
    return "--config", str(config)


@pytest.fixture
def model_root(tmp_path):
    """A --model-root with a copy of the bundled model that a test may break."""
    shutil.copytree(BUNDLED, tmp_path / "kjv")
    return tmp_path
