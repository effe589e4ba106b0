"""deploy/kustomize and the Dockerfile agree with each other and with what the daemon does."""

import json
import re
import signal
import subprocess

import pytest
import yaml

from daemon import BUILD, ROOT

MARGIN_SECONDS = 10  # after --drain-timeout: 5 s for calls that were ended, then models are freed


def objects():
    kustomization = yaml.safe_load((ROOT / "deploy/kustomize/kustomization.yaml").read_text())
    files = [ROOT / "deploy/kustomize" / name for name in kustomization["resources"]]
    return {item["kind"]: item for path in files for item in yaml.safe_load_all(path.read_text())}


POD = objects()["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions():
    """The Dockerfile's stages, each a list of (instruction, its text on one line)."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    starts = [i for i, (word, _) in enumerate(lines) if word == "FROM"]
    return [lines[begin:end] for begin, end in zip(starts, [*starts[1:], None])]


def of_runtime(word):
    return [text for instruction, text in instructions()[-1] if instruction == word]


ENTRYPOINT, CMD = (json.loads(of_runtime(word)[0]) for word in ("ENTRYPOINT", "CMD"))


def flag(args, name):
    (value,) = [arg.split("=", 1)[1] for arg in args if arg.startswith(f"--{name}=")]
    return value


def port(address):
    return int(address.rsplit(":", 1)[1])


def test_the_grace_period_has_room_for_pre_stop_and_drain():
    (program, pre_stop) = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    drain = flag(CONTAINER["args"], "drain-timeout")
    assert drain.endswith("s")
    assert POD["terminationGracePeriodSeconds"] >= int(pre_stop) + int(drain[:-1]) + MARGIN_SECONDS


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_health_over_grpc(name):
    assert CONTAINER[name]["grpc"] == {"port": port(flag(CONTAINER["args"], "listen"))}
    assert not CONTAINER[name].keys() & {"exec", "httpGet", "tcpSocket"}


def test_ports_are_those_that_the_daemon_listens_on():
    args, ports = CONTAINER["args"], {entry["name"]: entry["containerPort"] for entry in CONTAINER["ports"]}
    assert ports == {"grpc": port(flag(args, "listen")), "http": port(flag(args, "http-listen"))}
    for exposed in objects()["Service"]["spec"]["ports"]:
        assert exposed["targetPort"] in ports and exposed["port"] == ports[exposed["targetPort"]]
    annotations = objects()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == ports["http"]
    assert {int(text) for text in of_runtime("EXPOSE")[0].split()} == set(ports.values())


def test_loading_is_for_the_pods_own_address_alone():
    for args in (CONTAINER["args"], CMD):
        assert flag(args, "admin-listen").startswith("127.0.0.1:")


def test_the_service_selects_the_pods():
    deployment, service = objects()["Deployment"]["spec"], objects()["Service"]["spec"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]


def test_nothing_runs_as_root():
    assert POD["securityContext"]["runAsNonRoot"] is True
    user, group = map(int, of_runtime("USER")[-1].split(":"))
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"]) == (user, group)
    assert user > 0
    assert CONTAINER["securityContext"]["allowPrivilegeEscalation"] is False
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_image_is_built_in_one_stage_and_runs_in_another():
    build, runtime = instructions()
    copied = [text for text in of_runtime("COPY") if text.startswith("--from=")]
    assert copied == ["--from=build /opt/automodeld /opt/automodeld"] and build[0][1].endswith(" AS build")
    for _, text in runtime:  # no package is added to the slim base: neither a compiler nor Python
        assert not re.search(r"\b(apt|apt-get|pip|python3?|g\+\+|gcc|nvcc|cmake|cargo)\b", text), text


def test_the_image_has_the_dist_presets_gpus():
    presets = json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
    (dist,) = [preset for preset in presets if preset["name"] == "dist"]
    assert dist["cacheVariables"]["CMAKE_CUDA_ARCHITECTURES"] == "80;86;89;90a;100a;120a"
    (build,) = [text for word, text in instructions()[0] if word == "RUN" and "cmake" in text]
    for step in ("cmake --preset dist", "tools/build dist", "tools/bundle /opt/automodeld dist"):
        assert step in build


def on_free_ports(args):
    """The same arguments on ports that are free here, with the models where the checkout has them."""
    args = [re.sub(r"^(--(?:[a-z]+-)?listen=.*):\d+$", r"\1:0", arg) for arg in args]
    return [arg.replace("/opt/automodeld/models", str(ROOT / "deploy/models")) for arg in args]


def address_in_banner(daemon):
    for line in daemon.stdout:
        if match := re.match(r"gRPC\s+(\S+)", line):
            return match[1]
    raise AssertionError("serve ended")


@pytest.mark.parametrize("args", [CONTAINER["args"], CMD], ids=["deployment", "image"])
def test_the_daemon_takes_the_arguments_serves_and_drains(args, tmp_path):
    assert ENTRYPOINT == ["automodeld"]
    command = [BUILD / ENTRYPOINT[0], *on_free_ports(args)]
    with open(tmp_path / "log", "w+") as log:
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        server = f"127.0.0.1:{port(address_in_banner(daemon))}"
        done = subprocess.run([BUILD / "automodeld", "health", "--wait", "60s", "--server", server],
                              capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, "SERVING"), (tmp_path / "log").read_text()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
        daemon.wait()
