#!/usr/bin/env python3
"""What a load takes of a device's memory at its peak, beside what it keeps and what was estimated, by weight format.

usage: tests/bench/load_memory.py [--gigabytes 16] [--device cuda]

Makes a bfloat16 Llama of that size in a temporary folder, as load.py does, and loads it in each format: through
build/release/oracle (BUILD_FOLDER: another build). "estimate" is what a check_only says, "peak" the allocator's most,
KV cache included, which is kept small. The bar: a peak of no more than 1 GiB above what is kept.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from load import BUILD, make_checkpoint, pread

FORMATS = {
    "bfloat16": {},
    "FP8 tensorwise": {"fp8_config": {"recipe_name": "tensorwise"}},
    "FP8 rowwise, with lm_head": {"fp8_config": {"recipe_name": "rowwise", "include_lm_head": True}},
}


def report(load):
    done = subprocess.run([BUILD / "oracle"], input=json.dumps({"load": load, "requests": []}), capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["report"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=16)
    parser.add_argument("--device", default=os.environ.get("ORACLE_DEVICE", "cpu"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="automodeld-load-") as folder:
        size = make_checkpoint(pathlib.Path(folder), arguments.gigabytes)
        pread(folder, 4)  # into the page cache
        print(f"{size / 1e9:.2f} GB of bfloat16 on {arguments.device}")
        for name, fields in FORMATS.items():
            load = {"path": folder, "device": arguments.device, "engine": {"max_num_seqs": 1}, **fields}
            estimated, loaded = report({**load, "check_only": True}), report(load)
            estimate = estimated["weight_bytes"] + estimated["kv_bytes"]
            kept = loaded["weight_bytes"] + loaded["kv_bytes"]
            seconds = loaded["phase_seconds"]["weights"]
            converted = loaded["fp8"]["converted"] if loaded["fp8"] else 0
            print(f"{name:<28} {converted:4} linears in FP8   estimate {estimate / 1e9:7.3f} GB   kept {kept / 1e9:7.3f} GB"
                  f"   peak {loaded['peak_bytes'] / 1e9:7.3f} GB ({(loaded['peak_bytes'] - kept) / 2**30:6.3f} GiB above)"
                  f"   {seconds:6.2f} s, {size / 1e9 / seconds:5.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
