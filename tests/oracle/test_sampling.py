"""logit_bias, penalties and min_tokens against five lines of Python on transformers' logits; and what the draws of
sampling do not depend on."""

from collections import Counter

import pytest
import torch

from checkpoints import save_decoder
from reference import Reference, check_logits

VOCAB = 331
COUNT = 20  # tokens of a completion


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling")
    return Reference(folder, save_decoder("llama", "odd", folder), lengths=(7, 33, 100))


def adjust(logits, prompt, completion, params):
    """In vLLM's order: bias, the penalties, then the tokens that may not come yet."""
    for token, bias in params.get("logit_bias", []):
        logits[token] += bias
    seen = list(set(prompt + completion)) if "repetition_penalty" in params else []
    r = params.get("repetition_penalty", 1.0)
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / r, logits[seen] * r)
    for token, count in Counter(completion).items():
        logits[token] -= count * params.get("frequency_penalty", 0.0) + params.get("presence_penalty", 0.0)
    if len(completion) < params.get("min_tokens", 0):
        logits[params["stop_token_ids"]] = -torch.inf
    return logits


def expected(model, prompt, asked, count):
    """For each of `asked`, parameters: greedy tokens, step by step, and transformers' own logits of those steps."""
    completions, rows = [[] for _ in asked], [[] for _ in asked]
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + c for c in completions])).logits[:, -1].double()
        for params, completion, seen, row in zip(asked, completions, rows, logits):
            seen.append(row)
            first, second = adjust(row.clone(), prompt, completion, params).topk(2)[0]
            assert first - second > 1e-4, "too close for float32: another prompt or seed is needed"
            completion.append(int(adjust(row.clone(), prompt, completion, params).argmax()))
    for params, completion, seen in zip(asked, completions, rows):
        length = length_until_stop(completion, params.get("stop_token_ids", []))
        yield completion[:length], torch.stack(seen[:length])


def length_until_stop(completion, stops):
    return next((i + 1 for i, token in enumerate(completion) if token in stops), len(completion))


def check(checkpoint, run_oracle, asked, engine=None):
    """Each of `asked`, parameters, for every prompt, all in one batch."""
    load = {"path": checkpoint.folder, "engine": engine or {}}
    pairs = [(ids, params) for ids in checkpoint.prompts for params in asked]
    result = run_oracle(load, [dict(ids=ids, max_tokens=COUNT, logprobs=VOCAB, **params) for ids, params in pairs])
    wanted = [answer for ids in checkpoint.prompts for answer in expected(checkpoint.model, ids, asked, COUNT)]
    for (_, params), (tokens, logits), answer in zip(pairs, wanted, result["answers"], strict=True):
        assert answer["ids"] == tokens, params
        check_logits(answer, tokens, logits, params)  # those of the model itself, whatever was added and masked
    return result


PENALTIES = [
    dict(repetition_penalty=1.3),
    dict(repetition_penalty=0.8),
    dict(presence_penalty=1.5),
    dict(presence_penalty=-1.5),
    dict(frequency_penalty=0.7),
    dict(frequency_penalty=-0.7),
    dict(repetition_penalty=1.2, presence_penalty=0.9, frequency_penalty=0.4),
    dict(repetition_penalty=1.2, frequency_penalty=0.4, logit_bias=[[5, 3.0], [6, -3.0], [7, 6.0]]),
]


def test_penalties_equal_five_lines_of_python(checkpoint, run_oracle):
    check(checkpoint, run_oracle, PENALTIES)


def test_penalties_count_a_prompt_that_comes_in_chunks(checkpoint, run_oracle):
    check(checkpoint, run_oracle, [PENALTIES[0], PENALTIES[6]], {"max_num_batched_tokens": 16, "max_num_seqs": 8})


PAGE = 16 * 2 * 8 * 2 * 4 * 3  # of the cache: tokens, heads, their width, key and value, bytes, layers
TIGHT = {"max_model_len": 128, "kv_cache_bytes": 10 * PAGE}


def test_penalties_are_counted_again_after_preemption(checkpoint, run_oracle):
    assert check(checkpoint, run_oracle, [PENALTIES[0], PENALTIES[6]], TIGHT)["preemptions"] > 0


def test_a_bias_of_100_forces_a_token_and_of_minus_100_bans_it(checkpoint, run_oracle):
    usual = checkpoint.greedy[0][0][0]  # of the first prompt
    asked = [dict(logit_bias=[[17, 100.0]]), dict(logit_bias=[[usual, -100.0]]),
             dict(logit_bias=[[usual, -100.0], [17, 100.0], [18, 50.0]])]
    check(checkpoint, run_oracle, asked)
    for temperature in (0.0, 1.0):
        answers = run_oracle({"path": checkpoint.folder}, [
            dict(ids=checkpoint.prompts[0], max_tokens=COUNT, temperature=temperature, **p) for p in asked])["answers"]
        assert answers[0]["ids"] == answers[2]["ids"] == [17] * COUNT
        assert len(answers[1]["ids"]) == COUNT and usual not in answers[1]["ids"]


def test_a_stop_token_ends_a_completion_and_is_its_last(checkpoint, run_oracle):
    stop = checkpoint.greedy[0][0][0]
    answers = check(checkpoint, run_oracle, [dict(stop_token_ids=[stop])])["answers"]
    assert answers[0]["ids"] == [stop] and answers[0]["finish"] == "stop"


def test_a_stop_token_is_masked_until_min_tokens(checkpoint, run_oracle):
    """Even one that a bias makes the likeliest by far: it comes at once when it may."""
    stops = [checkpoint.greedy[0][0][0], 3]
    asked = [dict(stop_token_ids=stops, min_tokens=n, logit_bias=[[stops[0], 100.0], [3, 90.0]]) for n in (0, 1, 9)]
    asked += [dict(stop_token_ids=stops, min_tokens=COUNT), dict(stop_token_ids=stops, min_tokens=9)]
    answers = check(checkpoint, run_oracle, asked)["answers"]
    for params, answer in zip(asked * len(checkpoint.prompts), answers):
        earlier = answer["ids"][:params["min_tokens"]]
        assert len(earlier) == params["min_tokens"] and not set(earlier) & set(stops)
        if "logit_bias" in params:
            assert answer["ids"] == [*earlier, stops[0]] and answer["finish"] == "stop"
        elif params["min_tokens"] == COUNT:
            assert len(answer["ids"]) == COUNT and answer["finish"] == "length"


def test_what_leaves_one_token_is_greedy(checkpoint, run_oracle):
    alone = [dict(top_k=1), dict(top_p=1e-6), dict(min_p=1.0), dict(temperature=1e-4), dict(temperature=1e-30)]
    asked = [dict(ids=ids, max_tokens=16, **{"temperature": 1.5, "seed": seed, **params})
             for params in alone for seed in (1, 2) for ids in checkpoint.prompts]
    answers = run_oracle({"path": checkpoint.folder}, asked)["answers"]
    expected = [tokens for tokens, _ in checkpoint.greedy] * (len(asked) // 3)
    assert [a["ids"] for a in answers] == expected


def test_top_k_draws_from_the_k_likeliest_alone(checkpoint, run_oracle):
    asked = [dict(ids=checkpoint.prompts[1], max_tokens=1, temperature=20.0, top_k=3, seed=s) for s in range(64)]
    drawn = Counter(a["ids"][0] for a in run_oracle({"path": checkpoint.folder}, asked)["answers"])
    assert set(drawn) == set(checkpoint.greedy[1][1][0].topk(3)[1].tolist())


def test_a_seed_gives_the_same_tokens_alone_and_among_63_others(bundled_model, run_oracle):
    """64 rows at a time take other linears than one row does."""
    generator = torch.Generator().manual_seed(3)
    asked = [dict(ids=torch.randint(2, 4096, (1 + 3 * i,), generator=generator).tolist(),
                  max_tokens=32, temperature=0.8, seed=1000 + i) for i in range(64)]
    load = {"path": str(bundled_model), "torch_dtype": "float32"}
    among = run_oracle(load, asked)["answers"]
    alone = run_oracle(load, asked[::4], together=False)["answers"]
    assert [a["ids"] for a in among[::4]] == [a["ids"] for a in alone]
    assert len({tuple(a["ids"]) for a in among}) == 64


def test_a_seed_gives_the_same_tokens_after_preemption_and_in_chunks(checkpoint, run_oracle):
    asked = [dict(ids=ids, max_tokens=COUNT, temperature=0.8, seed=seed)
             for seed in range(3) for ids in checkpoint.prompts]
    usual = run_oracle({"path": checkpoint.folder}, asked)
    preempted = run_oracle({"path": checkpoint.folder, "engine": TIGHT}, asked)
    chunked = run_oracle({"path": checkpoint.folder, "engine": {"max_num_batched_tokens": 16}}, asked)
    assert preempted["preemptions"] > 0
    assert usual["answers"] == preempted["answers"] == chunked["answers"]


def test_the_seed_alone_tells_completions_of_a_prompt_apart(bundled_model, run_oracle):
    asked = [dict(ids=[1, 300, 20, 7], max_tokens=32, temperature=0.8, seed=seed)
             for seed in [*range(8), *range(8), 2**64 - 1]]
    answers = [a["ids"] for a in run_oracle({"path": str(bundled_model), "torch_dtype": "float32"}, asked)["answers"]]
    assert answers[:8] == answers[8:16]
    assert len({tuple(a) for a in answers}) == 9
