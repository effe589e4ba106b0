#!/usr/bin/env python3
"""Runs clang-tidy on the files without libtorch and on changed files; --all: on every file.

A file that passed is not read again until it, a header it includes, the list of checks or its flags change.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

from includes import ROOT, closure, sources, uses_torch

BUILD = ROOT / "build/tidy"  # only configured: clang cannot read GCC's precompiled header
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "automodeld/tidy"


def run(*command):
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def compile_commands():
    """The command that compiles each of our files, by its path from the root."""
    for command in (
        ("cmake", "--preset", "release", "-B", BUILD, "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON", "-DAUTOMODELD_CUDA=OFF"),
        ("ninja", "-C", BUILD, "am_generated"),
    ):
        result = run(*command)
        if result.returncode:
            sys.exit(result.stdout)
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    return {os.path.relpath(entry["file"], ROOT): entry["command"] for entry in entries}


def git(*arguments):
    """What git prints; empty where it fails."""
    result = run("git", *arguments)
    return result.stdout.strip() if result.returncode == 0 else ""


def changed_files():
    """Files that differ from the upstream branch, or from the commit before where there is no branch ahead of one (a
    checkout of CI's), and files that are not committed."""
    base, head = git("merge-base", "HEAD", "@{upstream}"), git("rev-parse", "HEAD")
    if base in ("", head):
        base = git("rev-parse", "--verify", "--quiet", "HEAD~1") or "HEAD"
    listed = git("diff", "--name-only", base), git("ls-files", "--others", "--exclude-standard")
    return set("\n".join(listed).splitlines())


def fingerprint(name, command, tool):
    digest = hashlib.sha256(f"{tool}{command}".encode())
    for other in [".clang-tidy", *sorted(closure(name))]:
        path = ROOT / other if (ROOT / other).is_file() else BUILD / "gen" / other
        if path.is_file():
            digest.update(other.encode() + path.read_bytes())
    return digest.hexdigest()


def check(name, stamp):
    """Prints what clang-tidy finds in the file; leaves the stamp when it finds nothing."""
    result = run("clang-tidy", "--quiet", "-p", BUILD, "--extra-arg=-Wno-unknown-warning-option",
                 "--extra-arg=-Qunused-arguments", "--extra-arg=-fno-openmp", name)
    if result.returncode:
        print(result.stdout, flush=True)
    else:
        stamp.touch()
    return result.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="files that include libtorch too")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    commands, changed = compile_commands(), changed_files()
    tool = run("clang-tidy", "--version").stdout
    names = [name for name in sources(".cc") if name in commands]
    names = [name for name in names if options.all or name in changed or not uses_torch(name)]
    CACHE.mkdir(parents=True, exist_ok=True)
    stamps = {name: CACHE / fingerprint(name, commands[name], tool) for name in names}
    todo = [name for name in names if not stamps[name].exists()]

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        passed = list(pool.map(lambda name: check(name, stamps[name]), todo))
    print(f"clang-tidy: {len(todo)} of {len(names)} files read, {passed.count(False)} with findings")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
