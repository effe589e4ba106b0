"""A daemon under test and a client for it: grpcio, generated from the protos on the spot. Shared by e2e and figures."""

import importlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))
BUNDLED = ROOT / "deploy" / "models" / "kjv-6m"


def _generate():
    folder = tempfile.mkdtemp(prefix="automodeld-stubs-")
    protos = sorted(str(p) for p in (ROOT / "proto").rglob("*.proto"))
    code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}", *protos])
    assert code == 0
    sys.path.insert(0, folder)
    names = ["models_pb2", "models_pb2_grpc", "inference_pb2", "inference_pb2_grpc"]
    return [importlib.import_module(f"automodeld.v1.{name}") for name in names]


models_pb2, models_grpc, inference_pb2, inference_grpc = _generate()


class Daemon:
    """A running `automodeld serve` on free ports of the loopback.

    with Daemon("--model", f"kjv={BUNDLED}") as daemon:
        daemon.generate("kjv", text="In the beginning", max_tokens=8)
    """

    def __init__(self, *arguments, env=None):
        command = [BUILD / "automodeld", "serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                   *arguments]
        self.log = tempfile.NamedTemporaryFile(prefix="automodeld-", suffix=".log", mode="w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **(env or {})})
        self.target, self.http = self._ports()
        self.channel = grpc.insecure_channel(self.target, [("grpc.max_receive_message_length", 64 << 20),
                                                           ("grpc.max_send_message_length", 64 << 20)])
        self.models = models_grpc.ModelServiceStub(self.channel)
        self.inference = inference_grpc.InferenceServiceStub(self.channel)

    def _ports(self):
        """What serve prints: `gRPC  127.0.0.1:41234` and `HTTP  127.0.0.1:41235`."""
        self.banner = ""
        found = {}
        for line in self.process.stdout:
            self.banner += line
            match = re.search(r"(gRPC|HTTP)\s+(127\.0\.0\.1:\d+)", line)
            if match:
                found[match[1]] = match[2]
            if len(found) == 2:
                return found["gRPC"], found["HTTP"]
        raise AssertionError(f"serve ended: {self.banner}\n{self.logs()}")

    def wait_ready(self, timeout=120):
        """By health's Watch, whose messages are one enum: b"\\x08\\x01" is SERVING."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=lambda raw: raw,
                                          response_deserializer=lambda raw: raw)
        answers = watch(b"", timeout=timeout)
        try:
            next(answer for answer in answers if answer == b"\x08\x01")
        except grpc.RpcError as error:
            raise AssertionError(f"serve is not ready: {error}\n{self.logs()}") from error
        answers.cancel()
        return self

    def __enter__(self):
        return self.wait_ready()

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=60):
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def logs(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """One sample of /metrics; the sum of those that match; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if all(has.get(key) == value for key, value in labels.items()):
                    total += float(match[3])
        return total

    def load(self, path=None, timeout=300, **fields):
        """LoadModel; gives the report. `path` lies beneath --model-root."""
        request = models_pb2.LoadModelRequest(**({"path": path} if path else {}), **fields)
        *_, last = self.models.LoadModel(request, timeout=timeout)
        return last.report

    def stream(self, model, text=None, ids=None, timeout=120, **sampling):
        request = inference_pb2.GenerateRequest(model=model, sampling=inference_pb2.SamplingParams(**sampling))
        if text is not None:
            request.text = text
        else:
            request.token_ids.ids.extend(ids)
        return self.inference.Generate(request, timeout=timeout)

    def generate(self, model, text=None, ids=None, timeout=120, **sampling):
        """The whole completion 0: (text, token ids, finish reason's name, usage)."""
        words, tokens, reason, usage = "", [], None, None
        for message in self.stream(model, text, ids, timeout, **sampling):
            words += message.text
            tokens += message.token_ids
            reason = message.finish_reason or reason
            usage = message.usage if message.HasField("usage") else usage
        return words, tokens, inference_pb2.FinishReason.Name(reason or 0), usage

    def embed(self, model, texts, timeout=120, **fields):
        inputs = [inference_pb2.EmbedInput(text=text) for text in texts]
        return self.inference.Embed(inference_pb2.EmbedRequest(model=model, inputs=inputs, **fields), timeout=timeout)


def run_cli(*arguments, input=None, timeout=120):
    """`automodeld ...` to its end; gives the completed process with text output."""
    return subprocess.run([BUILD / "automodeld", *map(str, arguments)], input=input, capture_output=True, text=True,
                          timeout=timeout)


def on_a_terminal(*command, env=None):
    """Runs with a pseudo-terminal as stdout and stderr; gives the exit code and what was written there."""
    main, side = pty.openpty()
    process = subprocess.Popen([BUILD / "automodeld", *map(str, command)], stdout=side, stderr=side,
                               stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    os.close(side)
    written = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        written += piece
    os.close(main)
    return process.wait(60), written.decode()


def json_logs(daemon):
    return [json.loads(line) for line in daemon.logs().splitlines()]
