"""The oracle is transformers on small random checkpoints; ours answers through build/release/oracle.

ORACLE_DEVICE=cuda runs ours on a GPU; transformers stays on the CPU.
"""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))
DEVICE = os.environ.get("ORACLE_DEVICE", "cpu")


@pytest.fixture(scope="session")
def run_oracle():
    """run_oracle(load, requests, together=True) -> the oracle's result as a dict."""

    def run(load, requests, together=True):
        job = json.dumps({"load": {"device": DEVICE, **load}, "requests": requests, "together": together})
        done = subprocess.run([BUILD / "oracle"], input=job, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.device = DEVICE
    return run


@pytest.fixture(scope="session")
def bundled_model():
    return ROOT / "deploy" / "models" / "kjv-6m"
