"""Perplexity of the bundled model on its held-out text, by weight format, through our own engine.

    .venv/bin/python tests/bench/perplexity.py [--every 16] [--device cpu]

A token's log probability is that of a request whose prompt is all before it and whose only token a bias chooses. To be
done in minutes, every 16th token of the held-out chapters is asked for (1,600 of them), the same for every format;
transformers in float32 is the check of the first row. Needs Debian's bible-kjv-text and a release build.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

import torch
import transformers
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from bible import read_chapters, split  # noqa: E402
from train_bundled import documents, prose  # noqa: E402

MODEL = ROOT / "deploy" / "models" / "kjv-6m"
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))
FORMATS = {
    "float32": {"torch_dtype": "float32"},
    "bfloat16": {"torch_dtype": "bfloat16"},
    "FP8 tensorwise, bfloat16": {"torch_dtype": "bfloat16", "fp8_config": {"recipe_name": "tensorwise"}},
    "FP8 rowwise, bfloat16": {"torch_dtype": "bfloat16", "fp8_config": {"recipe_name": "rowwise"}},
    "FP8 rowwise with lm_head, bfloat16": {"torch_dtype": "bfloat16",
                                           "fp8_config": {"recipe_name": "rowwise", "include_lm_head": True}},
    "FP8 rowwise, float32": {"torch_dtype": "float32", "fp8_config": {"recipe_name": "rowwise"}},
    "bfloat16, KV cache in FP8": {"torch_dtype": "bfloat16", "engine": {"kv_cache_dtype": "float8_e4m3"}},
}


def positions(docs, every):
    """(document, index of a token in it), evenly over all of the text."""
    return [(d, i) for d, doc in enumerate(docs) for i in range(1 + d % every, len(doc), every)]


def reference(docs, asked):
    """The mean of transformers' losses at the positions asked for, in nats."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    with torch.no_grad():
        logprobs = [model(doc[None, :-1]).logits[0].log_softmax(-1) for doc in docs]
    return -sum(logprobs[d][i - 1, docs[d][i]].item() for d, i in asked) / len(asked)


def ours(load, docs, asked, emulate):
    """The same through our engine."""
    if "fp8_config" in load:
        load = {**load, "fp8_config": {**load["fp8_config"], "emulate": emulate}}
    requests = [{"ids": docs[d][:i].tolist(), "max_tokens": 1, "logprobs": 0,
                 "logit_bias": [[int(docs[d][i]), 1e6]]} for d, i in asked]
    job = {"load": {"path": str(MODEL), "allow_fallback": True, **load}, "requests": requests}
    done = subprocess.run([BUILD / "oracle"], input=json.dumps(job), capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert [a["ids"][0] for a in result["answers"]] == [int(docs[d][i]) for d, i in asked]
    return -sum(a["chosen"][0] for a in result["answers"]) / len(asked), result["report"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bible", default="/usr/lib/bible.data")
    parser.add_argument("--every", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gemm", action="store_true", help="the GPU's FP8 GEMM instead of emulation")
    args = parser.parse_args()
    *_, held_out = split(read_chapters(args.bible))
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    docs = [torch.as_tensor(doc) for doc in documents(tokenizer, map(prose, held_out))]
    asked = positions(docs, args.every)
    nats = reference(docs, asked)
    print(f"{len(asked)} tokens; transformers, float32: {nats:.4f} nats, perplexity {math.exp(nats):.3f}")
    print("| weights | nats per token | perplexity | linears in FP8 |\n| --- | --- | --- | --- |")
    for name, load in FORMATS.items():
        nats, report = ours({"device": args.device, **load}, docs, asked, not args.gemm)
        fp8 = report["fp8"]
        converted = f"{fp8['converted']} of {fp8['total']}" if fp8 else "–"
        print(f"| {name} | {nats:.4f} | {math.exp(nats):.3f} | {converted} |", flush=True)


if __name__ == "__main__":
    main()
