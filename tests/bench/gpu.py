#!/usr/bin/env python3
"""Measures the GPU's figures of docs/performance.md: `automodeld serve` and `automodeld bench` on one host.

usage: tests/bench/gpu.py [ceiling decode streams steps long ttft small embed text=FOLDER start ...]
       default: all but text and start

Weights are random: the 8B model's lie in a checkpoint of 16 GB that is made once, in a temporary folder; "text" makes a
MiniLM with the tokenizer that lies in FOLDER. BUILD_FOLDER: where the binary is (default build/release). Needs PyTorch but
for "small" and "embed", and transformers for "text".
"""

import atexit
import functools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_FOLDER", ROOT / "build" / "release"))

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 128256,
         "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}
QWEN = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 151936,
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": True}
MINILM = {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
          "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512,
          "type_vocab_size": 2, "hidden_act": "gelu"}
FP8 = ("--fp8-config.recipe-name", "rowwise")
FP8_HEAD = (*FP8, "--fp8-config.include-lm-head")
SHORT = ("--engine.max-model-len", "4096")
QUEUE = ("--max-queue-size", "16384")


class Daemon:
    """`automodeld serve` on free ports, with one model loaded into it."""

    def __init__(self, config=None, *flags, serve=()):
        self.start = time.monotonic()
        self.process = subprocess.Popen([BUILD / "automodeld", "serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                                         *serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = {}
        while len(found) < 2:
            match = re.search(r"(gRPC|HTTP)\s+(127\.0\.0\.1:\d+)", self.process.stdout.readline())
            if match:
                found[match[1]] = match[2]
        self.target, self.http = found["gRPC"], found["HTTP"]
        if config is not None:
            self.report = self.load("--model", "m", "--config-json", json.dumps(config), *flags)

    def call(self, command, *arguments):
        done = subprocess.run([BUILD / "automodeld", command, "--server", self.target, *arguments], capture_output=True,
                              text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command} {arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def load(self, *flags):
        return json.loads(self.call("load", "--json", *flags).splitlines()[-1])

    def bench(self, concurrency, requests, inputs, outputs, *more):
        return json.loads(self.call("bench", "--model", "m", "--json", "--concurrency", str(concurrency), "--requests",
                                    str(requests), "--input-tokens", str(inputs), "--output-tokens", str(outputs), *more))

    def metric(self, name):
        """The sum of a metric's samples at /metrics."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def host_time(self, run):
        """What `run` gives, and what the engine thread worked for a step meanwhile, in microseconds."""
        names = ("automodeld_step_host_seconds_sum", "automodeld_step_host_seconds_count")
        before = [self.metric(name) for name in names]
        result = run()
        seconds, steps = (self.metric(name) - b for name, b in zip(names, before))
        return result, 1e6 * seconds / max(1, steps)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@functools.cache
def llamas():
    """The folder of the LLAMA checkpoints that have been asked for."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="automodeld-8b-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def llama(quantized=False):
    """One of them, in the page cache."""
    folder = llamas() / ("fp8" if quantized else "bf16")
    if not folder.exists():
        make_llama(folder, quantized)
        subprocess.run(f"cat {folder}/*.safetensors > /dev/null", shell=True, check=True)
    return folder


class Llama(Daemon):
    """A daemon with LLAMA in it."""

    def __init__(self, *flags):
        folder = llama()
        super().__init__(serve=("--model-root", str(llamas())))
        report = self.load("--model", "m", "--path", folder.name, *flags, *SHORT)
        self.report = report.get("report", report)


def ms(milliseconds):
    return f"{milliseconds:.2f}"


def show(name, value, bar=""):
    print(f"{name:<74} {value:>30}   {bar}", flush=True)


READ_KERNEL = """
extern "C" __global__ void read_all(const uint4* x, long n, unsigned* out) {
  unsigned sum = 0;
  for (long i = blockIdx.x * (long)blockDim.x + threadIdx.x; i < n; i += 4L * gridDim.x * blockDim.x) {
    uint4 v[4];
    for (int j = 0; j < 4; ++j) {
      long k = i + (long)j * gridDim.x * blockDim.x;
      v[j] = k < n ? x[k] : make_uint4(0, 0, 0, 0);
    }
    for (int j = 0; j < 4; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 12345) *out = sum;
}"""


def ceiling():
    import torch
    name = torch.cuda.get_device_name()
    data = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel = torch.cuda._compile_kernel(READ_KERNEL, "read_all")
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(12):
        begin.record()
        kernel(grid=(132 * 16, 1, 1), block=(256, 1, 1), args=(data, data.numel() // 16, out))
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    bandwidth = data.numel() / statistics.median(times) / 1e6
    show(f"{name}: reading 4 GiB", f"{bandwidth:.0f} GB/s")
    linears = 32 * (6144 * 4096 + 4096 * 4096 + 28672 * 4096 + 4096 * 14336)
    head = 128256 * 4096
    for what, size in (("FP8, bf16 lm_head", linears + 2 * head), ("FP8, FP8 lm_head", linears + head),
                       ("bf16", 2 * linears + 2 * head)):
        show(f"floor of a Llama-3.1-8B decode step, weights alone, {what}", f"{size / bandwidth / 1e6:.2f} ms")
    del data
    torch.cuda.empty_cache()


def variants(kinds):
    every = {"fp8": ("FP8, bf16 lm_head, bf16 KV", FP8, "2.6 / 2.3"), "head": ("FP8, FP8 lm_head, bf16 KV", FP8_HEAD, "2.4 / 2.15"),
             "bf16": ("bf16 throughout", (), "4.4 / 4.15")}
    return [every[kind] for kind in kinds]


def decode(kinds=("fp8", "head", "bf16")):
    for name, flags, bar in variants(kinds):
        with Llama(*flags) as d:
            runs = [d.bench(1, 2, 128, 256)["inter_token_latency_ms"]["p50"] for _ in range(3)]
            show(f"8B {name}: one stream, 128 / 256, ms a token", f"{ms(statistics.median(runs))}", bar)
            for row in d.report.get("attempts", []) + d.report.get("notes", []):
                print("  ", row)


def streams():
    with Llama(*FP8) as d:
        for concurrency, bar in ((8, "2.9 / 2.6"), (32, "3.2 / 2.8"), (64, "3.5 / 3.0; 15000 / 17000; 110 / 90")):
            r = d.bench(concurrency, 3 * concurrency, 128, 128)
            show(f"8B FP8, {concurrency} streams, 128 / 128: inter-token p50 ms; tokens/s; TTFT p50 ms",
                 f"{ms(r['inter_token_latency_ms']['p50'])}; {r['output_tokens_per_second']:.0f}; {ms(r['time_to_first_token_ms']['p50'])}", bar)
        _, host = d.host_time(lambda: d.bench(64, 64, 16, 1024, "--warmup", "0"))  # next to no steps of prompts
        show("8B FP8, 64 streams, 16 / 1024: engine thread's time per step, us", f"{host:.0f}", "300 / 100")
        r = d.bench(256, 768, 128, 128)
        show("8B FP8, 256 streams, 128 / 128: tokens/s; inter-token p99 ms; TTFT p50 ms",
             f"{r['output_tokens_per_second']:.0f}; {ms(r['inter_token_latency_ms']['p99'])}; {ms(r['time_to_first_token_ms']['p50'])}",
             "24000 / 27000; 40 / 22; 260 / 230")


def steps():
    with Llama(*FP8) as d:
        took = {}
        for m in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64):
            took[m] = d.bench(m, 2 * m, 16, 128)["inter_token_latency_ms"]["p50"]
        show("8B FP8, inter-token p50 ms by streams", "")
        print("   " + "  ".join(f"{m}: {ms(t)}" for m, t in took.items()))
        worst = max((t / took[1 << (m - 1).bit_length()], m) for m, t in took.items())
        show("worst ratio of a step to the step at the next power of two", f"{worst[0]:.3f} at {worst[1]}", "1.03")


def long():
    for name, flags, bar in (("bf16 KV", (), "9200 / 10500"), ("FP8 KV", ("--engine.kv-cache-dtype", "fp8"), "11500 / 13500")):
        with Llama(*FP8, *flags) as d:
            runs = [d.bench(64, 64, 1000, 1000, "--warmup", "0") for _ in range(3)]
            tokens = ", ".join(f"{r['output_tokens_per_second']:.0f}" for r in runs)
            show(f"8B FP8, 64 streams, 1000 / 1000, {name}: tokens/s of three runs; inter-token p50 ms",
                 f"{tokens}; {ms(statistics.median(r['inter_token_latency_ms']['p50'] for r in runs))}", bar)


def ttft():
    with Llama(*FP8) as d:
        for tokens, bar in ((128, "7 / 4.5"), (2048, "34 / 29")):
            r = d.bench(1, 12, tokens, 2)
            show(f"8B FP8, one stream: TTFT p50 of {tokens} tokens, ms", ms(r["time_to_first_token_ms"]["p50"]), bar)


def small():
    with Daemon(QWEN, *SHORT) as d:
        runs = [d.bench(1, 4, 128, 256)["inter_token_latency_ms"]["p50"] for _ in range(3)]
        show("Qwen3-0.6B bf16: one stream, ms a token", ms(statistics.median(runs)), "0.9 / 0.55")
        r = d.bench(64, 192, 128, 128)
        show("Qwen3-0.6B bf16, 64 streams: inter-token p50 ms; tokens/s", f"{ms(r['inter_token_latency_ms']['p50'])}; {r['output_tokens_per_second']:.0f}")


def embed(dtypes=("float32", "float16")):
    for dtype in dtypes:
        with Daemon(MINILM, "--torch-dtype", dtype, serve=QUEUE) as d:
            r = d.bench(1, 200, 20, 1, "--mode", "embed")
            show(f"MiniLM {dtype}: one 20-token text a call, p50 ms", ms(r["latency_ms"]["p50"]), "1.5 / 0.7")
            for batch, concurrency in ((64, 8), (256, 8), (1024, 8)):
                calls = max(64, 131072 // batch)
                r = d.bench(concurrency, calls, 20, 1, "--mode", "embed", "--batch", str(batch))
                seconds = r["seconds"]
                show(f"MiniLM {dtype}: token ids, {batch} a call, {concurrency} calls, texts/s", f"{calls * batch / seconds:.0f}", "60000 / 150000")


TEXT = "the quick brown fox jumps over the lazy dog and runs far into the quiet green woods"  # 20 tokens in MiniLM


def text(tokenizers):
    """MiniLM by texts: its shape, with the tokenizer of the first folder named."""
    import transformers
    with tempfile.TemporaryDirectory(prefix="automodeld-minilm-") as name:
        folder = pathlib.Path(name) / "minilm"
        transformers.BertModel(transformers.BertConfig(**MINILM)).save_pretrained(folder)
        for file in pathlib.Path(tokenizers[0]).glob("*"):
            if file.name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
                shutil.copy(file, folder)
        with Daemon(serve=(*QUEUE, "--model-root", name)) as d:
            d.load("--model", "m", "--path", "minilm", "--torch-dtype", "float16")
            more = ("--mode", "embed", "--text", TEXT)
            r = d.bench(1, 200, 20, 1, *more)
            show("MiniLM float16: one text a call, p50 ms", ms(r["latency_ms"]["p50"]), "1.5 / 0.7")
            for batch, concurrency in ((64, 8), (64, 32), (256, 16)):
                r = d.bench(concurrency, 65536 // batch, 20, 1, *more, "--batch", str(batch))
                show(f"MiniLM float16: text, {batch} a call, {concurrency} calls, texts/s", f"{r['inputs_per_second']:.0f}", "25000 / 60000")


QUANTIZED = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {
    "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
    "input_activations": {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}}}}


def make_llama(folder, quantized):
    """LLAMA with random weights, in bfloat16 or quantised as llm-compressor does it."""
    import torch
    from safetensors.torch import save_file
    c = LLAMA
    h, inter, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * 128
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(c | ({"quantization_config": QUANTIZED} if quantized else {})))

    def random(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02

    def linear(name, *shape):
        weight = random(*shape)
        if not quantized:
            return {name + ".weight": weight.cpu()}
        scale = weight.float().abs().amax(1, keepdim=True) / 448
        return {name + ".weight": (weight / scale).to(torch.float8_e4m3fn).cpu(), name + ".weight_scale": scale.bfloat16().cpu()}

    weight_map = {}
    for first in range(0, 32, 4):
        shard, name = {}, f"model-{first // 4 + 1:05}-of-00009.safetensors"
        for i in range(first, first + 4):
            p = f"model.layers.{i}."
            for part, *shape in (("self_attn.q_proj", h, h), ("self_attn.k_proj", kv, h), ("self_attn.v_proj", kv, h),
                                 ("self_attn.o_proj", h, h), ("mlp.gate_proj", inter, h), ("mlp.up_proj", inter, h),
                                 ("mlp.down_proj", h, inter)):
                shard |= linear(p + part, *shape)
            for part in ("input_layernorm", "post_attention_layernorm"):
                shard[p + part + ".weight"] = (random(h) + 1).cpu()
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    last = {"model.embed_tokens.weight": random(c["vocab_size"], h).cpu(), "lm_head.weight": random(c["vocab_size"], h).cpu(),
            "model.norm.weight": (random(h) + 1).cpu()}
    save_file(last, folder / "model-00009-of-00009.safetensors")
    weight_map |= dict.fromkeys(last, "model-00009-of-00009.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def start():
    """With the model in the daemon's configuration: until the daemon is ready and a client that starts then has a token."""
    rowwise = {"fp8_config": {"recipe_name": FP8[1]}}
    for what, quantized, fields, bar in (("bf16 checkpoint, FP8 on load", False, rowwise, "4 / 2.5"),
                                         ("bf16 checkpoint, bf16", False, {}, ""), ("FP8 checkpoint", True, {}, "3 / 2")):
        config = llamas() / "serve.yaml"
        config.write_text(json.dumps({"models": [{"model": "m", "path": str(llama(quantized)),
                                                  "engine": {"max_model_len": int(SHORT[1])}, **fields}]}))
        times = []
        for _ in range(3):
            with Daemon(serve=("--config", str(config))) as d:
                d.call("health", "--wait", "60s")
                ready = time.monotonic() - d.start
                d.call("generate", "m", "--token-ids", "1,2,3", "--max-tokens", "1")
                times.append(time.monotonic() - d.start)
                report = json.loads(d.call("models", "m", "--json"))["report"]
        show(f"8B, {what}: process start to first token, s", f"{statistics.median(times):.2f}", bar)
        print("   all", [round(t, 2) for t in times], f"ready {ready:.2f};", report["bytes"], report["phases"], flush=True)


SECTIONS = {"ceiling": ceiling, "decode": decode, "streams": streams, "steps": steps, "long": long, "ttft": ttft,
            "small": small, "embed": embed, "text": text, "start": start}


def main():
    for name in sys.argv[1:] or [name for name in SECTIONS if name not in ("start", "text")]:
        base, _, kinds = name.partition("=")
        try:
            SECTIONS[base](*([kinds.split(",")] if kinds else []))
        except Exception as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
