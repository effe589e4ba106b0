"""Operations of somebody else's shared library, as an operator brings them: --op-library, then op_overrides."""

import re

import grpc
import pytest

from daemon import BUILD, BUNDLED, Daemon, run_cli

MYCORP, WRONG, CLASHING, CRASHING = (str(BUILD / "op_libraries" / f"lib{name}_ops.so")
                                     for name in ("mycorp", "wrong", "clashing", "crashing"))
STEPS, NORMS = 8, 13  # tokens that are generated, and rms_norms of the bundled model


def calls(daemon):
    """How often mycorp::rms_norm was called; the library says so when the process ends."""
    return int(re.search(r"^mycorp::rms_norm: (\d+) calls$", daemon.logs(), re.MULTILINE)[1])


def greedy(daemon, model):
    return daemon.generate(model, text="In the beginning", max_tokens=STEPS, temperature=0, ignore_eos=True)[1]


def test_a_model_runs_on_an_operation_of_a_library():
    overrides = {"rms_norm": "mycorp::rms_norm"}
    with Daemon("--op-library", MYCORP, "--model", f"ours={BUNDLED}", "--model-root", str(BUNDLED.parent)) as daemon:
        report = daemon.load(BUNDLED.name, model="theirs", op_overrides=overrides)
        patches = {patch.op: (getattr(patch, "from"), patch.to) for patch in report.patches}
        assert patches["rms_norm"] == ("eager", "mycorp::rms_norm") and patches["act_mul"] == ("eager", "cpu")
        assert greedy(daemon, "theirs") == greedy(daemon, "ours")
        assert daemon.stop() == 0
        assert calls(daemon) >= STEPS * NORMS
        assert "op library libmycorp_ops.so loaded" in daemon.logs()


def test_a_model_of_the_file_takes_it_at_the_start(tmp_path):
    config = tmp_path / "daemon.yaml"
    config.write_text(f"op_library: [{MYCORP}]\nmodels:\n"
                      f"  - {{model: kjv, path: {BUNDLED}, op_overrides: {{rms_norm: 'mycorp::rms_norm'}}}}\n")
    with Daemon("--config", str(config)) as daemon:
        greedy(daemon, "kjv")
        daemon.stop()
        assert calls(daemon) >= STEPS * NORMS


def test_one_that_does_not_fit_is_refused_and_the_daemon_serves_on():
    with Daemon("--op-library", WRONG, "--model", f"kjv={BUNDLED}", "--model-root", str(BUNDLED.parent)) as daemon:
        for name, words in (("renamed", r"original rms_norm\(Tensor x, .*patched wrong::renamed\(Tensor input, "),
                            ("twice", "result 0 differs by"), ("throws", "the tables are not there"),
                            ("gone", "no operation \"wrong::gone\" is registered")):
            with pytest.raises(grpc.RpcError) as error:
                daemon.load(BUNDLED.name, model="theirs", op_overrides={"rms_norm": f"wrong::{name}"})
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert re.search(words, error.value.details())
        assert len(greedy(daemon, "kjv")) == STEPS


def test_check_tries_it_without_a_daemon():
    fits = run_cli("check", BUNDLED, "--op-library", MYCORP, "--op-overrides", "rms_norm=mycorp::rms_norm")
    assert fits.returncode == 0 and re.search(r"^patch +rms_norm: eager -> mycorp::rms_norm$", fits.stdout, re.MULTILINE)
    differs = run_cli("check", BUNDLED, "--op-library", WRONG, "--op-library", MYCORP, "--op-overrides",
                      "rms_norm=wrong::twice")
    assert differs.returncode == 1
    assert differs.stderr.startswith("automodeld: INVALID_ARGUMENT: op_overrides: rms_norm: 3 x 256: result 0 differs by")
    broken = run_cli("check", BUNDLED, "--op-library", CRASHING)
    assert broken.returncode == 1 and "--op-library: libcrashing_ops.so: it crashed" in broken.stderr


@pytest.mark.parametrize("libraries, reason", [
    ([MYCORP, CLASHING], "libclashing_ops.so: Only a single TORCH_LIBRARY can be used to register the namespace mycorp"),
    ([CRASHING], "libcrashing_ops.so: it crashed while it was loaded (Segmentation fault)"),
    ([__file__], "test_op_library.py: invalid ELF header"),
    ([MYCORP + ".gone"], "libmycorp_ops.so.gone: no such file"),
])
def test_one_that_cannot_be_loaded_ends_the_start(libraries, reason):
    flags = [word for library in libraries for word in ("--op-library", library)]
    ended = run_cli("serve", "--listen", "127.0.0.1:0", "--http-listen", "", *flags)
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if line.startswith("automodeld: ")]
    assert len(said) == 1 and said[0].startswith(f"automodeld: FAILED_PRECONDITION: --op-library: {reason}")
    assert str(BUILD) not in said[0]
