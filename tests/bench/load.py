#!/usr/bin/env python3
"""How fast a checkpoint in the page cache is loaded, beside safetensors.torch.load_file and plain pread: `make bench`.

usage: tests/bench/load.py [--gigabytes 4] [--rounds 5] [--device cpu|cuda] [--dtype bfloat16|float16]

Makes a sharded bfloat16 Llama of that size in a temporary folder and loads it, every way in a process of its own, in
turns; shows the median of each way and its ratio to ours. Ours is build/release/oracle (BUILD_FOLDER: another build;
ORACLE_DEVICE: the default of --device): the phase "weights" of its report. The others are timed from the first call to
the last byte, without imports and without the device's start. Without the package safetensors the same is done by hand.

On the CPU, load_file only maps: no byte is read until somebody uses it, and then page by page. "map" shows that; "touch"
reads every byte of the mapping once, as the first request would; "own" copies it, as ours does: memory of the process
that neither a shrinking file nor a dropped page cache can take away. The bar is on "own" (on a GPU: on "to").
"""

import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))
HIDDEN, WIDE, VOCABULARY, SHARDS = 4096, 11008, 32000, 4


def tensors(layers):
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {layer + f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {layer + f"mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes[layer + "mlp.down_proj.weight"] = (HIDDEN, WIDE)
        shapes |= {layer + name + "_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return shapes


def num_bytes(shape):
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def write_shard(path, shapes, block):
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + num_bytes(shape)]}
        end += num_bytes(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as safetensors writes it: the data begins at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(end // len(block)):
            file.write(block)
        file.write(block[: end % len(block)])


def make_checkpoint(folder, gigabytes):
    embedding, layer = (sum(map(num_bytes, tensors(n).values())) for n in (0, 1))
    layers = max(1, round((gigabytes * 1e9 - embedding) / (layer - embedding)))
    shapes = tensors(layers)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "dtype": "bfloat16",
              "intermediate_size": WIDE, "num_hidden_layers": layers, "num_attention_heads": 32, "vocab_size": VOCABULARY,
              "max_position_embeddings": 256, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    names, weight_map, block = list(shapes), {}, os.urandom(32 << 20)  # a loader does not look at the numbers
    per_shard = -(-len(names) // SHARDS)
    for i in range(SHARDS):
        file = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        part = {name: shapes[name] for name in names[i * per_shard : (i + 1) * per_shard]}
        write_shard(folder / file, part, block)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(map(num_bytes, shapes.values()))


def shards(folder):
    return sorted(pathlib.Path(folder).glob("*.safetensors"))


def load_by_hand(path, device):
    """What load_file does: maps the file and makes tensors of its parts."""
    import torch

    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    mapped = torch.UntypedStorage.from_file(str(path), False, os.path.getsize(path))
    whole = torch.tensor([], dtype=torch.uint8).set_(mapped)[8 + length :]
    return {name: whole[slice(*entry["data_offsets"])].view(torch.bfloat16).view(entry["shape"]).to(device)
            for name, entry in header.items()}


def load_file():
    try:
        from safetensors.torch import load_file as load

        return load
    except ImportError:
        return load_by_hand


def use(tensor, way, device, dtype):
    import torch

    tensor = tensor.to(device).to(dtype)
    if way == "touch":
        tensor.view(torch.int64).sum()  # as fast as memory is
    return tensor.clone() if way == "own" and dtype == torch.bfloat16 else tensor  # else .to has made a copy


def times(device):
    """How often a process loads; the last is timed. On a CPU the first may wait for memory that a virtual machine has
    lent back to its host, which takes 2 s per GB here, whoever asks."""
    return 2 if device == "cpu" else 1


def library(folder, way, device, dtype):
    """Seconds of load_file and then `way`; way "device": load_file onto the device."""
    import torch

    load = load_file()
    if device != "cpu":
        torch.zeros(1, device=device).cpu()  # starts the device
    for _ in range(times(device)):
        kept, loaded = [], None
        begin = time.perf_counter()
        for path in shards(folder):
            loaded = load(path, device=device if way == "device" else "cpu")
            kept += [use(tensor, way, device, getattr(torch, dtype)) for tensor in loaded.values()]
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    return seconds


def read_part(path, buffer, begin, end):
    with open(path, "rb", buffering=0) as file:
        while begin < end:
            begin += os.preadv(file.fileno(), [memoryview(buffer)[: min(len(buffer), end - begin)]], begin)


def pread(folder, num_threads):
    """Seconds of pread of all bytes into a buffer per thread, which stays in the caches."""
    buffers = [bytearray(1 << 20) for _ in range(num_threads)]
    begin = time.perf_counter()
    for path in shards(folder):
        size = path.stat().st_size
        cuts = [size * i // num_threads for i in range(num_threads + 1)]
        threads = [threading.Thread(target=read_part, args=(path, buffers[i], cuts[i], cuts[i + 1]))
                   for i in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return time.perf_counter() - begin


def ours(folder, device, dtype):
    load = {"path": str(folder), "device": device, "torch_dtype": dtype,
            "engine": {"max_num_seqs": 1}}
    job = json.dumps({"load": load, "requests": [], "times": times(device)})
    done = subprocess.run([BUILD / "oracle"], input=job, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["report"]["phase_seconds"]["weights"]


def measure(way, folder, device, dtype):
    """In a fresh process."""
    if way == "ours":
        return ours(folder, device, dtype)
    done = subprocess.run([sys.executable, __file__, "--one", way, "--folder", folder, "--device", device, "--dtype",
                           dtype], capture_output=True, text=True, check=True)
    return float(done.stdout)


WAYS = {"cpu": {"map": "load_file", "touch": "load_file, every byte read", "own": "load_file, every tensor copied"},
        "cuda": {"to": "load_file + .to(device)", "device": "load_file(device=...)"}}


def compare(arguments, folder):
    size = make_checkpoint(pathlib.Path(folder), arguments.gigabytes)
    pread(folder, 1)  # into the page cache
    kind = arguments.device.split(":")[0]
    ways = WAYS[kind] if arguments.dtype == "bfloat16" or kind != "cpu" else {"own": "load_file + .to(dtype)"}
    names = {"ours": "automodeld, phase weights", **ways, "pread1": "pread, 1 thread", "pread4": "pread, 4 threads"}
    seconds = {way: [] for way in names}
    for i in range(arguments.rounds):
        for way in list(names)[:: 1 if i % 2 == 0 else -1]:
            seconds[way].append(measure(way, folder, arguments.device, arguments.dtype))
    median = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{size / 1e9:.2f} GB of bfloat16 in {SHARDS} shards to {arguments.dtype} on {arguments.device}, "
          f"{load_file().__module__}, median of {arguments.rounds}")
    for way, name in names.items():
        bar = {"own": "   (bar: >= 1.2)", "to": "   (bar: >= 2)"}.get(way, "")
        print(f"{name:<34} {median[way]:8.3f} s {size / 1e9 / median[way]:8.2f} GB/s   "
              f"ours is {median[way] / median['ours']:6.2f} x as fast{bar}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default=os.environ.get("ORACLE_DEVICE", "cpu"))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is None:
        with tempfile.TemporaryDirectory(prefix="automodeld-load-") as folder:
            compare(arguments, folder)
    elif arguments.one.startswith("pread"):
        print(pread(arguments.folder, int(arguments.one[5:])))
    else:
        print(library(arguments.folder, arguments.one, arguments.device, arguments.dtype))


if __name__ == "__main__":
    main()
