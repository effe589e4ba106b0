#include <absl/strings/str_join.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/attention_names.h"
#include "core/op_override.h"
#include "core/op_probe.h"
#include "core/patch.h"
#include "core/status.h"

namespace automodeld {

namespace {

SdpaBackend BackendOf(SdpaMethod method) {
  switch (method) {
    case SdpaMethod::kCudnnAttention:
      return SdpaBackend::kCudnn;
    case SdpaMethod::kFlashAttention:
      return SdpaBackend::kFlash;
    case SdpaMethod::kEfficientAttention:
      return SdpaBackend::kEfficient;
    case SdpaMethod::kMath:
      break;
  }
  return SdpaBackend::kMath;
}

std::vector<SdpaMethod> Methods(const LoadOptions& options) {
  if (!options.sdpa_method.empty()) return options.sdpa_method;
  std::vector<SdpaMethod> all;
  std::ranges::transform(kSdpaMethods, std::back_inserter(all), &SdpaMethodName::method);
  return all;
}

// sdpa_method=[CUDNN_ATTENTION, MATH]
std::string MethodsText(const std::vector<SdpaMethod>& methods) {
  const auto append = [](std::string* out, SdpaMethod method) {
    *out += std::ranges::find(kSdpaMethods, method, &SdpaMethodName::method)->name;
  };
  return "sdpa_method=[" + absl::StrJoin(methods, ", ", append) + "]";
}

absl::StatusOr<PatchedAttention> MakeSdpa(const LoadOptions& options, const AttentionNeeds& needs, Fallbacks& sdpa) {
  const std::vector<SdpaMethod> methods = Methods(options);
  std::vector<SdpaBackend> order;
  std::ranges::transform(methods, std::back_inserter(order), BackendOf);
  auto ordered = [&]() -> absl::StatusOr<std::unique_ptr<AttentionBackend>> {
    RETURN_IF_ERROR(sdpa.Begin("sdpa_method"));
    return MakeAttention("sdpa", needs, order);
  }();
  if (ordered.ok()) return PatchedAttention{*std::move(ordered), {}};
  if (!absl::IsUnimplemented(ordered.status())) return ordered.status();
  ASSIGN_OR_RETURN(auto unordered, MakeAttention("sdpa", needs, {}));
  RETURN_IF_ERROR(sdpa.Take(MethodsText(methods), std::string(ordered.status().message()), "sdpa in libtorch's order"));
  return PatchedAttention{std::move(unordered), {}};
}

absl::StatusOr<PatchedAttention> MakeRung(const std::string& name, const LoadOptions& options,
                                          const AttentionNeeds& needs, const Fallbacks& attention, Fallbacks& sdpa) {
  RETURN_IF_ERROR(attention.Begin(name));
  if (name == "sdpa" && options.use_sdpa_patching) return MakeSdpa(options, needs, sdpa);
  ASSIGN_OR_RETURN(auto backend, MakeAttention(name, needs, {}));
  PatchedAttention patched{std::move(backend), {}};
  if (!options.sdpa_method.empty()) {
    const std::string under = name == "sdpa" ? "use_sdpa_patching=false" : patched.backend->name();
    patched.notes.push_back(fmt::format("{} has no effect under {}", MethodsText(options.sdpa_method), under));
  }
  return patched;
}

absl::Status CheckSignatures(const Ops& original, const Ops& patched) {
  absl::Status status;
  ForEachOp(
      [&](const auto& from, const auto& to) {
        if (status.ok()) status = AssertSameSignature(from.schema, to.schema);
      },
      original, patched);
  return status;
}

absl::Status CheckFused(const Ops& eager, const FusedOps& fused, const OpTarget& target, const Fallbacks& fallbacks) {
  RETURN_IF_ERROR(fallbacks.Begin("fused"));
  RETURN_IF_ERROR(CheckSignatures(eager, fused.ops));
  for (const auto& [op, version] : fused.patched) {
    RETURN_IF_ERROR(ProbeOp(op, eager, fused.ops, target.dims, target.options));
  }
  return absl::OkStatus();
}

std::vector<OpPatch> Patches(const Ops& eager, const Ops& patched) {
  std::vector<OpPatch> patches;
  ForEachOp(
      [&](const auto& from, const auto& to) {
        if (from.version != to.version) patches.push_back({from.name, from.version, to.version});
      },
      eager, patched);
  return patches;
}

// Those that no override replaces.
std::vector<std::string> OpsToFuse(const LoadOptions& options, const OpTarget& target) {
  std::vector<std::string> ops;
  std::ranges::copy_if(target.ops, std::back_inserter(ops),
                       [&](const std::string& op) { return !options.op_overrides.contains(op); });
  return ops;
}

absl::Status CheckOverride(const std::string& op, const Ops& eager, const Ops& patched, const OpTarget& target) {
  if (std::ranges::find(target.ops, op) == target.ops.end()) {
    return absl::InvalidArgumentError(fmt::format("op_overrides: {} does not call {}; it calls {}", target.architecture,
                                                  op, absl::StrJoin(target.ops, ", ")));
  }
  const absl::Status status = ProbeOp(op, eager, patched, target.dims, target.options);
  if (status.ok() || absl::IsResourceExhausted(status)) return status;
  return absl::InvalidArgumentError(fmt::format("op_overrides: {}", std::string(status.message())));
}

bool AreEqual(const std::vector<c10::Argument>& original, const std::vector<c10::Argument>& patched) {
  // Argument's own operator== takes int for SymInt.
  return std::ranges::equal(original, patched, [](const c10::Argument& a, const c10::Argument& b) {
    return a == b && *a.real_type() == *b.real_type();
  });
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

absl::Status AssertSameSignature(const std::string& original_schema, const std::string& patched_schema) {
  try {
    const c10::FunctionSchema original = torch::jit::parseSchema(original_schema);
    const c10::FunctionSchema patched = torch::jit::parseSchema(patched_schema);
    if (AreEqual(original.arguments(), patched.arguments()) && AreEqual(original.returns(), patched.returns()) &&
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

absl::StatusOr<PatchedAttention> PatchAttention(const LoadOptions& options, const AttentionNeeds& needs,
                                                Fallbacks& attention, Fallbacks& sdpa) {
  const auto* rung = std::ranges::find(kAttentionLadder, options.attn_implementation);
  TORCH_CHECK(rung != kAttentionLadder.end(), "attn_implementation: ", options.attn_implementation);
  for (;; ++rung) {
    auto patched = MakeRung(*rung, options, needs, attention, sdpa);
    if (!absl::IsUnimplemented(patched.status()) || rung + 1 == kAttentionLadder.end()) return patched;
    RETURN_IF_ERROR(attention.Take(fmt::format("attn_implementation={}", *rung),
                                   std::string(patched.status().message()), *(rung + 1)));
  }
}

absl::StatusOr<PatchedOps> PatchFusedKernels(const Ops& eager, const FusedOps& fused, const OpTarget& target,
                                             Fallbacks& fallbacks) {
  PatchedOps result{.ops = eager, .patches = {}, .notes = {}};
  const absl::Status status =
      target.ops.empty() ? absl::UnimplementedError(target.architecture + " calls no operation that could be fused")
                         : CheckFused(eager, fused, target, fallbacks);
  if (absl::IsResourceExhausted(status)) return status;
  if (!status.ok()) {
    RETURN_IF_ERROR(fallbacks.Take("use_liger_kernel", std::string(status.message()), "eager operations"));
    return result;
  }
  for (const auto& [op, reason] : fused.unpatched)
    result.notes.push_back(fmt::format("{} stays eager: {}", op, reason));
  result.ops = fused.ops;
  result.patches = Patches(eager, fused.ops);
  return result;
}

absl::StatusOr<PatchedOps> PatchOps(const LoadOptions& options, const OpTarget& target, Fallbacks& fused) {
  const Ops eager = EagerOps();
  PatchedOps result{.ops = eager, .patches = {}, .notes = {}};
  if (options.use_liger_kernel) {
    const FusedOps found = FindFusedOps(eager, OpsToFuse(options, target), target.options.device(),
                                        at::typeMetaToScalarType(target.options.dtype()));
    ASSIGN_OR_RETURN(result, PatchFusedKernels(eager, found, target, fused));
  }
  ASSIGN_OR_RETURN(result.ops, OverrideOps(result.ops, options.op_overrides));
  for (const auto& [op, name] : options.op_overrides) {
    RETURN_IF_ERROR(CheckOverride(op, eager, result.ops, target));
    result.patches.push_back({op, "eager", name});  // none of these was fused
  }
  return result;
}

}  // namespace automodeld
