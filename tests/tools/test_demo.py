"""tools/demo, what `make demo` runs once it has built."""

import os
import re
import subprocess

import pytest

from daemon import BUILD, ROOT


@pytest.fixture(scope="module")
def outputs():
    """What each command printed, by its line."""
    done = subprocess.run([ROOT / "tools/demo"], env={**os.environ, "BUILD_FOLDER": str(BUILD)}, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.split(r"^\$ ", done.stdout, flags=re.MULTILINE)[1:]
    return dict(command.split("\n", 1) for command in commands)


def output(outputs, beginning):
    (text,) = [text for command, text in outputs.items() if command.startswith(beginning)]
    return text


def test_health_waits_for_serving(outputs):
    assert output(outputs, "automodeld health").strip() == "SERVING"


def test_both_models_are_ready_and_one_is_told_of_in_full(outputs):
    head, *rows = outputs["automodeld models"].strip().splitlines()
    assert head.split()[:2] == ["MODEL", "STATE"]
    assert [row.split()[:2] for row in rows] == [["kjv", "READY"], ["minilm", "READY"]]
    assert re.search(r"^attention +\S", outputs["automodeld models kjv"], flags=re.MULTILINE)


def test_the_language_model_writes_and_the_embedder_sees_what_is_alike(outputs):
    assert len(output(outputs, "automodeld generate")) > 100
    rows = [line.rsplit(maxsplit=5)[1:] for line in output(outputs, "automodeld embed").strip().splitlines()[1:]]
    likeness = [[float(number) for number in row] for row in rows]
    assert likeness[0][1] > 0.5 > likeness[0][2]  # eating is like a meal and unlike the sky


def test_the_metrics_have_counted_the_calls(outputs):
    metrics = output(outputs, "curl")
    assert 'automodeld_requests_total{code="OK",method="Generate",model="kjv"} 1' in metrics
    assert 'automodeld_requests_total{code="OK",method="Embed",model="minilm"} 1' in metrics


def test_it_drains_at_the_end(outputs):
    assert output(outputs, "kill -TERM").startswith("The daemon has drained and exited with 0.")
