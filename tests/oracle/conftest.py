"""The oracle is transformers on small random checkpoints; ours answers through build/release/oracle.

ORACLE_DEVICE=cuda runs ours on a GPU; transformers stays on the CPU.
"""

import json
import os
import pathlib
import subprocess

import pytest
import torch

torch.set_num_threads(1)  # the models are so small that more threads take longer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))
DEVICE = os.environ.get("ORACLE_DEVICE", "cpu")


@pytest.fixture(scope="session")
def run_oracle():
    """run_oracle(load, requests, together=True) -> the oracle's result as a dict.
    run_oracle.error(load) -> why the load is refused."""

    def start(load, requests, together):
        job = json.dumps({"load": {"device": DEVICE, **load}, "requests": list(requests), "together": together})
        return subprocess.run([BUILD / "oracle"], input=job, capture_output=True, text=True, timeout=300)

    def run(load, requests=(), together=True):
        done = start(load, requests, together)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def error(load):
        done = start(load, [], True)
        assert done.returncode == 1, done.stdout
        return done.stderr

    run.device = DEVICE
    run.error = error
    return run


@pytest.fixture(scope="session")
def bundled_model():
    return ROOT / "deploy" / "models" / "kjv-6m"
