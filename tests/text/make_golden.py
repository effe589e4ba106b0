#!/usr/bin/env python3
"""Writes golden.json: what transformers and tokenizers say, for golden_test.cc.

    .venv/bin/python tests/text/make_golden.py [--train]

The tokenizers are those of the golden.json there is. With --train, or if there is none, they are trained anew on a few
lines of text, which comes out a little different each time. The chat templates (templates/*.jinja) are written in the
manner of widely used ones. For the rest, the file is the same for the same versions of the two libraries, which it
names.
"""

import itertools
import json
import pathlib
import random
import sys

import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent

CORPUS = """In the beginning God created the heaven and the earth. And the earth was without form, and void; and
darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters. It's what they'll say:
we've seen 12345 stars! Größe, naïve café — über straße. 你好，世界。こんにちは 🙂🙃 👩‍👩‍👧 def f(x):\n    return x**2\n\n
isn't, don't, I'm; unaffable unhappiness; e-mail@example.org https://example.org/?q=1&r=2 <tag> [x] {y: "z"}""".split("\n")

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  leading and   inner blanks ",
    "In the beginning God created the heaven and the earth.",
    "It's what they'll say, isn't it? I'M HERE",
    "1234567 3.14 0x1F",
    "Größe naïve café über STRASSE",
    "cafe\u0301 (combining) ﬁ ligature ½ ①",
    "你好，世界。こんにちは",
    "🙂🙃👩‍👩‍👧 🇩🇪 \U0001f9d1\U0001f3fd‍\U0001f680",
    "def f(x):\n\treturn x ** 2\r\n\r\n\n    # done\n",
    "<s>written out</s> and <|end|> inside",
    "[CLS] is [SEP] a [MASK]",
    "\u00a0\u2003unusual\u200bspaces\ufeff",
    "zero\x00byte and \x7f",
    "a" * 300,
    "supercalifragilisticexpialidocious " * 3,
]

SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>"]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level() -> Tokenizer:
    """As Llama 3: byte-level BPE behind a regular expression, with ignore_merges."""
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


def byte_fallback() -> Tokenizer:
    """As Llama 2: sentencepiece's BPE over the whole text, with a token per byte."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    # Words keep to themselves in training only.
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL + bytes_, limit_alphabet=60, show_progress=False
    )
    t.train_from_iterator(CORPUS, trainer)
    saved = json.loads(t.to_str())
    saved["pre_tokenizer"] = None
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] in SPECIAL]
    t = Tokenizer.from_str(json.dumps(saved))
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


def unigram() -> Tokenizer:
    """As T5 and XLM-R: Unigram with Metaspace."""
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


def word_piece() -> Tokenizer:
    """As BERT, with the truncation and padding that sentence-transformers saves."""
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=320, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return t


TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "unigram": unigram, "word_piece": word_piece}


def in_one_order(tokenizer: Tokenizer) -> dict:
    """The library writes a vocabulary in any order; by id, the file is the same every time."""
    saved = json.loads(tokenizer.to_str())
    if isinstance(saved["model"]["vocab"], dict):
        saved["model"]["vocab"] = dict(sorted(saved["model"]["vocab"].items(), key=lambda item: item[1]))
    return saved


def encodings(name: str, tokenizer: Tokenizer) -> list[dict]:
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        rows.append(
            {
                "tokenizer": name,
                "text": text,
                "plain_ids": tokenizer.encode(text, add_special_tokens=False).ids,
                "ids": ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return rows


def decodings(name: str, tokenizer: Tokenizer) -> list[dict]:
    """Random ids. Runs of byte tokens are left out: there the library's answer is not kept (see text.h)."""
    rng = random.Random(7)
    ids = [i for i in range(tokenizer.get_vocab_size()) if not tokenizer.id_to_token(i).startswith("<0x")]
    rows = []
    for length in (1, 2, 3, 5, 8, 20, 60):
        for _ in range(3):
            some = [rng.choice(ids) for _ in range(length)]
            rows.append({"tokenizer": name, "ids": some, "decoded": tokenizer.decode(some, skip_special_tokens=True)})
    return rows


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Gets the weather <now> & later — in “°C”.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "It's a city's \"name\""},
                    "days": {"type": "integer", "minimum": 0, "default": 1.0},
                    "unit": {"enum": ["C", "F", None, True], "type": ["string", "null"]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
]

CALL = {"type": "function", "id": "abcdef123", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}

CHATS = {
    "one": [{"role": "user", "content": "Hello"}],
    "system": [
        {"role": "system", "content": "  You are terse.  "},
        {"role": "user", "content": "Hi <there> & \"you\" — it's 🙂\n"},
        {"role": "assistant", "content": "<think>\nshort\n</think>\n\n  Hello.  "},
        {"role": "user", "content": "1 < 2?"},
    ],
    "tool_call": [
        {"role": "user", "content": "Weather in Köln?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "{\"temp\": 7.5}", "tool_call_id": "abcdef123", "name": "get_weather"},
        {"role": "tool", "content": "[]", "tool_call_id": "abcdef124", "name": "stop"},
        {"role": "assistant", "content": "7.5 °C"},
        {"role": "user", "content": "Thanks"},
    ],
    "reasoning": [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4", "reasoning_content": "\nadd them\n"},
        {"role": "user", "content": "3+3"},
        {"role": "assistant", "content": "6", "reasoning_content": "again"},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what?"}]},
    ],
    "wrong_order": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "starts_with_assistant": [{"role": "assistant", "content": "a"}],
    "empty": [],
}

EXTRAS = [{}, {"enable_thinking": False, "date": 1e22, "flag": True}]


def chats(tokenizer: Tokenizer) -> list[dict]:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    rows = []
    sources = {path.stem: path.read_text() for path in sorted((HERE / "templates").glob("*.jinja"))}
    for template, chat, tools, extra, prompt in itertools.product(sources, CHATS, (None, TOOLS), EXTRAS, (True, False)):
        if (extra and chat not in ("one", "reasoning")) or bool(extra) == prompt:
            continue
        row = {"template": template, "chat": chat, "tools": tools is not None, "extra": extra, "add_generation_prompt": prompt}
        try:
            row["prompt"] = fast.apply_chat_template(
                CHATS[chat], chat_template=sources[template], tools=tools, add_generation_prompt=prompt, tokenize=False, **extra
            )
        except Exception as error:  # whatever a template does wrong is a row of its own
            row["error"] = str(error)
        rows.append(row)
    return rows


def trained_or_kept() -> dict[str, Tokenizer]:
    path = HERE / "golden.json"
    if "--train" in sys.argv or not path.exists():
        return {name: make() for name, make in TOKENIZERS.items()}
    made = {name: Tokenizer.from_str(json.dumps(saved)) for name, saved in json.loads(path.read_text())["tokenizers"].items()}
    for tokenizer in made.values():
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return made


def main() -> None:
    made = trained_or_kept()
    golden = {
        "made_by": f"tests/text/make_golden.py, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}",
        "tokenizers": {},
        "encodings": [],
        "decodings": [],
        "tools": TOOLS,
        "chats": CHATS,
        "rendered": chats(made["byte_level"]),
    }
    for name, tokenizer in made.items():
        golden["encodings"] += encodings(name, tokenizer)
        golden["decodings"] += decodings(name, tokenizer)
        if name == "word_piece":
            tokenizer.enable_truncation(8)
            tokenizer.enable_padding(length=16, pad_token="[PAD]")
        golden["tokenizers"][name] = in_one_order(tokenizer)
    text = json.dumps(golden, ensure_ascii=False, indent=None, separators=(",", ":"))
    # A line per row keeps the differences of two versions readable.
    text = text.replace('},{"', '},\n{"').replace(',"encodings":', ',\n"encodings":').replace(',"rendered":', ',\n"rendered":')
    (HERE / "golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
