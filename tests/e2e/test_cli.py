"""The commands of the real binary against a real daemon: what they print and how they exit."""

import json
import re
import signal
import subprocess
import time

import pytest

from daemon import BUILD, BUNDLED, Daemon, on_a_terminal, run_cli

PROMPT = "And the LORD said unto"


def cli(daemon, *arguments, **options):
    return run_cli(*arguments, "--server", daemon.target, **options)


def test_generate_writes_the_daemons_text(daemon):
    expected = daemon.generate("kjv", text=PROMPT, max_tokens=16, temperature=0)[0]
    result = cli(daemon, "generate", "kjv", PROMPT, "--max-tokens", 16, "--temperature", 0)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected + "\n", "")
    piped = cli(daemon, "generate", "kjv", "-", "--max_tokens=16", "--temperature=0", input=PROMPT + "\n")
    assert piped.stdout == expected + "\n"


def test_generate_json_lines_end_with_usage(daemon):
    result = cli(daemon, "generate", "kjv", PROMPT, "--max-tokens", 16, "--temperature", 0, "--ignore-eos", "--json")
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum(len(message.get("token_ids", [])) for message in messages) == 16
    assert messages[-1]["usage"]["completion_tokens"] == 16


def test_ctrl_c_cancels_the_call_and_exits_130(daemon):
    before = daemon.metric("automodeld_requests_total", method="Generate", model="kjv", code="CANCELLED")
    process = subprocess.Popen([BUILD / "automodeld", "generate", "kjv", PROMPT, "--max-tokens", "1500",
                                "--ignore-eos", "--server", daemon.target], stdout=subprocess.PIPE, text=True)
    assert process.stdout.read(1)  # it streams
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(30) == 130
    deadline = time.monotonic() + 10
    while daemon.metric("automodeld_requests_total", method="Generate", model="kjv", code="CANCELLED") == before:
        assert time.monotonic() < deadline, "the daemon did not see the cancellation"


def test_a_daemon_that_dies_in_mid_stream_was_there():
    with Daemon("--model", f"kjv={BUNDLED}") as mortal:
        client = subprocess.Popen([BUILD / "automodeld", "generate", "kjv", PROMPT, "--max-tokens", "1500",
                                   "--ignore-eos", "--server", mortal.target], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        assert client.stdout.read(1)
        mortal.process.kill()
        out, err = client.communicate(timeout=60)
    assert client.returncode == 1
    assert out.endswith("\n")
    assert re.fullmatch(r"automodeld: UNAVAILABLE: .*\n", err) and "no daemon" not in err


def test_errors_are_one_line_with_the_code(daemon):
    result = cli(daemon, "generate", "nobody", PROMPT)
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r'automodeld: NOT_FOUND: model "nobody" is not loaded; loaded: kjv, minilm\n', result.stderr)


@pytest.mark.parametrize("arguments", [["generate"], ["sevre"], ["load"], ["serve", "--max-queue-size", "0"],
                                       ["generate", "kjv", "x", "--temprature", "1"]])
def test_wrong_command_lines_exit_2(arguments):
    result = run_cli(*arguments)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_embed_similarity_ranks_related_texts_higher(daemon):
    result = cli(daemon, "embed", "minilm", "A man is eating.", "Someone has a meal.", "The sky is blue.",
                 "--similarity")
    assert result.returncode == 0
    rows = [[float(x) for x in re.findall(r"-?\d\.\d{3}", line)] for line in result.stdout.splitlines()[1:]]
    assert [row[i] for i, row in enumerate(rows)] == [1, 1, 1]
    assert rows[0][1] > rows[0][2] and rows[0][1] == rows[1][0]


def test_embed_json_has_a_vector_a_line(daemon):
    result = cli(daemon, "embed", "minilm", "-", "--json", input="one\ntwo\n")
    assert [len(json.loads(line)["values"]) for line in result.stdout.splitlines()] == [384, 384]


def test_models_and_health(daemon):
    table = cli(daemon, "models").stdout.splitlines()
    assert [line.split()[:2] for line in table] == [["MODEL", "STATE"], ["kjv", "READY"], ["minilm", "READY"]]
    report = json.loads(cli(daemon, "models", "kjv", "--json").stdout)
    assert report["report"]["model_info"]["architecture"] == "LlamaForCausalLM"
    assert cli(daemon, "health", "kjv").stdout == "SERVING\n"
    assert cli(daemon, "health", "nobody").returncode == 1


def test_bench_reports_no_errors(daemon):
    result = cli(daemon, "bench", "--model", "kjv", "--requests", 4, "--concurrency", 2, "--output-tokens", 8, "--json")
    summary = json.loads(result.stdout)
    assert (result.returncode, summary["requests"], summary["errors"]) == (0, 4, 0)
    assert summary["output_tokens_per_second"] * summary["seconds"] == pytest.approx(32)


def test_check_needs_no_daemon(model_root):
    good = run_cli("check", model_root / "kjv")
    assert good.returncode == 0 and "LlamaForCausalLM" in good.stdout
    (model_root / "kjv" / "model.safetensors").unlink()
    broken = run_cli("check", model_root / "kjv")
    assert broken.returncode == 1 and broken.stderr.startswith("automodeld: ")


def rename_tensor(path, old, new):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    header[new] = header.pop(old)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size:])


def test_check_names_all_that_is_missing_and_all_that_is_unread(model_root):
    names = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(6) for part in "qkvo"]
    for name in names:
        rename_tensor(model_root / "kjv" / "model.safetensors", f"{name}.weight", f"{name}.wait")
    broken = run_cli("check", model_root / "kjv")
    assert broken.returncode == 1
    found = re.fullmatch(r"automodeld: FAILED_PRECONDITION: .*: 24 missing: (.*); 24 unread: (.*)\n", broken.stderr)
    assert found, broken.stderr
    assert sorted(found[1].split(", ")) == sorted(f"{name}.weight" for name in names)
    assert sorted(found[2].split(", ")) == sorted(f"{name}.wait" for name in names)


def test_load_and_unload(model_root):
    with Daemon("--model-root", str(model_root)) as daemon:
        loaded = cli(daemon, "load", "kjv", "--model", "second", "--engine.max-model-len", 128, "--attn-implementation",
                     "eager", "--no-use-liger-kernel")
        assert loaded.returncode == 0, loaded.stderr
        assert "at most 128 tokens" in loaded.stdout and "eager" in loaded.stdout
        assert cli(daemon, "load", "kjv", "--model", "second").stderr.startswith("automodeld: ALREADY_EXISTS: ")
        assert cli(daemon, "unload", "second").returncode == 0
        assert cli(daemon, "models", "second").returncode == 1
        assert daemon.stop() == 0


def test_yaml_file_says_all_that_load_can(tmp_path):
    config = tmp_path / "daemon.yaml"
    config.write_text(f"""
max_queue_size: 7
models:
  - model: bible
    path: {BUNDLED}
    torch_dtype: bfloat16
    fp8_config: {{recipe_name: rowwise, emulate: true}}
    engine: {{max_model_len: 256}}
""")
    with Daemon("--config", str(config)) as daemon:
        report = json.loads(cli(daemon, "models", "bible", "--json").stdout)["report"]
        assert (report["model_info"]["dtype"], report["model_info"]["max_model_len"]) == ("bfloat16", 256)
        assert "fp8" in report or any("fp8" in attempt["what"] for attempt in report["attempts"])
        limits = next(line for line in daemon.process.stdout if line.startswith("limits"))
        assert "queue 7 requests" in limits


def test_open_address_needs_insecure_listen_and_warns_in_red(tmp_path):
    refused = run_cli("serve", "--listen", "0.0.0.0:0", "--http-listen", "", "--log-level", "off")
    assert refused.returncode == 2
    assert re.fullmatch(r"automodeld: --listen: 0\.0\.0\.0:0 .*--insecure-listen.*\n", refused.stderr)
    broken = tmp_path / "nothing"  # a model that cannot be loaded ends the daemon after its banner
    serve = ["serve", "--listen", "0.0.0.0:0", "--http-listen", "", "--insecure-listen", "--model", f"x={broken}"]
    code, coloured = on_a_terminal(*serve, env={"TERM": "xterm", "NO_COLOR": ""})
    assert code == 1 and re.search(r"\x1b\[31munprotected .*generate and embed\x1b\[0m", coloured)
    _, plain = on_a_terminal(*serve, env={"NO_COLOR": "1"})
    assert "unprotected" in plain and "\x1b[31m" not in plain
