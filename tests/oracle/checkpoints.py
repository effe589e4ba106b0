"""Small random checkpoints, four shapes per architecture: odd sizes, grouped queries, tied or not, sharded or not."""

import torch
import transformers

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3"]

SHAPES = {
    # hidden, layers, heads, kv heads, intermediate, vocab, tied, shards
    "odd": dict(hidden=48, layers=3, heads=6, kv=2, intermediate=92, vocab=331, tied=False, shard="1GB"),
    "tied": dict(hidden=64, layers=2, heads=4, kv=4, intermediate=128, vocab=257, tied=True, shard="40KB"),
    "gqa": dict(hidden=80, layers=2, heads=5, kv=1, intermediate=176, vocab=512, tied=False, shard="60KB"),
    "wide": dict(hidden=256, layers=2, heads=4, kv=2, intermediate=512, vocab=512, tied=False, shard="1GB"),
}


def decoder_config(architecture, shape):
    s = SHAPES[shape]
    common = dict(
        hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
        num_key_value_heads=s["kv"], intermediate_size=s["intermediate"], vocab_size=s["vocab"],
        max_position_embeddings=512, tie_word_embeddings=s["tied"], initializer_range=0.2,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=64, rope_theta=5e5)
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=1e4)
    extra = {
        ("llama", "odd"): dict(attention_bias=True, mlp_bias=True),
        ("llama", "tied"): dict(rope_parameters=llama3, head_dim=32),
        ("llama", "gqa"): dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=1e4)),
        ("mistral", "odd"): dict(sliding_window=16),
        ("mistral", "gqa"): dict(sliding_window=None),
        ("qwen2", "odd"): dict(use_sliding_window=True, sliding_window=24, max_window_layers=1),
        ("qwen2", "tied"): dict(rope_parameters=yarn),
        ("qwen3", "odd"): dict(head_dim=32, attention_bias=True),
        ("qwen3", "tied"): dict(use_sliding_window=False, sliding_window=8),
    }
    config_class = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig,
                    "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[architecture]
    return config_class(**common, **extra.get((architecture, shape), {}))


def save_decoder(architecture, shape, folder, **changes):
    """A random checkpoint in `folder`, with `changes` of its configuration; gives the transformers model."""
    config = decoder_config(architecture, shape)
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomize_vectors(model)
    model.save_pretrained(folder, max_shard_size=SHAPES[shape]["shard"])
    return model


def save_bert(shape, folder, model_class=transformers.BertModel):
    s = SHAPES[shape]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
        intermediate_size=s["intermediate"], vocab_size=s["vocab"], max_position_embeddings=300,
        initializer_range=0.2, hidden_act={"odd": "gelu", "tied": "gelu_new", "gqa": "relu", "wide": "silu"}[shape])
    model = model_class(config).float().eval()
    randomize_vectors(model)
    model.save_pretrained(folder, max_shard_size=s["shard"])
    return model


def randomize_vectors(model):
    """Norm weights and biases begin as ones and zeros, which would hide a mix-up."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
