"""A loaded model keeps serving, its answers unchanged, while some hundred corrupt checkpoints are refused."""

import json
import os
import random
import struct
import threading

import grpc
import pytest

from conftest import assert_nothing_left
from daemon import BUNDLED, Daemon
from minilm import minilm_folder

REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
TEXTS = ["the quick brown fox", "a", "In the beginning God created the heaven and the earth."]


class Traffic:
    """Generates and embeds in threads of its own until the block ends; every answer must be the first one's."""

    def __init__(self, daemon):
        self.daemon, self.errors, self.rounds = daemon, [], [0, 0]
        self.ended = threading.Event()
        asks = [self.text, self._vectors]
        self.threads = [threading.Thread(target=self._repeat, args=(i, ask)) for i, ask in enumerate(asks)]

    def text(self, model="kjv"):
        return self.daemon.generate(model, text="In the beginning", max_tokens=200, temperature=0, ignore_eos=True)[1]

    def _vectors(self):
        return [list(e.values) for e in self.daemon.embed("minilm", TEXTS).embeddings]

    def _repeat(self, which, ask):
        try:
            first = ask()
            while not self.ended.is_set():
                assert ask() == first
                self.rounds[which] += 1
        except Exception as error:  # shown by the test
            self.errors.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def refused(daemon, root, *parts):
    with pytest.raises(grpc.RpcError) as error:
        daemon.load("kjv", model="broken")
    assert error.value.code() in REFUSALS, error.value
    details = error.value.details()
    assert str(root) not in details and all(part in details for part in parts), details


def truncations(daemon, root, path, size):
    with open(path, "rb+") as file:
        for end in range(size - size % 4096, 0, -size // 60):
            file.truncate(end)
            refused(daemon, root, "model.safetensors: ")


def flips(daemon, root, path, bits, *parts):
    """One flipped bit each, put back afterwards."""
    file = os.open(path, os.O_RDWR)
    for bit in bits:
        byte = os.pread(file, 1, bit // 8)
        os.pwrite(file, bytes([byte[0] ^ (1 << bit % 8)]), bit // 8)
        refused(daemon, root, *parts)
        os.pwrite(file, byte, bit // 8)
    os.close(file)


def lies():
    """What a header may say wrongly of a tensor."""
    def moved(which, by):
        def lie(entry):
            entry["data_offsets"] = [offset + (by if i in which else 0) for i, offset in enumerate(entry["data_offsets"])]
        return lie

    places = [moved(which, by) for which in ((0,), (1,), (0, 1)) for by in (1, 4096, 2**32, 2**53, 2**63)]
    types = [lambda entry, name=name: entry.update(dtype=name) for name in ("F64", "I8", "BOOL", "F8_E4M3", "Q5")]
    shapes = [lambda entry, shape=shape: entry.update(shape=shape) for shape in ([], [0], [1, 1], [2**62, 8], [-1], "x")]
    return places + types + shapes


def write_lies(daemon, root, path, whole, header):
    data = whole[8 + len(header):]
    names = [name for name in json.loads(header) if name != "__metadata__"]
    for i, lie in enumerate(lies()):
        told = json.loads(header)
        lie(told[names[i % len(names)]])
        text = json.dumps(told).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        refused(daemon, root, "model.safetensors: ")
    path.write_bytes(whole)


def broken_indexes(daemon, root, path, names):
    """Shards that are absent, elsewhere, no plain files, or not as the index says."""
    folder, index = path.parent, path.parent / "model.safetensors.index.json"
    path.rename(folder / "one.safetensors")
    for shard, part in [("../kjv/one.safetensors", "not the name of a file"), ("/etc/passwd", "not the name of a file"),
                        ("..", "not the name of a file"), ("", "not the name of a file"), ("two.safetensors", "missing shards")]:
        index.write_text(json.dumps({"weight_map": {name: shard for name in names}}))
        refused(daemon, root, part)
    for left_out in names[:10]:
        index.write_text(json.dumps({"weight_map": {n: "one.safetensors" for n in names if n != left_out}}))
        refused(daemon, root, f"{left_out} (not in the index)")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "two.safetensors")}))
    two = folder / "two.safetensors"
    for make in (lambda: os.mkfifo(two), two.mkdir, lambda: two.symlink_to("/dev/zero"), lambda: two.symlink_to("/etc/passwd")):
        make()
        refused(daemon, root)
        two.rmdir() if two.is_dir() and not two.is_symlink() else two.unlink()
    index.unlink()
    (folder / "one.safetensors").rename(path)


def test_corrupt_loads_are_refused_while_a_model_serves(model_root):
    path = model_root / "kjv" / "model.safetensors"
    whole = path.read_bytes()
    header = whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]
    names = [name for name in json.loads(header) if name != "__metadata__"]
    # Of the rest of the header every bit matters: names, types, shapes, places. The value of __metadata__ does not.
    begin, metadata = 8 * 8, header.find(b"}")
    chosen = random.Random(7).sample(range(begin + 8 * (metadata + 1), begin + 8 * len(header.rstrip())), 200)
    with Daemon("--model-root", str(model_root), "--model", f"kjv={BUNDLED}", "--model", f"minilm={minilm_folder()}") as daemon:
        with Traffic(daemon) as traffic:
            flips(daemon, model_root, path, range(64), "model.safetensors: ", "header")
            flips(daemon, model_root, path, chosen)
            write_lies(daemon, model_root, path, whole, header)
            broken_indexes(daemon, model_root, path, names)
            truncations(daemon, model_root, path, len(whole))
            path.write_bytes(whole)
            daemon.load("kjv", model="whole-again")
        assert not traffic.errors
        assert min(traffic.rounds) > 3
        assert traffic.text("whole-again") == traffic.text()
        for model in ("kjv", "minilm"):
            daemon.generate("kjv", ids=[5], max_tokens=2)
            assert_nothing_left(daemon, model)
