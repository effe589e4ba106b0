"""Clients that know nothing of automodeld but its address: grpcurl and ghz by reflection, and a real Prometheus."""

import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from daemon import BUILD

TOOLS = pathlib.Path(sys.executable).parent


def grpcurl(daemon, *arguments):
    done = subprocess.run([TOOLS / "grpcurl", "-plaintext", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grpcurl_lists_and_calls_by_reflection(daemon):
    services = grpcurl(daemon, daemon.target, "list").split()
    assert {"automodeld.v1.InferenceService", "automodeld.v1.ModelService", "grpc.health.v1.Health"} <= set(services)
    request = json.dumps({"model": "minilm", "inputs": [{"text": "hello"}]})
    answer = json.loads(grpcurl(daemon, "-d", request, daemon.target, "automodeld.v1.InferenceService/Embed"))
    assert len(answer["embeddings"][0]["values"]) == 384


def test_grpcurl_calls_with_the_protoset(daemon):
    answer = grpcurl(daemon, "-protoset", str(BUILD / "automodeld.protoset"), "-d", '{"model": "kjv"}', daemon.target,
                     "automodeld.v1.ModelService/GetModel")
    assert json.loads(answer)["status"]["state"] == "MODEL_STATE_READY"


def test_ghz_streams_by_reflection(daemon):
    request = {"model": "kjv", "text": "In the beginning", "sampling": {"maxTokens": 8, "ignoreEos": True}}
    done = subprocess.run([TOOLS / "ghz", "--insecure", "--call", "automodeld.v1.InferenceService/Generate", "-d",
                           json.dumps(request), "-n", "64", "-c", "8", "-O", "json", daemon.target],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["statusCodeDistribution"] == {"OK": 64}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask_prometheus(port, query, deadline):
    """The first sample of the query, as soon as there is one."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    while time.monotonic() < deadline:
        try:
            result = json.load(urllib.request.urlopen(url, timeout=5))["data"]["result"]
            if result and float(result[0]["value"][1]) > 0:
                return float(result[0]["value"][1])
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)  # it is another's program: there is nothing to wait on
    raise AssertionError(f"Prometheus has no {query}")


def test_a_real_prometheus_reads_the_metrics(daemon, tmp_path):
    daemon.generate("kjv", text="And", max_tokens=4)
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: automodeld, scrape_interval: 1s, static_configs: [{{targets: ['{daemon.http}']}}]}}]")
    server = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        assert ask_prometheus(port, 'up{job="automodeld"}', deadline) == 1
        assert ask_prometheus(port, 'automodeld_generated_tokens_total{model="kjv"}', deadline) >= 1
    finally:
        server.kill()
        server.wait()
