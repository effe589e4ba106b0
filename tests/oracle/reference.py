"""What transformers says of a checkpoint, and how ours is compared with it."""

import json

import torch
import transformers

LENGTHS = [1, 7, 33, 100]


class Reference:
    """A decoder in a folder; what `model` makes of a prompt of each of `lengths`, greedily, `count` tokens long."""

    def __init__(self, folder, model, lengths=(7, 33), count=16):
        self.folder = str(folder)
        self.model = model
        self.prompts = prompts(model, lengths)
        self.greedy = [greedy(model, ids, count) for ids in self.prompts]

    def requests(self):
        """Greedy requests that ask for the log probability of every token."""
        vocab = self.model.config.vocab_size
        return [dict(ids=ids, max_tokens=len(tokens), logprobs=vocab)
                for ids, (tokens, _) in zip(self.prompts, self.greedy)]

    def check(self, answers):
        """The same tokens, and logits within 1e-4 relative."""
        assert len(answers) == len(self.prompts)
        for ids, (tokens, logits), answer in zip(self.prompts, self.greedy, answers):
            assert answer["ids"] == tokens
            check_logits(answer, tokens, logits, f"prompt of {len(ids)}")


def check_logits(answer, tokens, logits, what):
    """`logits`: [steps, vocab] as transformers has them. Ours come as log probabilities, which are logits less a number
    of each row; without the row's mean both are the same numbers, and no common offset widens the relative bound."""
    vocab = logits.shape[-1]
    assert len(answer["logprobs"]) == len(answer["chosen"]) == len(tokens)
    got = torch.tensor([[row[str(i)] for i in range(vocab)] for row in answer["logprobs"]], dtype=torch.double)
    error = (centred(got) - centred(logits)).norm(dim=-1) / centred(logits).norm(dim=-1)
    assert error.max() < 1e-4, f"{what}, token {error.argmax()}: relative error {error.max():.2e}"
    assert answer["chosen"] == [row[str(token)] for row, token in zip(answer["logprobs"], tokens)]
    assert (got.logsumexp(-1).abs() < 1e-5).all()  # probabilities, each rounded to float32


def centred(logits):
    return logits - logits.mean(-1, keepdim=True)


def prompts(model, lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def greedy(model, ids, count):
    """Greedy tokens of transformers' own forward, and the logits [count, vocab] they were taken from."""
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                             attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        logits = model(out).logits[0, len(ids) - 1:-1]
    return out[0, len(ids):].tolist(), logits.double()


def logits_differ(a, b):
    """Whether two models tell a long prompt apart: else a test that one of them is equalled would show nothing."""
    ids = torch.tensor([prompts(a, [100])[0]])
    with torch.no_grad():
        return not torch.allclose(a(ids).logits, b(ids).logits, rtol=1e-2, atol=1e-2)


def edit_config(folder, drop=(), **changes):
    """Rewrites config.json by hand, as files from elsewhere look."""
    file = folder / "config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k not in drop}
    file.write_text(json.dumps({**config, **changes}))


def load_decoder(folder, **changes):
    """transformers' model of a folder, with `changes` of its configuration."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **changes).eval()
