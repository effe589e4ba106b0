"""The examples of README.md, run as they stand there against the daemon that `make serve` starts."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from daemon import BUILD, BUNDLED, ROOT, Daemon, inference_pb2
from minilm import minilm_folder

README = (ROOT / "README.md").read_text()
BY_EXAMPLE = re.search(r"^## By example$.*?^## ", README, flags=re.MULTILINE | re.DOTALL)[0]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", BY_EXAMPLE, flags=re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:50051"


def block(beginning):
    (text,) = [text for _, text in BLOCKS if text.startswith(beginning)]
    return text


@pytest.fixture(scope="module")
def daemon():
    with Daemon("--model", f"kjv={BUNDLED}", "--model", f"minilm={minilm_folder()}",
                "--model-root", str(BUNDLED.parent)) as running:
        yield running


def run(command, daemon):
    path = f"{BUILD}:{ROOT / '.venv/bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "AUTOMODELD_SERVER": daemon.target,
                   "PYTHONPATH": str(pathlib.Path(inference_pb2.__file__).parents[2])}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_the_commands_of_the_shell(daemon):
    for line in block("automodeld ").splitlines():
        assert run(["bash", "-c", line], daemon) or "unload" in line, line


def test_the_calls_with_grpcurl_are_those_of_every_rpc(daemon):
    function, *calls = [line for line in block("call()").splitlines() if line]
    shell = function.replace(ADDRESS, daemon.target)
    assert shell != function
    for call in calls:
        assert run(["bash", "-c", f"{shell}\n{call}"], daemon).startswith("{"), call
    protos = "".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
    assert {call.split()[1].split("/")[1] for call in calls} == set(re.findall(r"^  rpc (\w+)", protos, re.MULTILINE))


def test_the_python(daemon):
    program = block("# python -m grpc_tools").replace(ADDRESS, daemon.target)
    last = run([sys.executable, "-c", program], daemon).splitlines()[-1]
    assert re.fullmatch(r"4 \[.+, .+, .+\]", last)  # tokens of "a dog", three numbers of its vector
