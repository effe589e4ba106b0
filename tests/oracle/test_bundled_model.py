"""The bundled model, greedy, against transformers; and sampling that does not depend on neighbours."""

import pytest
import torch
import transformers

# The chosen logit leads the next by 0.007 or more over 256 tokens (deploy/models/kjv-6m/README.md).
PROMPTS = ["In the beginning God", "And it came to pass", "The LORD is my shepherd"]


@pytest.fixture(scope="module")
def model(bundled_model):
    return transformers.AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(bundled_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled_model)
    return [tokenizer(text)["input_ids"] for text in PROMPTS]


def test_256_greedy_tokens_equal_transformers(model, prompts, bundled_model, run_oracle):
    answers = run_oracle({"path": str(bundled_model), "torch_dtype": "float32"},
                         [dict(ids=ids, max_tokens=256) for ids in prompts])["answers"]
    for ids, answer in zip(prompts, answers):
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), max_new_tokens=256, min_new_tokens=256, do_sample=False,
                                 eos_token_id=None, attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        assert answer["ids"] == out[0, len(ids):].tolist()


def test_repetition_penalty_equals_transformers(model, prompts, bundled_model, run_oracle):
    asked = [dict(ids=ids, max_tokens=64, repetition_penalty=1.3) for ids in prompts]
    answers = run_oracle({"path": str(bundled_model), "torch_dtype": "float32"}, asked)["answers"]
    for ids, answer in zip(prompts, answers):
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), max_new_tokens=64, min_new_tokens=64, do_sample=False,
                                 eos_token_id=None, repetition_penalty=1.3,
                                 attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        assert answer["ids"] == out[0, len(ids):].tolist()


def test_the_same_seed_gives_the_same_tokens_whatever_else_runs(prompts, bundled_model, run_oracle):
    load = {"path": str(bundled_model), "torch_dtype": "float32"}
    asked = dict(ids=prompts[0], max_tokens=64, temperature=0.9, top_p=0.95, top_k=50, seed=7)
    neighbours = [dict(ids=prompts[i % 3], max_tokens=40 + i, temperature=1.2, seed=i) for i in range(15)]
    alone = run_oracle(load, [asked])["answers"][0]
    among = run_oracle(load, neighbours + [asked])["answers"][-1]
    other = run_oracle(load, [dict(asked, seed=8)])["answers"][0]
    assert alone["ids"] == among["ids"]
    assert alone["ids"] != other["ids"]
