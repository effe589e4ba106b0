// Generated from proto/automodeld/v1/*.proto; see field_help.h.
#include "server/field_help.h"

#include <algorithm>

#include "automodeld/v1/inference.pb.h"
#include "automodeld/v1/models.pb.h"

namespace automodeld {
namespace {

struct Row {
  const char* field;
  const char* help;
};

// clang-format off
const Row kRows[] = {
    {"automodeld.v1.LoadModelRequest.model",
     "Name to serve it by, 1..128 characters of [A-Za-z0-9._/:@+-]. Default: the last part of `path`; with `config_json` it must be given."},
    {"automodeld.v1.LoadModelRequest.path",
     "Checkpoint folder beneath --model-root, or the id of a model in Hugging Face\'s cache there (\"Qwen/Qwen3-0.6B\"; nothing is downloaded). 1..4096 bytes. Links and \"..\" may not lead out of the root; a folder that holds a link to another folder, or more than 10000 files, is refused."},
    {"automodeld.v1.LoadModelRequest.config_json",
     "Text of a config.json; weights are random, drawn from `seed`. There is no tokenizer then: the model takes token_ids. 1 byte..1 MiB."},
    {"automodeld.v1.LoadModelRequest.auto_class",
     "Task to open the checkpoint for. Default: AUTO_CLASS_AUTO."},
    {"automodeld.v1.LoadModelRequest.use_liger_kernel",
     "Replace RMSNorm, LayerNorm, RoPE, SwiGLU/GeGLU and sampling by fused kernels where the device has them. Default: true."},
    {"automodeld.v1.LoadModelRequest.use_sdpa_patching",
     "Under attn_implementation \"sdpa\" try the methods of `sdpa_method`; false: libtorch chooses. Default: true."},
    {"automodeld.v1.LoadModelRequest.sdpa_method",
     "Order in which SDPA methods are tried; the first that fits head size, type, mask and device is taken, and where none does, libtorch chooses. At most 4, none twice. Default: CUDNN_ATTENTION, FLASH_ATTENTION, EFFICIENT_ATTENTION, MATH."},
    {"automodeld.v1.LoadModelRequest.torch_dtype",
     "Type of weights and activations: \"auto\" (config.json\'s, else that of the first stored float), \"float32\" or \"float\", \"float16\" or \"half\", \"bfloat16\" or \"bf16\"; in any case, with or without \"torch.\". Default: \"auto\"."},
    {"automodeld.v1.LoadModelRequest.attn_implementation",
     "Attention backend: \"flash_attention_2\", \"sdpa\" or \"eager\"; falls back in that order. Default: \"flash_attention_2\"."},
    {"automodeld.v1.LoadModelRequest.fp8_config",
     "Convert linear weights to FP8. Default: absent, no conversion. This version falls back to none."},
    {"automodeld.v1.LoadModelRequest.config_overrides",
     "JSON object merged into config.json before it is read; a key that the architecture does not read is refused. At most 1 MiB. Default: empty, nothing is changed."},
    {"automodeld.v1.LoadModelRequest.revision",
     "Branch, tag or commit, where `path` is the id of a model in the layout of Hugging Face\'s cache. At most 256 bytes. Default: empty, which is \"main\"."},
    {"automodeld.v1.LoadModelRequest.seed",
     "Seed of random weights; only with `config_json`. Any value. Default: 0."},
    {"automodeld.v1.LoadModelRequest.device",
     "\"auto\" (a GPU if there is one), \"cpu\", \"cuda\" or \"cuda:N\". Default: \"auto\"."},
    {"automodeld.v1.LoadModelRequest.op_overrides",
     "Operation name -> name of an operation of the same signature that a library of --op-library has registered, such as \"rms_norm\": \"mycorp::rms_norm\". It takes the place of the eager or fused one. Refused: an operation that the architecture does not call, a name that is not registered, another signature, other results than eager\'s at this model\'s shapes. Default: none."},
    {"automodeld.v1.LoadModelRequest.allow_fallback",
     "Take the next best way where a step fails, and report it; false: any fallback is FAILED_PRECONDITION. Default: true."},
    {"automodeld.v1.LoadModelRequest.allow_unread_tensors",
     "Load although the checkpoint has tensors that nobody reads; they are reported. Default: false, but for tensors that the architecture is known not to need."},
    {"automodeld.v1.LoadModelRequest.engine",
     "Limits of the engine. Default: absent, every field\'s default."},
    {"automodeld.v1.LoadModelRequest.check_only",
     "Plan, check every tensor\'s name, shape and type and whether memory holds it, report, and load nothing; the name may be taken. Default: false."},
    {"automodeld.v1.Fp8Config.recipe_name",
     "How weights are scaled: \"tensorwise\" (also if empty), \"rowwise\" or \"rowwise_with_gw_hp\". Default: \"tensorwise\"."},
    {"automodeld.v1.Fp8Config.filter_fqns",
     "Linears whose fully qualified name contains one of these are kept as they are. At most 256 names, none empty. Default: none."},
    {"automodeld.v1.Fp8Config.emulate",
     "Multiply exactly instead of by the device\'s FP8 GEMM: the same numbers on every device, but slowly. Default: false."},
    {"automodeld.v1.Fp8Config.include_lm_head",
     "Convert lm_head too; one that is tied to the embedding gets a copy of its own. Default: false."},
    {"automodeld.v1.EngineConfig.max_model_len",
     "Longest prompt plus completion, tokens, 1..max_position_embeddings of the checkpoint, at most 1048576. Default: the most; for an encoder no more than its tokenizer\'s model_max_length."},
    {"automodeld.v1.EngineConfig.max_num_seqs",
     "Most sequences in one step, 1..4096. Default: 256; for an encoder on a GPU 4096."},
    {"automodeld.v1.EngineConfig.max_num_batched_tokens",
     "Most tokens in one step, 1..1048576; for an encoder at least max_model_len. Default: 2048, or that if it is more; for an encoder on a GPU up to 16384, as far as its memory goes."},
    {"automodeld.v1.EngineConfig.kv_cache_dtype",
     "Type of the KV cache: \"auto\" (the model\'s), \"float32\", \"float16\", \"bfloat16\" or \"float8_e4m3\" (also \"fp8\", \"fp8_e4m3\"), with any type of model, on every device. Default: \"auto\". \"float8_e4m3\" holds a token in half the memory of a 16-bit type and keeps keys and values to four significant bits."},
    {"automodeld.v1.EngineConfig.kv_cache_bytes",
     "Most bytes the KV cache may take, 1 and up, enough for one sequence of max_model_len. It never takes more than max_num_seqs such sequences need. Default: of the memory that the weights leave a quarter on the CPU and three quarters on a GPU, or one sequence if that is more."},
    {"automodeld.v1.EngineConfig.enable_prefix_caching",
     "Reuse KV pages of equal prompt beginnings. Default: false. True is UNIMPLEMENTED in this version."},
    {"automodeld.v1.EngineConfig.enforce_eager",
     "Launch every kernel by itself, as a step without CUDA graphs does: slower, for comparing. Default: false. No effect on the CPU."},
    {"automodeld.v1.GenerateRequest.model",
     "Name of a loaded model. Must be given."},
    {"automodeld.v1.GenerateRequest.text",
     "Text, UTF-8, 1 byte..8 MiB."},
    {"automodeld.v1.GenerateRequest.token_ids",
     "Tokens, used as they are."},
    {"automodeld.v1.GenerateRequest.chat",
     "A conversation, for models with a chat template."},
    {"automodeld.v1.GenerateRequest.sampling",
     "How to choose tokens and when to end. Default: absent, every field\'s default."},
    {"automodeld.v1.GenerateRequest.priority",
     "Higher is served first, -100..100. Default: 0."},
    {"automodeld.v1.SamplingParams.max_tokens",
     "Most tokens to make per completion, 1..1048576; it ends at max_model_len all the same. Default: what max_model_len leaves."},
    {"automodeld.v1.SamplingParams.min_tokens",
     "No end-of-sequence and no stop token before this many tokens, 0..max_tokens. Default: 0."},
    {"automodeld.v1.SamplingParams.temperature",
     "Logits are divided by it, 0..100; 0 takes the likeliest token. Default: 1, or 0 where generation_config has do_sample false."},
    {"automodeld.v1.SamplingParams.top_p",
     "Only the likeliest tokens whose probabilities reach this sum, above 0 and up to 1; 1 keeps all. Default: 1."},
    {"automodeld.v1.SamplingParams.top_k",
     "Only this many of the likeliest tokens, 0..vocab_size; 0 keeps all. Default: 0."},
    {"automodeld.v1.SamplingParams.min_p",
     "Only tokens at least this fraction as likely as the likeliest, 0..1; 0 keeps all. Default: 0."},
    {"automodeld.v1.SamplingParams.repetition_penalty",
     "Logits of tokens in prompt or completion are divided (if above 0) or multiplied by it, above 0 and up to 100; 1 changes nothing. Default: 1."},
    {"automodeld.v1.SamplingParams.presence_penalty",
     "Taken off the logits of tokens in the completion, -2..2. Default: 0."},
    {"automodeld.v1.SamplingParams.frequency_penalty",
     "Taken off the logits of tokens in the completion, times their count, -2..2. Default: 0."},
    {"automodeld.v1.SamplingParams.logit_bias",
     "Token id (0..vocab_size-1) -> number added to its logit, -100..100. At most 1024 entries. Default: none."},
    {"automodeld.v1.SamplingParams.seed",
     "Makes the draws repeatable: same seed, prompt and parameters, same draws; completion i of `n` takes seed + i. Any value. Default: absent, a new one per request."},
    {"automodeld.v1.SamplingParams.stop",
     "Texts that end the completion, for models with a tokenizer. At most 16, each 1..256 bytes. Default: none."},
    {"automodeld.v1.SamplingParams.stop_token_ids",
     "Tokens that end the completion, each 0..vocab_size-1. At most 64. Default: none but the checkpoint\'s."},
    {"automodeld.v1.SamplingParams.ignore_eos",
     "Go on past the checkpoint\'s end-of-sequence tokens. Default: false."},
    {"automodeld.v1.SamplingParams.logprobs",
     "Give the log probability of each token and of this many of the likeliest, 0..20. Default: absent, none."},
    {"automodeld.v1.SamplingParams.n",
     "Completions of the same prompt, 1..16. Default: 1."},
    {"automodeld.v1.EmbedRequest.model",
     "Name of a loaded model. Must be given."},
    {"automodeld.v1.EmbedRequest.inputs",
     "1..2048 inputs."},
    {"automodeld.v1.EmbedRequest.pooling",
     "How token vectors become one: \"mean\", \"cls\", \"max\", \"lasttoken\", \"weightedmean\" or \"mean_sqrt_len_tokens\". Default: empty, the checkpoint\'s; where it says none, \"lasttoken\" for a causal model and \"mean\" for an encoder."},
    {"automodeld.v1.EmbedRequest.normalize",
     "Scale each vector to length 1. Default: what the checkpoint\'s modules.json says, true where it has none."},
    {"automodeld.v1.EmbedRequest.dimensions",
     "Only the first so many numbers of each vector, 1..hidden_size; cut before normalising. Default: all."},
    {"automodeld.v1.EmbedRequest.truncate",
     "Cut inputs that are longer than max_model_len and the checkpoint\'s own limit for embedding; false: such an input gets an error. Default: true."},
    {"automodeld.v1.EmbedRequest.prompt_name",
     "Name of one of the checkpoint\'s prompts (config_sentence_transformers.json), put before each text. Default: empty, the checkpoint\'s default prompt."},
    {"automodeld.v1.EmbedRequest.encoding",
     "Form of the numbers. Default: EMBEDDING_ENCODING_FLOAT32."},
};
// clang-format on

}  // namespace

std::string FieldHelp(const google::protobuf::FieldDescriptor& field) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows),
                                 [&](const Row& candidate) { return field.full_name() == candidate.field; });
  return row == std::end(kRows) ? "" : row->help;
}

std::vector<const google::protobuf::Descriptor*> MessagesWithHelp() {
  return {v1::LoadModelRequest::descriptor(), v1::Fp8Config::descriptor(),      v1::EngineConfig::descriptor(),
          v1::GenerateRequest::descriptor(),  v1::SamplingParams::descriptor(), v1::EmbedRequest::descriptor()};
}

}  // namespace automodeld
