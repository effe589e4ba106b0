#include "server/convert_load.h"

#include <absl/strings/ascii.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/load_options.h"
#include "core/status.h"
#include "server/convert.h"

namespace automodeld {
namespace {

constexpr size_t kMaxJsonBytes = 1U << 20U;
constexpr int kMaxTokens = 1'048'576;

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || std::string_view("._/:@+-").find(c) != std::string::npos;
}

absl::Status CheckName(const std::string& name) {
  if (name.empty()) return Missing("model");
  RETURN_IF_ERROR(CheckSize("model", name.size(), 1, 128, "bytes"));
  if (std::all_of(name.begin(), name.end(), IsNameCharacter)) return absl::OkStatus();
  return absl::InvalidArgumentError("model: a name has only characters of [A-Za-z0-9._/:@+-]");
}

// The name to serve: the given one, or the last part of the path.
std::string Name(const v1::LoadModelRequest& request) {
  if (!request.model().empty()) return request.model();
  const std::filesystem::path path = std::filesystem::path(request.path()).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

absl::Status CheckSource(const v1::LoadModelRequest& request) {
  switch (request.source_case()) {
    case v1::LoadModelRequest::kPath:
      if (request.seed() != 0) return absl::InvalidArgumentError("seed: only with config_json");
      RETURN_IF_ERROR(CheckSize("revision", request.revision().size(), 0, 256, "bytes"));
      return CheckSize("path", request.path().size(), 1, 4096, "bytes");
    case v1::LoadModelRequest::kConfigJson:
      if (!request.revision().empty()) return absl::InvalidArgumentError("revision: only with path");
      return CheckSize("config_json", request.config_json().size(), 1, kMaxJsonBytes, "bytes");
    case v1::LoadModelRequest::SOURCE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("source: one of path and config_json must be given");
}

absl::StatusOr<AutoClass> ToAutoClass(v1::AutoClass auto_class) {
  switch (auto_class) {
    case v1::AUTO_CLASS_UNSPECIFIED:
    case v1::AUTO_CLASS_AUTO:
      return AutoClass::kAuto;
    case v1::AUTO_CLASS_CAUSAL_LM:
      return AutoClass::kCausalLM;
    case v1::AUTO_CLASS_IMAGE_TEXT_TO_TEXT:
      return AutoClass::kImageTextToText;
    case v1::AUTO_CLASS_EMBEDDING:
      return AutoClass::kEmbedding;
    default:
      return CheckRange("auto_class", static_cast<int>(auto_class), 0, static_cast<int>(v1::AutoClass_MAX));
  }
}

absl::StatusOr<SdpaMethod> ToSdpaMethod(int method) {
  switch (method) {
    case v1::SDPA_METHOD_CUDNN_ATTENTION:
      return SdpaMethod::kCudnnAttention;
    case v1::SDPA_METHOD_FLASH_ATTENTION:
      return SdpaMethod::kFlashAttention;
    case v1::SDPA_METHOD_EFFICIENT_ATTENTION:
      return SdpaMethod::kEfficientAttention;
    case v1::SDPA_METHOD_MATH:
      return SdpaMethod::kMath;
    default:
      return CheckRange("sdpa_method", method, 1, static_cast<int>(v1::SdpaMethod_MAX));
  }
}

absl::StatusOr<std::vector<SdpaMethod>> ToSdpaMethods(const v1::LoadModelRequest& request) {
  RETURN_IF_ERROR(CheckSize("sdpa_method", static_cast<size_t>(request.sdpa_method_size()), 0, 4, "methods"));
  std::vector<SdpaMethod> methods;
  for (const int value : request.sdpa_method()) {
    ASSIGN_OR_RETURN(const SdpaMethod method, ToSdpaMethod(value));
    methods.push_back(method);
  }
  return methods;
}

Fp8Config ToFp8Config(const v1::Fp8Config& proto) {
  Fp8Config config;
  config.emulate = proto.emulate();
  config.include_lm_head = proto.include_lm_head();
  if (proto.has_recipe_name()) config.recipe_name = proto.recipe_name();
  config.filter_fqns.assign(proto.filter_fqns().begin(), proto.filter_fqns().end());
  return config;
}

absl::StatusOr<EngineConfig> ToEngineConfig(const v1::EngineConfig& proto) {
  if (proto.has_max_model_len()) {
    RETURN_IF_ERROR(CheckRange("engine.max_model_len", proto.max_model_len(), 1, kMaxTokens));
  }
  if (proto.has_max_num_seqs()) RETURN_IF_ERROR(CheckRange("engine.max_num_seqs", proto.max_num_seqs(), 1, 4096));
  if (proto.has_max_num_batched_tokens()) {
    RETURN_IF_ERROR(CheckRange("engine.max_num_batched_tokens", proto.max_num_batched_tokens(), 1, kMaxTokens));
  }
  if (proto.has_kv_cache_bytes()) {
    RETURN_IF_ERROR(
        CheckRange<int64_t>("engine.kv_cache_bytes", proto.kv_cache_bytes(), 1, std::numeric_limits<int64_t>::max()));
  }
  if (proto.enable_prefix_caching()) return NotYet("engine.enable_prefix_caching", "true");
  EngineConfig config;
  config.max_model_len = proto.max_model_len();
  config.max_num_seqs = proto.max_num_seqs();
  config.max_num_batched_tokens = proto.max_num_batched_tokens();
  config.kv_cache_bytes = proto.kv_cache_bytes();
  if (proto.has_kv_cache_dtype()) config.kv_cache_dtype = proto.kv_cache_dtype();
  if (proto.has_enable_prefix_caching()) config.enable_prefix_caching = proto.enable_prefix_caching();
  config.enforce_eager = proto.enforce_eager();
  return config;
}

// What needs no conversion; what is not given keeps its default.
void TakeGiven(const v1::LoadModelRequest& request, LoadOptions* options) {
  options->model = Name(request);
  options->path = request.path();
  options->revision = request.revision();
  options->config_json = request.config_json();
  options->config_overrides = request.config_overrides();
  options->seed = request.seed();
  options->allow_unread_tensors = request.allow_unread_tensors();
  options->check_only = request.check_only();
  options->op_overrides = {request.op_overrides().begin(), request.op_overrides().end()};
  if (request.has_use_liger_kernel()) options->use_liger_kernel = request.use_liger_kernel();
  if (request.has_use_sdpa_patching()) options->use_sdpa_patching = request.use_sdpa_patching();
  if (request.has_torch_dtype()) options->torch_dtype = request.torch_dtype();
  if (request.has_attn_implementation()) options->attn_implementation = request.attn_implementation();
  if (request.has_device()) options->device = request.device();
  if (request.has_allow_fallback()) options->allow_fallback = request.allow_fallback();
}

}  // namespace

absl::StatusOr<LoadOptions> ToLoadOptions(const v1::LoadModelRequest& request) {
  RETURN_IF_ERROR(CheckSource(request));
  LoadOptions options;
  TakeGiven(request, &options);
  RETURN_IF_ERROR(CheckName(options.model));
  RETURN_IF_ERROR(CheckSize("config_overrides", options.config_overrides.size(), 0, kMaxJsonBytes, "bytes"));
  ASSIGN_OR_RETURN(options.auto_class, ToAutoClass(request.auto_class()));
  ASSIGN_OR_RETURN(options.sdpa_method, ToSdpaMethods(request));
  ASSIGN_OR_RETURN(options.engine, ToEngineConfig(request.engine()));
  if (request.has_fp8_config()) options.fp8_config = ToFp8Config(request.fp8_config());
  RETURN_IF_ERROR(CheckLoadOptions(options));
  return options;
}

}  // namespace automodeld
