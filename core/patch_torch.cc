#include <absl/strings/str_join.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/patch.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr std::array<const char*, 3> kLadder = {"flash_attention_2", "sdpa", "eager"};

struct MethodName {
  SdpaMethod method;
  SdpaBackend backend;
  const char* name;
};

constexpr std::array<MethodName, 4> kMethods = {{
    {SdpaMethod::kCudnnAttention, SdpaBackend::kCudnn, "CUDNN_ATTENTION"},
    {SdpaMethod::kFlashAttention, SdpaBackend::kFlash, "FLASH_ATTENTION"},
    {SdpaMethod::kEfficientAttention, SdpaBackend::kEfficient, "EFFICIENT_ATTENTION"},
    {SdpaMethod::kMath, SdpaBackend::kMath, "MATH"},
}};

const MethodName& NameOf(SdpaMethod method) { return *std::ranges::find(kMethods, method, &MethodName::method); }

// sdpa_method=[CUDNN_ATTENTION, MATH]
std::string MethodsText(const std::vector<SdpaMethod>& methods) {
  std::vector<std::string> names;
  for (const SdpaMethod method : methods) names.push_back(NameOf(method).name);
  return "sdpa_method=[" + absl::StrJoin(names, ", ") + "]";
}

std::vector<SdpaMethod> Methods(const LoadOptions& options) {
  if (!options.sdpa_method.empty()) return options.sdpa_method;
  std::vector<SdpaMethod> all;
  for (const MethodName& known : kMethods) all.push_back(known.method);
  return all;
}

absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeSdpa(const LoadOptions& options, const AttentionNeeds& needs,
                                                           Fallbacks& sdpa) {
  const std::vector<SdpaMethod> methods = Methods(options);
  std::vector<SdpaBackend> order;
  for (const SdpaMethod method : methods) order.push_back(NameOf(method).backend);
  auto ordered = MakeAttention("sdpa", needs, order);
  if (ordered.ok() || !absl::IsUnimplemented(ordered.status())) return ordered;
  auto unordered = MakeAttention("sdpa", needs, {});
  if (!unordered.ok()) return unordered;
  RETURN_IF_ERROR(sdpa.Take(MethodsText(methods), std::string(ordered.status().message()), "sdpa in libtorch's order"));
  return unordered;
}

absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeRung(const std::string& name, const LoadOptions& options,
                                                           const AttentionNeeds& needs, Fallbacks& sdpa) {
  if (name == "sdpa" && options.use_sdpa_patching) return MakeSdpa(options, needs, sdpa);
  ASSIGN_OR_RETURN(auto backend, MakeAttention(name, needs, {}));
  if (!options.sdpa_method.empty()) {
    const std::string what = name == "sdpa" ? "use_sdpa_patching=false" : name;
    sdpa.Note(MethodsText(options.sdpa_method), fmt::format("has no effect under {}", what), backend->name());
  }
  return backend;
}

// Calls visit(original's entry, patched's entry) for every operation.
template <typename Visit>
void ForEachOp(const Ops& original, const Ops& patched, Visit visit) {
  visit(original.rms_norm, patched.rms_norm);
  visit(original.layer_norm, patched.layer_norm);
  visit(original.qkv_rope_write_kv, patched.qkv_rope_write_kv);
  visit(original.act_mul, patched.act_mul);
  visit(original.sample, patched.sample);
}

absl::Status CheckSignatures(const Ops& original, const Ops& patched) {
  absl::Status status;
  ForEachOp(original, patched, [&](const auto& from, const auto& to) {
    if (status.ok()) status = AssertSameSignature(from.schema, to.schema);
  });
  return status;
}

}  // namespace

absl::Status Fallbacks::Take(const std::string& what, const std::string& error, const std::string& fallback) {
  if (!allowed_) {
    return absl::FailedPreconditionError(
        fmt::format("{}: {} (allow_fallback is false; the fallback would be {})", what, error, fallback));
  }
  attempts_.push_back({what, error, fallback});
  return absl::OkStatus();
}

void Fallbacks::Note(const std::string& what, const std::string& error, const std::string& instead) {
  attempts_.push_back({what, error, instead});
}

absl::Status AssertSameSignature(const std::string& original_schema, const std::string& patched_schema) {
  try {
    const c10::FunctionSchema original = torch::jit::parseSchema(original_schema);
    const c10::FunctionSchema patched = torch::jit::parseSchema(patched_schema);
    if (original.arguments() == patched.arguments() && original.returns() == patched.returns() &&
        original.is_vararg() == patched.is_vararg() && original.is_varret() == patched.is_varret()) {
      return absl::OkStatus();
    }
  } catch (const std::exception&) {
    return absl::InvalidArgumentError(
        fmt::format("not two schemas: original {}, patched {}", original_schema, patched_schema));
  }
  return absl::InvalidArgumentError(
      fmt::format("signatures differ: original {}, patched {}", original_schema, patched_schema));
}

absl::StatusOr<std::unique_ptr<AttentionBackend>> PatchAttention(const LoadOptions& options,
                                                                 const AttentionNeeds& needs, Fallbacks& attention,
                                                                 Fallbacks& sdpa) {
  const auto* rung = std::ranges::find(kLadder, options.attn_implementation);
  TORCH_CHECK(rung != kLadder.end(), "attn_implementation: ", options.attn_implementation);
  for (;; ++rung) {
    auto backend = MakeRung(*rung, options, needs, sdpa);
    if (backend.ok() || !absl::IsUnimplemented(backend.status()) || rung + 1 == kLadder.end()) return backend;
    RETURN_IF_ERROR(attention.Take(fmt::format("attn_implementation={}", *rung),
                                   std::string(backend.status().message()), *(rung + 1)));
  }
}

absl::StatusOr<PatchedOps> PatchFusedKernels(const Ops& eager, const FusedOps& fused, Fallbacks& fallbacks) {
  PatchedOps result{.ops = eager, .patches = {}};
  if (fused.patched.empty()) {
    const std::string reasons = absl::StrJoin(fused.unpatched, "; ", absl::PairFormatter(": "));
    RETURN_IF_ERROR(fallbacks.Take("use_liger_kernel", reasons, "eager operations"));
    return result;
  }
  if (const absl::Status status = CheckSignatures(eager, fused.ops); !status.ok()) {
    RETURN_IF_ERROR(fallbacks.Take("use_liger_kernel", std::string(status.message()), "eager operations"));
    return result;
  }
  for (const auto& [op, reason] : fused.unpatched) fallbacks.Note("use_liger_kernel=" + op, reason, "eager");
  result.ops = fused.ops;
  ForEachOp(eager, fused.ops, [&](const auto& from, const auto& to) {
    if (from.version != to.version) result.patches.push_back({from.name, from.version, to.version});
  });
  return result;
}

}  // namespace automodeld
