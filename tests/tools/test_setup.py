"""tools/setup on machines that the test makes up: a copy of tools/, and a PATH with nothing but stubs and coreutils."""

import shutil
import subprocess

import pytest

from daemon import ROOT

COREUTILS = "bash sh dirname basename sed grep cat cut paste echo xargs cmp cp ln env".split()
BUILD_PROGRAMS = "c++ make git cmake ninja pkg-config protoc grpc_cpp_plugin".split()
LINT_PROGRAMS = "clang-format clang-tidy shellcheck prometheus go".split()


class Machine:
    """Programs are shell scripts; what was called is in `calls`. A folder .venv has all its Python packages."""

    def __init__(self, folder):
        self.root, self.bin = folder / "checkout", folder / "bin"
        self.log = folder / "calls"
        (self.root / "core" / "text").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copytree(ROOT / "tools", self.root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        self.needs_cargo("1.85")
        for name in COREUTILS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.has("python3", script='[ "$1" != -m ]')  # makes no venv

    def needs_cargo(self, version):
        (self.root / "core" / "text" / "Cargo.toml").write_text(f'rust-version = "{version}"\n')

    def has(self, *names, script="", folder=None):
        for name in names:
            path = (folder or self.bin) / name
            path.write_text(f'#!{self.bin}/bash\necho "{name} $*" >>{self.log}\n{script}\n')
            path.chmod(0o755)
        return self

    def is_debian(self, *installed, script=""):
        """apt-get puts what it installs nowhere: `script` may."""
        self.has("dpkg-query", script="\n".join(f"echo 'ii {name}'" for name in installed))
        return self.has("apt-cache").has("apt-get", script=script)

    def has_venv(self):
        venv = self.root / ".venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "lib" / "python3.11" / "site-packages" / "nvidia" / "cu13" / "lib").mkdir(parents=True)
        self.has("python", "grpcurl", "ghz", folder=venv / "bin")
        for name in ("requirements.txt", "requirements-test.txt"):
            shutil.copy(self.root / "tools" / name, venv / f"{name}.installed")
        return self

    def setup(self, *arguments):
        env = {"PATH": str(self.bin), "HOME": "/none", "PYTHON": str(self.bin / "python3")}
        done = subprocess.run([self.root / "tools" / "setup", *arguments], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def calls(self, program):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.split()[0] == program]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def packages(scope):
    """tools/packages.txt, the first of each choice."""
    text = (ROOT / "tools" / "packages.txt").read_text()
    if scope == "build":
        text = text[: text.index("# To lint and test")]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [choice.split("|")[0] for choice in " ".join(lines).split()]


NEW_CARGO = "echo 'cargo 1.96.0'"
NOT_ROOT = "echo 1000"
DEBIANS_RUST = ["cargo-web", "rustc-web"]


@pytest.mark.parametrize("scope, more", [("build", DEBIANS_RUST),
                                         ("all", [*DEBIANS_RUST, "golang-go", "rustfmt-web", "rust-web-clippy"])])
def test_without_root_and_sudo_the_line_to_run_is_printed(machine, scope, more):
    machine.is_debian().has("id", script=NOT_ROOT).needs_cargo("1.999")
    code, text = machine.setup(scope)
    line = " ".join(["apt-get update && apt-get install -y --no-install-recommends", *packages(scope), *more])
    assert code == 1 and text.splitlines()[-1].strip() == line
    assert not machine.calls("apt-get")


def test_only_what_is_missing_is_asked_for(machine):
    installed = [name for name in packages("build") if name not in ("mold", "g++")]
    machine.is_debian(*installed).has("id", script=NOT_ROOT).has("cargo", script=NEW_CARGO)
    code, text = machine.setup("build")
    assert code == 1 and text.splitlines()[-1].endswith("--no-install-recommends g++ mold")


def test_sudo_is_used_where_it_asks_for_no_password(machine):
    machine.is_debian().has_venv().has("cargo", script=NEW_CARGO).has("id", script=NOT_ROOT)
    machine.has("sudo", script='[ "$1" = -n ] || exec "$@"')
    code, text = machine.setup("build")
    assert code == 0, text
    update, install = machine.calls("apt-get")
    assert update == "apt-get update"
    assert install == "apt-get install -y --no-install-recommends " + " ".join(packages("build"))


def test_a_release_whose_cargo_is_too_old_is_told_so(machine):
    machine.is_debian().has_venv().has("id", script="echo 0").has("cargo", script="echo 'cargo 1.75.0'")
    machine.needs_cargo("1.999")
    code, text = machine.setup("build")
    assert code == 1 and "no cargo >= 1.999" in text.splitlines()[-1]


@pytest.mark.parametrize("scope", ["build", "all"])
def test_where_everything_is_there_nothing_is_installed_or_said(machine, scope):
    machine.is_debian(*packages("all")).has_venv().has("cargo", script=NEW_CARGO).has("go")
    assert machine.setup(scope) == (0, "")
    assert not machine.calls("apt-get") and not machine.calls("go")
    assert machine.calls("python") == ["python -c "]  # that it runs, and no pip


def test_another_distribution_is_told_the_packages_and_what_is_missing(machine):
    machine.has(*BUILD_PROGRAMS[2:]).needs_cargo("1.999")
    code, text = machine.setup("build")
    assert code == 1 and text.splitlines()[-1] == "Missing: c++, make, cargo >= 1.999"
    assert "cargo-web|cargo" in text and "libgrpc++-dev" in text
    assert "clang-tidy" not in text and "golang-go" not in text


def test_another_distribution_is_told_of_go_before_it_is_needed(machine):
    machine.has(*BUILD_PROGRAMS, *LINT_PROGRAMS[:-1]).has("cargo", script=NEW_CARGO).has_venv()
    code, text = machine.setup()
    assert code == 1 and text.splitlines()[-1] == "Missing: go"
    assert "golang-go" in text and "clang-tidy" in text


def test_another_distribution_that_has_all_programs_goes_on_in_silence(machine):
    machine.has(*BUILD_PROGRAMS).has("cargo", script=NEW_CARGO).has_venv()
    assert machine.setup("build") == (0, "")
    machine.has(*LINT_PROGRAMS)
    assert machine.setup() == (0, "")


def test_the_list_is_shown_once_where_only_libraries_may_be_missing(machine):
    machine.has(*BUILD_PROGRAMS).has("cargo", script=NEW_CARGO)
    code, text = machine.setup("build")
    assert code == 1 and machine.calls("python3")[-1].startswith("python3 -m venv")  # so far it came
    assert "libgrpc++-dev" in text and "Missing" not in text
