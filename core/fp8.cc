#include "core/fp8.h"

#include <algorithm>
#include <utility>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr int64_t kDivisor = 16;                    // of both dimensions, as FP8 GEMMs want
constexpr int64_t kBlockOut = 128, kBlockIn = 512;  // what libtorch's GEMM over blocks divides the dimensions by

}  // namespace

std::string Fp8Plan::ReasonToSkip(const LinearGroup& group, size_t member, StoredWeight stored) const {
  const std::string& fqn = group.fqns[member];
  const int64_t out = group.out_dims[member];
  if (config_.has_value()) {
    for (const std::string& filter : config_->filter_fqns) {
      if (fqn.find(filter) != std::string::npos) return fmt::format("filter_fqns: {}", filter);
    }
    if (stored == StoredWeight::kPlain && !config_->include_lm_head && fqn == "lm_head")
      return "include_lm_head is false";
  } else if (stored == StoredWeight::kPlain) {
    return "not in FP8 in the checkpoint";
  }
  if (out % kDivisor != 0 || group.in_dim % kDivisor != 0) return "dims not divisible by 16";
  if (stored == StoredWeight::kFp8Blocks && !emulate() && (out % kBlockOut != 0 || group.in_dim % kBlockIn != 0)) {
    return "scales of blocks, and dims not divisible by 128 x 512";
  }
  return why_not_;
}

void Fp8Plan::Add(const LinearGroup& group, const std::vector<StoredWeight>& stored) {
  std::vector<std::string> reasons;
  for (size_t i = 0; i < group.fqns.size(); ++i) reasons.push_back(ReasonToSkip(group, i, stored[i]));
  const auto skipped = std::ranges::find_if(reasons, [](const std::string& reason) { return !reason.empty(); });
  report_.total += static_cast<int>(group.fqns.size());
  for (size_t i = 0; i < group.fqns.size(); ++i) {
    if (skipped == reasons.end()) {
      fp8_.insert(group.fqns[i]);
      report_.modules.push_back({group.fqns[i], {group.out_dims[i], group.in_dim}});
      continue;
    }
    if (reasons[i].empty()) {
      const std::string& other = group.fqns[static_cast<size_t>(skipped - reasons.begin())];
      reasons[i] = fmt::format("kept as one matrix with {}, which is skipped: {}", other, *skipped);
      group_skipped_ = true;
    }
    if (stored[i] != StoredWeight::kPlain) reasons[i] = "dequantised: " + reasons[i];
    report_.skipped.push_back({group.fqns[i], reasons[i]});
  }
  report_.converted = static_cast<int>(report_.modules.size());
  report_.success = report_.converted > 0;
}

std::vector<std::string> Fp8Plan::Notes() const {
  std::vector<std::string> notes;
  if (!converts()) return notes;
  notes.push_back("FP8: activations are scaled per token; a recipe names the scales of the weights only");
  if (config_.has_value() && config_->recipe_name == "rowwise_with_gw_hp") {
    notes.push_back("fp8_config.recipe_name: rowwise_with_gw_hp differs from rowwise in training only");
  }
  if (group_skipped_) notes.push_back("FP8: what skips one member of a fused group skips the group");
  return notes;
}

}  // namespace automodeld
