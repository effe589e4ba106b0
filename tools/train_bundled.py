#!/usr/bin/env python3
"""Trains the bundled model, deploy/models/kjv-6m, and measures it again from its saved files.

    apt-get install bible-kjv-text
    python tools/train_bundled.py train --out /tmp/kjv-6m        # a GPU: two minutes
    python tools/train_bundled.py evaluate deploy/models/kjv-6m  # a CPU is enough

`train` reads the King James Bible from Debian's package, trains a byte-level BPE tokenizer and a Llama-architecture
language model on it, rounds the weights to bfloat16 and writes a folder as Hugging Face lays it out.
`evaluate` loads such a folder with transformers, an implementation independent of the one trained here, and prints
its held-out loss, samples, and by how much its greedy choices led.

Of the 1189 chapters, every 40th from the 11th is for validation (settings were chosen by it) and every 40th from the
31st is held out (only measured). The tokenizer and the weights see neither.
"""

import argparse
import json
import math
import random
import re
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional as F

from bible import prose, read_chapters, split

EOS, BOS, SYSTEM, USER, ASSISTANT = SPECIAL = ["<|endoftext|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, EPS, THETA = 256, 6, 4, 2, 64, 704, 4096, 1e-5, 10000.0
MAX_POSITIONS = 2048
CONFIG = {  # the keys of transformers 5 and, where it renamed one, of 4 too
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": SPECIAL.index(BOS), "dtype": "float32", "eos_token_id": SPECIAL.index(EOS), "head_dim": HEAD_DIM,
    "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": INNER,
    "max_position_embeddings": MAX_POSITIONS, "mlp_bias": False, "model_type": "llama", "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS, "pad_token_id": SPECIAL.index(EOS),
    "pretraining_tp": 1, "rms_norm_eps": EPS, "rope_parameters": {"rope_theta": THETA, "rope_type": "default"},
    "rope_theta": THETA, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True, "vocab_size": VOCAB,
}


def chat(chapter, rng):
    """A short exchange about a passage: read it, go on from its first words, or tell of one of its words."""
    verses = chapter["verses"]
    begin = rng.randrange(len(verses))
    passage = " ".join(verses[begin : begin + rng.randint(2, 8)])
    kind = rng.randrange(3)
    if kind == 0:
        passage = " ".join(verses[: rng.randint(4, 10)])
        question = f"Read {chapter['title']}."
    elif kind == 1:
        words = passage.split(" ")
        cut = rng.randint(3, max(3, min(24, len(words) - 4)))
        question, passage = " ".join(words[:cut]), " ".join(words[cut:])
    else:
        names = re.findall(r"(?<=[a-z] )[A-Z][a-z]{3,}", passage)
        question = f"Tell me of {rng.choice(names or re.findall(r'[a-z]{5,}', passage) or ['God'])}."
    system = f"{SYSTEM}Answer in the words of the King James Bible.{EOS}" if rng.random() < 0.25 else ""
    return f"{system}{USER}{question}{EOS}{ASSISTANT}{passage}"


LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    begin = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return tokenizer


def documents(tokenizer, texts):
    """Each text as a tensor of ids, <|bos|> before and <|endoftext|> after it."""
    return [torch.tensor(e.ids) for e in tokenizer.encode_batch([text + EOS for text in texts])]


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)
        self.dropout = dropout

    def forward(self, x, cos, sin):
        split_heads = lambda t: t.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        q, k, v = split_heads(self.q_proj(x)), split_heads(self.k_proj(x)), split_heads(self.v_proj(x))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        dropout = self.dropout * self.training
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(-2))


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.self_attn = Attention(dropout)
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.mlp = Mlp()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, cos, sin):
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Llama(nn.Module):
    """Llama under transformers' parameter names, with dropout on the embeddings and on every branch."""

    def __init__(self, dropout):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                branch_end = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * len(self.layers)) if branch_end else 0.02)
        inverse = THETA ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(MAX_POSITIONS), inverse).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids):  # [batch, tokens] -> logits [batch, tokens, vocab]
        x = self.dropout(self.embed_tokens(ids))
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def epoch_rows(chapter_ids, chat_ids, context, rng):
    """Rows [n, context + 1] of one epoch: all documents, shuffled and joined; every row begins with <|bos|>."""
    mixed = chapter_ids + chat_ids
    rng.shuffle(mixed)
    stream = torch.cat(mixed)
    stream = torch.roll(stream, rng.randrange(len(stream)))
    rows = stream[: len(stream) // context * context].view(-1, context)
    return torch.cat([torch.full((len(rows), 1), CONFIG["bos_token_id"]), rows], dim=1)


def learning_rate(step, steps, peak, warmup=200):
    decay = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) if step > warmup else 1.0
    return peak * min(decay, (step + 1) / warmup)


def optimizer_for(model, weight_decay, on_cuda):
    matrices, norms = ([p for p in model.parameters() if p.dim() == d] for d in (2, 1))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=on_cuda)


@torch.no_grad()
def mean_loss(logits_of, docs, device):
    """Nats per token over whole documents, everything after <|bos|> predicted, in windows of the model's length."""
    nats, tokens = 0.0, 0
    for doc in docs:
        for window in doc.split(MAX_POSITIONS):
            window = window.to(device)[None]
            if window.shape[1] > 1:
                nats += F.cross_entropy(logits_of(window[:, :-1])[0].float(), window[0, 1:], reduction="sum").item()
                tokens += window.shape[1] - 1
    return nats / tokens, nats


def epochs_of(chapters, tokenizer, context, rng):
    """Endless epochs of rows: every chapter, and exchanges about a third of them, made anew each time."""
    chapter_ids = documents(tokenizer, map(prose, chapters))
    while True:
        chat_ids = documents(tokenizer, [chat(c, rng) for c in rng.sample(chapters, len(chapters) // 3)])
        yield epoch_rows(chapter_ids, chat_ids, context, rng)


def train_step(model, optimizer, batch, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(batch.device.type, torch.bfloat16):
        logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def train(args):
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    training, validation, _ = split(read_chapters(args.bible))
    tokenizer = train_tokenizer([prose(c) for c in training])
    validation_ids = documents(tokenizer, map(prose, validation))
    model = Llama(args.dropout).to(device)
    optimizer = optimizer_for(model, args.weight_decay, device == "cuda")
    epochs = epochs_of(training, tokenizer, args.context, random.Random(args.seed))
    steps = args.epochs * (len(next(epochs)) // args.batch)  # an epoch's length varies by a row or two
    last = args.max_steps or steps
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {steps} steps, {where}", flush=True)
    step, epoch = 0, 0
    while step < last and epoch < args.epochs:
        rows, epoch = next(epochs).to(device), epoch + 1
        batches = rows[torch.randperm(len(rows)).to(device)].split(args.batch)
        for batch in [b for b in batches if len(b) == args.batch][: last - step]:
            loss = train_step(model, optimizer, batch, learning_rate(step, steps, args.lr))
            step += 1
        if epoch % 5 == 0 or epoch == args.epochs or step == last:
            now, _ = mean_loss(model.eval(), validation_ids, device)
            model.train()
            print(f"epoch {epoch} step {step} training {loss.item():.4f} validation {now:.4f} "
                  f"{time.monotonic() - started:.0f} s", flush=True)
    save(args.out, model, tokenizer)
    print(json.dumps({"tokens_seen": step * args.batch * args.context, "seed": args.seed,
                      "seconds": round(time.monotonic() - started, 1)}), flush=True)
    report_loss(args.out, model.eval().cpu(), args.bible)


def save(folder, model, tokenizer):
    """Rounds the model's weights to bfloat16, in place too, and writes the folder."""
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    rounded = {f"model.{name}": p.detach().bfloat16().cpu().contiguous() for name, p in model.named_parameters()}
    model.load_state_dict({name.removeprefix("model."): w.float() for name, w in rounded.items()})
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    generation = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation |= {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
    tokenizer_config = {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                            "single_word": False, "special": True} for t in SPECIAL},
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "bos_token": BOS, "clean_up_tokenization_spaces": False, "eos_token": EOS, "pad_token": EOS,
        "model_max_length": MAX_POSITIONS, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {"config": CONFIG, "generation_config": generation, "tokenizer_config": tokenizer_config}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def measure(folder, logits_of, chapters):
    """The loss on the chapters, per token and in bits per byte of text, with the counts it was taken over."""
    texts = [prose(c) for c in chapters]
    docs = documents(Tokenizer.from_file(str(Path(folder) / "tokenizer.json")), texts)
    loss, nats = mean_loss(logits_of, docs, "cpu")
    tokens, size = sum(map(len, docs)) - len(docs), sum(len(t.encode()) for t in texts)
    return {"chapters": len(chapters), "tokens": tokens, "bytes": size, "nats_per_token": round(loss, 4),
            "bits_per_byte": round(nats / math.log(2) / size, 4)}


def report_loss(folder, logits_of, bible):
    """Prints the losses on the chapters set aside."""
    for name, chapters in zip(("validation", "held-out"), split(read_chapters(bible))[1:]):
        print(json.dumps({"set": name, **measure(folder, logits_of, chapters)}))


PROMPTS = ["In the beginning God", "And it came to pass", "The LORD is my shepherd", "Psalm 151\n\n"]
QUESTIONS = ["Tell me of Solomon.", "Tell me of wisdom."]


def evaluate(args):
    from transformers import AutoModelForCausalLM, AutoTokenizer  # here, so that training needs no transformers

    model = AutoModelForCausalLM.from_pretrained(args.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    report_loss(args.folder, lambda ids: model(ids).logits, args.bible)
    as_chat = lambda text: tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
    for prompt in [BOS + p for p in PROMPTS] + [as_chat(q) for q in QUESTIONS]:
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        given = {"inputs": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": args.tokens}
        torch.manual_seed(1611)
        print(f"\n== as generation_config.json says\n{tokenizer.decode(model.generate(**given)[0])}")
        out = model.generate(**given, do_sample=False, output_logits=True, return_dict_in_generate=True)
        first, second = torch.cat(out.logits).topk(2).values.T
        print(f"\n== greedy, smallest lead {(first - second).min():.4f}\n{tokenizer.decode(out.sequences[0])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    t, e = (commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
            for name in ("train", "evaluate"))
    t.set_defaults(run=train)
    e.set_defaults(run=evaluate)
    t.add_argument("--out", required=True, help="folder to write")
    t.add_argument("--epochs", type=int, default=40)
    t.add_argument("--batch", type=int, default=16, help="rows a step")
    t.add_argument("--context", type=int, default=1024, help="tokens a row")
    t.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    t.add_argument("--dropout", type=float, default=0.25)
    t.add_argument("--weight-decay", type=float, default=0.5)
    t.add_argument("--seed", type=int, default=1611)
    t.add_argument("--max-steps", type=int, default=0, help="stop early, to try the script (0: no limit)")
    e.add_argument("folder")
    e.add_argument("--tokens", type=int, default=256, help="tokens a sample")
    for command in (t, e):
        command.add_argument("--bible", default="/usr/lib/bible.data", help="the data file of bible-kjv-text")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
